"""What the runners share that break the kernels on purpose, one place at a time, to see a test
fail.
"""

from __future__ import annotations

import re
from dataclasses import KW_ONLY, dataclass


@dataclass(frozen=True)
class Replacement:
    """The ``number``-th occurrence of ``old`` in ``file`` becomes ``new``; ``what`` says in words
    what that does.
    """

    file: str
    what: str
    old: str
    new: str
    _: KW_ONLY
    number: int = 0

    def applied(self, source: str) -> str:
        """``source`` with the change. Raises ValueError where there is nothing to change."""
        parts = source.split(self.old)
        if len(parts) < self.number + 2:
            raise ValueError(
                f"{self.file}: {self.old!r} does not occur {self.number + 1} times ({self.what})"
            )
        return (
            self.old.join(parts[: self.number + 1])
            + self.new
            + self.old.join(parts[self.number + 1 :])
        )


def verdict(code: int, output: str) -> tuple[bool, str]:
    """(caught, by which test), from the exit code of pytest (minus the signal that ended it) and
    its output.

    Raises RuntimeError where the tests did not run.
    """
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", output, re.MULTILINE)
    if failed:
        return True, failed[1].rpartition("::")[2].partition("[")[0]
    if code < 0:
        crashed = re.search(r"line \d+ in (test_\w+)", output)
        return True, f"{crashed[1] if crashed else 'the tests'} (signal {-code})"
    if code not in (0, 1):
        raise RuntimeError(f"the tests did not run: {output[-3000:]}")
    return False, ""
