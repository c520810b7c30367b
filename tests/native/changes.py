"""The changes to the C++ kernels for the CPU that the tests of this folder have to notice."""

from __future__ import annotations

from dataclasses import dataclass

from tests.mutating import Replacement

PORTABLE, ALL = ("portable",), ("portable", "avx2", "avx512")
KERNELS, VECTORS, PARALLEL = "cpu/kernels_impl.h", "cpu/vec.h", "cpu/parallel.h"
ELEMENTS, ROW_STATS, PROJECTION = "cpu/elements.h", "cpu/row_stats.h", "common/projection.h"
ROWS, RESIDUALS, GRADIENTS = "cpu/rows.cpp", "cpu/residuals.cpp", "cpu/gradients.cpp"
# The object files that are made from a header.
INCLUDED_BY = {
    ELEMENTS: [ROWS, RESIDUALS, GRADIENTS],
    PARALLEL: [ROWS, RESIDUALS, GRADIENTS],
    ROW_STATS: [ROWS, RESIDUALS],
    PROJECTION: ["cpu/bindings.cpp"],
}


@dataclass(frozen=True)
class Mutation(Replacement):
    """One change, in the kernels of these instruction sets."""

    sets: tuple[str, ...] = PORTABLE

    @property
    def units(self) -> list[str]:
        """The object files that differ."""
        if self.file in (KERNELS, VECTORS):
            return [f"cpu/kernels_{name}.cpp" for name in self.sets]
        return INCLUDED_BY.get(self.file, [self.file])


MUTATIONS = [
    # Masks of the last vector of a row.
    Mutation(
        VECTORS,
        "lanes past the end read, 16 bytes",
        "for (int i = 0; i < count; ++i) v[i] = p[i];",
        "for (int i = 0; i < kLanes; ++i) v[i] = p[i];",
    ),
    Mutation(
        VECTORS,
        "lanes past the end read, AVX-512",
        "(__mmask16)((1u << count) - 1u), p);\n#elif",
        "(__mmask16)0xffff, p);\n#elif",
        ("avx512",),
    ),
    Mutation(
        VECTORS,
        "lanes past the end read, AVX2",
        "return (__m256i)(lanes < count);",
        "return (__m256i)(lanes <= count);",
        ("avx2",),
    ),
    Mutation(
        VECTORS,
        "lanes past the end written, 16 bytes",
        "for (int i = 0; i < count; ++i) p[i] = v[i];",
        "for (int i = 0; i < kLanes; ++i) p[i] = v[i];",
    ),
    Mutation(
        VECTORS,
        "lanes past the end written, AVX-512",
        "_mm512_mask_storeu_ps(p, (__mmask16)((1u << count) - 1u), (__m512)v);",
        "_mm512_storeu_ps(p, (__m512)v);",
        ("avx512",),
    ),
    Mutation(
        VECTORS,
        "half lanes past the end read",
        "__builtin_memcpy(&bits, p, sizeof(Half) * (size_t)count);",
        "__builtin_memcpy(&bits, p, sizeof(Half) * kLanes);",
        ("portable", "avx2"),
    ),
    Mutation(
        VECTORS,
        "half lanes past the end written",
        "__builtin_memcpy(p, &bits, sizeof(Half) * (size_t)count);",
        "__builtin_memcpy(p, &bits, sizeof(Half) * kLanes);",
        ("portable", "avx2"),
    ),
    Mutation(
        VECTORS,
        "half lanes past the end written, AVX-512",
        "_mm256_mask_storeu_epi16(p, (__mmask16)((1u << count) - 1u), ",
        "_mm256_mask_storeu_epi16(p, (__mmask16)0xffff, ",
        ("avx512",),
    ),
    Mutation(
        VECTORS,
        "half lanes past the end not filled",
        "const vu16 fill_bits = to_bits(splat(fill), Half{});",
        "const vu16 fill_bits = to_bits(splat(fill * 0.0f), Half{});",
        ALL,
    ),
    Mutation(
        KERNELS,
        "row without its last vector",
        "  if (tail) add_logits(sums, {last}, origin);\n",
        "",
    ),
    Mutation(
        KERNELS,
        "row without the vector before the last",
        "j + kLanes <= n; j += kLanes) add_logits",
        "j + kLanes < n; j += kLanes) add_logits",
    ),
    Mutation(KERNELS, "maximum without the last vector", "  m0 = max_or_second(last, m0);\n", ""),
    Mutation(
        KERNELS,
        "probabilities without the last vector",
        "    store_tail(out + j, one[0], tail);\n",
        "",
    ),
    Mutation(
        KERNELS,
        "absent rows of few classes",
        "rows[first + (i < count ? i : 0)][j]",
        "rows[first + i][j]",
    ),
    Mutation(
        KERNELS,
        "results of absent rows",
        "for (int64_t i = 0; i < count; ++i)\n      stats[first + i]",
        "for (int64_t i = 0; i < kLanes; ++i)\n      stats[first + i]",
    ),
    # Special values.
    Mutation(VECTORS, "maximum hides a NaN", "  return a > b ? a : b;", "  return b > a ? b : a;"),
    Mutation(KERNELS, "block of -inf", "max == lowest ? 0.0f : max", "max"),
    Mutation(KERNELS, "-inf in few classes", "max == -__builtin_inff() ? vf{} : max", "max"),
    Mutation(
        KERNELS,
        "0 times -inf",
        "clamped[i] = max_or_second(splat(kExpFloor), d[i]);",
        "clamped[i] = d[i];",
    ),
    Mutation(
        KERNELS,
        "probability of -inf",
        "x[i] = max_or_second(splat(kExpFloor), x[i] - max);",
        "x[i] = x[i] - max;",
    ),
    Mutation(
        KERNELS,
        "ties counted as rest",
        "sums[i].rest = add_unless(tie, sums[i].rest, e[i]);",
        "sums[i].rest += e[i];",
    ),
    Mutation(
        KERNELS,
        "ties not counted",
        "      sums[i].ties = count_if(tie, sums[i].ties);\n".removeprefix("  "),
        "",
    ),
    Mutation(
        VECTORS,
        "ties counted as rest, AVX-512",
        "_knot_mask16(m)",
        "(__mmask16)0xffff",
        ("avx512",),
    ),
    Mutation(
        VECTORS,
        "bfloat16: ties to even",
        "(u + 0x7fffu + ((u >> 16) & 1u)) >> 16",
        "(u + 0x8000u) >> 16",
        ALL,
    ),
    Mutation(VECTORS, "float16: ties to even", "0xfffu + ((magnitude >> 13) & 1u)", "0x1000u"),
    Mutation(
        VECTORS,
        "float16: overflow",
        "  half = magnitude >= 0x47800000u ? (vu{} + 0x7c00u) : half;\n",
        "",
    ),
    Mutation(
        VECTORS, "float16: NaN", "  half = magnitude > 0x7f800000u ? (vu{} + 0x7e00u) : half;\n", ""
    ),
    Mutation(
        VECTORS,
        "float16: subnormal results",
        "magnitude < 0x38800000u ? subnormal : normal",
        "normal",
    ),
    Mutation(
        VECTORS,
        "float16: infinities and NaN read",
        "(u & 0x7c00u) == 0x7c00u ? special : finite",
        "finite",
    ),
    Mutation(
        VECTORS,
        "float16: sign read",
        "bit_cast<vu>(value) | ((u & 0x8000u) << 16)",
        "bit_cast<vu>(value)",
    ),
    Mutation(
        VECTORS,
        "2^n in one factor",
        "e[i] = e[i] * bit_cast<vf>((whole[i] - (whole[i] >> 1) + 127) << 23);",
        "e[i] = p[i] * bit_cast<vf>((whole[i] + 127) << 23);",
        ("portable", "avx2"),
    ),
    # Casts: sums in float64.
    Mutation(
        KERNELS,
        "inner products in float32",
        "    gh += g * h;\n",
        "    gh += __builtin_convertvector(__builtin_convertvector(g * h, vf_half), vd);\n",
    ),
    Mutation(
        KERNELS,
        "tail of an inner product",
        "    widen(load_tail(h + j, tail, 0.0f), h0, h1);\n",
        "",
    ),
    Mutation(
        KERNELS,
        "tail of an update",
        "    store_tail(g + j, add_product(g_tail, load_tail(h + j, tail, 0.0f), v), tail);\n",
        "",
    ),
    Mutation(
        KERNELS,
        "float32 sums of a whole block",
        "n - j > kTerms * kStep ? j + kTerms * kStep : n",
        "n",
    ),
    Mutation(
        KERNELS,
        "float32 sums counted again",
        "    for (int i = 0; i < kTogether; ++i) sums[i].rest = sums[i].shifted = vf{};\n",
        "",
    ),
    Mutation(
        KERNELS,
        "update by a v beyond float32",
        "v >= __FLT_MIN__ && v <= __FLT_MAX__",
        "v >= __FLT_MIN__",
    ),
    Mutation(
        KERNELS,
        "update by a v below float32",
        "v >= __FLT_MIN__ && v <= __FLT_MAX__",
        "v <= __FLT_MAX__",
    ),
    Mutation(KERNELS, "tail of column sums", "    store_tail(o + j, narrow(s0, s1), tail);\n", ""),
    Mutation(KERNELS, "tail of a small product", "      store_tail(out + j, sum, tail);\n", ""),
    Mutation(
        ELEMENTS,
        "float16: subnormal numbers read",
        "                          : exponent == 0 ? static_cast<float>(mantissa) * 0x1p-24f\n",
        "",
    ),
    Mutation(
        ELEMENTS,
        "one number: ties to even in bfloat16",
        "(u + 0x7fffu + (u >> 16 & 1u)) >> 16",
        "(u + 0x8000u) >> 16",
    ),
    Mutation(
        ELEMENTS,
        "one number: ties to even in float16",
        "0xfffu + (magnitude >> 13 & 1u)",
        "0x1000u",
    ),
    # Selection, labels and segments.
    Mutation(
        ROWS, "NaN not first", "  uint32_t bits = 0xffffffffu;\n  if", "  uint32_t bits = 0u;\n  if"
    ),
    Mutation(
        ROWS,
        "greater index first",
        "static_cast<uint32_t>(~static_cast<uint32_t>(index));",
        "static_cast<uint32_t>(index);",
    ),
    Mutation(
        ROWS,
        "selection not sorted",
        "  std::sort(keys.begin(), keys.begin() + k, std::greater<>());\n",
        "",
    ),
    Mutation(
        ROW_STATS,
        "log of a sum that lost its rest",
        "s.ties == 1.0 && s.rest < 1e-8 ? ",
        "false ? ",
    ),
    Mutation(RESIDUALS, "p - 1 by subtraction", "shifted == 0.0 && s.ties == 1.0\n", "false\n"),
    Mutation(
        ROW_STATS,
        "last segment too long",
        "std::min(kSegment, n_classes - first), &parts",
        "kSegment, &parts",
    ),
    Mutation(
        RESIDUALS,
        "last columns too long",
        "std::min(kColumnPiece, logits_.n_classes - first)",
        "kColumnPiece",
    ),
    Mutation(
        ROW_STATS,
        "last rows left out",
        "    run_all(divide_up(n, together), [&]",
        "    run_all(n / together, [&]",
    ),
    Mutation(
        ROWS,
        "empty part merged",
        "  if (low.max == -std::numeric_limits<float>::infinity())\n",
        "  if (false)\n",
    ),
    Mutation(
        RESIDUALS,
        "loss of no rows",
        "    if (losses_.empty()) return std::numeric_limits<double>::quiet_NaN();\n",
        "",
    ),
    Mutation(
        RESIDUALS,
        "last rows of features left out",
        "features.chosen ? divide_up(n, together) : 0",
        "features.chosen ? n / together : 0",
    ),
    Mutation(
        RESIDUALS,
        "features past the last row",
        "const int64_t end = std::min(n, (piece + 1) * together);",
        "const int64_t end = (piece + 1) * together;",
    ),
    Mutation(
        GRADIENTS,
        "last piece of a vector too long",
        "std::min(kFlatPiece, pair.n - piece.first)",
        "kFlatPiece",
    ),
    # The rules.
    Mutation(
        PROJECTION,
        "v: NaN and infinity hidden",
        "  if (!is_finite(dot) || !is_finite(guide_norm2)) return NAN;\n",
        "",
    ),
    Mutation(PROJECTION, "v: no guide", "  if (guide_norm2 == 0.0) return 0.0;\n", ""),
    Mutation(PROJECTION, "v: negative", "    if (v < 0.0) v = 0.0;\n", ""),
    Mutation(
        PROJECTION,
        "v: no margin",
        "      if (!(v >= rule.margin)) v = v == v ? rule.margin : v;\n",
        "",
    ),
    Mutation(PROJECTION, "v: no bound", "  if (rule.max_correction >= 0.0) {", "  if (false) {"),
    Mutation(GRADIENTS, "v = 0 changes bits", "  if (v == 0.0) return;\n", ""),
    # The team.
    Mutation(
        PARALLEL,
        "two threads take one piece",
        "(i = c.next.fetch_add(1, std::memory_order_relaxed)) < c.n;",
        # The yield lets the other thread in, on one core too.
        "(i = c.next.load(), sched_yield(), c.next.store(i + 1), i) < c.n;",
    ),
    Mutation(PARALLEL, "ranges with a gap", "c.n * (rank + 1) / size;", "c.n / size * (rank + 1);"),
    Mutation(
        "cpu/parallel.cpp", "rank 0 of threads of its own", "  body(context, 0, threads);\n", "", ()
    ),
]
