"""Rows of ``bench.ops`` by case (one op at one shape), for its tables and its figures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bench.problems import OPS
from bench.report import Row


def best_of_ours(rows: Sequence[Row]) -> Row | None:
    """Of one case: the row of the backend that ``auto`` takes."""
    return next((row for row in rows if row.get("auto") and row["status"].startswith("ok")), None)


def cases(rows: Iterable[Row]) -> dict[tuple[str, str], list[Row]]:
    """Rows by op and shape, in the order of the ops and of their size."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in sorted(rows, key=lambda r: (OPS.index(r["op"]), r["Y"], r["B"], r["d"])):
        found.setdefault((row["op"], row["shape"]), []).append(row)
    return found
