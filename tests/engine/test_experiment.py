"""Training as a library: it returns what the commands print."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gaal_fast.config import Config, build
from gaal_fast.engine import comparison, experiment
from gaal_fast.errors import AlreadyFinished, UserError
from gaal_fast.runs.folder import CHECKPOINT, SUMMARY, RunFolder
from tests.commands.conftest import flags, write_data

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("trees"), rows=30)


def configured(csv: Path, run: Path, **more: object) -> Config:
    given = flags(csv, run)
    layer = {
        key.removeprefix("--"): value for key, value in zip(given[::2], given[1::2], strict=True)
    }
    return build([("test", layer | {"train.epochs": 1} | more)])


def test_training_returns_the_summary_and_prints_nothing(
    csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configured(csv, tmp_path / "run", **{"train.seeds": 2})
    said: list[str] = []
    data = experiment.load([config])
    folder, summary = experiment.train(config, data, device=CPU, say=said.append)
    assert folder.path == tmp_path / "run"
    assert summary == folder.read_json(SUMMARY)
    assert set(summary["test"]["accuracy"]) == {"fused", "image", "table"}
    assert said == ["seed 0", "seed 1"]
    with pytest.raises(AlreadyFinished, match=r"^--resume: .*run is finished: all of its 2 seeds"):
        experiment.train(config, data, device=CPU, say=said.append, resumed=folder)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_a_comparison_returns_its_rows_and_prints_nothing(
    csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configs = [
        configured(csv, tmp_path / "run", **{"method.name": name}) for name in ("table", "image")
    ]
    said: list[str] = []
    found = comparison.compare(configs, experiment.load(configs), device=CPU, say=said.append)
    assert said == ["method table", "method image"]
    assert [(row.method, row.modality) for row in found.rows] == [
        ("table", "table"), ("table", "fused"), ("image", "image"), ("image", "fused"),
    ]  # fmt: skip
    assert (found.title, found.part) == ("test accuracy", "test")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


@pytest.mark.parametrize("image", ["small", "resnet50"])
def test_the_plan_says_the_size_of_the_model_without_drawing_its_weights(
    csv: Path, tmp_path: Path, image: str
) -> None:
    config = configured(csv, tmp_path / "run", **{"model.image": image, "model.width": "none"})
    data = experiment.load([config])
    before = torch.get_rng_state()
    lines = experiment.plan(config, data, CPU)
    assert torch.equal(torch.get_rng_state(), before)
    millions = {"small": "image encoder 0.10 M", "resnet50": "image encoder 23.51 M"}[image]
    assert [line for line in lines if millions in line]
    assert "method: gaal, up to 1 epochs of 3 batches on cpu" in lines


def test_an_error_after_the_data_was_read_carries_its_warnings(tmp_path: Path) -> None:
    csv = write_data(tmp_path / "data", rows=30)
    text = csv.read_text().splitlines()
    csv.write_text("\n".join([text[0], *(line.replace(".png", "") for line in text[1:])]))
    config = configured(csv, tmp_path / "run")
    config = config.model_copy(
        update={"data": config.data.model_copy(update={"image_column": None, "images": None})}
    )
    with pytest.raises(UserError, match=r"^--data\.image-column: no column of .* names images"):
        experiment.load([config])


@pytest.mark.parametrize(("new", "checkpoint"), [(True, True), (True, False), (False, False)])
def test_a_new_folder_without_a_checkpoint_is_removed_after_an_error(
    tmp_path: Path, new: bool, checkpoint: bool
) -> None:
    folder = RunFolder.create(tmp_path / "run", Config())
    if checkpoint:
        folder.save_checkpoint({})
        assert folder.file(CHECKPOINT).exists()
    with pytest.raises(UserError, match="wrong"), experiment.tidy_after_errors(folder, new=new):
        raise UserError("wrong")
    assert folder.path.exists() is (checkpoint or not new)


def test_a_full_disk_after_a_checkpoint_says_how_to_go_on(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", Config())
    folder.save_checkpoint({})
    words = rf"^x: No space left on device; go on with: .*compare --resume {folder.path}$"
    with (
        pytest.raises(UserError, match=words),
        experiment.tidy_after_errors(folder, new=True, module="compare"),
    ):
        raise OSError(0, "No space left on device", "x")
