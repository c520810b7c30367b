"""What a run folder holds comes back as it was, and what is not its own is refused in a line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from gaal_fast.config import Config
from gaal_fast.errors import UserError
from gaal_fast.runs.folder import CHECKPOINT, CHECKPOINT_FORMAT, METRICS, STEPS, SUMMARY, RunFolder


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", Config())


def test_a_checkpoint_comes_back_as_it_was(folder: RunFolder) -> None:
    state = {"model": {"w": torch.arange(3.0)}, "progress": {"step": 3}, "rng": None}
    folder.save_checkpoint(state)
    found = folder.checkpoint()
    assert found.keys() == state.keys()
    assert torch.equal(found["model"]["w"], state["model"]["w"])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"model": {}}, "has no format number, .* older version"),
        ({"format": 1}, "has format 1, .* older version"),
        (
            {"format": CHECKPOINT_FORMAT + 1},
            f"has format {CHECKPOINT_FORMAT + 1}, .* newer version",
        ),
        ([1, 2], "has no format number"),
    ],
)
def test_a_checkpoint_of_another_format_is_refused_in_a_line(
    folder: RunFolder, content: object, words: str
) -> None:
    torch.save(content, folder.file(CHECKPOINT))
    with pytest.raises(UserError, match=f"^--resume: .*{CHECKPOINT} {words}") as caught:
        folder.checkpoint()
    assert "\n" not in str(caught.value)


def test_a_damaged_checkpoint_is_refused_in_a_line(folder: RunFolder) -> None:
    folder.file(CHECKPOINT).write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(UserError, match=rf"^--resume: .*{CHECKPOINT} is damaged: "):
        folder.checkpoint()


def test_files_say_fused_and_former_ones_are_read(folder: RunFolder) -> None:
    folder.write_json(SUMMARY, {"test": {"accuracy": {"fused": 0.5, "image": None}}})
    text = folder.file(SUMMARY).read_text()
    assert json.loads(text)["test"]["accuracy"] == {"fused": 0.5, "image": None}
    folder.file(SUMMARY).write_text(text.replace("fused", "multi"))
    assert folder.read_json(SUMMARY)["test"]["accuracy"]["fused"] == 0.5
    columns = ["epoch", "val.accuracy.fused"]
    folder.write_rows(METRICS, [dict.fromkeys(columns, 1)], columns)
    assert folder.file(METRICS).read_text().splitlines()[0] == "epoch,val.accuracy.fused"
    folder.file(METRICS).write_text("epoch,val.accuracy.multi\n1,1\n")
    assert list(folder.read_rows(METRICS)) == columns
    for name in ("fused", "multi"):
        folder.append_rows(STEPS, [{"step": 1, "modality": name}], ["step", "modality"])
    assert folder.file(STEPS).read_text().splitlines() == ["step,modality", "1,fused", "1,multi"]
    assert list(folder.read_rows(STEPS)["modality"]) == ["fused", "fused"]


def test_rows_that_are_kept_keep_the_names_of_the_file(folder: RunFolder) -> None:
    rows = [{"step": step, "modality": "fused"} for step in (1, 2, 3)]
    folder.append_rows(STEPS, rows, ["step", "modality"])
    folder.keep_rows(STEPS, "step", 2)
    assert folder.file(STEPS).read_text().splitlines() == ["step,modality", "1,fused", "2,fused"]
    folder.keep_rows(STEPS, "step", 0)
    assert not folder.file(STEPS).exists()


def test_the_seeds_of_a_folder_come_in_the_order_of_their_numbers(folder: RunFolder) -> None:
    for name in ("seed-10", "seed-9", "seed-x", "seed-"):
        RunFolder.create(folder.path / name, Config())
    (folder.path / "seed-3").mkdir()
    assert [run.path.name for run in folder.seeds()] == ["seed-9", "seed-10"]
