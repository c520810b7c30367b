"""Flags, YAML and presets end in one validated configuration, and a mistake ends in one line that names the key."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gaal_fast.config import (
    PRESETS,
    Config,
    Parser,
    add_config_flags,
    add_table_flags,
    build,
    keys,
    resolve,
    table_settings,
    to_yaml,
)
from gaal_fast.errors import UserError


def configure(*argv: str) -> Config:
    parser = Parser(prog="test")
    add_config_flags(parser)
    return resolve(parser.parse(argv))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--method.lambda-image", "1.5"], r"--method\.lambda-image must lie in \(0, 1\], got 1\.5"),
        (["--method.lambda-table=0"], r"--method\.lambda-table must lie in \(0, 1\], got 0"),
        (["--optim.lr", "-1"], r"--optim\.lr must be greater than 0, got -1"),
        (["--optim.lr", "nan"], r"--optim\.lr must be a finite number, got nan"),
        (["--train.epochs", "1.5"], r"--train\.epochs must be a whole number, got 1\.5"),
        (["--train.batch-size", "1"], r"--train\.batch-size must be 2 or more, got 1"),
        (["--method.surgery", "maybe"], r"--method\.surgery must be true or false, got maybe"),
        (["--method.guide", "stale"], r"--method\.guide must be one of 'fresh' or 'cached', got stale"),
        (["--method.order", "image,image"], r"--method\.order names one thing twice"),
        (["--method.order", "image"], r"--method\.order must name image and table"),
        (["--data.test-fraction", "0.95"], r"--data\.test-fraction leaves no rows to train on"),
        (["--method.lamda-image", "0.5"], r"unknown key --method\.lamda-image; did you mean --method\.lambda-image\?"),
        (["--data.csv"], r"--data\.csv: expected one argument"),
        (["--data.encoding", "klingon"], r"--data\.encoding is no encoding that Python knows.*, got klingon"),
        (["--data.delimiter", "||"], r"--data\.delimiter must be one character or one of comma, semicolon, tab, .*, got \|\|"),
        (["--data.decimal", "x"], r"--data\.decimal must be one of '\.' or ',', got x"),
        (["--data.decimal", ",", "--data.thousands", "comma"], r"--data\.thousands is --data\.decimal as well, got comma"),
        (["--data.image-range", "5"], r"--data\.image-range must be two numbers, LOW,HIGH, got 5"),
        (["--data.image-range", "0,high"], r"--data\.image-range must be two numbers, LOW,HIGH, got 0,high"),
        (["--data.image-range", "9,-1"], r"--data\.image-range must be two finite numbers, LOW,HIGH, the lower one first, got 9,-1"),
        (["--data.image-range", "0,inf"], r"--data\.image-range must be two finite numbers"),
        (["stray"], r"unexpected argument stray"),
        (["--preset", "best"], r"--preset: invalid choice: 'best'"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line_naming_the_key(argv: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        configure(*argv)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method: {lamda-image: 0.5}", r"unknown key method\.lamda-image in --config; did you mean method\.lambda-image\?"),
        ("metod: {rule: paper}", r"unknown key metod in --config; did you mean method\?"),
        ("method: 3", r"method must hold keys such as method\.name"),
        ("- 1", r"must hold sections"),
        ("a: [", r"is not YAML"),
        ("optim: {lr: fast}", r"--optim\.lr must be a finite number, got fast"),
    ],
)
def test_a_mistake_in_the_file_is_one_line_naming_the_key(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        configure("--config", str(file))


def test_flags_win_over_the_file_and_the_file_over_the_preset(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("train: {epochs: 3, batch_size: 8}\nmethod:\n  lambda-image: 0.25\n")
    config = configure("--preset", "paper", "--config", str(file), "--train.batch_size=16")
    assert (config.train.epochs, config.train.batch_size, config.method.lambda_image) == (3, 16, 0.25)
    assert config.model.image == PRESETS["paper"]["model"]["image"]


def test_without_a_table_the_demo_preset_is_used_and_with_one_it_is_not() -> None:
    assert configure().model.image == PRESETS["demo"]["model"]["image"]
    assert configure("--data.csv", "a.csv").model.image == Config().model.image


def test_none_clears_an_optional_key_only() -> None:
    assert configure("--method.max-correction", "none").method.max_correction is None
    assert configure("--data.augment", "none").data.augment == "none"
    with pytest.raises(UserError, match=r"--train\.epochs"):
        configure("--train.epochs", "none")


@given(
    lr=st.floats(1e-8, 10), epochs=st.integers(1, 500), drop=st.lists(st.text("abc_é x", min_size=1), max_size=3, unique=True),
    rule=st.sampled_from(["paper", "official"]), preset=st.sampled_from(sorted(PRESETS)),
)  # fmt: skip
def test_printed_configuration_reads_back_equal(lr: float, epochs: int, drop: list[str], rule: str, preset: str) -> None:
    layer = {"optim": {"lr": lr}, "train": {"epochs": epochs}, "data": {"drop": drop}, "method": {"rule": rule}}
    config = build([("preset", PRESETS[preset]), ("test", layer)])
    assert build([("printed", yaml.safe_load(to_yaml(config)))]) == config


def test_a_range_is_two_numbers_of_any_sign(tmp_path: Path) -> None:
    assert configure().data.image_range is None
    assert configure("--data.image-range", "-1024,3071").data.image_range == (-1024, 3071)
    assert configure("--data.image-range=-.5,1e3", "--optim.lr", "1e-3").data.image_range == (-0.5, 1000)
    file = tmp_path / "run.yaml"
    file.write_text(to_yaml(configure("--data.image-range", "-3,-1")))
    assert configure("--config", str(file)).data.image_range == (-3, -1)
    assert configure("--config", str(file), "--data.image-range", "none").data.image_range is None


def test_every_key_has_a_flag_with_a_description() -> None:
    parser = Parser(prog="test")
    add_config_flags(parser)
    text = parser.format_help()
    for key, field in keys():
        assert f"--{key} " in text
        assert field.description


@pytest.mark.parametrize(
    ("argv", "key", "value"),
    [
        (["--data.delimiter", "tab"], "delimiter", "\t"),
        (["--data.delimiter", "\\t"], "delimiter", "\t"),
        (["--data.delimiter", "\t"], "delimiter", "\t"),
        (["--data.delimiter", " "], "delimiter", " "),
        (["--data.delimiter", "Pipe"], "delimiter", "|"),
        (["--data.decimal", "comma"], "decimal", ","),
        (["--data.thousands", "no"], "thousands", ""),
        (["--data.thousands", "apostrophe"], "thousands", "'"),
        (["--data.encoding", "Windows-1251"], "encoding", "cp1251"),
        (["--data.missing-values=-999,n/k"], "missing_values", ["-999", "n/k"]),
    ],
)
def test_marks_are_given_by_name_or_as_they_are(argv: list[str], key: str, value: object) -> None:
    config = configure(*argv)
    assert getattr(config.data, key) == value
    assert build([("x", yaml.safe_load(to_yaml(config)))]) == config


def test_missing_values_may_be_numbers_in_yaml(tmp_path: Path) -> None:
    assert build([("x", {"data": {"missing-values": [-999, "x"]}})]).data.missing_values == ["-999", "x"]


def test_the_flags_of_a_table_to_predict_are_checked_under_their_own_names() -> None:
    parser = Parser(prog="test")
    add_table_flags(parser)
    given = table_settings(parser.parse(["--decimal", "comma", "--delimiter", "tab"]))
    assert given == {"encoding": None, "delimiter": "\t", "decimal": ",", "thousands": None}
    with pytest.raises(UserError, match=r"^--decimal must be one of '\.' or ',', got x"):
        table_settings(parser.parse(["--decimal", "x"]))
