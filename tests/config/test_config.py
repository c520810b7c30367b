"""Flags, YAML and presets end in one validated configuration, and a mistake ends in one line that
names the key.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gaal_fast.config import (
    INFERENCE_FLAGS,
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
        (
            ["--method.lambda-image", "1.5"],
            r"--method\.lambda-image must lie in \(0, 1\], got 1\.5",
        ),
        (["--method.lambda-table=0"], r"--method\.lambda-table must lie in \(0, 1\], got 0"),
        (["--optim.lr", "-1"], r"--optim\.lr must be greater than 0, got -1"),
        (["--optim.lr", "nan"], r"--optim\.lr must be a finite number, got nan"),
        (["--train.epochs", "1.5"], r"--train\.epochs must be a whole number, got 1\.5"),
        (["--train.batch-size", "1"], r"--train\.batch-size must be 2 or more, got 1"),
        (["--method.surgery", "maybe"], r"--method\.surgery must be true or false, got maybe"),
        (
            ["--method.guide", "stale"],
            r"--method\.guide must be one of 'fresh' or 'cached', got stale",
        ),
        (["--method.order", "image,image"], r"--method\.order names one thing twice"),
        (["--data.test-fraction", "0.95"], r"--data\.test-fraction leaves no rows to train on"),
        (
            ["--method.lamda-image", "0.5"],
            r"unknown key --method\.lamda-image; did you mean --method\.lambda-image\?",
        ),
        (["--data.csv"], r"--data\.csv: expected one argument"),
        (
            ["--data.encoding", "klingon"],
            r"--data\.encoding is no encoding that Python knows.*, got klingon",
        ),
        (
            ["--data.delimiter", "||"],
            (
                r"--data\.delimiter must be one character or one of comma, semicolon, tab, .*, got"
                r" \|\|"
            ),
        ),
        (["--data.decimal", "x"], r"--data\.decimal must be one of '\.' or ',', got x"),
        (
            ["--data.decimal", ",", "--data.thousands", "comma"],
            r"--data\.thousands is --data\.decimal as well, got comma",
        ),
        (["--data.image-range", "5"], r"--data\.image-range must be two numbers, LOW,HIGH, got 5"),
        (
            ["--data.image-range", "0,high"],
            r"--data\.image-range must be two numbers, LOW,HIGH, got 0,high",
        ),
        (
            ["--data.image-range", "9,-1"],
            (
                r"--data\.image-range must be two finite numbers, LOW,HIGH, the lower one first,"
                r" got 9,-1"
            ),
        ),
        (["--data.image-range", "0,inf"], r"--data\.image-range must be two finite numbers"),
        (["stray"], r"unexpected argument stray"),
        (
            ["--train.device", "gpu"],
            r"^--train\.device must be auto, cpu, cuda or cuda:N, got gpu$",
        ),
        (
            ["--train.seed", "4294967296"],
            r"^--train\.seed must lie in \[0, 4294967295\], got 4294967296$",
        ),
        (["--data.csv", ""], r"^--data\.csv must not be empty$"),
        (
            ["--data.csv", "t", "--data.drop", '"a'],
            r'^--data\.drop must be names with commas .* is written as "a,b", got "a$',
        ),
        (
            ["--data.csv", "t", "--data.drop", '"a"b'],
            r'^--data\.drop must be names with commas .* is written as "a,b", got "a"b$',
        ),
        (["--preset", "best"], r"--preset: invalid choice: 'best'"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line_naming_the_key(
    argv: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        configure(*argv)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "method: {lamda-image: 0.5}",
            r"unknown key method\.lamda-image in --config; did you mean method\.lambda-image\?",
        ),
        ("metod: {rule: paper}", r"unknown key metod in --config; did you mean method\?"),
        ("method: 3", r"method must hold keys such as method\.name"),
        ("- 1", r"must hold sections"),
        ("a: [", r"is not YAML"),
        ("optim: {lr: fast}", r"--optim\.lr must be a finite number, got fast"),
        ("data: {csv: x, csv: y}", r"run\.yaml: csv is given twice \(lines 1 and 1\)$"),
        ("data: {csv: x}\ndata: {target: y}", r"run\.yaml: data is given twice \(lines 1 and 2\)$"),
        ("data: {image-column: a, image_column: b}", r"image_column is given twice"),
        ("data.csv: x\ndata: {csv: y}", r"^--config gives data\.csv twice$"),
        ("data.cvs: x", r"^unknown key data\.cvs in --config; did you mean data\.csv\?$"),
        ("epochs: 3", r"^unknown key epochs in --config; did you mean train\.epochs\?$"),
        ("~: 3", r"^--config: a key must be text, got none$"),
        ("? [a]\n: 3", r"is not YAML \(line 1: found unhashable key\)$"),
        (
            "data:\n\tcsv: x",
            r"is not YAML \(line 2: found character '\\t' that cannot start any token\)$",
        ),
        ("a: *b", r"is not YAML \(line 1: found undefined alias 'b'\)$"),
        (
            "data: {csv: !!python/name:os.system x}",
            r"is not YAML \(line 1: could not determine a constructor",
        ),
        ("data: {csv: [a]}", r"^--data\.csv must be a path, got \['a'\]$"),
        (
            "data: {csv: x, drop: {a: b}}",
            r"^--data\.drop must be a list of names, got \{'a': 'b'\}$",
        ),
        ("data: {csv: x, drop: [[a]]}", r"^--data\.drop must be text, got \['a'\]$"),
        ("train: {epochs: yes}", r"^--train\.epochs must be a whole number, got yes$"),
        ("data: &a {target: *a}", r"^--data\.target must be text, got"),
        ("{a: " * 3000, r"is not YAML \(too deep\)$"),
    ],
)
def test_a_mistake_in_the_file_is_one_line_naming_the_key(
    tmp_path: Path, text: str, message: str
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        configure("--config", str(file))


def test_flags_win_over_the_file_and_the_file_over_the_preset(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("train: {epochs: 3, batch_size: 8}\nmethod:\n  lambda-image: 0.25\n")
    config = configure("--preset", "paper", "--config", str(file), "--train.batch_size=16")
    assert (config.train.epochs, config.train.batch_size, config.method.lambda_image) == (
        3,
        16,
        0.25,
    )
    assert config.model.image == PRESETS["paper"]["model"]["image"]


def test_without_a_table_the_demo_preset_is_used_and_with_one_it_is_not() -> None:
    assert configure().model.image == PRESETS["demo"]["model"]["image"]
    assert configure("--data.csv", "a.csv").model.image == Config().model.image


def configured(tmp_path: Path, content: str | bytes) -> Config:
    file = tmp_path / "run.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return configure("--config", str(file))


@pytest.mark.parametrize(
    "content",
    [
        "data.csv: a.csv\ndata.image-size: 64\ntrain: {epochs: 3}",
        "data.csv: a.csv\ndata: {image_size: 64}\ntrain.epochs: 3",
        "data:\n  csv: a.csv\n  image-size: 64\ntrain:\n  <<: {epochs: 3}\n",
        "data: {csv: a.csv, image-size: 64}\ntrain: {epochs: 003}".encode("utf-16"),
        b"\xef\xbb\xbfdata: {csv: a.csv, image-size: 64}\ntrain: {epochs: 3}",
    ],
)
def test_keys_are_nested_or_dotted_in_the_file(tmp_path: Path, content: str | bytes) -> None:
    config = configured(tmp_path, content)
    assert (config.data.csv, config.data.image_size, config.train.epochs) == (Path("a.csv"), 64, 3)


def test_words_of_the_file_are_read_as_flags_are(tmp_path: Path) -> None:
    """YAML 1.1 would read 7, False, 8, 90 and a date."""
    text = (
        "data: {csv: a.csv, target: 007, drop: [no, '1,5', 2024-01-01], split-column: none}\ntrain:"
        " {seed: 010}\noptim: {lr: 1e-3}"
    )
    config = configured(tmp_path, text)
    assert (config.data.target, config.data.drop) == ("007", ["no", "1,5", "2024-01-01"])
    assert (config.data.split_column, config.train.seed, config.optim.lr) == (None, 10, 0.001)
    with pytest.raises(UserError, match=r"--train\.epochs must be a whole number, got 1:30"):
        configured(tmp_path, "train: {epochs: 1:30}")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('"a,b",c', ["a,b", "c"]),
        ('c , "say ""no""" ,', ["c", 'say "no"']),
        ('" a ", b', [" a ", "b"]),
        ('size 5", x', ['size 5"', "x"]),
        ("", []),
        (" , a,,", ["a"]),
    ],
)
def test_names_in_a_flag_follow_the_rules_of_csv(text: str, names: list[str]) -> None:
    assert configure("--data.csv", "t", f"--data.drop={text}").data.drop == names


def test_keys_about_a_table_without_one_are_a_mistake(tmp_path: Path) -> None:
    for key, value in (
        ("images", "x"),
        ("image-column", "x"),
        ("target", "x"),
        ("numeric", "x"),
        ("categorical", "x"),
        ("drop", "x"),
        ("split-column", "x"),
        ("group-column", "x"),
    ):
        line = (
            f"--data.csv is needed with --data.{key}: which table? Without any of these the demo"
            " set is used"
        )
        with pytest.raises(UserError) as caught:
            configure(f"--data.{key}", value)
        assert str(caught.value) == line
        with pytest.raises(UserError) as caught:
            configured(tmp_path, f"data: {{{key}: {value}}}")
        assert str(caught.value) == line
    with pytest.raises(
        UserError, match=r"^--data\.csv is needed with --data\.images, --data\.target:"
    ):
        configure(
            "--preset", "demo", "--data.target", "x", "--data.images", "y", "--data.csv", "none"
        )


def test_keys_that_suit_any_data_leave_the_demo_set() -> None:
    config = configure(
        "--data.image-size",
        "24",
        "--data.workers",
        "0",
        "--data.augment",
        "none",
        "--data.cache",
        "disk",
        "--data.cache-dir",
        "c",
        "--data.val-fraction",
        "0.2",
        "--data.test-fraction",
        "0.3",
        "--data.split-seed",
        "4",
        "--data.class-weights",
        "balanced",
        "--data.min-category-count",
        "2",
    )
    assert config.data.csv is None
    assert config.data.image_size == 24
    assert config.model.image == PRESETS["demo"]["model"]["image"]


def test_none_clears_an_optional_key_only() -> None:
    assert configure("--method.max-correction", "none").method.max_correction is None
    assert configure("--data.augment", "none").data.augment == "none"
    with pytest.raises(UserError, match=r"--train\.epochs"):
        configure("--train.epochs", "none")


# The first example reads the methods' files.
@settings(deadline=None)
@given(
    lr=st.floats(1e-8, 10),
    epochs=st.integers(1, 500),
    drop=st.lists(st.text("abc_é x", min_size=1), max_size=3, unique=True),
    rule=st.sampled_from(["paper", "official"]),
    preset=st.sampled_from(sorted(PRESETS)),
)
def test_printed_configuration_reads_back_equal(
    lr: float, epochs: int, drop: list[str], rule: str, preset: str
) -> None:
    layer = {
        "optim": {"lr": lr},
        "train": {"epochs": epochs},
        "data": {"drop": drop},
        "method": {"rule": rule},
    }
    config = build([("preset", PRESETS[preset]), ("test", layer)])
    assert build([("printed", yaml.safe_load(to_yaml(config)))]) == config


def test_a_range_is_two_numbers_of_any_sign(tmp_path: Path) -> None:
    assert configure().data.image_range is None
    assert configure("--data.image-range", "-1024,3071").data.image_range == (-1024, 3071)
    assert configure("--data.image-range=-.5,1e3", "--optim.lr", "1e-3").data.image_range == (
        -0.5,
        1000,
    )
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
    config = configure("--data.csv", "t.csv", *argv)
    assert getattr(config.data, key) == value
    assert build([("x", yaml.safe_load(to_yaml(config)))]) == config


def test_missing_values_may_be_numbers_in_yaml(tmp_path: Path) -> None:
    assert build([("x", {"data": {"missing-values": [-999, "x"]}})]).data.missing_values == [
        "-999",
        "x",
    ]


def test_the_flags_of_a_table_to_predict_are_checked_under_their_own_names() -> None:
    parser = Parser(prog="test")
    add_table_flags(parser)
    given = table_settings(parser.parse(["--decimal", "comma", "--delimiter", "tab"]))
    text = {"encoding": None, "delimiter": "\t", "decimal": ",", "thousands": None}
    assert given == {**text, "tables": [], "embeddings": []}
    given = table_settings(parser.parse(["--tables", "a.csv,b.csv"]))
    assert given["tables"] == [Path("a.csv"), Path("b.csv")]
    with pytest.raises(UserError) as refused:
        table_settings(parser.parse(["--decimal", "x"]))
    assert refused.value.line(INFERENCE_FLAGS) == "--decimal must be one of '.' or ',', got x"
