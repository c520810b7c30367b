"""What the documents say is tried: Python blocks run, command lines parse, flags, targets and links
exist, and the examples in docstrings hold.
"""

from __future__ import annotations

import argparse
import doctest
import importlib
import re
import runpy
import shlex
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = (
    *("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "bench/README.md"),
    "gaal_fast/published/README.md",
)
OURS = ("gaal_fast", "bench", "tests")
# First words that have a parser of their own.
SUBCOMMANDS = (("gaal_fast.data", "prepare"), ("gaal_fast.data", "export-official"))
SHELL = ("", "sh", "bash", "console")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WITH_EXAMPLES = sorted(
    ".".join(("gaal_fast", *path.relative_to(folder).with_suffix("").parts))
    if folder.name == "gaal_fast"
    else f"gaal_fast.kernels.{path.stem}"
    for folder in (ROOT / "gaal_fast", ROOT / "kernels")
    for path in folder.rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)


@dataclass(frozen=True)
class Block:
    """A fenced block: the language on its fence, and the number of its first line."""

    language: str
    text: str
    line: int


def blocks(document: str) -> list[Block]:
    text = (ROOT / document).read_text(encoding="utf-8")
    return [
        Block(found[1], found[2], text.count("\n", 0, found.start(2)) + 1)
        for found in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    ]


def prose(document: str) -> str:
    """The document without its fenced blocks."""
    text = (ROOT / document).read_text(encoding="utf-8")
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def code_in_text(document: str) -> list[str]:
    """What stands between backticks in the prose, on one line or over two."""
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose(document))]


def lines(document: str) -> Iterator[str]:
    """Every line that might be typed into a shell."""
    for block in blocks(document):
        if block.language in SHELL:
            yield from block.text.replace("\\\n", " ").splitlines()
    yield from code_in_text(document)


def commands(document: str) -> list[tuple[str, tuple[str, ...]]]:
    """(module, arguments) of every call of one of our modules."""
    found = []
    for line in lines(document):
        call = re.match(r"(?:\w+=\S+ )*(?:\.venv/bin/)?((?:python -m |gaal-).*)", line)
        if call is None:
            continue
        words = shlex.split(call[1], comments=True)
        name = words[0]
        if name == "python":
            module, arguments = words[2], words[3:]
        else:
            module, arguments = module_of(PROJECT["scripts"][name]), words[1:]
        if module.split(".")[0] in OURS:
            # A name alone is a mention: whether it is a command shows in its help.
            found.append((module, tuple(arguments) or ("--help",)))
    return list(dict.fromkeys(found))


def modules() -> set[str]:
    """The modules of all commands that the package installs or a document names."""
    installed = {module_of(place) for place in PROJECT["scripts"].values()}
    return installed | {module for document in DOCUMENTS for module, _ in commands(document)}


def module_of(entry: str) -> str:
    """``gaal_fast.train:main`` as ``python -m`` has it."""
    return entry.partition(":")[0].removesuffix(".__main__")


class Parsed(Exception):
    """Raised in a command once its own parser has taken the arguments."""


def run_parser(
    module: str, arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> argparse.ArgumentParser:
    """Let a command parse ``arguments`` and stop there; returns its parser.

    Where it can print its configuration it goes on until it has, so that values are checked too.
    """
    original = argparse.ArgumentParser.parse_known_args
    parsers: list[argparse.ArgumentParser] = []

    def parse_known_args(self: argparse.ArgumentParser, *given: Any, **named: Any) -> Any:
        parsers.append(self)
        namespace, unknown = original(self, *given, **named)
        if not unknown:
            values = vars(namespace)
            if "print_config" not in values or values.get("config") or values.get("resume"):
                raise Parsed
            namespace.print_config = True
        return namespace, unknown

    with monkeypatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_known_args", parse_known_args)
        patch.setattr(sys, "argv", [module, *arguments])
        try:
            runpy.run_module(module, run_name="__main__")
        except Parsed:
            pass
        except SystemExit as ended:
            assert ended.code in (0, None), f"{module} {shlex.join(arguments)}"
    assert parsers, f"{module} parses no arguments"
    return parsers[-1]


@cache
def known_flags() -> frozenset[str]:
    """The flags of all commands, benchmarks and runners, from their own parsers."""
    found: set[str] = set()

    parse = argparse.ArgumentParser.parse_known_args

    def parse_known_args(self: argparse.ArgumentParser, *given: Any, **named: Any) -> Any:
        if not self.add_help:  # a first look at a single flag
            return parse(self, *given, **named)
        found.update(flag for action in self._actions for flag in action.option_strings)
        raise Parsed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_known_args", parse_known_args)
        for module, *words in [*((module,) for module in modules()), *SUBCOMMANDS]:
            patch.setattr(sys, "argv", [module, *words])
            with pytest.raises(Parsed):
                runpy.run_module(module, run_name="__main__")
    return frozenset(found)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_python_blocks_run_one_after_another(
    document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "document"}
    for block in blocks(document):
        if block.language == "python":
            # Empty lines in front, so that a traceback has the line of the document.
            source = "\n" * (block.line - 1) + block.text
            exec(compile(source, str(ROOT / document), "exec"), names)


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize(
    ("module", "arguments"),
    [pytest.param(*call, id=shlex.join((call[0], *call[1]))) for call in dict.fromkeys(
        call for document in DOCUMENTS for call in commands(document))],
)  # fmt: skip
def test_command_lines_parse(
    module: str, arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    run_parser(module, arguments, monkeypatch)
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("document", [name for name in DOCUMENTS if name != "CHANGELOG.md"])
def test_flags_exist(document: str) -> None:
    for code in code_in_text(document):
        if code.startswith((".ci/", "make ", "pip ", "ruff ", "clang-format ")):
            continue
        for flag in re.findall(r"(?<![\w-])--[a-z][\w.-]*", code):
            # ``--method.*`` stands for every flag of a section.
            exists = flag in known_flags() or (
                flag.endswith(".") and any(known.startswith(flag) for known in known_flags())
            )
            assert exists, f"{document}: {flag} in `{code}`"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_make_targets_and_linked_files_exist(document: str) -> None:
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony is not None
    for line in lines(document):
        if target := re.match(r"make ([\w-]+)", line):
            assert target[1] in phony[1].split(), f"{document}: {line}"
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", prose(document)):
        if "://" not in link:
            assert ((ROOT / document).parent / link).exists(), f"{document}: {link}"


@pytest.mark.parametrize("module", WITH_EXAMPLES)
def test_examples_in_docstrings_hold(module: str) -> None:
    if module.startswith("gaal_fast.kernels"):
        pytest.importorskip("triton")
    results = doctest.testmod(importlib.import_module(module))
    assert results.attempted > 0 and results.failed == 0


def test_the_public_modules_have_examples() -> None:
    assert "gaal_fast.surgery" in WITH_EXAMPLES


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
def test_a_flag_that_is_gone_is_noticed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    needed = ("--run", "folder", "--csv", "new.csv", "--out", "out.csv")
    for module, arguments, word in (
        ("gaal_fast.train", ("--data.tsv", "x"), "--data.tsv"),
        ("gaal_fast.predict", (*needed, "--table", "x"), "--table"),
        ("gaal_fast.train", ("--train.epochs", "many"), "--train.epochs"),
    ):
        with pytest.raises(AssertionError):
            run_parser(module, arguments, monkeypatch)
        assert word in capsys.readouterr().err
