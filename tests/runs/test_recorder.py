"""Rows of updates and epochs: columns that grow, and what a resumed run keeps of them."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest
import torch

from gaal_fast.errors import UserError
from gaal_fast.runs import folder as run_folder
from gaal_fast.runs.folder import RunFolder
from gaal_fast.runs.recorder import STEP_COLUMNS, CsvRecorder, means, step_words


@pytest.fixture
def recorder(tmp_path: Path) -> CsvRecorder:
    return CsvRecorder(RunFolder(tmp_path))


def note(recorder: CsvRecorder, step: int, part: str, **scalars: float) -> None:
    values = {
        name: torch.tensor(value, dtype=torch.float64 if name == "v" else torch.float32)
        for name, value in scalars.items()
    }
    recorder.step(step, 1, "train", part, values)


def steps(recorder: CsvRecorder) -> pd.DataFrame:
    return pd.read_csv(recorder.folder.file(run_folder.STEPS))


def test_a_row_has_the_columns_that_it_always_had(recorder: CsvRecorder) -> None:
    note(recorder, 1, "image", loss=0.5)
    note(recorder, 1, "table", loss=0.25, cosine=-0.125, v=3.0)
    recorder.flush()
    found = steps(recorder)
    assert tuple(found) == STEP_COLUMNS
    assert found.loc[1].tolist() == [1, 1, "table", 0.25, -0.125, 3.0]
    assert found.loc[0, ["cosine", "v"]].isna().all()


def test_a_new_scalar_is_a_new_column_in_the_rows_before_too(recorder: CsvRecorder) -> None:
    note(recorder, 1, "image", loss=0.5)
    recorder.flush()
    note(recorder, 2, "image", loss=0.25, distance=2.0)
    recorder.flush()
    found = steps(recorder)
    assert tuple(found) == (*STEP_COLUMNS, "distance")
    assert found["loss"].tolist() == [0.5, 0.25]
    assert math.isnan(found["distance"][0]) and found["distance"][1] == 2.0


def test_rows_after_the_checkpoint_are_dropped(recorder: CsvRecorder) -> None:
    note(recorder, 1, "image", loss=0.5)
    recorder.flush()
    state = {name: list(rows) for name, rows in recorder.state().items()}
    note(recorder, 2, "image", loss=0.25, distance=2.0)
    recorder.flush()
    again = CsvRecorder(recorder.folder)
    again.restore(state, step=1, epoch=0)
    assert steps(again)["step"].tolist() == [1]
    assert [row["loss"] for row in again.rows] == [0.5]


def test_an_epoch_holds_means_and_scores(recorder: CsvRecorder) -> None:
    note(recorder, 1, "image", loss=1.0, cosine=math.nan, v=0.0)
    note(recorder, 2, "image", loss=2.0, cosine=0.5, v=2.0, grad_norm=4.0)
    recorder.flush()
    recorder.epoch({"epoch": 1, "step": 2}, {"r2": {"fused": 0.5, "image": None}}, seconds=1.5)
    assert recorder.history == [
        {
            "epoch": 1,
            "step": 2,
            "train.loss.image": 1.5,
            "cosine.image": 0.5,
            "projected.image": 0.5,
            "grad_norm.image": 4.0,
            "val.r2.fused": 0.5,
            "val.r2.image": None,
            "seconds": 1.5,
        }
    ]
    assert recorder.rows == []
    assert len(pd.read_csv(recorder.folder.file(run_folder.METRICS))) == 1


def test_a_guide_that_never_has_a_direction_has_no_mean_cosine() -> None:
    row = {"step": 1, "epoch": 1, "modality": "image", "loss": 1.0, "cosine": math.nan, "v": 0.0}
    assert means([row])["cosine.image"] is None
    assert step_words([row]) == "loss image 1.000"
    assert step_words([]) == ""


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_a_number_names_its_step(recorder: CsvRecorder, loss: float) -> None:
    note(recorder, 7, "image", loss=loss)
    with pytest.raises(UserError, match=rf"^the image loss is {loss} at step 7: training diverged"):
        recorder.flush()
