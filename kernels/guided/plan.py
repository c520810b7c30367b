"""What the shapes and properties of a call decide: the launches, and the memory that they share."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from gaal_fast.kernels._launch import Launch, blocks, next_power_of_2
from gaal_fast.kernels._rule import SUM_BLOCK, Scalars
from gaal_fast.kernels.entropy_topk import sort_warps
from gaal_fast.kernels.linear_ce_grad import GRAD_TILE, product_launch
from gaal_fast.kernels.softmax_stats import COMBINE_ROWS, split_columns, tile_shape

from .direct import direct_kernel, update_kernel
from .forward import logits_kernel, rows_kernel
from .gram import gram_kernel, stacked_kernel

LOGIT_ROWS, LOGIT_COLUMNS = 32, 64  # tile of the logits kernel
GRAM_TILE = 32
UPDATE_BLOCK = 1024

# Multiply-adds that pay for one byte of traffic, by precision of the products: half of the H200's
# data sheet (67, 494 and 989 TFLOP/s, two per multiply-add, over 4.8 TB/s).
_BALANCE = {"float32": 3.5, "tf32": 25.0, "half": 50.0}

Layout = tuple[tuple[int, ...], torch.dtype]  # shape and dtype of a tensor to allocate


def own_logits(B: int, P: int, Y: int) -> bool:
    """Whether launch 1 computes the logits itself.

    It does where one launch less matters more than the speed of the product.
    """
    return B <= 256 and P <= 256 and Y <= 1024


def use_gram(B: int, k: int, Y: int, d: int, dtype: torch.dtype, precision: str) -> bool:
    """Whether launches 2 and 3 take the sample-space form.

    It costs (B + k)^2 / 2 * (Y + d) multiply-adds (the upper triangle of the stacked Gram matrices)
    and saves four passes over the gradient's Y * d elements in float32 (g and g_p written and
    read), so it wins while

        (B + k)^2 (Y + d) / 2 < 16 bytes * Y d * (multiply-adds per byte)
    """
    kind = "half" if dtype != torch.float32 else "tf32" if precision == "tf32" else "float32"
    if B == 0 or k == 0:
        return False
    return (B + k) ** 2 * (Y + d) / 2 < 16 * Y * d * _BALANCE[kind]


class Problem(NamedTuple):
    """The shapes and properties of a call.

    Attributes:
        B: rows of the active batch.
        P: rows of the guide; 0 where nothing is selected.
        Y: classes.
        d: features.
        k: guide rows to select.
        dtype: of features, weight and bias.
        precision: of the products, ``"ieee"`` or ``"tf32"``.
        bias: whether the head has one.
    """

    B: int
    P: int
    Y: int
    d: int
    k: int
    dtype: torch.dtype
    precision: str
    bias: bool

    @property
    def head_tiles(self) -> int:
        """Tiles of the head's gradient. Without features there is still the bias."""
        return blocks(self.Y, GRAD_TILE) * max(1, blocks(self.d, GRAD_TILE))

    @property
    def feature_tiles(self) -> int:
        """Tiles of the feature gradient."""
        return blocks(self.B, GRAD_TILE) * blocks(self.d, GRAD_TILE)


class Tiling(NamedTuple):
    """How launch 1 reads logits that PyTorch made.

    Attributes:
        rows: of a program.
        columns: of a tile.
        warps: of a program, for the statistics alone.
        splits: programs that share a row.
        width: columns of each of those.
    """

    rows: int
    columns: int
    warps: int
    splits: int
    width: int

    @classmethod
    def of(cls, problem: Problem) -> Tiling:
        """The tiling of ``softmax_stats`` for both batches together."""
        return cls(*tile_shape(problem.Y), *split_columns(problem.B + problem.P, problem.Y))


@dataclass(frozen=True)
class Stage:
    """Some of the launches, with what they need beside the tensors of the call.

    Attributes:
        launches: in order.
        memory: results and workspaces by the name of the kernels' argument.
        numbers: integers by the name of the kernels' argument.
        aliases: arguments that are the memory of another one.
    """

    launches: tuple[Launch, ...]
    memory: Mapping[str, Layout]
    numbers: Mapping[str, int]
    aliases: Mapping[str, str]


@dataclass(frozen=True)
class Plan(Stage):
    """All launches of a call.

    Attributes:
        own_logits: whether the first launch makes the logits.
        gram: whether the other two take the sample-space form.
    """

    own_logits: bool
    gram: bool

    def allocate(self, like: Tensor) -> dict[str, Tensor]:
        """Unwritten memory on the device of ``like``, by the name of the kernels' argument."""
        tensors = {
            name: like.new_empty(shape, dtype=dtype) for name, (shape, dtype) in self.memory.items()
        }
        return tensors | {name: tensors[other] for name, other in self.aliases.items()}


def make_plan(problem: Problem, rule: Mapping[str, int | bool]) -> Plan:
    """The launches for a problem.

    Args:
        problem: shapes and properties.
        rule: ``_rule.rule_constants``.
    """
    own = own_logits(problem.B, problem.P, problem.Y)
    gram = use_gram(problem.B, problem.k, problem.Y, problem.d, problem.dtype, problem.precision)
    tiling = None if own else Tiling.of(problem)
    return _make_plan(problem, tuple(rule.items()), gram, tiling)


@functools.lru_cache(maxsize=256)
def _make_plan(
    problem: Problem,
    rule_items: tuple[tuple[str, int | bool], ...],
    gram: bool,
    tiling: Tiling | None,
) -> Plan:
    """The launches of a form: once for all calls alike, which leaves the host less to do."""
    rule = dict(rule_items)
    first = _logits_stage(problem) if tiling is None else _rows_stage(problem, tiling)
    rest = _gram_stage(problem, rule) if gram else _direct_stage(problem, rule)
    sizes = {name: getattr(problem, name) for name in ("B", "P", "Y", "d", "k")}
    return Plan(
        launches=first.launches + rest.launches,
        memory={**_results(problem), **first.memory, **rest.memory},
        numbers={**sizes, **first.numbers, **rest.numbers},
        aliases={**first.aliases, **rest.aliases},
        own_logits=tiling is None,
        gram=gram,
    )


def _results(problem: Problem) -> dict[str, Layout]:
    """What every form leaves: the results, and what launch 1 tells the next ones."""
    dtype, single = problem.dtype, torch.float32
    rows = (problem.B + problem.P,)
    memory: dict[str, Layout] = {
        "loss_ptr": ((), single),
        "grad_features_ptr": ((problem.B, problem.d), dtype),
        "grad_weight_ptr": ((problem.Y, problem.d), dtype),
        **dict.fromkeys(Scalars._fields, ((), single)),
        "index_ptr": ((problem.k,), torch.int64),
        "row_max_ptr": (rows, single),
        "row_scale_ptr": (rows, single),
        "row_residual_ptr": (rows, single),
        "totals_ptr": ((4,), single),
    }
    if problem.bias:
        memory["grad_bias_ptr"] = ((problem.Y,), dtype)
    return memory


def _finish_constants(problem: Problem) -> tuple[dict[str, int], int]:
    """(compile-time constants of ``finish_rows``, keys that its sort takes)."""
    keys = next_power_of_2(max(problem.P, 1))
    return {"COMBINE": COMBINE_ROWS, "N": keys, "LOG_N": keys.bit_length() - 1}, keys


def _logits_stage(problem: Problem) -> Stage:
    """Launch 1 with logits of its own."""
    rows = problem.B + problem.P
    parts = blocks(problem.Y, LOGIT_COLUMNS)
    tiles = blocks(problem.B, LOGIT_ROWS) + blocks(problem.P, LOGIT_ROWS)
    finish, _ = _finish_constants(problem)
    constants = {"BLOCK_R": LOGIT_ROWS, "BLOCK_Y": LOGIT_COLUMNS, **finish}
    launch = product_launch(
        logits_kernel, max(1, tiles * parts), constants, problem.dtype, problem.precision
    )
    memory: dict[str, Layout] = {
        "stacked_ptr": ((rows, problem.Y), torch.float32),
        "parts_ptr": ((3, parts, rows), torch.float32),
    }
    return Stage((launch,), memory, {}, {})


def _rows_stage(problem: Problem, tiling: Tiling) -> Stage:
    """Launch 1 over logits that PyTorch made."""
    rows, splits = tiling.rows, tiling.splits
    programs = (blocks(problem.B, rows) + blocks(problem.P, rows)) * splits
    finish, keys = _finish_constants(problem)
    # Sixteen keys a thread beside the statistics would spill in some versions of ptxas; eight do
    # not.
    many = keys > 2048
    launch = Launch(
        rows_kernel,
        max(1, programs),
        {"ROWS": rows, "COLUMNS": tiling.columns, **finish},
        num_warps=16 if many else max(tiling.warps, sort_warps(keys)),
        max_registers=128 if many else None,
    )
    parts = 3, splits, problem.B + problem.P
    memory: dict[str, Layout] = {"parts_ptr": (parts, torch.float32)}
    return Stage((launch,), memory, {"splits": splits, "split_width": tiling.width}, {})


def _gram_stage(problem: Problem, rule: Mapping[str, int | bool]) -> Stage:
    """Launches 2 and 3, sample space."""
    side = blocks(problem.B, GRAM_TILE) + blocks(problem.k, GRAM_TILE)
    constants = {"HAS_BIAS": problem.bias, "TILE": GRAM_TILE, "SUM_BLOCK": SUM_BLOCK, **rule}
    block = {"BLOCK": GRAD_TILE}
    products = problem.dtype, problem.precision
    programs = side * side + problem.feature_tiles
    launches = (
        product_launch(gram_kernel, programs, {**constants, **block}, *products),
        product_launch(stacked_kernel, problem.head_tiles, block, *products),
    )
    memory: dict[str, Layout] = {"partial_ptr": ((1 + 3 * side * side,), torch.float64)}
    return Stage(launches, memory, {"side": side}, {})


def _direct_stage(problem: Problem, rule: Mapping[str, int | bool]) -> Stage:
    """Launches 2 and 3, direct form. float32 gradients are formed where the result will be."""
    Y, d, tiles = problem.Y, problem.d, problem.head_tiles
    constants = {"SUM_BLOCK": SUM_BLOCK, **rule, "BLOCK": GRAD_TILE}
    programs = tiles + problem.feature_tiles
    sums = product_launch(direct_kernel, programs, constants, problem.dtype, problem.precision)
    in_place = problem.dtype == torch.float32
    weight_programs = blocks(Y * d, UPDATE_BLOCK)
    programs = weight_programs + (blocks(Y, UPDATE_BLOCK) if problem.bias else 0)
    update = Launch(update_kernel, programs, {"IN_PLACE": in_place, "BLOCK": UPDATE_BLOCK})
    memory: dict[str, Layout] = {
        "partial_ptr": ((1 + 3 * tiles,), torch.float64),
        "guide_ptr": ((Y, d), torch.float32),
    }
    names = {"plain_ptr": "grad_weight_ptr"}
    if problem.bias:
        memory["guide_bias_ptr"] = ((Y,), torch.float32)
        names["plain_bias_ptr"] = "grad_bias_ptr"
    if not in_place:
        memory["plain_ptr"] = ((Y, d), torch.float32)
        if problem.bias:
            memory["plain_bias_ptr"] = ((Y,), torch.float32)
    numbers = {"head_tiles": tiles, "n": Y * d, "weight_programs": weight_programs}
    return Stage((sums, update), memory, numbers, names if in_place else {})
