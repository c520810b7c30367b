"""Options are read from the text of methods' files, and belong to their methods."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from gaal_fast.config import Config, Parser, add_config_flags, build, resolve, to_yaml
from gaal_fast.config.layers import COMMAND_LINE, PRESETS
from gaal_fast.config.methods import built_in, known_methods
from gaal_fast.errors import UserError
from gaal_fast.methods import find_method

PLUGIN = '''
from __future__ import annotations
import torch
from typing import ClassVar, Literal
from pydantic import ConfigDict, Field, field_validator
from gaal_fast.config import Fraction
from gaal_fast.methods import Alternating, method
from gaal_fast.methods.gaal import Gaal as Base

KINDS = ("a", "b")
SHARE = 0.25
DEVICE = torch.device("cpu")

class Mixin(Base):
    class Options(Base.Options):
        share: Fraction = Field(SHARE, description="a share")

@method("first", paper="here")
class First(Mixin):
    """Does this. And that."""

@method(name="second-one")
class Second(Alternating):
    """Does that.

    At length.
    """
    class Options(Alternating.Options):
        model_config = ConfigDict(extra="allow")
        __pydantic_extra__: dict[str, int]
        per_modality: ClassVar = ("steps",)
        kind: Literal["a", "b"] = Field("a", description="a kind")
        steps_image: int = Field(1, ge=1, description="steps of the images")

        @field_validator("kind")
        @classmethod
        def _known(cls, value: str) -> str:
            if value not in ("a", "b"):
                raise ValueError("must be known")
            return value
'''


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    file = tmp_path / "mine.py"
    file.write_text(PLUGIN)
    return file


def configure(*argv: str) -> Config:
    parser = Parser(prog="test")
    add_config_flags(parser)
    return resolve(parser.parse(argv))


@pytest.mark.parametrize("name", list(built_in()))
def test_the_text_gives_the_options_that_the_class_has(name: str) -> None:
    entry, kind = built_in()[name], find_method(name)
    assert entry.options.model_json_schema() == kind.Options.model_json_schema()
    assert entry.options.per_modality == kind.Options.per_modality
    assert (entry.name, entry.paper) == (kind.name, kind.paper)
    assert (kind.__doc__ or "").startswith(entry.summary)
    for key, field in entry.fields.items():
        assert field.description, key


def test_the_package_has_these_methods_and_the_default_is_the_first() -> None:
    assert next(iter(built_in())) == Config().method.name == "gaal"
    needing = {"unimodal"}
    assert set(built_in()) == {"gaal", "alternating", "concat", "image", "table"} | needing
    assert {n for n, entry in built_in().items() if not entry.needs_nothing} == needing


def test_a_plug_in_is_read_and_not_run(plugin: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from gaal_fast.config import known_methods\n"
        f"found = known_methods([Path({str(plugin)!r})])\n"
        "print(sorted(set(found) - {'gaal', 'alternating', 'concat', 'image', 'table',"
        " 'unimodal'}), 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "['first', 'second-one'] False\n"


def test_options_are_inherited_across_files(plugin: Path) -> None:
    found = known_methods([plugin])
    assert (found["first"].summary, found["first"].paper) == ("Does this. And that", "here")
    assert found["first"].options().share == 0.25  # type: ignore[attr-defined]
    assert found["first"].options().lambda_table == 0.5  # type: ignore[attr-defined]
    assert "method.epsilon" not in found["second-one"].fields
    assert find_method("first", [plugin]).Options().share == 0.25  # type: ignore[attr-defined]


def test_options_of_plug_ins_are_flags_and_keys(plugin: Path, tmp_path: Path) -> None:
    own = ["--plugin", str(plugin), "--method.name", "second-one"]
    config = configure(*own, "--method.kind=b", "--method.steps-front", "3")
    assert (config.plugin, config.method.name) == ([plugin], "second-one")
    assert config.method.of("steps", "front", 9) == 3
    assert config.method.of("steps", "image", 9) == 1
    assert config.method.of("steps", "kitchen", 9) == 9
    file = tmp_path / "run.yaml"
    file.write_text(to_yaml(config))
    assert yaml.safe_load(file.read_text())["method"]["steps-front"] == 3
    again = configure("--config", str(file), "--method.steps-kitchen", "2")
    assert again.method.of("steps", "front", 9) == 3
    assert again.method.of("steps", "kitchen", 9) == 2
    with pytest.raises(UserError, match=r"^--method\.kind must be one of 'a' or 'b', got c$"):
        configure(*own, "--method.kind", "c")
    with pytest.raises(UserError, match=r"^--method\.steps-front must be a whole number, got x$"):
        configure(*own, "--method.steps-front", "x")
    with pytest.raises(UserError, match=r"^--method\.steps-front: expected one argument$"):
        configure(*own, "--method.steps-front")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["--method.name", "concat", "--method.rule", "paper"],
            "--method.rule is an option of gaal, not of concat",
        ),
        (
            ["--method.name", "table", "--method.order", "table,image"],
            "--method.order is an option of gaal and alternating, not of table",
        ),
        (["--method.modality", "image"], "--method.modality is an option of unimodal, not of gaal"),
        (["--method.lambda-front", "2"], "--method.lambda-front must lie in (0, 1], got 2"),
        (
            ["--method.name", "concat", "--method.lambda-front", "0.1"],
            "--method.lambda-front is an option of gaal, not of concat",
        ),
    ],
)
def test_an_option_of_another_method_is_refused(argv: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        configure(*argv)
    assert str(caught.value) == message


def test_a_preset_and_a_comparison_are_for_every_method() -> None:
    assert configure("--preset", "paper", "--method.name", "concat").method.name == "concat"
    layers = [(COMMAND_LINE, {"method.name": "concat", "method.rule": "official"})]
    config = build(layers, among=["concat", "gaal"])
    assert config.method.model_dump() == {"name": "concat"}
    with pytest.raises(UserError, match=r"^--method\.rule is an option of gaal, not of concat$"):
        build(layers, among=["concat", "table"])
    config = build([*layers, (COMMAND_LINE, {"method.name": "gaal"})], among=["concat", "gaal"])
    assert config.method.rule == "official"  # type: ignore[attr-defined]


FORMER = {
    "name": "concat", "rule": "paper", "epsilon": "0.3", "relative": True, "margin": 0.75,
    "ridge": 0.001,
    "max-correction": None, "lambda-image": 0.5, "lambda-table": 0.5, "guide": "fresh",
    "order": ["image", "table"], "surgery": True, "selection": True,
}  # fmt: skip


def test_a_former_file_with_the_options_of_every_method_is_still_read(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        config = build([("config.yaml", {"method": FORMER})], stored=True)
    assert config.method.model_dump() == {"name": "concat"}
    assert caplog.messages == [], "defaults say nothing, so nothing is lost"
    changed = {"method": FORMER | {"epsilon": 0.1, "order": ["table", "image"]}}
    with caplog.at_level(logging.WARNING):
        build([("config.yaml", changed)], stored=True)
    assert [message.partition(",")[0] for message in caplog.messages] == [
        "config.yaml: method.epsilon is an option of gaal",
        "config.yaml: method.order is an option of gaal and alternating",
    ]
    with pytest.raises(UserError, match=r"^--method\.epsilon is an option of gaal, not of concat$"):
        build([("--config", changed)])
    gaal = build([("config.yaml", {"method": FORMER | {"name": "gaal"}})], stored=True)
    assert gaal.method.order == ["image", "table"]  # type: ignore[attr-defined]


def test_presets_hold_options_of_some_method() -> None:
    for preset in PRESETS.values():
        for key in preset.get("method", {}):
            assert any(entry.field(f"method.{key}") for entry in built_in().values()), key
