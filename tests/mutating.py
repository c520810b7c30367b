"""What the runners share that break the kernels on purpose, one place at a time, to see a test fail."""

from __future__ import annotations

import re


def replaced(source: str, old: str, new: str, number: int) -> str:
    """``source`` with another text for the ``number``-th occurrence of ``old``. Raises ValueError where there is none."""
    parts = source.split(old)
    if len(parts) < number + 2:
        raise ValueError(f"{old!r} does not occur {number + 1} times")
    return old.join(parts[: number + 1]) + new + old.join(parts[number + 1 :])


def verdict(code: int, output: str) -> tuple[bool, str]:
    """(caught, by which test), from the exit code of pytest (minus the signal that ended it) and its output.

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
