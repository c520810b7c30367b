"""The exceptions that a command turns into a single line and an exit code."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager


class UserError(Exception):
    """Bad input. The message is one line that names the argument, column or file at fault.

    Args:
        message: The line. Where ``key`` is given it goes on from the key: ``"must be cpu, got x"``.
        key: The dotted key at fault, such as ``"train.device"``. A command whose flag for it has
            another name (``--device``) says that one.
    """

    def __init__(self, message: str, key: str | None = None) -> None:
        super().__init__(message)
        self.message, self.key = message, key
        self.warnings: list[str] = []  # what was found before the error, for the user to read first

    def __str__(self) -> str:
        return self.line({})

    def line(self, flags: Mapping[str, str]) -> str:
        """The message of a command that spells the keys of ``flags`` in its own way."""
        if self.key is None:
            return self.message
        between = "" if self.message.startswith(":") else " "
        return f"{flags.get(self.key, f'--{self.key}')}{between}{self.message}"


class AlreadyFinished(UserError):
    """There is nothing to go on with: the run has come to the end that its configuration asks for."""


class Interrupted(Exception):
    """Ctrl-C: the run was saved and can be resumed."""


@contextmanager
def carried_by_errors(warnings: list[str]) -> Iterator[None]:
    """Give a ``UserError`` raised inside the warnings collected before it."""
    try:
        yield
    except UserError as error:
        error.warnings = [*warnings, *error.warnings]
        raise


def nearest(name: str, known: Sequence[str]) -> str:
    """``"; did you mean X?"`` or nothing, for messages about unknown names."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""
