"""Every room imports what stands below it and nothing else; nobody imports a command."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# What a command is, by where it lies: a file at the top that is run, and every ``__main__``.
COMMANDS = {"train", "predict", "evaluate", "compare", "export", "doctor"}
# Room -> the rooms that its modules may import beside itself. What is from outside the project is
# free, unless ``FOREIGN`` says so. A name with a dot is one module of a room.
ROOMS = {
    "errors": set(),
    "files": set(),
    "ops": {"kernels", "_native_cpu", "_native_cuda", "errors"},
    "_surgery": {"ops"},
    "surgery": {"_surgery", "ops"},
    "config": {"errors", "files"},
    "demo": {"errors", "files"},
    "published": {"errors", "files"},
    "data": {"config", "errors", "files"},
    "tasks": {"ops", "surgery", "data.batch", "data.issues", "errors"},
    "models": {"config", "errors", "data.batch"},
    "methods": {"models", "tasks", "ops", "surgery", "config", "data.batch", "errors"},
    "runs": {"config", "data", "errors", "files", "__version__"},
    "engine": {"methods", "tasks", "data", "runs", "demo", "models", "config", "errors", "files"},
}
# Room -> what it must not import from outside.
FOREIGN = {
    "errors": {"torch", "numpy", "pandas"},
    "files": {"torch", "numpy", "pandas"},
    "config": {"torch.nn", "pandas", "sklearn"},
    "data": {"torch.nn", "torch.optim"},
    "demo": {"torch"},
    "published": {"torch.nn"},
    "runs": {"torch.nn", "torch.optim"},
}
FUNCTIONS = "torch.nn.functional"  # arithmetic on tensors, no module
LONGEST = 400
# Files that are longer still, and the room that divides them. A line that is no longer needed is an
# error.
TOO_LONG: dict[str, str] = {}
KERNEL_DEPENDENCIES = {"triton", "torch"}


def modules(place: str) -> list[Path]:
    path = ROOT / place
    return [path] if path.suffix == ".py" else sorted(path.rglob("*.py"))


def place_of(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def imported(file: Path) -> set[str]:
    """The modules that a file imports, anywhere in it; ``from gaal_fast.runs import folder`` is
    ``gaal_fast.runs`` and ``gaal_fast.runs.folder``.
    """
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level <= 1, (
                f"{file}: imports from above its own package hide the layer they come from"
            )
            if node.level == 0:
                module = str(node.module)
                found |= {f"{module}.{alias.name}" for alias in node.names}
                if module != "gaal_fast":
                    found.add(module)
    return found


def is_command(file: Path) -> bool:
    place = place_of(file)
    return file.name == "__main__.py" or place in {f"gaal_fast/{name}.py" for name in COMMANDS}


def room_of(file: Path) -> str:
    return file.relative_to(ROOT / "gaal_fast").parts[0].removesuffix(".py")


def rooms() -> Iterator[tuple[str, Path]]:
    """Every module of the package that is no command, with its room."""
    for file in modules("gaal_fast"):
        if not is_command(file) and file != ROOT / "gaal_fast" / "__init__.py":
            yield room_of(file), file


def is_below(name: str, allowed: str) -> bool:
    return name == allowed or name.startswith(f"{allowed}.")


def strangers(room: str, file: Path) -> set[str]:
    """What ``file`` imports of ours and may not."""
    free = {f"gaal_fast.{name}" for name in (room, *ROOMS[room])}
    # ``from gaal_fast.data import batch`` names the package too.
    packages = {name.rpartition(".")[0] for name in free if name.count(".") > 1}
    return {
        name
        for name in imported(file)
        if is_below(name, "gaal_fast")
        and not any(is_below(name, allowed) for allowed in free)
        and name not in packages
    }


def test_every_module_is_in_a_room() -> None:
    assert {room for room, _ in rooms()} <= set(ROOMS), "a new room: say what it may import"


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_a_room_imports_only_what_it_may(room: str) -> None:
    for own, file in rooms():
        if own == room:
            assert not strangers(room, file), file


@pytest.mark.parametrize("room", sorted(FOREIGN))
def test_a_room_leaves_what_is_not_its_business(room: str) -> None:
    for own, file in rooms():
        if own == room:
            for name in imported(file):
                foreign = any(is_below(name, other) for other in FOREIGN[room])
                assert not foreign or is_below(name, FUNCTIONS), f"{file} imports {name}"


def test_nobody_imports_a_command() -> None:
    commands = {f"gaal_fast.{name}" for name in COMMANDS}
    for file in modules("gaal_fast") + modules("kernels") + modules("bench"):
        for name in imported(file):
            assert not any(is_below(name, command) for command in commands), f"{file}: {name}"
            assert not (is_below(name, "gaal_fast") and "__main__" in name), f"{file}: {name}"


def test_no_file_is_too_long() -> None:
    sources = [
        path
        for folder in ("gaal_fast", "kernels", "csrc")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".cpp", ".cu", ".h", ".cuh")
    ]
    long = {
        place_of(path)
        for path in sources
        if len(path.read_text(encoding="utf-8").splitlines()) > LONGEST
    }
    assert long - set(TOO_LONG) == set(), f"more than {LONGEST} lines: divide it"
    assert set(TOO_LONG) - long == set(), "done: take the line away"


def test_kernels_need_triton_and_torch_only() -> None:
    for file in modules("kernels"):
        for name in imported(file):
            if is_below(name, "gaal_fast"):
                assert is_below(name, "gaal_fast.kernels"), f"{file} imports {name}"
            elif name.split(".")[0] not in sys.stdlib_module_names:
                assert name.split(".")[0] in KERNEL_DEPENDENCIES, f"{file} imports {name}"


def test_no_library_module_imports_tests_or_benchmarks() -> None:
    for file in modules("gaal_fast") + modules("kernels"):
        assert not {name.split(".")[0] for name in imported(file)} & {"tests", "bench"}, file


def test_importing_the_ops_loads_neither_triton_nor_a_native_module() -> None:
    program = (
        "import sys, gaal_fast.ops, gaal_fast.surgery; print([m for m in sys.modules if 'triton' in"
        " m or '_native' in m])"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    ).stdout
    # torch itself looks whether triton is there; what counts is that our kernels and native code
    # wait for their first use.
    assert "gaal_fast" not in loaded
