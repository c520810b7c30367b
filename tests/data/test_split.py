"""Splits: no row lost or shared, every class to train on, proportions kept, the same for the same
seed.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gaal_fast.data.part_words import GivenParts
from gaal_fast.data.split import Groups, Split, SplitPlan, make_split, read_split
from gaal_fast.errors import UserError


def split_of(
    codes: np.ndarray,
    val: float = 0.1,
    test: float = 0.2,
    seed: int = 0,
    *,
    parts: list[str | None] | None = None,
    parts_column: str = "",
    groups: object = None,
    groups_column: str = "",
    warnings: list[str] | None = None,
) -> Split:
    warnings = [] if warnings is None else warnings
    rows = np.flatnonzero(codes >= 0)
    plan = SplitPlan(
        val,
        test,
        seed,
        None if parts is None else GivenParts.read(parts, parts_column, rows, warnings),
        None if groups is None else Groups(groups_column, groups),
    )
    return make_split(codes, list(range(codes.max() + 1)), plan, warnings)


def parts_of(split: Split) -> dict[int, str]:
    return {int(row): part for part in ("train", "val", "test") for row in getattr(split, part)}


@settings(max_examples=150, deadline=None)
@given(
    counts=st.lists(st.integers(2, 40), min_size=2, max_size=40),
    val=st.sampled_from([0.05, 0.1, 0.25]),
    test=st.sampled_from([0.1, 0.2, 0.5]),
    unlabelled=st.integers(0, 5),
    seed=st.integers(0, 3),
)
def test_stratified_splits(
    counts: list[int], val: float, test: float, unlabelled: int, seed: int
) -> None:
    codes = np.random.default_rng(seed).permutation(
        np.r_[np.repeat(np.arange(len(counts)), counts), np.full(unlabelled, -1)]
    )
    split = split_of(codes, val, test, seed)
    parts = parts_of(split)
    rows = np.flatnonzero(codes >= 0)
    assert sorted(np.concatenate([split.train, split.val, split.test])) == rows.tolist()
    assert len(parts) == len(rows)
    assert set(codes[split.train]) == set(range(len(counts)))
    free = len(rows) - len(counts)
    assert len(split.test) == min(max(1, round(test * len(rows))), free)
    assert len(split.val) == min(max(1, round(val * len(rows))), free - len(split.test))
    # One row of a class is kept for training; of the others a part takes its share, up to rounding
    # at each of the two draws.
    for code, count in enumerate(counts):
        share = (count - 1) / free
        assert abs((codes[split.test] == code).sum() - share * len(split.test)) < 1 + 1e-9
        assert abs((codes[split.val] == code).sum() - share * len(split.val)) < 2 + 1e-9
    again = split_of(codes, val, test, seed)
    assert again.hash == split.hash
    assert parts_of(again) == parts
    pd.testing.assert_frame_equal(Split.from_frame(split.to_frame()).to_frame(), split.to_frame())


def test_one_row_of_each_class_goes_to_validation_where_it_fits_exactly() -> None:
    codes = np.random.default_rng(0).permutation(np.repeat(np.arange(99), 10))
    split = split_of(codes)
    assert [len(split.train), len(split.val), len(split.test)] == [693, 99, 198]
    for part, each in ((split.train, 7), (split.val, 1), (split.test, 2)):
        assert np.bincount(codes[part]).tolist() == [each] * 99
    few = split_of(codes, val=0.05)
    assert len(few.val) == 50
    assert np.bincount(codes[few.val]).max() == 1


def test_the_seed_decides_and_the_hash_is_that_of_the_written_lines(tmp_path: Path) -> None:
    codes = np.arange(60) % 3
    split, other = split_of(codes, seed=1), split_of(codes, seed=2)
    assert split.hash != other.hash
    lines = "".join(f"{row}\t{part}\n" for row, part in sorted(parts_of(split).items()))
    assert split.hash == hashlib.sha256(lines.encode()).hexdigest()
    path = tmp_path / "split.csv"
    split.to_frame().to_csv(path, index=False)
    assert read_split(path, split.hash).hash == split.hash
    with pytest.raises(UserError, match=r"split\.csv has been changed"):
        read_split(path, other.hash)
    for text in (
        "row,part\n1,train\n1,test\n",
        "row,part\n1,tain\n",
        "a\n1\n",
        "row,part\nx,train\n",
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=r"split\.csv is not a saved split"):
            read_split(path)


@pytest.mark.parametrize("counts", [[2, 2], [3, 3], [2, 2, 2], [5, 2]])
def test_a_handful_of_rows_can_be_split(counts: list[int]) -> None:
    codes = np.repeat(np.arange(len(counts)), counts)
    split = split_of(codes)
    assert len(split.val) == len(split.test) == 1
    assert set(codes[split.train]) == set(codes)


def test_a_split_column_is_obeyed() -> None:
    codes = np.arange(12) % 2
    said = ["train", " Train", "TEST", "test", "valid", "Validation", "dev", "val"] + ["train"] * 4
    split = split_of(codes, parts=said, parts_column="part")
    assert split.train.tolist() == [0, 1, 8, 9, 10, 11]
    assert split.val.tolist() == [4, 5, 6, 7]
    assert split.test.tolist() == [2, 3]


def test_a_split_column_without_validation_takes_it_from_training() -> None:
    codes = np.arange(100) % 4
    said = ["train"] * 80 + ["test"] * 20
    split = split_of(codes, val=0.1, parts=said, parts_column="part")
    assert split.test.tolist() == list(range(80, 100))
    assert np.bincount(codes[split.val]).tolist() == [2, 2, 2, 2]
    assert len(split.train) == 72


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (["train", "train", "tset", "test"], 'split column "part": row 3 says "tset"'),
        (["train", None, "test", "test"], 'row 2 says ""'),
        (["test", "test", "val", "val"], 'has no "train" rows'),
        (["train", "test", "train", "test"], 'class "1" has no row in the training part'),
    ],
)
def test_a_wrong_split_column_is_refused(said: list[str | None], message: str) -> None:
    with pytest.raises(UserError, match=message):
        split_of(np.array([0, 1, 0, 1]), parts=said, parts_column="part")


def test_there_need_be_no_test_part() -> None:
    codes = np.arange(40) % 4
    warnings: list[str] = []
    split = split_of(codes, val=0.1, test=0.0, warnings=warnings)
    assert (len(split.train), len(split.val), len(split.test)) == (36, 4, 0)
    assert warnings == [
        "there is no test part; score the run on a table of your own with evaluate --csv"
    ]
    said = ["train"] * 30 + ["val"] * 10
    split = split_of(codes, parts=said, parts_column="part", warnings=warnings)
    assert (split.train.tolist(), split.val.tolist(), split.test.tolist()) == (
        list(range(30)),
        list(range(30, 40)),
        [],
    )
    split = split_of(codes, val=0.1, parts=["train"] * 40, parts_column="part")
    assert (len(split.train), len(split.val), len(split.test)) == (36, 4, 0)
    grouped = split_of(
        codes, val=0.25, test=0.0, groups=[str(row // 4) for row in range(40)], groups_column="who"
    )
    assert len(grouped.test) == 0 and len(grouped.val) > 0
    assert Split.from_frame(split.to_frame()).hash == split.hash


def test_rows_without_a_label_need_no_part() -> None:
    split = split_of(
        np.array([0, 0, 1, 1, -1, 0, 1]),
        parts=["train", "test", "train", "test", None, "val", "val"],
        parts_column="p",
    )
    assert split.val.tolist() == [5, 6]


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 6), min_size=12, max_size=60),
    classes=st.integers(2, 5),
    seed=st.integers(0, 3),
)
def test_groups_stay_together(sizes: list[int], classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(len(sizes)), sizes)
    codes = rng.integers(0, classes, len(groups))
    codes[: 2 * classes] = np.arange(2 * classes) % classes
    names = [None if rng.random() < 0.05 else f"g{group}" for group in groups]
    split = split_of(codes, seed=seed, groups=names, groups_column="who")
    parts = parts_of(split)
    assert len(parts) == len(codes)
    for name in set(names) - {None}:
        assert len({parts[row] for row, other in enumerate(names) if other == name}) == 1
    assert set(codes[split.train]) == set(codes)
    assert len(split.val) and len(split.test)
    assert split_of(codes, seed=seed, groups=names, groups_column="who").hash == split.hash


def test_groups_of_one_class_each_are_stratified() -> None:
    codes = np.repeat(np.arange(4), 100)
    groups = [f"{code}-{i // 10}" for code in range(4) for i in range(100)]
    split = split_of(codes, groups=groups, groups_column="who")
    assert np.bincount(codes[split.test]).tolist() == [20] * 4
    assert np.bincount(codes[split.val]).tolist() == [10] * 4


def test_groups_that_cannot_be_split_are_refused() -> None:
    codes = np.array([0, 1] * 6)
    with pytest.raises(
        UserError, match='group column "who": 2 groups are too few to split into 3 parts'
    ):
        split_of(codes, groups=["a", "b"] * 6, groups_column="who")
    with pytest.raises(
        UserError, match='split column "part": group "a" of "who" is in train and in val'
    ):
        split_of(
            codes,
            groups=["a"] * 12,
            groups_column="who",
            parts=["train"] * 6 + ["val"] * 2 + ["test"] * 4,
            parts_column="part",
        )
