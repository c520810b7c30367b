"""What an installation contains, with and without a compiler, from a wheel, a source distribution
and in place.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import shutil
import site
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# No index and no download: the build tools that are installed here build.
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-v"]
HERE = ["--no-deps", "--no-build-isolation", "--no-index"]
COMPILER = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in ("pip", "setuptools", "pybind11")),
        reason="needs pip, setuptools and pybind11",
    ),
]
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler")


def environment(**changes: str) -> dict[str, str]:
    """Ours without what steers a build, and without nvcc unless asked for."""
    keep = {
        k: v
        for k, v in os.environ.items()
        if k not in ("CC", "CXX", "CFLAGS", "CUDA_HOME", "CUDA_PATH", "TORCH_CUDA_ARCH_LIST")
    }
    return {**keep, "GAAL_FAST_NO_CUDA": "1", **changes}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A copy of the sources, as a build leaves files among them."""
    copy = tmp_path / "source"
    copy.mkdir()
    for name in (
        "setup.py",
        "pyproject.toml",
        "MANIFEST.in",
        "README.md",
        "LICENSE",
        "csrc",
        "kernels",
        "gaal_fast",
    ):
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(
                path, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.so", "*.pyd")
            )
        elif path.exists():
            shutil.copy(path, copy / name)
    return copy


def shrink(source: Path) -> None:
    """An extension that compiles in seconds in place of ours: what is tested is the build."""
    for path in (source / "csrc/cpu").glob("*.cpp"):
        path.write_text("")
    (source / "csrc/cpu/bindings.cpp").write_text(
        "#include <pybind11/pybind11.h>\nPYBIND11_MODULE(_native_cpu, m) {}\n"
    )


def build_wheel(source: Path, target: Path, **changes: str) -> tuple[Path, list[str], str]:
    """The wheel, the files in it as site-packages will have them, and what the build said."""
    done = subprocess.run(
        [*PIP, "wheel", *HERE, "--wheel-dir", str(target), str(source)],
        env=environment(**changes),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = target.glob("*.whl")
    names = [
        name.partition(".data/purelib/")[2] or name for name in zipfile.ZipFile(wheel).namelist()
    ]
    return wheel, names, done.stdout + done.stderr


def assert_python_part_is_whole(names: list[str]) -> None:
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "gaal_fast").rglob("*.py")}
    modules |= {f"gaal_fast/{path.relative_to(ROOT)}" for path in (ROOT / "kernels").rglob("*.py")}
    assert modules | {"gaal_fast/py.typed", "gaal_fast/runs/report/report.html"} <= set(names)
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    top = {name.partition("/")[0] for name in names}
    assert {name for name in top if not name.endswith((".dist-info", ".data"))} == {"gaal_fast"}


def left_out(log: str) -> list[str]:
    return [line.strip() for line in log.splitlines() if "is left out" in line]


@needs_compiler
def test_wheel_with_a_compiler(source: Path, tmp_path: Path) -> None:
    wheel, names, log = build_wheel(source, tmp_path / "wheels")
    assert_python_part_is_whole(names)
    assert any(name.startswith("gaal_fast/_native_cpu.") for name in names) and left_out(log) == []
    assert not wheel.name.endswith("-none-any.whl")
    # The kernels in it work with nothing but Python.
    with zipfile.ZipFile(wheel) as archive:
        (module,) = [name for name in archive.namelist() if "_native_cpu." in name]
        path = archive.extract(module, tmp_path / "unpacked")
    spec = importlib.util.spec_from_file_location("_native_cpu", path)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    assert loaded.isas()[0] == "portable"


@pytest.mark.parametrize(
    "changes",
    [
        {"CC": "/bin/false", "CXX": "/bin/false"},
        {"CC": "/no/such/compiler", "CXX": "/no/such/compiler"},
        {"PATH": "/nowhere", "CXX": "c++", "CC": "cc"},
    ],
    ids=["failing", "missing", "empty PATH"],
)
def test_wheel_without_a_compiler(source: Path, tmp_path: Path, changes: dict[str, str]) -> None:
    _, names, log = build_wheel(source, tmp_path / "wheels", **changes)
    assert_python_part_is_whole(names)
    assert not any("_native" in name and not name.endswith(".py") for name in names)
    (line,) = left_out(log)
    assert "gaal_fast._native_cpu" in line and len(line) < 300


@needs_compiler
def test_sources_that_do_not_compile_leave_the_rest(source: Path, tmp_path: Path) -> None:
    shrink(source)
    (source / "csrc/cpu/rows.cpp").write_text("this is not C++\n")
    _, names, log = build_wheel(source, tmp_path / "wheels")
    assert_python_part_is_whole(names)
    (line,) = left_out(log)
    assert "gaal_fast._native_cpu" in line
    assert "rows.cpp" in log and "error" in log  # the compiler's own words are there for who looks


def test_wheel_for_any_machine(source: Path, tmp_path: Path) -> None:
    wheel, names, log = build_wheel(source, tmp_path / "wheels", GAAL_FAST_NO_NATIVE="1")
    assert_python_part_is_whole(names)
    assert wheel.name.endswith("-py3-none-any.whl") and left_out(log) == []


@needs_compiler
def test_source_distribution(source: Path, tmp_path: Path) -> None:
    script = (
        "import sys; from setuptools.build_meta import build_sdist; print(build_sdist(sys.argv[1]))"
    )
    (tmp_path / "dist").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "dist")],
        cwd=source,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (archive,) = (tmp_path / "dist").glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    for folder in ("csrc", "kernels"):
        want = {str(p.relative_to(source)) for p in (source / folder).rglob("*") if p.is_file()}
        assert want <= {str(p.relative_to(unpacked)) for p in unpacked.rglob("*") if p.is_file()}
    shrink(unpacked)
    _, names, _ = build_wheel(unpacked, tmp_path / "wheels")
    assert_python_part_is_whole(names)
    assert any(name.startswith("gaal_fast/_native_cpu.") for name in names)


@pytest.mark.parametrize("compiler", ["working", "failing"])
def test_editable_installation(source: Path, tmp_path: Path, compiler: str) -> None:
    """In a folder of its own: pip's --target does not do editable installations, but what it would
    unpack there is the same.
    """
    if compiler == "working" and COMPILER is None:
        pytest.skip("needs a C++ compiler")
    shrink(source)
    stale = source / "gaal_fast" / ("_native_cpu" + importlib.machinery.EXTENSION_SUFFIXES[0])
    stale.write_bytes(b"of an older build")
    script = (
        "import sys; from setuptools.build_meta import build_editable;"
        " print(build_editable(sys.argv[1]))"
    )
    (tmp_path / "wheels").mkdir()
    changes = {} if compiler == "working" else {"CC": "/bin/false", "CXX": "/bin/false"}
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "wheels")],
        cwd=source,
        env=environment(**changes),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = (tmp_path / "wheels").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    # -S keeps an editable installation of this environment out; what the package needs comes
    # without its .pth files.
    code = """
import importlib.util, site, sys
site.addsitedir(sys.argv[1])
sys.path += sys.argv[2:]
import gaal_fast.kernels
native = importlib.util.find_spec("gaal_fast._native_cpu") is not None
print(gaal_fast.__file__, gaal_fast.kernels.__file__, native, sep="\\n")
"""
    command = [
        sys.executable,
        "-I",
        "-S",
        "-c",
        code,
        str(tmp_path / "site"),
        *site.getsitepackages(),
    ]
    out = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert out.returncode == 0, out.stderr
    package, kernels, native = out.stdout.splitlines()
    assert (
        Path(package) == source / "gaal_fast/__init__.py"
        and Path(kernels) == source / "kernels/__init__.py"
    )
    assert native == str(compiler == "working")
    assert len(left_out(done.stdout + done.stderr)) == (compiler == "failing")


@pytest.fixture
def fake_nvcc(tmp_path: Path) -> Path:
    """Writes down its arguments, and makes empty files where objects are asked for. What nvcc does
    with them needs no test of ours.
    """
    folder = tmp_path / "toolkit" / "bin"
    folder.mkdir(parents=True)
    script = folder / "nvcc"
    script.write_text(
        f"#!{sys.executable}\nimport os, pathlib, sys\nif sys.argv[1:] == ['--list-gpu-arch']:\n   "
        " print('\\n'.join(f'compute_{n}' for n in (75, 80, 86, 89, 90, 100))); sys.exit()\nwith"
        " open(os.environ['NVCC_LOG'], 'a') as log: print(*sys.argv[1:], file=log)\nif"
        " os.environ.get('NVCC_FAILS'): print('x.cu(1): error: told to fail', file=sys.stderr);"
        " sys.exit(2)\npathlib.Path(sys.argv[sys.argv.index('-o') + 1]).touch()\n"
    )
    script.chmod(0o755)
    return folder.parent


@pytest.mark.skipif(not list((ROOT / "csrc/cuda").glob("*.cu")), reason="no CUDA sources")
@pytest.mark.parametrize("found_by", ["CUDA_HOME", "PATH"])
@pytest.mark.parametrize(
    ("asked", "codes"),
    [
        ("", ["80,sm_80", "86,sm_86", "89,sm_89", "90a,sm_90a", "100,sm_100", "100,compute_100"]),
        ("8.0;9.0a+PTX", ["80,sm_80", "90a,sm_90a", "90a,compute_90a"]),
        ("12.0", ["120,sm_120"]),
    ],
)
def test_nvcc_is_called_for_the_architectures(
    source: Path, tmp_path: Path, fake_nvcc: Path, found_by: str, asked: str, codes: list[str]
) -> None:
    log = tmp_path / "nvcc.log"
    where = (
        {"CUDA_HOME": str(fake_nvcc)}
        if found_by == "CUDA_HOME"
        else {"PATH": f"{fake_nvcc / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    )
    changes = {
        **where,
        "GAAL_FAST_NO_CUDA": "0",
        "NVCC_LOG": str(log),
        "TORCH_CUDA_ARCH_LIST": asked,
        "CC": "/bin/false",
        "CXX": "",
    }
    _, names, _ = build_wheel(source, tmp_path / "wheels", **changes)
    assert any(name.startswith("gaal_fast/_native_cuda.") for name in names)
    calls = log.read_text().splitlines()
    compiled = {
        Path(word).name
        for call in calls
        if " -c " in call
        for word in call.split()
        if word.endswith((".cu", ".cpp"))
    }
    assert compiled == {
        p.name for pattern in ("*.cu", "*.cpp") for p in (ROOT / "csrc/cuda").glob(pattern)
    }
    for call in calls:
        words = call.split()
        assert [words[i + 1] for i, word in enumerate(words) if word == "-gencode"] == [
            f"arch=compute_{code.split(',')[0]},code={code.split(',')[1]}" for code in codes
        ]
        assert "-fPIC" in call and "-cudart static" in call


@pytest.mark.skipif(not list((ROOT / "csrc/cuda").glob("*.cu")), reason="no CUDA sources")
@pytest.mark.parametrize(
    "trouble",
    [{"NVCC_FAILS": "1"}, {"TORCH_CUDA_ARCH_LIST": "Hopper"}],
    ids=["nvcc fails", "unknown architecture"],
)
def test_a_failing_nvcc_leaves_the_rest(
    source: Path, tmp_path: Path, fake_nvcc: Path, trouble: dict[str, str]
) -> None:
    shrink(source)
    changes = {
        "CUDA_HOME": str(fake_nvcc),
        "GAAL_FAST_NO_CUDA": "0",
        "NVCC_LOG": str(tmp_path / "nvcc.log"),
        **trouble,
    }
    _, names, log = build_wheel(source, tmp_path / "wheels", **changes)
    assert_python_part_is_whole(names)
    assert not any(name.startswith("gaal_fast/_native_cuda.") for name in names)
    assert any(name.startswith("gaal_fast/_native_cpu.") for name in names) == (
        COMPILER is not None
    )
    line = next(line for line in left_out(log) if "gaal_fast._native_cuda" in line)
    assert "told to fail" in line or "Hopper" in line
