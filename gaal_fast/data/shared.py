"""What is in two parts of the split at once: the same image, or rows of the same person."""

from __future__ import annotations

import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

import numpy as np
import pandas as pd

from gaal_fast.data.images.archive import open_file, stamp
from gaal_fast.data.issues import warn
from gaal_fast.data.split import PARTS, Split
from gaal_fast.data.tables.cells import is_text, to_texts
from gaal_fast.data.tables.codes import words_of
from gaal_fast.data.tables.schema import TableSchema

K = TypeVar("K", bound=Hashable)
# Files of equal size are read to see whether they hold the same image, up to so many bytes in all.
_HASHED_BYTES = 2**29
# Somebody, or the one thing, that several rows are of. Other words in a name ("patient_age") make
# it a property of them.
_OWNERS = frozenset(
    {
        *("patient", "patients", "subject", "subj", "person", "participant", "individual"),
        *("donor", "proband", "client", "customer", "user", "animal", "specimen", "lesion"),
        *("pid", "mrn", "wsi", "slide", "video", "burst", "household", "case"),
    }
)
_THINGS = frozenset(
    {
        *("study", "clip", "session", "visit", "exam", "series", "family", "author", "speaker"),
        *("writer", "group", "grp", "track", "product", "item", "listing", "site", "house"),
        *("property", "vehicle", "car", "tree", "plant", "scene", "sequence", "album"),
    }
)
_ID_WORDS = frozenset(
    {"id", "ids", "uid", "uuid", "guid", "key", "no", "nr", "number", "code", "name", "hash", "idx"}
)
_KEYS = frozenset({"id", "ids", "uid", "uuid", "guid", "key", "hash"})
_MIN_LEVELS = 5
# An ordinary category has few levels with many rows each; rows of one person are few.
_ROWS_PER_OWNER, _ROWS_PER_GROUP = 100, 20
_MANY_LEVELS = 20
_DECIMAL, _DIGIT, _TWO_DIGITS = re.compile(r"[+-]?\d*\.\d+"), re.compile(r"\d"), re.compile(r"\d\d")


def warn_of_shared_images(
    paths: Sequence[str | None], column: str, split: Split, warnings: list[str]
) -> None:
    """Names images that are in two parts: one file named by several rows, or files with the same
    content.

    Args:
        paths: The file of each row of the table, None without one.
        column: The image column, for the advice.
        split: The parts.
        warnings: Gets the lines.
    """
    part_of = _parts(split, len(paths))
    rows_of: dict[str, list[int]] = defaultdict(list)
    for row, path in enumerate(paths):
        if path is not None and part_of[row] >= 0:
            rows_of[os.path.normpath(path)].append(row)
    shared = [rows for rows in rows_of.values() if _spread(rows, part_of)]
    if shared:
        first = shared[0]
        warn(
            warnings,
            f"{len(shared)} pictures are in more than one part of the split (first: rows"
            f" {_numbers(first)}): what is learned of "
            "one is scored again; keep the rows of one together with --data.group-column"
            f' "{column}"',
        )
    copies = [[row for path in same for row in rows_of[path]] for same in _copies(list(rows_of))]
    copies = [rows for rows in copies if _spread(rows, part_of)]
    if copies:
        warn(
            warnings,
            f"{len(copies)} pictures are in more than one part of the split under different file"
            f" names (first: rows {_numbers(copies[0])}): leave the copies out, or give them one"
            " value in a column for --data.group-column",
        )


def warn_of_shared_ids(
    frame: pd.DataFrame, schema: TableSchema, split: Split, warnings: list[str]
) -> None:
    """Names columns that look like ids of persons or things of which several rows are, in more than
    one part.
    """
    roles = {schema.target, schema.image_column, schema.split_column, schema.group_column}
    part_of = _parts(split, len(frame))
    used = part_of >= 0
    for name in frame.columns:
        if name in roles or name in schema.dates:
            continue
        codes = _group_codes(frame[name][used], name)
        if codes is None:
            continue
        pairs = pd.DataFrame({"code": codes, "part": part_of[used]})[codes >= 0].drop_duplicates()
        shared = pairs["code"].value_counts()
        count = int((shared > 1).sum())
        if count:
            advice = (
                f'keep them together with --data.group-column "{name}"'
                if schema.split_column is None
                else (
                    f'the parts are those of column "{schema.split_column}"; --data.group-column'
                    f' "{name}" alone keeps them together'
                )
            )
            warn(
                warnings,
                f'column "{name}": {count} of its {len(shared)} values are in more than one part of'
                f" the split; rows with one value may give each other away: {advice}",
            )


def _group_codes(series: pd.Series, name: str) -> np.ndarray | None:
    """int64 [n] of a column that looks like the ids of groups of rows, -1 where missing; None for
    any other column.
    """
    if not is_text(series) and not pd.api.types.is_integer_dtype(series.dtype):
        return None
    words = {word for word in words_of(name) if not word.isdigit()}
    core = words - _ID_WORDS
    owner, thing = bool(core) and core <= _OWNERS, bool(core) and core <= _THINGS
    if not (owner or thing or words & _KEYS or _are_labels(pd.unique(to_texts(series.iloc[:200])))):
        return None  # before the whole column is read
    texts = to_texts(series)
    codes, different = pd.factorize(texts)
    rows, levels = int((codes >= 0).sum()), len(different)
    if levels < _MIN_LEVELS or levels == rows or any(map(_DECIMAL.fullmatch, different[:50])):
        return None
    if owner:
        likely = rows / levels <= _ROWS_PER_OWNER and (
            levels >= _MANY_LEVELS or _share(_DIGIT, different) >= 0.9
        )
    elif levels < _MANY_LEVELS or rows / levels > _ROWS_PER_GROUP:
        likely = False
    elif thing:
        likely = bool(words & _ID_WORDS) or _share(_DIGIT, different) >= 0.9
    else:
        likely = bool(words & _KEYS) or _are_labels(different)
    return codes if likely else None


def _share(pattern: re.Pattern[str], texts: Sequence[str]) -> float:
    return float(np.mean([pattern.search(text) is not None for text in texts]))


def _are_labels(texts: Sequence[str | None]) -> bool:
    """Whether the texts are ids such as ``P-0012``: one form, of letters and a number with two
    digits or more.
    """
    forms = {re.sub(r"\d+", "0", text) for text in texts if text is not None}
    if len(forms) != 1 or re.search("[A-Za-z]", forms.pop()) is None:
        return False
    return _share(_TWO_DIGITS, [text for text in texts if text is not None]) >= 0.5


def _parts(split: Split, rows: int) -> np.ndarray:
    """int64 [rows]: the number of each row's part, -1 for a row in none."""
    part_of = np.full(rows, -1)
    for number, part in enumerate(PARTS):
        part_of[getattr(split, part)] = number
    return part_of


def _spread(rows: Sequence[int], part_of: np.ndarray) -> bool:
    return len(rows) > 1 and len(set(part_of[rows].tolist())) > 1


def _numbers(rows: Sequence[int]) -> str:
    return ", ".join(str(row + 1) for row in sorted(rows)[:3]) + (" ..." if len(rows) > 3 else "")


def _copies(files: Sequence[str]) -> list[list[str]]:
    """Files with the same content, found by size, then by hash; none are looked for where that
    would mean much reading.
    """
    by_size = _gather({file: _size(file) for file in files})
    alike = {size: names for size, names in by_size.items() if size and len(names) > 1}
    if sum(size * len(names) for size, names in alike.items()) > _HASHED_BYTES:
        return []
    found = _gather({file: _digest(file) for names in alike.values() for file in names})
    return [names for digest, names in found.items() if digest and len(names) > 1]


def _gather(keys: Mapping[str, K]) -> dict[K, list[str]]:
    groups: dict[K, list[str]] = defaultdict(list)
    for file, key in keys.items():
        groups[key].append(file)
    return groups


def _size(file: str) -> int:
    try:
        return stamp(file)[1]
    except OSError:
        return 0


def _digest(file: str) -> str:
    try:
        with open_file(file) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return ""
