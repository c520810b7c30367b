"""The presets: the paper's settings, weaker than file and flags, for the tables of ``prepare``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from gaal_fast import train
from gaal_fast.data.__main__ import main as data_main
from gaal_fast.published import NAMES
from tests.published.conftest import Done, read_csv

# Section 1d and 18 of the survey of the authors' code: size, epochs between two drops, target.
SETTINGS = {
    "dvm": (128, 15, "label"),
    "sun": (225, 10, "open area"),
    "celeba": (225, 10, "Attractive"),
}
SMALL = {
    "data.image-size": 16,
    "model.image": "small",
    "model.width": 16,
    "model.hidden": 16,
    "train.epochs": 1,
    "train.batch-size": 16,
    "train.progress": "false",
}


def printed(capsys: pytest.CaptureFixture[str], *flags: str) -> dict[str, dict[str, object]]:
    capsys.readouterr()
    assert train.main([*flags, "--print-config"]) == 0
    return yaml.safe_load(capsys.readouterr().out)


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_is_the_papers_setting(capsys: pytest.CaptureFixture[str], name: str) -> None:
    size, step, target = SETTINGS[name]
    config = printed(capsys, "--preset", name)
    assert config["data"].pop("csv") is None
    expected = {
        "data": {"image-size": size, "target": target, "augment": "paper", "split-column": "split",
                 "image-column": "image_path"},
        "model": {"image": "resnet50", "width": 2048, "hidden": 2048, "weights": None},
        "method": {"name": "gaal", "rule": "official", "margin": 0.75, "ridge": 1e-3,
                   "lambda-image": 0.5, "lambda-table": 0.5},
        "optim": {"name": "adam", "lr": 1e-3, "weight-decay": 1e-4, "schedule": "step",
                  "step-size": step, "gamma": 0.1},
        "train": {"epochs": 500, "batch-size": 256, "patience": 10, "min-delta": 2e-4,
                  "select": "accuracy", "seed": 2022},
    }  # fmt: skip
    for section, values in expected.items():
        assert {key: config[section][key] for key in values} == values


def test_flags_and_file_win_over_a_preset(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("data: {image-size: 64, target: other}\noptim: {lr: 0.1}\n")
    flags = ("--preset", "sun", "--config", str(file), "--data.csv", "a.csv", "--optim.lr", "0.2")
    config = printed(capsys, *flags)
    assert config["data"]["image-size"] == 64 and config["data"]["target"] == "other"
    assert config["optim"]["lr"] == 0.2
    assert config["train"]["epochs"] == 500


def test_a_preset_of_the_paper_needs_its_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(["--preset", "celeba"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: --data.csv is needed with --preset celeba")
    assert "gaal_fast.data prepare celeba" in line


def test_an_unknown_preset_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(["--preset", "dvn", "--data.csv", "a.csv"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "--preset" in line and "'dvn'" in line and "'dvm'" in line


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_trains_on_what_prepare_wrote_also_after_a_move(
    prepared: Callable[[str], Done], name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = prepared(name)
    moved, run = tmp_path / "moved", tmp_path / "run"
    assert data_main(["prepare", name, "--raw", str(done.raw), "--out", str(tmp_path / "out")]) == 0
    (tmp_path / "out").rename(moved)
    table, images = moved / f"{name}.csv", moved / "images"
    small = [part for key, value in SMALL.items() for part in (f"--{key}", str(value))]
    capsys.readouterr()
    flags = ["--preset", name, "--data.csv", str(table), "--data.images", str(images), *small]
    assert train.main([*flags, "--run.dir", str(run)]) == 0
    out = capsys.readouterr().out
    rows = read_csv(done.table)
    by_part = {part: sum(row["split"] == part for row in rows) for part in ("train", "val", "test")}
    parts = ", ".join(f"{count} {part}" for part, count in by_part.items())
    assert f"rows: {len(rows)} ({parts}; split " in out
    # Colors, bodies, gearboxes and fuels of the miniature; two values of each attribute.
    width = {"dvm": 13 + 3 + 2 + 2 + 2, "sun": 202, "celeba": 78}[name]
    assert f"table features: {width}" in out
    assert [row["part"] for row in read_csv(run / "split.csv")] == [row["split"] for row in rows]
    again = tmp_path / "official"
    assert data_main(["export-official", "--run", str(run), "--out", str(again)]) == 0
    straight = tmp_path / "straight"
    assert data_main(["export-official", "--csv", str(table), "--out", str(straight)]) == 0
    for path in straight.rglob("*.csv"):
        assert (again / path.relative_to(straight)).read_bytes() == path.read_bytes()
