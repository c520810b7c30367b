"""The one typed configuration: every key is a dotted flag (``--method.lambda-image``) and a YAML
key.

Order of precedence, weakest first: defaults, preset, YAML file, flags. Nothing here imports torch,
so that a mistake is answered at once.
"""

from __future__ import annotations

import argparse
import codecs
import difflib
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args, get_origin

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic.fields import FieldInfo

from gaal_fast.errors import UserError


def _kebab(name: str) -> str:
    return name.replace("_", "-")


# One name of a list and the comma or the end after it. A name in double quotes may hold commas, and
# a quote twice is one.
_NAME = re.compile(r'\s*(?:"((?:[^"]|"")*)"|([^",][^,]*)|)\s*(?:,|\Z)', re.DOTALL)


def _split_commas(value: Any) -> Any:
    """The names in a text, by the rules of a line of CSV. A list, as YAML may hold, is taken as it
    is.
    """
    if not isinstance(value, str):
        return value
    names, place = [], 0
    while place < len(value):
        found = _NAME.match(value, place)
        if found is None:
            raise ValueError(
                "must be names with commas between them; a name that holds a comma is written as"
                ' "a,b"'
            )
        place = found.end()
        quoted, plain = found.groups()
        if quoted is not None:
            names.append(quoted.replace('""', '"'))
        elif plain and plain.strip():
            names.append(plain.strip())
    return names


def _joined_names(value: Any) -> Any:
    """A list of names, as YAML may hold, as the text that ``_split_commas`` takes apart."""
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        return value
    quoted = (
        '"' + name.replace('"', '""') + '"' if set(name) & set(',"') else name for name in value
    )
    return ",".join(quoted)


def _not_empty(value: Any) -> Any:
    # An empty path would be the working directory, and comes of a shell variable that is not set.
    if value == "":
        raise ValueError("must not be empty")
    return value


def _each_once(value: list[Any]) -> list[Any]:
    if len(set(value)) != len(value):
        raise ValueError("names one thing twice")
    return value


def _mark(value: Any) -> Any:
    """A mark by its name ("tab", "comma") or as it is."""
    if not isinstance(value, str):
        return value
    return _MARKS.get(value.strip().lower(), value)


def _thousands(value: Any) -> Any:
    return "" if value is False or value in ("no", "off", "false") else _mark(value)


def _one_character(value: str) -> str:
    if len(value) != 1 or value in '"\r\n':
        raise ValueError("must be one character or one of comma, semicolon, tab, pipe, space")
    return value


def _known_encoding(value: str) -> str:
    try:
        name = codecs.lookup(value).name
        b"a".decode(name)
    except (LookupError, UnicodeError):
        raise ValueError(
            "is no encoding that Python knows, such as utf-8, cp1252 or gb18030"
        ) from None
    return name


def _texts(value: Any) -> Any:
    """The items of a list as texts: YAML reads -999 as a number."""
    return (
        [str(item) if isinstance(item, int | float) else item for item in value]
        if isinstance(value, list)
        else value
    )


_MARKS = {
    **{
        "comma": ",",
        "semicolon": ";",
        "tab": "\t",
        "\\t": "\t",
        "pipe": "|",
        "space": " ",
        "spaces": " ",
        "blank": " ",
    },
    **{"point": ".", "dot": ".", "period": ".", "apostrophe": "'", "colon": ":"},
}


def _two_numbers(value: Any) -> Any:
    """``"LOW,HIGH"`` or a pair of numbers as a pair of floats, the lower one first."""
    parts = value.split(",") if isinstance(value, str) else value
    try:
        low, high = (float(part) for part in parts)
    except (TypeError, ValueError):
        raise ValueError("must be two numbers, LOW,HIGH") from None
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError("must be two finite numbers, LOW,HIGH, the lower one first")
    return low, high


Names = Annotated[list[str], BeforeValidator(_split_commas), AfterValidator(_each_once)]
Texts = Annotated[
    list[str], BeforeValidator(_texts), BeforeValidator(_split_commas), AfterValidator(_each_once)
]
Place = Annotated[Path, BeforeValidator(_not_empty)]
Fraction = Annotated[float, Field(gt=0, le=1)]
Limits = Annotated[tuple[float, float], BeforeValidator(_two_numbers)]
# The largest seed that torch, NumPy and scikit-learn all take.
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
DEVICE = r"auto|cpu|cuda|cuda:(0|[1-9]\d*)"
DEVICE_WORDS = "auto, cpu, cuda or cuda:N"


class Section(BaseModel):
    """One group of keys. Unknown keys and impossible values are refused."""

    model_config = ConfigDict(
        extra="forbid",
        alias_generator=_kebab,
        populate_by_name=True,
        allow_inf_nan=False,
        str_min_length=1,
    )


class DataConfig(Section):
    csv: Place | None = Field(
        None, description="table with one row per example: CSV, TSV or Parquet; none: the demo set"
    )
    images: Place | None = Field(
        None, description="folder of the images; none: the folder of the table"
    )
    image_column: Annotated[str, BeforeValidator(_joined_names)] | None = Field(
        None,
        description=(
            "column with the image's file name, or several, comma-separated, each an input of its"
            " own; none: found by itself"
        ),
    )
    target: str | None = Field(None, description="column with the class label, or with the number")
    task: Literal["auto", "classification", "regression"] = Field(
        "auto",
        description=(
            "auto: regression for a target of many different numbers (more than 20; whole numbers"
            " only with fewer than 20 rows each and gaps between them)"
        ),
    )
    tables: Annotated[list[Place], BeforeValidator(_split_commas), AfterValidator(_each_once)] = (
        Field([], description="further tables, comma-separated, each an input of its own")
    )
    key: str | None = Field(
        None, description="column that joins the rows of --data.tables to those of the table"
    )
    encoding: Annotated[str, AfterValidator(_known_encoding)] | None = Field(
        None, description="encoding of the table's text, such as cp1252; none: found by itself"
    )
    delimiter: Annotated[str, BeforeValidator(_mark), AfterValidator(_one_character)] | None = (
        Field(
            None,
            description=(
                "mark between the table's fields: comma, semicolon, tab, pipe, space or a"
                " character; none: found by itself"
            ),
        )
    )
    decimal: Annotated[Literal[".", ","], BeforeValidator(_mark)] | None = Field(
        None,
        description="decimal mark of the table's numbers: point or comma; none: found by itself",
    )
    thousands: Annotated[Literal["", ".", ",", " ", "'"], BeforeValidator(_thousands)] | None = (
        Field(
            None,
            description=(
                "mark between thousands: point, comma, space, apostrophe or no; none: found by"
                " itself"
            ),
        )
    )
    missing_values: Texts = Field(
        [], description="cells that hold no value, beside empty ones, comma-separated"
    )
    numeric: Names = Field([], description="columns to be read as numbers, comma-separated")
    categorical: Names = Field([], description="columns to be read as categories, comma-separated")
    drop: Names = Field([], description="columns not to be used, comma-separated")
    split_column: str | None = Field(
        None, description="column that says train, val or test; none: a random split"
    )
    group_column: str | None = Field(
        None, description="column whose equal values stay in one part of the split"
    )
    val_fraction: float = Field(0.1, gt=0, lt=1, description="share of the rows for validation")
    test_fraction: float = Field(
        0.2, ge=0, lt=1, description="share of the rows for the test; 0: no test part"
    )
    split_seed: Seed = Field(0, description="seed of the random split")
    image_size: int = Field(
        128, ge=8, le=2048, description="images are resized to this many pixels square"
    )
    image_range: Limits | None = Field(
        None,
        description=(
            "LOW,HIGH: values that become 0 and 255 in images of more than 8 bits; "
            "none: found in the training images"
        ),
    )
    augment: Literal["paper", "light", "none"] = Field(
        "paper", description="augmentation of training images"
    )
    rare_classes: Literal["error", "drop", "train"] = Field(
        "error",
        description=(
            "classes with too few rows to divide: refuse them, leave their rows out, or only train"
            " on them"
        ),
    )
    date_order: Literal["auto", "day-month", "month-day"] = Field(
        "auto",
        description=(
            "order in dates such as 3/4/2024; auto: what the columns tell, else month-day for"
            " slashes"
        ),
    )
    class_weights: Literal["none", "balanced"] = Field(
        "none", description="weigh classes by inverse frequency"
    )
    min_category_count: int = Field(
        1, ge=1, description="rarer levels of a category are folded into one"
    )
    cache: Literal["auto", "none", "ram", "disk"] = Field(
        "auto", description="where decoded images are kept"
    )
    cache_dir: Place | None = Field(None, description="folder of the disk cache")
    workers: int | None = Field(None, ge=0, description="loader processes; none: as many as help")

    def image_columns(self, columns: Sequence[str]) -> list[str]:
        """The names in ``image_column`` for a table with these columns, of which one may have a
        comma in its name.
        """
        if self.image_column is None:
            return []
        whole = self.image_column.strip()
        if any(whole == column.strip() for column in columns):
            return [self.image_column]
        return list(_split_commas(self.image_column))

    @field_validator("image_column")
    @classmethod
    def _image_columns_each_once(cls, value: str | None) -> str | None:
        if value is not None:
            _each_once(_split_commas(value))
        return value

    @field_validator("thousands")
    @classmethod
    def _unlike_the_decimal_mark(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and value == info.data.get("decimal"):
            raise ValueError("is --data.decimal as well")
        return value

    @field_validator("test_fraction")
    @classmethod
    def _rows_left_to_train_on(cls, value: float, info: ValidationInfo) -> float:
        if value + info.data.get("val_fraction", 0.0) >= 1:
            raise ValueError("leaves no rows to train on beside --data.val-fraction")
        return value


class ModelConfig(Section):
    image: str = Field(
        "resnet18", description="image encoder: small, resnet18, resnet50 or timm:NAME"
    )
    weights: Place | None = Field(
        None, description="file with pretrained weights of the image encoder"
    )
    width: int | None = Field(
        None, ge=1, description="features of both encoders; none: the image encoder's own"
    )
    hidden: int | None = Field(
        None, ge=1, description="hidden width of the table encoder; none: the features' width"
    )


class MethodConfig(Section):
    name: Literal["gaal", "alternating", "concat", "image", "table"] = Field(
        "gaal",
        description=(
            "gaal; alternating: no surgery; concat: joint training; image or table: one modality"
            " alone"
        ),
    )
    rule: Literal["paper", "official"] = Field(
        "paper", description="equation (5), or what the authors' code does"
    )
    # Chosen on validation rows (bench/README.md); a cosine means the same at every size of
    # gradient, which a plain epsilon does not.
    epsilon: float = Field(0.3, ge=0, description="alignment margin of equation (3)")
    relative: bool = Field(
        True,
        description=(
            "epsilon is a cosine: multiply it by both norms; false: equation (3) as it stands"
        ),
    )
    margin: float = Field(0.75, ge=0, description="lower bound of v on conflict, rule official")
    ridge: float = Field(1e-3, ge=0, description="added to the guide's squared norm, rule official")
    max_correction: float | None = Field(
        None, gt=0, description="largest correction as a multiple of the gradient"
    )
    lambda_image: Fraction = Field(
        0.5, description="share of image rows, most uncertain first, that guide the table"
    )
    lambda_table: Fraction = Field(
        0.5, description="share of table rows, most uncertain first, that guide the image"
    )
    guide: Literal["fresh", "cached"] = Field(
        "fresh", description="guiding features: newest weights, or last half-step"
    )
    order: Names = Field(
        ["image", "table"], description="order in which the modalities take their turn"
    )
    surgery: bool = Field(True, description="repair the head's gradient (Table II, CGS)")
    selection: bool = Field(
        True, description="guide by the most uncertain rows only (Table II, UGG)"
    )

    @field_validator("order")
    @classmethod
    def _every_modality_has_a_turn(cls, value: list[str]) -> list[str]:
        if sorted(value) != ["image", "table"]:
            raise ValueError("must name image and table, once each")
        return value


class OptimConfig(Section):
    name: Literal["adam", "adamw", "sgd"] = Field("adam", description="optimiser")
    lr: float = Field(1e-3, gt=0, description="learning rate")
    weight_decay: float = Field(1e-4, ge=0, description="weight decay")
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of sgd")
    schedule: Literal["step", "cosine", "none"] = Field(
        "step", description="learning-rate schedule, by epoch"
    )
    step_size: int = Field(10, ge=1, description="epochs between two drops of schedule step")
    gamma: float = Field(0.1, gt=0, le=1, description="factor of a drop of schedule step")


class TrainConfig(Section):
    epochs: int = Field(50, ge=1, description="largest number of passes over the training rows")
    max_steps: int | None = Field(None, ge=1, description="stop after this many batches in all")
    batch_size: int = Field(256, ge=2, description="rows a batch")
    seed: Seed = Field(0, description="seed of weights, order and augmentation")
    seeds: int = Field(
        1, ge=1, description="train this many times, seeds counted up from train.seed"
    )
    patience: int = Field(10, ge=1, description="epochs without improvement before stopping early")
    min_delta: float = Field(
        2e-4, ge=0, description="smallest gain of what select measures that counts"
    )
    select: Literal["accuracy", "balanced", "loss"] = Field(
        "accuracy",
        description=(
            "what chooses the best epoch and stops early: fused validation accuracy, balanced"
            " accuracy or loss"
        ),
    )
    device: str = Field("auto", pattern=f"^({DEVICE})$", description=DEVICE_WORDS)
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="number format of the encoders' forward pass"
    )
    progress: bool = Field(True, description="show progress bars")


class RunConfig(Section):
    dir: Place | None = Field(
        None, description="new folder for the run; none: runs/NAME-METHOD-TIME"
    )


class Config(Section):
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    method: MethodConfig = MethodConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    run: RunConfig = RunConfig()


# How the text of a table is read, which may differ between the tables of training and prediction.
TABLE_KEYS = ("encoding", "delimiter", "decimal", "thousands")
# How the commands that read with a trained run spell the keys that training knows under a longer
# name.
INFERENCE_FLAGS = {"train.device": "--device", "data.workers": "--workers"} | {
    f"data.{name}": f"--{name}" for name in TABLE_KEYS
}
PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    # Small enough for two CPU cores in under two minutes; used when no table is given.
    "demo": {
        "data": {"image-size": 32, "augment": "light"},
        "model": {"image": "small"},
        "train": {"epochs": 14, "batch-size": 64},
    },
    # Section IV-A and the authors' code: ResNet-50 from scratch at 128 px, at most 500 epochs with
    # early stopping.
    "paper": {
        "data": {"image-size": 128, "augment": "paper"},
        "model": {"image": "resnet50", "width": 2048, "hidden": 2048},
        "method": {"rule": "official"},
        "train": {"epochs": 500, "batch-size": 256},
    },
}


def keys() -> Iterator[tuple[str, FieldInfo]]:
    """Every dotted key with its field, in the order of the help page."""
    for section, outer in Config.model_fields.items():
        for name, field in outer.annotation.model_fields.items():
            yield f"{section}.{_kebab(name)}", field


def to_yaml(config: Config) -> str:
    """The resolved configuration as YAML that ``--config`` reads back to an equal one."""
    return yaml.safe_dump(
        config.model_dump(mode="json", by_alias=True), sort_keys=False, allow_unicode=True
    )


def nearest(name: str, known: Sequence[str]) -> str:
    """``"; did you mean X?"`` or nothing, for messages about unknown names."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""


def _plain(value: Any) -> str:
    return "none" if value is None else str(value)


def _reason(error: dict[str, Any], field: FieldInfo | None) -> str:
    """What pydantic found wrong, in the words of a command line."""
    context, kind = error.get("ctx", {}), error["type"]
    words = {
        "greater_than": "must be greater than {gt:g}",
        "greater_than_equal": "must be {ge:g} or more",
        "less_than": "must be less than {lt:g}",
        "less_than_equal": "must be {le:g} or less",
        "literal_error": "must be one of {expected}",
        "value_error": "{error}",
        "string_type": "must be text",
        "string_too_short": "must not be empty",
        "path_type": "must be a path",
        "list_type": "must be a list of names",
    }
    if kind in words:
        return words[kind].format(**context)
    if kind == "string_pattern_mismatch" and field:
        return f"must be {field.description}"
    if kind.startswith(("int", "float", "bool", "finite")):
        return {"int": "must be a whole number", "boo": "must be true or false"}.get(
            kind[:3], "must be a finite number"
        )
    return error["msg"].lower()


def _bounds(field: FieldInfo) -> str:
    """The interval a number must lie in, e.g. ``(0, 1]``, when it has two ends."""
    low = high = None
    for rule in _metadata(field):
        if hasattr(rule, "gt") and rule.gt is not None:
            low = f"({_number(rule.gt)}"
        if hasattr(rule, "ge") and rule.ge is not None:
            low = f"[{_number(rule.ge)}"
        if hasattr(rule, "lt") and rule.lt is not None:
            high = f"{_number(rule.lt)})"
        if hasattr(rule, "le") and rule.le is not None:
            high = f"{_number(rule.le)}]"
    return f"must lie in {low}, {high}" if low and high else ""


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"


def _metadata(field: FieldInfo) -> list[Any]:
    return list(field.metadata) + [
        m for arg in get_args(field.annotation) for m in getattr(arg, "__metadata__", ())
    ]


def _flat(origin: str, layer: dict[str, Any]) -> dict[str, Any]:
    """``{"data.csv": value}`` of nested keys, of dotted ones and of a mixture of both.

    A text ``none`` or ``null`` stands for no value where a key may have none. Raises ``UserError``
    for a key that is unknown or given twice.
    """
    known, found = dict(keys()), {}

    def add(key: str, value: Any) -> None:
        if key not in known:
            raise UserError(
                f"unknown key {key} in {origin}{nearest(key, [*Config.model_fields, *known])}"
            )
        if key in found:
            raise UserError(f"{origin} gives {key} twice")
        clears = (
            isinstance(value, str) and value.lower() in ("none", "null") and _optional(known[key])
        )
        found[key] = None if clears else value

    for name, values in layer.items():
        section = _key(name, origin)
        if section not in Config.model_fields:
            add(section, values)
        elif isinstance(values, dict):
            for inner, value in values.items():
                add(f"{section}.{_key(inner, origin)}", value)
        elif values is not None:
            raise UserError(
                f"{origin}: {section} must hold keys such as"
                f" {next(k for k in known if k.startswith(section))}"
            )
    return found


def _key(name: Any, origin: str) -> str:
    if not isinstance(name, str):
        raise UserError(f"{origin}: a key must be text, got {_plain(name)}")
    return _kebab(name)


def _optional(field: FieldInfo) -> bool:
    return type(None) in get_args(field.annotation)


def build(layers: Sequence[tuple[str, dict[str, Any]]]) -> Config:
    """Merge dictionaries of nested or dotted keys, weakest first, into a validated ``Config``.

    ``layers`` holds (where it came from, ``{section: {key: value}}`` or
    ``{"section.key": value}``). Raises ``UserError`` naming the key.
    """
    merged: dict[str, dict[str, Any]] = {}
    for origin, layer in layers:
        for key, value in _flat(origin, layer).items():
            section, name = key.split(".", 1)
            merged.setdefault(section, {})[name] = value
    try:
        return Config.model_validate(merged)
    except ValidationError as caught:
        error = caught.errors()[0]
        key = ".".join(_kebab(str(part)) for part in error["loc"][:2])
        field = dict(keys()).get(key)
        reason = (
            _bounds(field) if field and error["type"].startswith(("greater", "less")) else ""
        ) or _reason(error, field)
        given = _plain(error["input"])
        shown = given if len(given) <= 60 else f"{given[:60]}..."
        raise UserError(f"{reason}, got {shown}" if shown else reason, key=key) from None


class _YamlLoader(yaml.SafeLoader):
    """YAML whose words are read as flags are: text, for the key to say whether it is a number.

    Else a column 007 would be 7, one named no would be false, and a seed of 010 would be 8. A key
    given twice, of which YAML readers keep the last, is an error.
    """

    # The resolvers of YAML 1.1 but for nothing (null) and for the merging of an anchor (<<).
    yaml_implicit_resolvers: ClassVar = {
        letter: [(tag, pattern) for tag, pattern in rules if tag.endswith((":null", ":merge"))]
        for letter, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                name, line = _kebab(key.value), key.start_mark.line + 1
                if name in lines:
                    problem = f"{key.value} is given twice (lines {lines[name]} and {line})"
                    raise yaml.constructor.ConstructorError(problem=problem)
                lines[name] = line
        return super().construct_mapping(node, deep)


def load_yaml(path: Path, flag: str | None = "--config") -> dict[str, Any]:
    """A configuration file as a dictionary; raises ``UserError`` naming the file, and the ``flag``
    it was given with.
    """
    where = f"{flag}: " if flag else ""
    try:
        content = yaml.load(path.read_bytes(), _YamlLoader)
    except FileNotFoundError:
        raise UserError(f"{where}no such file: {path}") from None
    except OSError as error:
        raise UserError(f"{where}cannot read {path}: {error.strerror}") from None
    except yaml.reader.ReaderError as error:
        raise UserError(
            f"{where}{path} is not YAML: {error.reason} at character {error.position + 1}"
        ) from None
    except (yaml.YAMLError, RecursionError) as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        if mark is None and problem:
            raise UserError(f"{where}{path}: {problem}") from None
        line = f"line {mark.line + 1}" if mark else "too deep"
        raise UserError(
            f"{where}{path} is not YAML ({line}{f': {problem}' if problem else ''})"
        ) from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"{where}{path} must hold sections such as data, model and train")
    return content


class Parser(argparse.ArgumentParser):
    """``argparse`` that answers a mistake with one line instead of a page of usage."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(
            *args,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            **kwargs,
        )

    def error(self, message: str) -> None:
        raise UserError(message)

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parse all of ``argv``; an unknown flag is a ``UserError`` with the nearest known one."""
        argv = _with_negative_numbers(argv)
        argv = [
            _kebab(a.split("=", 1)[0]) + a[len(a.split("=", 1)[0]) :] if a.startswith("--") else a
            for a in argv
        ]
        namespace, unknown = self.parse_known_args(argv)
        if unknown:
            flag = unknown[0].split("=", 1)[0]
            flags = [option for action in self._actions for option in action.option_strings]
            what = "unknown key" if flag.startswith("-") else "unexpected argument"
            raise UserError(f"{what} {flag}{nearest(flag, flags)}")
        return namespace


def _with_negative_numbers(argv: Sequence[str]) -> list[str]:
    """``--flag -1,2`` as ``--flag=-1,2``.

    For argparse what begins with a minus is a flag, unless it is one plain number.
    """
    joined: list[str] = []
    for argument in argv:
        after_flag = joined and joined[-1].startswith("--") and "=" not in joined[-1]
        if after_flag and re.match(r"-[\d.]+[^\d.]", argument):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def add_config_flags(parser: argparse.ArgumentParser) -> None:
    """Add ``--config``, ``--preset``, ``--print-config`` and one flag for every key."""
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="YAML file with the same keys; flags win"
    )
    parser.add_argument(
        "--preset",
        choices=sorted(PRESETS),
        help="a named set of values, weaker than file and flags",
    )
    parser.add_argument(
        "--print-config", action="store_true", help="print the resolved YAML and stop"
    )
    groups: dict[str, argparse._ArgumentGroup] = {}
    for key, field in keys():
        section = key.split(".")[0]
        group = groups.setdefault(section, parser.add_argument_group(section))
        choices = (
            [str(v) for v in get_args(field.annotation)]
            if get_origin(field.annotation) is Literal
            else None
        )
        default = (
            ",".join(field.default) if isinstance(field.default, list) else _plain(field.default)
        )
        values = f"{'|'.join(choices)}; " if choices else ""
        text = f"{field.description} ({values}default {default or 'none'})"
        group.add_argument(
            f"--{key}",
            dest=key,
            default=argparse.SUPPRESS,
            metavar="VALUE",
            help=text.replace("%", "%%"),
        )


def add_table_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say how the text of another table than the training's is read:
    ``--decimal`` and the like.
    """
    known = dict(keys())
    for name in TABLE_KEYS:
        parser.add_argument(f"--{name}", metavar="VALUE", help=known[f"data.{name}"].description)


def table_settings(namespace: argparse.Namespace) -> dict[str, str | None]:
    """The values of ``add_table_flags``, checked as their ``--data`` counterparts are; None where
    nothing is said.
    """
    given = {
        f"data.{name}": value
        for name in TABLE_KEYS
        if (value := getattr(namespace, name)) is not None
    }
    config = build([("the command line", given)])
    return {name: getattr(config.data, name) for name in TABLE_KEYS}


def flag_values(namespace: argparse.Namespace) -> dict[str, Any]:
    """The keys given as flags, dotted."""
    return {key: value for key, value in vars(namespace).items() if "." in key}


# What makes sense for the demo set too; every other key of this section describes a table that the
# user has.
_FOR_ANY_DATA = frozenset(
    {
        "val-fraction",
        "test-fraction",
        "split-seed",
        "image-size",
        "image-range",
        "augment",
        "class-weights",
        "min-category-count",
    }
    | {"cache", "cache-dir", "workers"}
)


def resolve(namespace: argparse.Namespace) -> Config:
    """The configuration a command line asks for. Without a table it is the demo preset.

    Raises:
        UserError: For keys that describe a table where none is named, beside all that ``build``
            refuses.
    """
    layers = [("--config", load_yaml(namespace.config))] if namespace.config else []
    layers.append(("the command line", flag_values(namespace)))
    config = build(layers)
    if config.data.csv is None:
        _check_that_no_table_is_meant(config.data)
    preset = namespace.preset or ("demo" if config.data.csv is None else None)
    return build([(f"preset {preset}", PRESETS[preset]), *layers]) if preset else config


def _check_that_no_table_is_meant(data: DataConfig) -> None:
    fields = DataConfig.model_fields
    given = [_kebab(name) for name in fields if getattr(data, name) != fields[name].default]
    about_a_table = [f"--data.{name}" for name in given if name not in _FOR_ANY_DATA]
    if about_a_table:
        names = ", ".join(about_a_table)
        raise UserError(
            f"is needed with {names}: which table? Without any of these the demo set is used",
            key="data.csv",
        )
