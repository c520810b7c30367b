"""What a stranger looks for first is there and true: licence, types, commands, checks."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def matrix() -> ModuleType:
    loader = SourceFileLoader("ci_matrix", str(ROOT / ".ci" / "matrix"))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[loader.name] = module  # where its dataclass looks for its own module
    loader.exec_module(module)
    return module


def test_the_license_is_named_and_there() -> None:
    assert PROJECT["license"] == "MIT" and PROJECT["license-files"] == ["LICENSE"]
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert text.startswith("MIT License") and "the gaal_fast authors" in text


def test_the_package_says_that_it_has_types() -> None:
    assert (ROOT / "gaal_fast" / "py.typed").is_file()


@pytest.mark.parametrize("name", sorted(PROJECT["scripts"]))
def test_a_script_is_the_main_function_of_a_command(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    module, _, function = PROJECT["scripts"][name].partition(":")
    main = getattr(importlib.import_module(module), function)
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    assert f"gaal_fast.{name.removeprefix('gaal-')}" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["dependencies", *PROJECT["optional-dependencies"]])
def test_every_dependency_has_a_lower_bound(name: str, matrix: ModuleType) -> None:
    listed = PROJECT.get(name) or PROJECT["optional-dependencies"][name]
    pinned = matrix.lower_bounds(listed)
    assert len(pinned) == len(listed)
    assert all("==" in line.partition(";")[0] and ">=" not in line for line in pinned)


def test_a_matrix_leg_that_cannot_run_has_not_passed(
    matrix: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(matrix, "interpreter", lambda version: None)
    assert matrix.main([]) == 1
    out = capsys.readouterr().out
    assert "passed" not in out
    assert out.count("not run: no Python") == len(matrix.LEGS)
    monkeypatch.setattr(matrix, "run", lambda leg, tests: (matrix.PASSED, ""))
    assert matrix.main(["python3.11"]) == 0
    monkeypatch.setattr(matrix, "run", lambda leg, tests: (matrix.FAILED, "pytest ended with 1"))
    assert matrix.main(["python3.11"]) == 1


def test_what_a_landing_must_pass_is_lint_and_test() -> None:
    commands = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert "make lint" in commands and "make test" in commands
    assert "set -euo pipefail" in commands


def test_lint_runs_every_check_and_fails_if_one_does(tmp_path: Path) -> None:
    log = tmp_path / "log"
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho "$@" >> {log}\n[ "$3" != check ]\n')
    python.chmod(0o755)
    done = subprocess.run(
        [str(ROOT / ".ci" / "lint")],
        env={**os.environ, "PYTHON": str(python)},
        capture_output=True,
        text=True,
    )
    called = log.read_text(encoding="utf-8").splitlines()
    assert called == ["-m ruff check", "-m ruff format --check", "-m mypy"]
    assert done.returncode == 1 and "failed: " in done.stdout
    assert "clang-format is not installed" in done.stdout
    python.write_text("#!/bin/sh\n")
    done = subprocess.run(
        [str(ROOT / ".ci" / "lint")], env={**os.environ, "PYTHON": str(python)}, capture_output=True
    )
    assert done.returncode == 0


def test_hooks_are_local_and_call_the_tools_of_make_lint() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert [repository["repo"] for repository in config["repos"]] == ["local"]
    (repository,) = config["repos"]
    tools = {re.match(r"[\w-]+", line)[0] for line in PROJECT["optional-dependencies"]["lint"]}  # type: ignore[index]
    for hook in repository["hooks"]:
        assert hook["language"] == "system"
        assert hook["entry"].startswith(".venv/bin/")
        assert any(tool in hook["entry"] for tool in tools), hook["id"]
