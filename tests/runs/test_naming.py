"""Memory says fused, files say multi, and nothing else is touched."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaal_fast.runs.naming import FUSED, loaded, renamed, stored, stored_row

NAMES = [("fused", "multi"), ("val.accuracy.fused", "val.accuracy.multi"), ("image", "image")]


@pytest.mark.parametrize(("memory", "disk"), NAMES)
def test_a_name_goes_to_disk_and_back(memory: str, disk: str) -> None:
    assert stored(memory) == disk
    assert loaded(disk) == memory


@pytest.mark.parametrize("name", ["multiple", "refused", "multi_view", "fused-image", ""])
def test_only_a_whole_part_of_a_name_is_translated(name: str) -> None:
    assert stored(name) == loaded(name) == name


def test_keys_are_renamed_at_any_depth_and_values_are_not() -> None:
    summary = {"method": "fused", "test": {"nll": {FUSED: 0.5}}, "runs": [{FUSED: None}]}
    disk = {"method": "fused", "test": {"nll": {"multi": 0.5}}, "runs": [{"multi": None}]}
    assert renamed(summary, stored) == disk
    assert renamed(disk, loaded) == summary


def test_a_row_has_its_columns_and_its_modality_renamed() -> None:
    row = {"modality": FUSED, "loss": 0.5, "val.nll.fused": 1.0, "method": FUSED}
    disk = {"modality": "multi", "loss": 0.5, "val.nll.multi": 1.0, "method": FUSED}
    assert stored_row(row) == disk


names = st.sampled_from(["fused", "image", "table", "val", "a"])


@given(st.recursive(st.none() | st.floats(allow_nan=False) | names,
                    lambda inner: st.lists(inner) | st.dictionaries(names, inner)))  # fmt: skip
def test_what_is_written_is_read_back(content: object) -> None:
    assert renamed(renamed(content, stored), loaded) == content
