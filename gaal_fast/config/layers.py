"""From defaults, presets, YAML and flags, weakest first, to one validated configuration."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar, get_args

import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from gaal_fast.config.methods import DEFAULT, MethodEntry, built_in, keys, known_methods, owners
from gaal_fast.config.presets import PUBLISHED
from gaal_fast.config.sections import Config, Section
from gaal_fast.config.values import kebab
from gaal_fast.errors import UserError, nearest

logger = logging.getLogger("gaal_fast.config")

# Where a layer of values comes from, which decides what it may hold.
COMMAND_LINE, PRESET = "the command line", "preset "
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
    **PUBLISHED,
}


def to_yaml(config: Config) -> str:
    """The resolved configuration as YAML that ``--config`` reads back to an equal one."""
    return yaml.safe_dump(
        config.model_dump(mode="json", by_alias=True), sort_keys=False, allow_unicode=True
    )


def plain(value: object) -> str:
    """A value as a command line and a message say it."""
    return "none" if value is None else str(value)


def _reason(error: ErrorDetails, field: FieldInfo | None) -> str:
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


def _flat(origin: str, layer: dict[str, Any], known: _Known) -> dict[str, Any]:
    """``{"data.csv": value}`` of nested keys, of dotted ones and of a mixture of both.

    Raises ``UserError`` for a key that is unknown or given twice.
    """
    found: dict[str, Any] = {}

    def add(key: str, value: Any) -> None:
        if key not in known.keys and not owners(key, known.methods):
            raise UserError(known.unknown(key, origin))
        if key in found:
            raise UserError(f"{origin} gives {key} twice")
        found[key] = value

    for name, values in layer.items():
        section = _key(name, origin)
        if section in known.keys or section not in Config.model_fields:
            add(section, values)
        elif isinstance(values, dict):
            for inner, value in values.items():
                add(f"{section}.{_key(inner, origin)}", value)
        elif values is not None:
            raise UserError(
                f"{origin}: {section} must hold keys such as"
                f" {next(k for k in known.keys if k.startswith(section))}"
            )
    return found


class _Known:
    """The keys that there are, with those of the methods in some plug-in files."""

    def __init__(self, plugins: Sequence[Path]) -> None:
        self.methods = known_methods(plugins)
        self.keys = dict(keys(self.methods))

    def unknown(self, key: str, origin: str) -> str:
        if origin == COMMAND_LINE:
            return f"unknown key --{key}{nearest(f'--{key}', [f'--{k}' for k in self.keys])}"
        return f"unknown key {key} in {origin}{nearest(key, [*Config.model_fields, *self.keys])}"

    def method(self, name: object) -> MethodEntry:
        if not isinstance(name, str) or name not in self.methods:
            near = nearest(str(name), list(self.methods))
            message = f"must be one of {', '.join(self.methods)}, got {plain(name)}{near}"
            raise UserError(message, key="method.name")
        return self.methods[name]


def _key(name: Any, origin: str) -> str:
    if not isinstance(name, str):
        raise UserError(f"{origin}: a key must be text, got {plain(name)}")
    return kebab(name)


def _optional(field: FieldInfo) -> bool:
    return type(None) in get_args(field.annotation)


def build(
    layers: Sequence[tuple[str, dict[str, Any]]],
    *,
    among: Sequence[str] = (),
    base: Path | None = None,
    stored: bool = False,
) -> Config:
    """Merge dictionaries of nested or dotted keys, weakest first, into a validated ``Config``.

    A text ``none`` or ``null`` stands for no value where a key may have none.

    Args:
        layers: (where it came from, ``{section: {key: value}}`` or ``{"section.key": value}``).
        among: methods whose options may be given too, as in a comparison with them.
        base: the folder that relative plug-in files are about; None: the working directory.
        stored: whether this is the file of a run folder. Older ones hold the options of every
            method; those that the run's own method does not take are logged, not refused.

    Raises:
        UserError: Naming the key.
    """
    files = plugin_files(layers)
    known = _Known([file if base is None else base / file.expanduser() for file in files])
    flat = [(origin, _flat(origin, layer, known)) for origin, layer in layers]
    names = [values["method.name"] for _, values in flat if "method.name" in values]
    method = known.method(names[-1] if names else DEFAULT)
    merged: dict[str, Any] = {}
    fields = known.keys | method.fields
    for origin, values in flat:
        for key, value in values.items():
            if key.startswith("method.") and method.field(key) is None:
                _check_dropped(key, value, origin, known.methods, method, among, stored)
                continue
            text = isinstance(value, str) and value.lower() in ("none", "null")
            clears = text and key in fields and _optional(fields[key])
            section, _, name = key.partition(".")
            place = merged.setdefault(section, {}) if name else merged
            place[name or section] = None if clears else value
    options = _validated(method.options, merged.pop("method", {}), method, "method")
    return _validated(Config, {**merged, "method": options}, method)


def plugin_files(layers: Sequence[tuple[str, dict[str, Any]]]) -> list[Path]:
    """The plug-in files that the strongest of the layers names."""
    for _, layer in reversed(layers):
        if layer.get("plugin") is not None:
            return _validated(Config, {"plugin": layer["plugin"]}, built_in()[DEFAULT]).plugin
    return []


def _check_dropped(
    key: str,
    value: object,
    origin: str,
    methods: Mapping[str, MethodEntry],
    method: MethodEntry,
    among: Sequence[str],
    stored: bool,
) -> None:
    """Refuse an option of another method, unless nothing is lost without it.

    A preset is for every method, a comparison takes the options of all of its methods, and a file
    may hold what is the default anyway.
    """
    takers = owners(key, methods)
    if origin.startswith(PRESET) or set(takers) & set(among):
        return
    if origin != COMMAND_LINE and methods[takers[0]].is_default(key, value):
        return
    message = f"is an option of {' and '.join(takers)}, not of {method.name}"
    if not stored:
        raise UserError(message, key=key)
    logger.warning("%s: %s %s, and not used", origin, key, message)


S = TypeVar("S", bound=Section)


def _validated(kind: type[S], values: object, method: MethodEntry, section: str = "") -> S:
    """A section from plain values; raises ``UserError`` naming the key."""
    try:
        return kind.model_validate(values)
    except ValidationError as caught:
        error = caught.errors()[0]
        path = [section] if section else []
        key = ".".join(kebab(str(part)) for part in [*path, *error["loc"]][:2])
        top = key.partition(".")[0]
        field = method.field(key) if top == "method" else dict(keys()).get(key)
        if field is None and top in dict(keys()):
            key, field = top, dict(keys())[top]
        if error["type"] == "missing":
            raise UserError(f"is needed with --method.name {method.name}", key=key) from None
        reason = (
            _bounds(field) if field and error["type"].startswith(("greater", "less")) else ""
        ) or _reason(error, field)
        given = plain(error["input"])
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
                name, line = kebab(key.value), key.start_mark.line + 1
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
