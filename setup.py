"""What pyproject.toml cannot say: where the packages lie, and the two optional extension modules.

``gaal_fast._native_cpu`` (C++) and ``gaal_fast._native_cuda`` (CUDA C++) speed the library up and
are never needed: one that cannot be built is left out with one line that says why. Neither needs
torch to build.

Environment variables:
    GAAL_FAST_NO_NATIVE=1   build neither
    GAAL_FAST_NO_CUDA=1     do not build the CUDA module
    CXX                     the C++ compiler, for nvcc too
    CUDA_HOME               where bin/nvcc is, if not on PATH
    TORCH_CUDA_ARCH_LIST    GPU architectures as PyTorch's own extensions take them, such as
    "8.0;9.0a+PTX"
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

# Relative to this file, as setuptools wants it: a build runs in this folder.
CPU_SOURCES = sorted(str(path) for path in Path("csrc/cpu").glob("*.cpp"))
CUDA_SOURCES = sorted(
    str(path) for pattern in ("*.cu", "*.cpp") for path in Path("csrc/cuda").glob(pattern)
)
HEADERS = sorted(str(path) for pattern in ("*.h", "*.cuh") for path in Path("csrc").rglob(pattern))

CPU_FLAGS = [
    "-O3",
    "-std=c++17",
    "-fvisibility=hidden",
    "-ffp-contract=fast",  # the default of -std=c++17 would forbid fused multiply-adds
    "-fno-math-errno",
    "-fno-trapping-math",
    "-Wno-psabi",  # vectors are passed between functions of one file only
    "-g0",
]
# The intrinsics of GCC 12 and older set a register from itself to leave it undefined, and warn
# about it (GCC bug 105593).
QUIET = ["-Wno-uninitialized", "-Wno-maybe-uninitialized"]
X86_FLAGS = {
    "kernels_avx2.cpp": ["-mavx2", "-mfma", "-mf16c", *QUIET],
    "kernels_avx512.cpp": [
        "-mavx512f",
        "-mavx512bw",
        "-mavx512dq",
        "-mavx512vl",
        "-mavx2",
        "-mfma",
        "-mf16c",
        *QUIET,
    ],
}

CUDA_ARCHITECTURES = ["80", "86", "89", "90a", "100", "120"]
CUDA_FLAGS = [
    "-O3",
    "-std=c++17",
    "-Xcompiler",
    "-fPIC,-fvisibility=hidden",
    "-cudart",
    "static",
    "-Wno-deprecated-gpu-targets",
]


def switched_off(variable: str) -> bool:
    return os.environ.get(variable, "") not in ("", "0")


def reason(error: Exception) -> str:
    """One line; the compiler's own words are further up in the output."""
    text = " ".join(str(error).split())
    if failed := re.fullmatch(
        r"Command '\['([^']*)'.*\]' returned non-zero exit status (\d+)\.", text
    ):
        return f"{failed[1]} ended with status {failed[2]}"
    return text[:200] or type(error).__name__


def find_nvcc() -> str | None:
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        nvcc = Path(os.environ.get(variable, ""), "bin", "nvcc")
        if variable in os.environ and nvcc.is_file():
            return str(nvcc)
    return shutil.which("nvcc")


def extensions() -> list[Extension]:
    if switched_off("GAAL_FAST_NO_NATIVE"):
        return []
    found = [Extension("gaal_fast._native_cpu", CPU_SOURCES, depends=HEADERS, language="c++")]
    if (
        any(source.endswith(".cu") for source in CUDA_SOURCES)
        and find_nvcc()
        and not switched_off("GAAL_FAST_NO_CUDA")
    ):
        found.append(
            Extension("gaal_fast._native_cuda", CUDA_SOURCES, depends=HEADERS, language="c++")
        )
    return found


def gpu_code_flags(nvcc: str) -> list[str]:
    """-gencode for every architecture asked for, or else for those of ours that this nvcc knows,
    with PTX of the newest for later GPUs.
    """
    asked = os.environ.get("TORCH_CUDA_ARCH_LIST", "").replace(";", " ").replace(",", " ").split()
    flags = []
    for item in asked:
        match = re.fullmatch(r"(\d+)\.(\d[af]?)(\+PTX)?", item)
        if not match:
            raise ValueError(
                f"TORCH_CUDA_ARCH_LIST: {item!r} is not of the form 9.0, 9.0a or 9.0+PTX"
            )
        number = match[1] + match[2]
        flags += ["-gencode", f"arch=compute_{number},code=sm_{number}"]
        if match[3]:
            flags += ["-gencode", f"arch=compute_{number},code=compute_{number}"]
    if not asked:
        known = subprocess.run(
            [nvcc, "--list-gpu-arch"], capture_output=True, text=True, check=True
        ).stdout
        numbers = [n for n in CUDA_ARCHITECTURES if f"compute_{n.rstrip('a')}\n" in known + "\n"]
        for number in numbers:
            flags += ["-gencode", f"arch=compute_{number},code=sm_{number}"]
        if numbers:
            newest = numbers[-1].rstrip("a")
            flags += ["-gencode", f"arch=compute_{newest},code=compute_{newest}"]
    return flags


class OptionalBuildExt(build_ext):
    """Builds what can be built, every source file on a core of its own."""

    def build_extensions(self) -> None:
        self.failed: list[Extension] = []
        for extension in list(self.extensions):
            try:
                if extension.name.endswith("_cuda"):
                    self.build_cuda(extension)
                else:
                    self.build_cpu(extension)
            # a missing or failing tool shows as an OSError, a CompileError, an ImportError, ...
            except Exception as error:
                print(
                    f"gaal_fast: {extension.name} is left out, the rest works without it"
                    f" ({reason(error)})",
                    file=sys.stderr,
                )
                self.extensions.remove(extension)
                self.failed.append(extension)

    def build_cpu(self, extension: Extension) -> None:
        machine = sysconfig.get_platform().rpartition("-")[2]
        x86 = X86_FLAGS if machine in ("x86_64", "amd64") else {}

        def compile_one(source: str) -> str:
            return self.compiler.compile(
                [source],
                output_dir=self.build_temp,
                include_dirs=self.include_folders(),
                extra_postargs=CPU_FLAGS + x86.get(Path(source).name, []),
                depends=extension.depends,
            )[0]

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(compile_one, extension.sources))
        libraries = [] if sys.platform == "darwin" else ["dl", "pthread"]
        self.compiler.link_shared_object(
            objects, self.get_ext_fullpath(extension.name), libraries=libraries, target_lang="c++"
        )

    def build_cuda(self, extension: Extension) -> None:
        nvcc = find_nvcc()
        command = [nvcc, *CUDA_FLAGS, *gpu_code_flags(nvcc)]
        if os.environ.get("CXX"):
            command += ["-ccbin", os.environ["CXX"].split()[0]]
        # Minutes of compilation: what is up to date stays. Other flags are another folder.
        folder = Path(
            self.build_temp, "cuda-" + hashlib.sha256(" ".join(command).encode()).hexdigest()[:12]
        )
        folder.mkdir(parents=True, exist_ok=True)
        newest_header = max(Path(header).stat().st_mtime for header in extension.depends)
        threads = str(max(1, (os.cpu_count() or 1) // len(extension.sources)))

        def run(arguments: list[str]) -> None:
            done = subprocess.run(command + arguments, capture_output=True, text=True)
            print(
                " ".join(command + arguments),
                done.stdout,
                done.stderr,
                sep="\n",
                end="",
                flush=True,
            )
            if done.returncode:
                errors = [line for line in done.stderr.splitlines() if "error" in line] or [
                    f"nvcc ended with {done.returncode}"
                ]
                raise RuntimeError(errors[0])

        def compile_one(source: str) -> str:
            target = folder / (Path(source).name + ".o")
            if (
                self.force
                or not target.exists()
                or target.stat().st_mtime < max(newest_header, Path(source).stat().st_mtime)
            ):
                run(
                    [
                        "--threads",
                        threads,
                        "-c",
                        source,
                        "-o",
                        str(target),
                        *(f"-I{path}" for path in self.include_folders()),
                    ]
                )
            return str(target)

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(compile_one, extension.sources))
        target = Path(self.get_ext_fullpath(extension.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        run(["-shared", *objects, "-o", str(target)])

    def include_folders(self) -> list[str]:
        import pybind11  # here, so that its absence costs the extension and not the installation

        return ["csrc", pybind11.get_include(), *self.include_dirs]

    def copy_extensions_to_source(self) -> None:
        for extension in self.failed:  # an older build of other sources must not stand in for it
            Path(self.get_ext_filename(extension.name)).unlink(missing_ok=True)
        super().copy_extensions_to_source()


setup(
    packages=[
        *find_packages(include=["gaal_fast", "gaal_fast.*"]),
        "gaal_fast.kernels",
        *(f"gaal_fast.kernels.{name}" for name in find_packages("kernels")),
    ],
    package_dir={"gaal_fast.kernels": "kernels"},
    ext_modules=extensions(),
    cmdclass={"build_ext": OptionalBuildExt},
)
