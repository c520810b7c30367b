"""The device functions one by one, in the interpreter: sort keys, the sort, online statistics, the
projection's coefficient.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from gaal_fast.kernels import _device, _rule, entropy_topk, linear_ce_grad, softmax_stats
from tests.ops.helpers import assert_no_worse
from tests.reference import oracle
from tests.triton import helpers


@triton.jit
def _keys_kernel(value_ptr, key_ptr, value_out_ptr, index_out_ptr, first, N: tl.constexpr):
    place = tl.arange(0, N)
    key = entropy_topk.order_keys(tl.load(value_ptr + place), first + place)
    tl.store(key_ptr + place, key)
    tl.store(value_out_ptr + place, entropy_topk.key_value(key))
    tl.store(index_out_ptr + place, entropy_topk.key_index(key))


@triton.jit
def _sort_kernel(key_ptr, N: tl.constexpr, LOG_N: tl.constexpr):
    place = tl.arange(0, N)
    tl.store(key_ptr + place, entropy_topk.sort_descending(tl.load(key_ptr + place), N, LOG_N))


@triton.jit
def _merge_kernel(x_ptr, out_ptr, first, second, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Statistics of columns [0, first) and [first, second) of [ROWS, COLUMNS], merged."""
    rows = tl.arange(0, ROWS)
    present = rows < ROWS
    m, r, t = softmax_stats.row_stats(x_ptr, COLUMNS, rows.to(tl.int64), present, 0, first, ROWS, 4)
    m2, r2, t2 = softmax_stats.row_stats(
        x_ptr, COLUMNS, rows.to(tl.int64), present, first, second, ROWS, 4
    )
    m, r, t = _device.merge_stats(m, r, t, m2, r2, t2)
    entropy, _, lse = _device.finish_stats(m, r, t)
    tl.store(out_ptr + rows, entropy)
    tl.store(out_ptr + ROWS + rows, lse)


@triton.jit
def _coefficient_kernel(
    scalars_ptr,
    v_ptr,
    epsilon,
    margin,
    ridge,
    max_correction,
    RULE: tl.constexpr,
    RELATIVE: tl.constexpr,
    BOUNDED: tl.constexpr,
    N: tl.constexpr,
):
    place = tl.arange(0, N)
    dot = tl.load(scalars_ptr + place)
    guide_norm2 = tl.load(scalars_ptr + N + place)
    grad_norm2 = tl.load(scalars_ptr + 2 * N + place)
    numbers = _rule.Numbers(epsilon, margin, ridge, max_correction, None, None)
    v = _rule.projection_coefficient(dot, guide_norm2, grad_norm2, numbers, RULE, RELATIVE, BOUNDED)
    tl.store(v_ptr + place, v)


@triton.jit
def _residual_kernel(
    x_ptr,
    m_ptr,
    scale_ptr,
    at_label_ptr,
    label_ptr,
    weight_ptr,
    out_ptr,
    B,
    Y,
    R: tl.constexpr,
    C: tl.constexpr,
):
    row, columns = tl.arange(0, R), tl.arange(0, C)
    m, scale, at_label = tl.load(m_ptr + row), tl.load(scale_ptr + row), tl.load(at_label_ptr + row)
    label, weight = tl.load(label_ptr + row), tl.load(weight_ptr + row)
    selected = linear_ce_grad.Selected(
        row, x_ptr + row * Y, m, scale, at_label, label, weight, row < B
    )
    a = linear_ce_grad.residual_tile(selected, weight, columns, Y)
    tl.store(out_ptr + row[:, None] * C + columns[None, :], a)


@triton.jit
def _finish_kernel(partial_ptr, n, v_ptr, dot_ptr, guide_norm2_ptr, grad_norm2_ptr):
    scalars = _rule.Scalars(v_ptr, dot_ptr, guide_norm2_ptr, grad_norm2_ptr)
    numbers = _rule.Numbers(0.5, 0.75, 1e-3, 1.0, None, None)
    _rule.finish_projection(scalars, partial_ptr, n, numbers, 0, False, True, 4)


SPECIAL = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    1e-45,
    -1e-45,
    3.4e38,
    -3.4e38,
    math.inf,
    -math.inf,
    math.nan,
    0.5,
    2.0,
    math.nan,
    1.0,
    -2.0,
]


@pytest.mark.parametrize("first", [0, 1, 2**20, 2**31 - 16])
def test_keys_order_values_then_rows(first: int) -> None:
    """Greater key <=> earlier in (value descending, NaN first, row ascending), and both parts come
    back from the key.
    """
    values = torch.tensor(SPECIAL)
    values.view(torch.int32)[10], values.view(torch.int32)[13] = (
        -0x400000,
        0x7F800001,
    )  # a negative NaN, and one with a payload
    keys, back, index = (
        torch.zeros(16, dtype=torch.int64),
        torch.zeros(16),
        torch.zeros(16, dtype=torch.int64),
    )
    _keys_kernel[(1,)](values, keys, back, index, first, 16)
    assert index.tolist() == list(range(first, first + 16))
    nan = values.isnan()
    assert torch.equal(back.isnan(), nan) and helpers.bits(back[~nan]) == helpers.bits(values[~nan])
    assert keys.unique().numel() == 16 and (keys > -(2**63)).all()
    for i, j in itertools.permutations(range(16), 2):
        a, b = SPECIAL[i], SPECIAL[j]
        if math.isnan(a) or math.isnan(b):
            before = math.isnan(a) and (not math.isnan(b) or i < j)
        elif a == b == 0.0:  # the two zeros are told apart, +0 first; an entropy is never -0
            before = (math.copysign(1.0, a), -i) > (math.copysign(1.0, b), -j)
        else:
            before = (a, -i) > (b, -j)
        assert (keys[i] > keys[j]).item() == before, (a, b)


@pytest.mark.parametrize("log_n", [1, 2, 3, 5, 8, 12])
def test_sort(log_n: int) -> None:
    n = 2**log_n
    rng = np.random.default_rng(log_n)
    cases = [
        np.arange(n),
        np.arange(n)[::-1].copy(),
        rng.integers(-(2**63), 2**63 - 1, n),
        rng.integers(0, 3, n),
    ]
    if (
        n <= 4
    ):  # 0-1 principle: a network that sorts every sequence of zeros and ones sorts everything
        cases += [np.array(bits) for bits in itertools.product((0, 1), repeat=n)]
    for keys in cases:
        tensor = torch.from_numpy(keys.astype(np.int64))
        expected = tensor.sort(descending=True).values
        _sort_kernel[(1,)](tensor, n, log_n)
        assert torch.equal(tensor, expected)


def _rows_of_every_kind() -> torch.Tensor:
    """16 rows of 16: the maximum moves up, down, not at all; -inf, +inf, NaN and huge spreads in
    every tile of 4.
    """
    inf, nan = math.inf, math.nan
    normal = helpers.generator(3)
    x = normal(16, 16, scale=3.0)
    x[1], x[2], x[3] = torch.arange(16.0), -torch.arange(16.0), torch.zeros(16)
    x[4, :8] = -inf
    x[5, 8:] = -inf
    x[6, :] = -inf
    x[7, 1:] = -inf
    x[8, 15] = nan
    x[9, 0] = nan
    x[10, 12] = inf
    x[11, 0] = inf
    x[12] = torch.tensor([-3e38, 3e38] * 8)
    x[13] = torch.tensor([1e4, -1e4] * 8)
    x[14, ::2] = -inf
    x[15] *= 1e-30
    return x


@pytest.mark.parametrize(
    ("first", "second"), [(16, 16), (8, 16), (4, 12), (3, 16), (0, 16), (5, 6)]
)
def test_statistics_of_parts_merge(first: int, second: int) -> None:
    x = _rows_of_every_kind()
    out = torch.full((2, 16), -1.0)
    _merge_kernel[(1,)](x, out, first, second, 16, 16)
    truth = oracle.softmax_stats(helpers.array(x[:, :second]))
    log_p = torch.log_softmax(x[:, :second], 1)
    naive = -torch.where(log_p == -torch.inf, 0.0, log_p.exp() * log_p).sum(1)
    # log s and t / s cancel down to the entropy: their errors are relative to sizes near 1.
    assert_no_worse(out[0], naive, truth.entropy, scale=1.0)
    assert_no_worse(out[1], torch.logsumexp(x[:, :second], 1), truth.lse)


@pytest.mark.parametrize("rule", ["paper", "official"])
@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("bound", [None, 0.0, 0.25, 1e6])
@pytest.mark.parametrize("epsilon", [0.0, 0.5, -0.5])
def test_coefficient(rule: str, relative: bool, bound: float | None, epsilon: float) -> None:
    inf, nan = math.inf, math.nan
    reference = oracle.Rule(
        rule, epsilon, relative, margin=0.75, ridge=0.0078125, max_correction=bound
    )
    arguments, constants = _rule.rule_values(reference), _rule.rule_constants(reference)
    dots, guides, grads = (
        (0.0, 0.4, -0.4, -3.0, 5.0, nan, inf, -inf),
        (0.0, 1e-300, 1.0, 9.0, nan, inf, 1e200, 2.0),
        (0.0, 4.0),
    )
    cases = list(itertools.product(dots, guides, grads))
    scalars, v = (
        torch.tensor(cases, dtype=torch.float64).t().contiguous(),
        torch.zeros(len(cases), dtype=torch.float64),
    )
    values = {name: value for name, value in arguments.items() if not name.endswith("_ptr")}
    _coefficient_kernel[(1,)](scalars, v, **values, **constants, N=len(cases))
    expected = [reference.factor(*case) for case in cases]
    np.testing.assert_allclose(v.numpy(), expected, rtol=1e-14, atol=0.0)


@pytest.mark.parametrize("n", [1, 3, 4, 5, 9])
def test_partial_sums_and_their_negative_rounding(n: int) -> None:
    """All partial sums are added, and a squared norm that rounding made negative counts as 0."""
    partial = torch.arange(-1.0, 3.0 * n, dtype=torch.float64)
    results = [torch.zeros(()) for _ in range(4)]
    _finish_kernel[(1,)](partial, n, *results)
    assert [x.item() for x in results[1:]] == partial[1:].view(3, n).sum(1).tolist()
    assert partial[0].float() == results[0]
    partial[1 + n :] = -1e-20
    _finish_kernel[(1,)](partial, n, *results)
    assert [results[0].item(), *(x.item() for x in results[2:])] == [0.0, 0.0, 0.0]


def test_residuals_outside_are_zero() -> None:
    """Whatever stands in the lanes of absent rows and classes: a row of NaN, an illegal label, an
    infinite weight.
    """
    rows, classes = 5, 6
    x = helpers.generator(0)(rows, classes)
    x[1] = math.nan
    m, scale, at_label = (torch.full((8,), math.nan) for _ in range(3))
    label, weight, out = (
        torch.tensor([0, 1, 5, 3, 4, 1, 2, 3]),
        torch.tensor([1, 1, 1, math.inf, 2, math.nan, 1, 1]),
        torch.full((8, 8), -1.0),
    )
    softmax_stats.launch_stats(
        x, target=label, row_max=m[:rows], row_scale=scale[:rows], row_residual=at_label[:rows]
    )
    label[2] = 7
    _residual_kernel[(1,)](x, m, scale, at_label, label, weight, out, rows, classes, 8, 8)
    assert (out[rows:] == 0.0).all() and (out[:, classes:] == 0.0).all()
    expected = weight[:rows, None] * (
        torch.softmax(x.double(), 1) - torch.nn.functional.one_hot(label[:rows], 8)[:, :classes]
    )
    torch.testing.assert_close(
        out[:rows, :classes].double(), expected, rtol=1e-6, atol=1e-7, equal_nan=True
    )
