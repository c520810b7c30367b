"""What is wrong with single rows of the data (listed, never fatal) and with the data as a whole
(warnings).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import pandas as pd

from gaal_fast.errors import some
from gaal_fast.files import write_text

__all__ = ["DataIssue", "issues_frame", "logger", "some", "warn", "write_issues"]

logger = logging.getLogger("gaal_fast.data")
# The caller prints the returned warnings; without a handler of its own Python would print each of
# them a second time.
logger.addHandler(logging.NullHandler())


@dataclass(frozen=True, slots=True, order=True)
class DataIssue:
    """One cell of the table that could not be used.

    Attributes:
        row: Position in the table, 0 for the first row after the header, as in split.csv. Messages
            for people count from 1.
        column: The column at fault.
        path: The image's file, "" where the issue is not about a file.
        reason: What is wrong.
    """

    row: int
    column: str
    path: str
    reason: str


def issues_frame(issues: Iterable[DataIssue]) -> pd.DataFrame:
    """Table of the distinct issues, sorted by row: columns row, column, path, reason."""
    names = [field.name for field in fields(DataIssue)]
    return pd.DataFrame([asdict(issue) for issue in sorted(set(issues))], columns=names)


def write_issues(issues: Iterable[DataIssue], path: Path) -> int:
    """Writes ``issues_frame`` as CSV (a header alone if there is none); returns the number of lines
    written.
    """
    frame = issues_frame(issues)
    write_text(path, frame.to_csv(index=False))
    return len(frame)


def warn(warnings: list[str], text: str) -> None:
    """Adds one line to the warnings that the caller prints, and logs it."""
    warnings.append(text)
    logger.warning("%s", text)
