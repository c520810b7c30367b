"""The commands that look and do not train."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch

from gaal_fast import doctor, ops
from gaal_fast.data.__main__ import main as data_main
from tests.commands.conftest import flags


def test_doctor_names_the_backend_of_every_op_and_finds_them_right(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert doctor.main([]) == 0
    out = capsys.readouterr().out
    for op in ("softmax_stats", "entropy_topk", "linear_ce_grad", "project_", "guided_linear_ce"):
        assert [
            line for line in out.splitlines() if line.startswith(f"{op} ") and line.endswith("ok")
        ], out
    assert f"torch {torch.__version__.split('+')[0]}" in out


def test_doctor_finds_a_backend_that_is_wrong(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = ops.entropy_topk

    def wrong(logits: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        entropy, index = right(logits, k)
        return (entropy if ops.requested_backend() == "torch" else entropy * 1.01), index

    monkeypatch.setattr(ops, "entropy_topk", wrong)
    assert doctor.main([]) == 1
    assert "WRONG" in capsys.readouterr().out


def test_data_reports_columns_classes_and_problems(
    trees: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = pd.read_csv(trees)
    frame.loc[4, "photo"] = "gone.png"
    frame.to_csv(tmp_path / "trees.csv", index=False)
    options = flags(trees, tmp_path / "run")
    options[options.index(str(trees))] = str(tmp_path / "trees.csv")
    assert data_main([*options, "--issues", str(tmp_path / "issues.csv")]) == 0
    out = capsys.readouterr().out
    for words in ("height", "bark", "species", "oak (", '"id"', "gone.png"):
        assert words in out
    issues = pd.read_csv(tmp_path / "issues.csv")
    assert list(issues["row"]) == [4]
    assert not (tmp_path / "run").exists()


def test_data_says_that_a_target_is_a_quantity_and_how_to_have_it_otherwise(
    trees: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = flags(trees, tmp_path / "run")
    options[options.index("species")] = "height"
    assert data_main(options) == 0
    out = capsys.readouterr().out
    assert 'regression: "height" has' in out and "--data.task classification" in out
    assert "training values: " in out and "training rows by class" not in out
    assert data_main([*options, "--data.class-weights", "balanced"]) == 2
    [line] = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error")]
    assert line.startswith("error: --data.class-weights is about classes")
