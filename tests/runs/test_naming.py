"""Files of earlier runs say multi where memory says fused, and nothing else is touched."""

from __future__ import annotations

import pytest

from gaal_fast.runs.naming import FUSED, loaded, with_names


@pytest.mark.parametrize(
    ("disk", "memory"),
    [("multi", "fused"), ("val.accuracy.multi", "val.accuracy.fused"), ("image", "image")],
)
def test_a_former_name_is_read(disk: str, memory: str) -> None:
    assert loaded(disk) == loaded(memory) == memory


@pytest.mark.parametrize("name", ["multiple", "refused", "multi_view", "fused-image", ""])
def test_only_a_whole_part_of_a_name_is_translated(name: str) -> None:
    assert loaded(name) == name


def test_keys_are_read_at_any_depth_and_values_are_not() -> None:
    summary = {"method": "multi", "test": {"nll": {FUSED: 0.5}}, "runs": [{FUSED: None}]}
    former = {"method": "multi", "test": {"nll": {"multi": 0.5}}, "runs": [{"multi": None}]}
    assert with_names(former) == with_names(summary) == summary
