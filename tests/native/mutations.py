"""Remove each mask, guard, cast and order of the C++ kernels for the CPU in turn, and see a test fail.

``python -m tests.native.mutations`` applies every change below to a copy of ``csrc/``, one at a time, builds what depends on it, runs the
tests of this folder against it, and prints which change was caught by which test. It takes some minutes and exits with 1 if a change
survives. ``test_mutations.py`` keeps the list in step with the sources.

Not listed, because no result can show them: that the lanes of a vector are summed in float64 (it costs nothing, and merging takes float64
anyway), and that only one segment of a row writes its label's residual (all would write the same).
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.mutating import Replacement, verdict

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "csrc"
TESTS = [f"tests/native/test_{name}.py" for name in ("row_kernels", "flat_kernels", "backend")]
FLAGS = [
    "-O1",
    "-std=c++17",
    "-fPIC",
    "-fvisibility=hidden",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-w",
]
AVX2 = ["-mavx2", "-mfma", "-mf16c"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"]
# Object files, and the flags they are compiled with.
UNITS = {
    "cpu/kernels_portable.cpp": [],
    "cpu/kernels_avx2.cpp": AVX2,
    "cpu/kernels_avx512.cpp": AVX512,
    "cpu/ops.cpp": [],
    "cpu/parallel.cpp": [],
    "bindings_cpu.cpp": [],
}
PORTABLE, ALL = ("portable",), ("portable", "avx2", "avx512")
OPS, KERNELS, VECTORS, PARALLEL = "cpu/ops.cpp", "cpu/kernels_impl.h", "cpu/vec.h", "cpu/parallel.h"


@dataclass(frozen=True)
class Mutation(Replacement):
    """One change, in the kernels of these instruction sets."""

    sets: tuple[str, ...] = PORTABLE

    @property
    def units(self) -> list[str]:
        """The object files that differ."""
        if self.file in (KERNELS, VECTORS):
            return [f"cpu/kernels_{name}.cpp" for name in self.sets]
        return [OPS] if self.file in (OPS, PARALLEL) else [self.file]


MUTATIONS = [
    # Masks of the last vector of a row.
    Mutation(VECTORS, "lanes past the end read, 16 bytes", "for (int i = 0; i < count; ++i) v[i] = p[i];",
             "for (int i = 0; i < kLanes; ++i) v[i] = p[i];"),
    Mutation(VECTORS, "lanes past the end read, AVX-512", "(__mmask16)((1u << count) - 1u), p);\n#elif", "(__mmask16)0xffff, p);\n#elif",
             ("avx512",)),
    Mutation(VECTORS, "lanes past the end read, AVX2", "return (__m256i)(lanes < count);", "return (__m256i)(lanes <= count);", ("avx2",)),
    Mutation(VECTORS, "lanes past the end written, 16 bytes", "for (int i = 0; i < count; ++i) p[i] = v[i];",
             "for (int i = 0; i < kLanes; ++i) p[i] = v[i];"),
    Mutation(VECTORS, "lanes past the end written, AVX-512", "_mm512_mask_storeu_ps(p, (__mmask16)((1u << count) - 1u), (__m512)v);",
             "_mm512_storeu_ps(p, (__m512)v);", ("avx512",)),
    Mutation(VECTORS, "half lanes past the end read", "__builtin_memcpy(&bits, p, sizeof(Half) * (size_t)count);",
             "__builtin_memcpy(&bits, p, sizeof(Half) * kLanes);", ("portable", "avx2")),
    Mutation(VECTORS, "half lanes past the end written", "__builtin_memcpy(p, &bits, sizeof(Half) * (size_t)count);",
             "__builtin_memcpy(p, &bits, sizeof(Half) * kLanes);", ("portable", "avx2")),
    Mutation(VECTORS, "half lanes past the end written, AVX-512", "_mm256_mask_storeu_epi16(p, (__mmask16)((1u << count) - 1u), ",
             "_mm256_mask_storeu_epi16(p, (__mmask16)0xffff, ", ("avx512",)),
    Mutation(VECTORS, "half lanes past the end not filled", "const vu16 fill_bits = to_bits(splat(fill), Half{});",
             "const vu16 fill_bits = to_bits(splat(fill * 0.0f), Half{});", ALL),
    Mutation(KERNELS, "row without its last vector", "  if (tail) add_logits(sums, {last}, origin);\n", ""),
    Mutation(KERNELS, "row without the vector before the last", "j + kLanes <= n; j += kLanes) add_logits",
             "j + kLanes < n; j += kLanes) add_logits"),
    Mutation(KERNELS, "maximum without the last vector", "  m0 = max_or_second(last, m0);\n", ""),
    Mutation(KERNELS, "probabilities without the last vector", "    store_tail(out + j, one[0], tail);\n", ""),
    Mutation(KERNELS, "absent rows of few classes", "rows[first + (i < count ? i : 0)][j]", "rows[first + i][j]"),
    Mutation(KERNELS, "results of absent rows", "for (int64_t i = 0; i < count; ++i)\n      stats[first + i]",
             "for (int64_t i = 0; i < kLanes; ++i)\n      stats[first + i]"),
    # Special values.
    Mutation(VECTORS, "maximum hides a NaN", "  return a > b ? a : b;", "  return b > a ? b : a;"),
    Mutation(KERNELS, "block of -inf", "max == lowest ? 0.0f : max", "max"),
    Mutation(KERNELS, "-inf in few classes", "max == -__builtin_inff() ? vf{} : max", "max"),
    Mutation(KERNELS, "0 times -inf", "clamped[i] = max_or_second(splat(kExpFloor), d[i]);", "clamped[i] = d[i];"),
    Mutation(KERNELS, "probability of -inf", "x[i] = max_or_second(splat(kExpFloor), x[i] - max);", "x[i] = x[i] - max;"),
    Mutation(KERNELS, "ties counted as rest", "sums[i].rest = add_unless(tie, sums[i].rest, e[i]);", "sums[i].rest += e[i];"),
    Mutation(KERNELS, "ties not counted", "      sums[i].ties = count_if(tie, sums[i].ties);\n".removeprefix("  "), ""),
    Mutation(VECTORS, "ties counted as rest, AVX-512", "_knot_mask16(m)", "(__mmask16)0xffff", ("avx512",)),
    Mutation(VECTORS, "bfloat16: ties to even", "(u + 0x7fffu + ((u >> 16) & 1u)) >> 16", "(u + 0x8000u) >> 16", ALL),
    Mutation(VECTORS, "float16: ties to even", "0xfffu + ((magnitude >> 13) & 1u)", "0x1000u"),
    Mutation(VECTORS, "float16: overflow", "  half = magnitude >= 0x47800000u ? (vu{} + 0x7c00u) : half;\n", ""),
    Mutation(VECTORS, "float16: NaN", "  half = magnitude > 0x7f800000u ? (vu{} + 0x7e00u) : half;\n", ""),
    Mutation(VECTORS, "float16: subnormal results", "magnitude < 0x38800000u ? subnormal : normal", "normal"),
    Mutation(VECTORS, "float16: infinities and NaN read", "(u & 0x7c00u) == 0x7c00u ? special : finite", "finite"),
    Mutation(VECTORS, "float16: sign read", "bit_cast<vu>(value) | ((u & 0x8000u) << 16)", "bit_cast<vu>(value)"),
    Mutation(VECTORS, "2^n in one factor", "e[i] = e[i] * bit_cast<vf>((whole[i] - (whole[i] >> 1) + 127) << 23);",
             "e[i] = p[i] * bit_cast<vf>((whole[i] + 127) << 23);", ("portable", "avx2")),
    # Casts: sums in float64.
    Mutation(KERNELS, "inner products in float32", "    gh += g * h;\n",
             "    gh += __builtin_convertvector(__builtin_convertvector(g * h, vf_half), vd);\n"),
    Mutation(KERNELS, "tail of an inner product", "    widen(load_tail(h + j, tail, 0.0f), h0, h1);\n", ""),
    Mutation(KERNELS, "tail of an update", "  if (tail)\n    store_tail(g + j, add_product",
             "  if (false)\n    store_tail(g + j, add_product"),
    Mutation(KERNELS, "float32 sums of a whole block", "n - j > kTerms * kStep ? j + kTerms * kStep : n", "n"),
    Mutation(KERNELS, "float32 sums counted again", "    for (int i = 0; i < kTogether; ++i) sums[i].rest = sums[i].shifted = vf{};\n", ""),
    Mutation(KERNELS, "update by a v beyond float32", "v >= __FLT_MIN__ && v <= __FLT_MAX__", "v >= __FLT_MIN__"),
    Mutation(KERNELS, "update by a v below float32", "v >= __FLT_MIN__ && v <= __FLT_MAX__", "v <= __FLT_MAX__"),
    Mutation(KERNELS, "tail of column sums", "    store_tail(o + j, narrow(s0, s1), tail);\n", ""),
    Mutation(KERNELS, "tail of a small product", "      store_tail(out + j, sum, tail);\n", ""),
    Mutation(OPS, "float16: subnormal numbers read",
             "                          : exponent == 0 ? static_cast<float>(mantissa) * 0x1p-24f\n", ""),
    Mutation(OPS, "one number: ties to even in bfloat16", "(u + 0x7fffu + (u >> 16 & 1u)) >> 16", "(u + 0x8000u) >> 16"),
    Mutation(OPS, "one number: ties to even in float16", "0xfffu + (magnitude >> 13 & 1u)", "0x1000u"),
    # Selection, labels and segments.
    Mutation(OPS, "NaN not first", "  uint32_t bits = 0xffffffffu;\n  if", "  uint32_t bits = 0u;\n  if"),
    Mutation(OPS, "greater index first", "static_cast<uint32_t>(~static_cast<uint32_t>(index));", "static_cast<uint32_t>(index);"),
    Mutation(OPS, "selection not sorted", "  std::sort(keys.begin(), keys.begin() + k, std::greater<>());\n", ""),
    Mutation(OPS, "log of a sum that lost its rest", "s.ties == 1.0 && s.rest < 1e-8 ? ", "false ? "),
    Mutation(OPS, "p - 1 by subtraction", "shifted == 0.0 && s.ties == 1.0\n", "false\n"),
    Mutation(OPS, "last segment too long", "std::min(kSegment, n_classes - first), &parts", "kSegment, &parts"),
    Mutation(OPS, "last columns too long", "std::min(kColumnPiece, logits_.n_classes - first)", "kColumnPiece"),
    Mutation(OPS, "last rows left out", "    run_all(divide_up(n, together), [&]", "    run_all(n / together, [&]"),
    Mutation(OPS, "empty part merged", "  if (low.max == -std::numeric_limits<float>::infinity())\n", "  if (false)\n"),
    Mutation(OPS, "loss of no rows", "    if (losses_.empty()) return kNaN;\n", ""),
    Mutation(OPS, "last rows of features left out", "features.chosen ? divide_up(n, together) : 0", "features.chosen ? n / together : 0"),
    Mutation(OPS, "features past the last row",
             "const int64_t end = std::min(n, (piece + 1) * together);", "const int64_t end = (piece + 1) * together;"),
    Mutation(OPS, "last piece of a vector too long", "std::min(kFlatPiece, pair.n - piece.first)", "kFlatPiece"),
    # The rules.
    Mutation(OPS, "v: NaN and infinity hidden", "  if (!std::isfinite(dot) || !std::isfinite(guide_norm2)) return kNaN;\n", ""),
    Mutation(OPS, "v: no guide", "  if (guide_norm2 == 0.0) return 0.0;\n", ""),
    Mutation(OPS, "v: negative", "    if (v < 0.0) v = 0.0;  // a NaN stays\n", ""),
    Mutation(OPS, "v: no margin", "std::max(rule.margin, -dot / (guide_norm2 + rule.ridge))", "-dot / (guide_norm2 + rule.ridge)"),
    Mutation(OPS, "v: no bound", "  if (rule.max_correction >= 0.0) {", "  if (false) {"),
    Mutation(OPS, "v = 0 changes bits", "  if (v == 0.0) return;\n", ""),
    # The team.
    Mutation(PARALLEL, "two threads take one piece", "(i = c.next.fetch_add(1, std::memory_order_relaxed)) < c.n;",
             "(i = c.next.load(std::memory_order_relaxed), c.next.store(i + 1, std::memory_order_relaxed), i) < c.n;"),
    Mutation(PARALLEL, "ranges with a gap", "c.n * (rank + 1) / size;", "c.n / size * (rank + 1);"),
    Mutation("cpu/parallel.cpp", "rank 0 of threads of its own", "  body(context, 0, threads);\n", "", ()),
]  # fmt: skip


def _compile(unit: str, folder: Path, objects: Path) -> None:
    import pybind11

    includes = (
        [f"-I{folder}"]
        if unit != "bindings_cpu.cpp"
        else [f"-I{folder}", f"-I{pybind11.get_include()}", f"-I{sysconfig.get_path('include')}"]
    )
    output = objects / Path(unit).with_suffix(".o").name
    command = [
        os.environ.get("CXX", "g++"),
        *FLAGS,
        *UNITS[unit],
        *includes,
        "-c",
        str(folder / unit),
        "-o",
        str(output),
    ]
    subprocess.run(command, check=True)


def build(folder: Path, units: Sequence[str], objects: Path, output: Path) -> None:
    """Compile ``units`` of the sources in ``folder`` into ``objects``, and link all that lies there."""
    for unit in units:
        _compile(unit, folder, objects)
    subprocess.run(
        [
            "g++",
            "-shared",
            *map(str, sorted(objects.glob("*.o"))),
            "-o",
            str(output),
            "-ldl",
            "-lpthread",
        ],
        check=True,
    )


def run_tests(module: str) -> int:
    """In a process of its own: the tests with the compiled module of that path."""
    import pytest

    spec = importlib.util.spec_from_file_location("gaal_fast._native_cpu", module)
    assert spec is not None and spec.loader is not None
    sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[spec.name])
    import gaal_fast

    gaal_fast._native_cpu = sys.modules[spec.name]
    return int(
        pytest.main(["-q", "-x", "--tb=no", "-p", "no:cacheprovider", "-k", "not forced", *TESTS])
    )


def check(module: Path) -> tuple[bool, str]:
    """(caught, by which test) for one build."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment.pop("GAAL_FAST_BACKEND", None)
    script = f"import sys; from tests.native.mutations import run_tests; sys.exit(run_tests({str(module)!r}))"
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", script],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    return verdict(done.returncode, done.stdout + done.stderr)


def main(arguments: list[str] | None = None) -> int:
    """Print a table of all changes; returns how many survived, at most 1."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.native.mutations", description=__doc__.partition("\n")[0]
    )
    parser.add_argument(
        "--only", default="", help="changes whose file or description contains this"
    )
    options = parser.parse_args(arguments)
    survivors = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder, plain, mixed = (Path(temporary) / name for name in ("csrc", "plain", "mixed"))
        shutil.copytree(SOURCES, folder)
        plain.mkdir()
        module = Path(temporary) / "module.so"
        build(folder, list(UNITS), plain, module)
        if check(module)[0]:
            raise SystemExit("the tests fail on the sources as they are")
        for number, mutation in enumerate(MUTATIONS):
            if options.only not in f"{mutation.file} {mutation.what}":
                continue
            source = (SOURCES / mutation.file).read_text()
            (folder / mutation.file).write_text(mutation.applied(source))
            shutil.rmtree(mixed, ignore_errors=True)
            shutil.copytree(plain, mixed)
            module = Path(temporary) / f"module{number}.so"
            build(folder, mutation.units, mixed, module)
            (folder / mutation.file).write_text(source)
            caught, by = check(module)
            survivors += not caught
            print(
                f"{number:>3}  {mutation.file:<20} {mutation.what:<48} {by if caught else 'SURVIVED'}",
                flush=True,
            )
    return min(survivors, 1)


if __name__ == "__main__":
    raise SystemExit(main())
