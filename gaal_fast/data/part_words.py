"""What the values of a split column say: the words that people use for the parts of a data set."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gaal_fast.data.issues import warn
from gaal_fast.data.tables.codes import words_of
from gaal_fast.data.tables.truth import truth_of

_WORDS = {
    **dict.fromkeys(("train", "training", "trn", "tr", "learn", "learning"), "train"),
    **dict.fromkeys(
        ("val", "valid", "validate", "validation", "vld", "dev", "devel", "tune", "tuning"), "val"
    ),
    **dict.fromkeys(("test", "testing", "tst", "te", "privatetest"), "test"),
}
# Held-out rows: the test, unless another word says test; then validation.
_HELD_OUT = frozenset({"eval", "evaluation", "holdout", "heldout", "publictest"})
# Columns of yes and no: the part that their name says, and the part of all other rows.
_FLAGS = {"train": ("train", "test"), "val": ("val", "train"), "test": ("test", "train")}
_NUMBERED = frozenset({"split", "partition", "set", "subset", "part"})


@dataclass(frozen=True, eq=False)
class GivenParts:
    """What a split column says, read once.

    Attributes:
        column: Its name, for messages.
        cells: str [N] as written, None where empty.
        parts: [N], train, val or test; None for a cell that says no part, or was not read.
    """

    column: str
    cells: Sequence[str | None]
    parts: Sequence[str | None]

    @classmethod
    def read(
        cls, cells: Sequence[str | None], column: str, rows: np.ndarray, warnings: list[str]
    ) -> GivenParts:
        """Reads the cells of some rows (int64) as ``read_parts`` does."""
        parts: list[str | None] = [None] * len(cells)
        said = read_parts([cells[row] for row in rows], column, warnings)
        for row, part in zip(rows.tolist(), said, strict=True):
            parts[row] = part
        return cls(column, cells, parts)


def read_parts(values: Sequence[str | None], column: str, warnings: list[str]) -> list[str | None]:
    """train, val or test for each value of a split column, None for one that says no part.

    Upper and lower case do not matter. True, false, 1 and 0 are read by the name of the column
    (``is_valid``, ``is_test``, ``is_train``); 0, 1 and 2 in a column called ``split`` or
    ``partition`` are train, val and test. ``warnings`` gets what is not plain from the word.
    """
    words = {value: _plain(value) for value in set(values) if value is not None}
    meaning = _by_words(words) or _by_flag(words, column) or _by_number(words, column) or {}
    odd = {value: part for value, part in meaning.items() if _WORDS.get(words[value]) != part}
    if odd:
        said = ", ".join(f'"{value}" as {part}' for value, part in sorted(odd.items()))
        warn(warnings, f'split column "{column}": {said}')
    if not meaning:
        meaning = {value: _WORDS[word] for value, word in words.items() if word in _WORDS}
    return [None if value is None else meaning.get(value) for value in values]


def _plain(value: str) -> str:
    """``Training set``, ``train_data`` and ``TRAIN`` alike."""
    text = re.sub(r"[\s_\-.]+", " ", value.strip().casefold())
    text = re.sub(r" ?(?:set|data|split|images?|samples?)$", "", text)
    return text.replace(" ", "")


def _by_words(words: dict[str, str]) -> dict[str, str] | None:
    held_out = {word for word in words.values() if word in _HELD_OUT}
    if not all(word in _WORDS or word in _HELD_OUT for word in words.values()) or len(held_out) > 1:
        return None
    tested = any(_WORDS.get(word) == "test" for word in words.values())
    return {
        value: _WORDS.get(word) or ("val" if tested else "test") for value, word in words.items()
    }


def _by_flag(words: dict[str, str], column: str) -> dict[str, str] | None:
    truths = {
        value: {"1": True, "0": False}.get(word, truth_of(word)) for value, word in words.items()
    }
    if None in truths.values():
        return None
    said = ("test" if word in _HELD_OUT else _WORDS.get(word) for word in words_of(column))
    named = {part for part in said if part is not None}
    if len(named) != 1:
        return None
    inside, outside = _FLAGS[named.pop()]
    return {value: inside if truth else outside for value, truth in truths.items()}


def _by_number(words: dict[str, str], column: str) -> dict[str, str] | None:
    if not _NUMBERED & set(words_of(column)) or set(words.values()) != {"0", "1", "2"}:
        return None
    return {value: ("train", "val", "test")[int(word)] for value, word in words.items()}
