"""Truth values: ``True``, ``TRUE``, ``yes``, ``WAHR`` and ``1`` of a boolean column are one level.

The program that wrote a table decides the spelling (a spreadsheet turns ``True`` into ``TRUE``, or
``WAHR``), so it may differ between the table of the training and the one to predict.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from gaal_fast.data.tables.cells import Numbers, to_texts

TRUE, FALSE = "True", "False"
# Only a column that holds both words of a pair is boolean: "no" alone may be Norway, "on" alone a
# preposition.
_PAIRS = (
    *(("true", "false"), ("wahr", "falsch"), ("vrai", "faux"), ("verdadero", "falso")),
    *(("vero", "falso"), ("yes", "no"), ("ja", "nein"), ("oui", "non"), ("si", "no")),
    *(("sí", "no"), ("on", "off"), ("t", "f"), ("y", "n"), ("j", "n")),
)
# Words that mean a truth value even when the other side never occurs (the rest of the column may be
# empty).
_PLAIN_WORDS = frozenset({"true", "false", "wahr", "falsch", "vrai", "faux", "yes", "ja", "oui"})
_TRUTH = {word: place == 0 for pair in _PAIRS for place, word in enumerate(pair)}
_DIGITS = {"1": True, "0": False}


def spellings() -> dict[str, list[str]]:
    """The words that mean true and false, in lower case; digits are told from them elsewhere."""
    return {
        level: [word for word, is_true in _TRUTH.items() if is_true == (level == TRUE)]
        for level in (TRUE, FALSE)
    }


def truth_of(text: str | None) -> bool | None:
    """The truth value that a word stands for, None if it is no such word. Digits are not words."""
    return None if text is None else _TRUTH.get(text.casefold())


def is_boolean(texts: Iterable[str | None]) -> bool:
    """Whether a column of these texts (None = missing) is boolean.

    It is when it holds both words of a pair and nothing else but their other spellings, 1 and 0, or
    when it holds a plain word such as ``TRUE`` alone. Further levels ("unknown") are allowed beside
    whole words, not beside letters or digits.
    """
    words = {text.casefold() for text in set(texts) if text is not None}
    known = words & _TRUTH.keys()
    rest = words - known
    letters = {word for word in known if len(word) == 1}
    if letters and not any(letters <= set(pair) for pair in _PAIRS):
        return False  # "t", "f" and "n" are three levels
    only_digits_beside = rest <= _DIGITS.keys()
    if any(known.issuperset(pair) for pair in _PAIRS):
        return only_digits_beside or not (letters or rest & _DIGITS.keys())
    return bool(known) and known <= _PLAIN_WORDS and only_digits_beside


def unify(texts: np.ndarray) -> np.ndarray:
    """object [N] of str or None of a boolean column -> the same with ``True`` or ``False`` for
    every spelling of them.
    """
    codes, different = pd.factorize(texts)
    found = [truth_of(text) for text in different]
    if all(
        value is not None or text in _DIGITS for value, text in zip(found, different, strict=True)
    ):
        found = [
            _DIGITS.get(text) if value is None else value
            for value, text in zip(found, different, strict=True)
        ]
    else:
        # Beside other levels a single letter or a digit is a level of its own.
        found = [
            None if len(text) == 1 else value for value, text in zip(found, different, strict=True)
        ]
    levels = [
        text if value is None else TRUE if value else FALSE
        for value, text in zip(found, different, strict=True)
    ]
    return np.array([*levels, None], dtype=object)[codes]


def read_words(series: pd.Series, numbers: Numbers) -> Numbers:
    """The numbers of a 0/1 column whose cells may also be truth words: those count as 1 and 0
    instead of as bad cells.
    """
    if not numbers.bad.any():
        return numbers
    values, bad = numbers.values.copy(), numbers.bad.copy()
    for row, text in zip(np.flatnonzero(bad), to_texts(series[bad]), strict=True):
        truth = truth_of(text)
        if truth is not None:
            values[row], bad[row] = float(truth), False
    return numbers._replace(values=values, bad=bad)
