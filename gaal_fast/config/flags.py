"""Every key of the configuration as a flag, and a command line as a configuration."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, TypedDict, get_args, get_origin

from pydantic.fields import FieldInfo

from gaal_fast.config.help import page
from gaal_fast.config.layers import (
    COMMAND_LINE,
    PRESET,
    PRESETS,
    build,
    load_yaml,
    plain,
    plugin_files,
)
from gaal_fast.config.methods import MethodEntry, built_in, keys, known_methods, owners
from gaal_fast.config.presets import PUBLISHED
from gaal_fast.config.sections import Config, DataConfig
from gaal_fast.config.values import AN_ADDRESS, address_in, kebab
from gaal_fast.errors import UserError, nearest

# How the text of a table is read, which may differ between the tables of training and prediction,
# and which tables go with it.
TABLE_KEYS = ("encoding", "delimiter", "decimal", "thousands", "tables", "embeddings")
# What they are called there, where that is not their own name: `predict --embeddings` writes some.
_SPELLED = {"embeddings": "features"}
# How the commands that read with a trained run spell the keys that training knows under a longer
# name.
INFERENCE_FLAGS = {"train.device": "--device", "data.workers": "--workers"} | {
    f"data.{name}": f"--{_SPELLED.get(name, name)}" for name in TABLE_KEYS
}


class Parser(argparse.ArgumentParser):
    """``argparse`` that answers a mistake with one line instead of a page of usage."""

    def __init__(
        self, prog: str, description: str = "", *, leading: Sequence[str] = (), example: str = ""
    ) -> None:
        super().__init__(
            prog=prog,
            description=description,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self.leading, self.example = leading, example
        self.groups: dict[str, argparse._ArgumentGroup] = {}
        self.takes_config = False

    def format_help(self) -> str:
        """The page that begins with the sentence, the ``leading`` flags and the ``example``."""
        return page(self, self.leading, self.example)

    def error(self, message: str) -> NoReturn:
        """What ``argparse`` calls on a mistake: raises ``UserError``."""
        raise UserError(message)

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parse all of ``argv``; an unknown flag is a ``UserError`` with the nearest known one."""
        argv = _with_negative_numbers(argv)
        argv = [
            kebab(a.split("=", 1)[0]) + a[len(a.split("=", 1)[0]) :] if a.startswith("--") else a
            for a in argv
        ]
        if self.takes_config and (plugins := _plugins(argv)):
            _add_keys(self, known_methods(plugins))
        namespace, unknown = self.parse_known_args(argv)
        if self.takes_config:
            unknown = _take_method_flags(unknown, namespace)
        if unknown:
            flag = unknown[0].split("=", 1)[0]
            flags = [option for action in self._actions for option in action.option_strings]
            what = "unknown key" if flag.startswith("-") else "unexpected argument"
            raise UserError(f"{what} {flag}{nearest(flag, flags)}")
        for action in self._actions:
            if action.type is Path and (address := address_in(getattr(namespace, action.dest))):
                key = action.option_strings[0].removeprefix("--")
                raise UserError(f"{AN_ADDRESS}, got {address}", key=key)
        return namespace


def _plugins(argv: Sequence[str]) -> list[Path]:
    """The files after ``--plugin``, whose methods have flags of their own."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    early.add_argument("--plugin", nargs="?", default="")
    text = early.parse_known_args(list(argv))[0].plugin or ""
    return named_plugins(text)


def named_plugins(text: str | None) -> list[Path]:
    """The files in the value of ``--plugin``, none where it is not given."""
    return plugin_files([(COMMAND_LINE, {"plugin": text or ""})])


def _take_method_flags(unknown: Sequence[str], namespace: argparse.Namespace) -> list[str]:
    """What is left of ``unknown`` after the options of methods: those of a plug-in that a file
    names, and of further modalities, are known only when the configuration is built.
    """
    left, tokens = [], list(unknown)
    while tokens:
        flag, given, value = tokens.pop(0).partition("=")
        if not flag.startswith("--method."):
            left.append(flag + given + value)
        elif not given and (not tokens or tokens[0].startswith("--")):
            raise UserError(": expected one argument", key=flag.removeprefix("--"))
        else:
            setattr(namespace, flag.removeprefix("--"), value if given else tokens.pop(0))
    return left


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


def add_config_flags(parser: Parser) -> None:
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
    _add_keys(parser, built_in())
    parser.takes_config = True


def _add_keys(parser: Parser, methods: Mapping[str, MethodEntry]) -> None:
    """Add the flags that are not there yet, those of a method under the methods that take it."""
    for key, field in keys(methods):
        section = key.partition(".")[0]
        title, choices = section, list[str]()
        if get_origin(field.annotation) is Literal:
            choices = [str(value) for value in get_args(field.annotation)]
        if key == "method.name":
            choices = [f"{name}: {entry.summary}" for name, entry in methods.items()]
        elif section == "method":
            title = f"method {', '.join(owners(key, methods))}"
        if f"--{key}" in parser._option_string_actions:
            continue
        if title not in parser.groups:
            parser.groups[title] = parser.add_argument_group(title)
        parser.groups[title].add_argument(
            f"--{key}",
            dest=key,
            default=argparse.SUPPRESS,
            metavar="VALUE",
            help=_help(field, choices).replace("%", "%%"),
        )


def _help(field: FieldInfo, choices: Sequence[str]) -> str:
    if field.is_required():
        return f"{field.description} (needed)"
    value = field.default
    default = ",".join(value) if isinstance(value, list) else plain(value)
    between = "|" if all(choice.isalnum() for choice in choices) else "; "
    values = f"{between.join(choices)}; " if choices else ""
    return f"{field.description} ({values}default {default or 'none'})"


def add_table_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say how the text of another table than the training's is read:
    ``--decimal`` and the like.
    """
    known = dict(keys())
    for name in TABLE_KEYS:
        flag, words = f"--{_SPELLED.get(name, name)}", known[f"data.{name}"].description
        parser.add_argument(flag, dest=name, metavar="VALUE", help=words)


class TableSettings(TypedDict):
    """How the text of a table is read, None where that is to be found out; and the further tables
    and ready features that go with it.
    """

    encoding: str | None
    delimiter: str | None
    decimal: str | None
    thousands: str | None
    tables: list[Path]
    embeddings: list[Path]


def table_settings(namespace: argparse.Namespace) -> TableSettings:
    """The values of ``add_table_flags``, checked as their ``--data`` counterparts are; None where
    nothing is said.
    """
    given = {
        f"data.{name}": value
        for name in TABLE_KEYS
        if (value := getattr(namespace, name)) is not None
    }
    config = build([(COMMAND_LINE, given)])
    return {
        "encoding": config.data.encoding,
        "delimiter": config.data.delimiter,
        "decimal": config.data.decimal,
        "thousands": config.data.thousands,
        "tables": config.data.tables,
        "embeddings": config.data.embeddings,
    }


def flag_values(namespace: argparse.Namespace) -> dict[str, Any]:
    """The keys given as flags, dotted."""
    return {key: value for key, value in vars(namespace).items() if "." in key or key == "plugin"}


# What makes sense for the demo set too; every other key of this section describes a table that the
# user has.
_FOR_ANY_DATA = frozenset(
    {
        "val-fraction",
        "test-fraction",
        "split-seed",
        "image-size",
        "image-resampling",
        "image-range",
        "augment",
        "class-weights",
        "min-category-count",
    }
    | {"cache", "cache-dir", "workers"}
)


def plugins_of(namespace: argparse.Namespace) -> list[Path]:
    """The plug-in files that a command line or its configuration file names."""
    layers = [("--config", load_yaml(namespace.config))] if namespace.config else []
    layers.append((COMMAND_LINE, flag_values(namespace)))
    return plugin_files(layers)


def resolve(
    namespace: argparse.Namespace, method: str | None = None, among: Sequence[str] = ()
) -> Config:
    """The configuration a command line asks for. Without a table it is the demo preset.

    Args:
        namespace: of a parser that ``add_config_flags`` was given.
        method: the method, whatever the command line says.
        among: methods whose options may be given too, as in a comparison with them.

    Raises:
        UserError: For keys that describe a table where none is named, beside all that ``build``
            refuses.
    """
    layers = [("--config", load_yaml(namespace.config))] if namespace.config else []
    layers.append((COMMAND_LINE, flag_values(namespace)))
    if method is not None:
        layers.append((COMMAND_LINE, {"method.name": method}))
    config = build(layers, among=among)
    if config.data.csv is None and namespace.preset in PUBLISHED and not namespace.print_config:
        raise UserError(
            f"is needed with --preset {namespace.preset}: the table that `python -m gaal_fast.data"
            f" prepare {namespace.preset}` wrote",
            key="data.csv",
        )
    if config.data.csv is None:
        _check_that_no_table_is_meant(config.data)
    preset = namespace.preset or ("demo" if config.data.csv is None else None)
    if preset is None:
        return config
    return build([(f"{PRESET}{preset}", PRESETS[preset]), *layers], among=among)


def _check_that_no_table_is_meant(data: DataConfig) -> None:
    fields = DataConfig.model_fields
    given = [kebab(name) for name in fields if getattr(data, name) != fields[name].default]
    about_a_table = [f"--data.{name}" for name in given if name not in _FOR_ANY_DATA]
    if about_a_table:
        names = ", ".join(about_a_table)
        raise UserError(
            f"is needed with {names}: which table? Without any of these the demo set is used",
            key="data.csv",
        )


def flags_alone(namespace: argparse.Namespace) -> dict[str, str]:
    """The keys given as flags, for a command that goes on with a run: its folder has the rest.

    Raises:
        UserError: For ``--config`` and ``--preset``.
    """
    if namespace.config or namespace.preset:
        raise UserError(
            "takes its configuration from the run folder: leave out --config and --preset",
            key="resume",
        )
    return flag_values(namespace)
