"""The trainer on drawn data: values to be predicted, any modalities, and parts of a training."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from gaal_fast.config import build
from gaal_fast.data import make_loader
from gaal_fast.engine import Trainer, predict_batches
from gaal_fast.errors import UserError
from gaal_fast.methods import Phase, SharedHead, Update
from gaal_fast.runs import folder as run_folder
from gaal_fast.runs.folder import RunFolder
from gaal_fast.tasks import FUSED, Regression
from tests.engine.drawn import Drawn, drawn_classes, drawn_values

CPU = torch.device("cpu")


def trainer(data: Drawn, folder: Path, **sections: Mapping[str, Any]) -> Trainer:
    base: dict[str, Any] = {
        "model": {"image": "small", "width": 16, "hidden": 16},
        "train": {"epochs": 3, "batch-size": 32, "progress": False},
        "data": {"workers": 0},
        "optim": {"lr": 3e-3},
    }
    for name, values in sections.items():
        base[name] = base.get(name, {}) | values
    folder.mkdir(exist_ok=True)
    return Trainer(build([("test", base)]), data, RunFolder(folder), device=CPU)  # type: ignore[arg-type]


@pytest.mark.parametrize("loss", ["nll", "mse"])
def test_values_are_predicted_better_from_all_modalities(tmp_path: Path, loss: str) -> None:
    data = drawn_values()
    one = trainer(data, tmp_path / "run", train={"epochs": 25}, task={"loss": loss})
    summary = one.fit()
    r2 = summary["test"]["r2"]
    assert set(r2) == {FUSED, "front", "kitchen", "facts"}
    assert r2[FUSED] > max(value for name, value in r2.items() if name != FUSED) + 0.1, r2
    assert r2[FUSED] > 0.4
    metrics = pd.read_csv(tmp_path / "run" / run_folder.METRICS).set_index("epoch")
    best = metrics["val.r2.fused"]
    assert summary["best_epoch"] == best.idxmax()
    assert json.loads((tmp_path / "run" / run_folder.SUMMARY).read_text())["test"]["r2"]["facts"]
    if loss == "nll":
        one._load(one.best)
        loader = make_loader(data.dataset(data.split.test), 64, workers=0)
        found = predict_batches(one.method, loader, device=CPU)
        columns = one.method.task.columns(found)
        error = (columns["prediction"] - data.target[data.split.test]).to_numpy()
        assert np.abs(error).mean() == pytest.approx(summary["test"]["mae"][FUSED])
        z = error / columns["prediction_std"].to_numpy()
        assert 0.5 < z.std() < 2, "the deviations that are said are those that occur"


def test_a_run_on_values_goes_on_bit_for_bit(tmp_path: Path) -> None:
    data = drawn_values(160)
    whole = trainer(data, tmp_path / "whole")
    whole.fit()
    trainer(data, tmp_path / "parts", train={"max-steps": 5}).fit()
    parts = trainer(data, tmp_path / "parts")
    parts.resume()
    parts.fit()
    for name, value in whole.method.state_dict().items():
        assert torch.equal(value, parts.method.state_dict()[name]), name
    assert "task.mean" in whole.method.state_dict()
    assert isinstance(parts.method.task, Regression)
    assert parts.method.task.mean.item() == pytest.approx(data.target[data.split.train].mean())
    for name in (run_folder.STEPS, run_folder.WEIGHTS):
        files = [tmp_path / run / name for run in ("whole", "parts")]
        assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize(
    ("method", "modalities"),
    [
        ({"name": "gaal", "lambda-front": 0.2, "order": "facts,front,kitchen"}, 3),
        ({"name": "alternating"}, 3),
        ({"name": "concat"}, 3),
        ({"name": "unimodal", "modality": "kitchen"}, 1),
    ],
    ids=lambda value: value["name"] if isinstance(value, dict) else "",
)
def test_three_modalities_of_any_name(
    tmp_path: Path, method: dict[str, Any], modalities: int
) -> None:
    data = drawn_classes()
    one = trainer(data, tmp_path / "run", method=method, train={"epochs": 2})
    summary = one.fit()
    assert len(summary["test"]["accuracy"]) == modalities + 1
    steps = pd.read_csv(tmp_path / "run" / run_folder.STEPS)
    expected = {"gaal": ["facts", "front", "kitchen"], "alternating": ["front", "kitchen", "facts"]}
    if method["name"] in expected:
        assert list(steps["modality"][:3]) == expected[method["name"]]
    assert steps["v"].notna().all() == (method["name"] == "gaal")
    # A row of which only one thing is known is predicted from it.
    names = one.method.modalities
    row = make_loader(data.dataset(data.split.test[:1]).only(names[:1]), 1, workers=0)
    [batch] = row
    empty = data.dataset(data.split.test[:1])[0].views
    views = {n: batch.views[n] if n in batch.views else _none_of(empty[n]) for n in names}
    outputs = one.method.eval()(type(batch)(batch.target, batch.index, views))
    assert set(outputs) == {names[0], FUSED}


def _none_of(view: Any) -> Any:
    return type(view)(view.values[:0], view.rows[:0])


def test_a_modality_or_score_that_is_not_there_is_named(tmp_path: Path) -> None:
    data = drawn_classes(60)
    with pytest.raises(
        UserError, match=r"^--method\.lambda-frnt: there is no modality frnt; did y"
    ):
        trainer(data, tmp_path, method={"lambda-frnt": 0.3})
    with pytest.raises(UserError, match=r"^--method\.order must name front and kitchen and facts"):
        trainer(data, tmp_path, method={"order": "image,table"})
    with pytest.raises(UserError, match=r"^--train\.select must be one of .*, got r2$"):
        trainer(data, tmp_path, train={"select": "r2"})


def test_clipping_bounds_the_step_and_is_recorded(tmp_path: Path) -> None:
    one = trainer(drawn_classes(60), tmp_path, optim={"clip-norm": 0.01}, train={"epochs": 1})
    one.fit()
    steps = pd.read_csv(tmp_path / run_folder.STEPS)
    assert list(steps.columns)[-1] == "grad_norm"
    assert (steps["grad_norm"] > 0.01).any()


class Phased(SharedHead):
    """Two phases of two epochs; notes what happens."""

    def phases(self) -> list[Phase]:
        self.log: list[str] = []
        self.shapes: set[tuple[int, ...]] = set()
        return [
            Phase("first", self.first, [self.encoders, self.head], epochs=2),
            Phase("second", self.second, [self.head], epochs=2, views=2, selects=False),
        ]

    def start_epoch(self, phase: Phase, epoch: int, rows: Any) -> None:
        counted = sum(len(batch) for batch in rows)
        self.log.append(f"{phase.name} {epoch}: {counted} rows")

    def first(self, batch: Any, update: Update) -> None:
        self._move(batch, update)

    def second(self, batch: Any, update: Update) -> None:
        self.shapes.add(tuple(batch.views["front"].values.shape[1:]))
        self._move(batch, update, slice(0, 1))

    def _move(self, batch: Any, update: Update, view: Any = None) -> None:
        values, rows = batch.views["front"]
        values = values if view is None else values[:, 0]
        loss = self.task.loss(self.head(self.encoders("front", values)), batch.target[rows])
        update("front", loss)


def test_phases_have_optimizers_views_and_whole_set_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gaal_fast.methods.build.find_method", lambda name, plugins=(): Phased)
    one = trainer(drawn_classes(100), tmp_path, method={"name": "concat"})
    heads: list[dict[str, Tensor]] = []
    original = one._next_phase

    def watched() -> None:
        original()
        heads.append({n: v.clone() for n, v in one.method.state_dict().items()})

    one._next_phase = watched  # type: ignore[method-assign]
    summary = one.fit()
    assert isinstance(one.method, Phased)
    assert one.method.log == [
        f"{phase} {epoch}: 60 rows" for phase in ("first", "second") for epoch in (0, 1)
    ]
    assert one.method.shapes == {(2, 3, 8, 8)}
    assert len(one.optimizer.param_groups[0]["params"]) == 2, "the head alone"
    [start] = heads
    latest = one.method.state_dict()
    assert not torch.equal(start["head.weight"], latest["head.weight"])
    name = "encoders.front.network.layers.0.weight"
    assert torch.equal(start[name], latest[name]), "not trained in the second phase"
    assert summary["best_epoch"] == 4, "the last epoch, where a phase does not select"
    steps = pd.read_csv(tmp_path / run_folder.STEPS)
    assert list(steps["phase"]) == ["first"] * 4 + ["second"] * 4
    assert list(steps["epoch"]) == [1, 1, 2, 2, 3, 3, 4, 4]


def test_a_loss_that_is_not_a_number_stops_the_training(tmp_path: Path) -> None:
    data = drawn_values(100)
    data.modalities[2].features[3] = torch.nan  # type: ignore[attr-defined]
    one = trainer(data, tmp_path, method={"name": "alternating"})
    with pytest.raises(UserError, match=r"^the facts loss is nan at step \d+: training diverged"):
        one.fit()
