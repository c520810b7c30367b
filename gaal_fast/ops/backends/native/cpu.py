"""Backend ``native`` on CPU tensors: the kernels of ``csrc/cpu`` through ``gaal_fast._native_cpu``.

The matrix products are torch's; everything between them is one pass over rows or flat vectors in
C++, vectorized for what the processor has (AVX-512, AVX2, or 16-byte vectors) and run by the
threads torch uses. Sums are kept in float32 within a few hundred terms and in float64 beyond, the
scalars of the projection in float64. Work is cut into pieces that depend on shapes alone: results
are equal bit for bit from run to run and for any number of threads, as far as torch's products are.
"""

from __future__ import annotations

import functools
import importlib
import math
import os
from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor

from gaal_fast.ops._rule import Rule
from gaal_fast.ops.backends import sample_space
from gaal_fast.ops.backends.native.buffers import (
    address,
    contiguous_rows,
    dtype_codes,
    flat_pair,
    rule_numbers,
)
from gaal_fast.ops.backends.protocol import HeadStep, Scalars

_Pairs = tuple[tuple[Tensor, Tensor], ...]
_Numbers = tuple[float, float, float, float]
_RuleNumbers = tuple[bool, float, bool, float, float, float]

# Break-even of the sample-space path, in multiply-adds per element of the head.
_BREAK_EVEN = 10
# The same beyond 32 MiB: the C library asks the system for new memory each time, and every page of
# it costs a fault; that weighs more than all the rest.
_BREAK_EVEN_NEW_MEMORY = 100
_NEW_MEMORY = 32 << 20
# How many times larger than the result the sum of absolute values may be, see
# `_project_in_sample_space`.
_MOST_CANCELLATION = 16.0
# Sum of squares of a matrix of inner products below which its elements may have lost digits to the
# smallest numbers of float32.
_LEAST_NORM2 = 2.0**-200
_SMALLEST, _LARGEST = torch.finfo(torch.float32).tiny, torch.finfo(torch.float32).max

# MKL takes up to a quarter longer for thousands of rows times a transposed matrix than for the same
# rows a thousand at a time.
_ROWS_OF_A_PRODUCT = 1024

# Forces the instruction set of the kernels, for tests: portable, avx2 or avx512.
_ISA_VARIABLE = "GAAL_FAST_ISA"
_ISAS = ("portable", "avx2", "avx512")

_obstacle: str | None = None
try:
    _kernels: ModuleType = importlib.import_module("gaal_fast._native_cpu")
except (ImportError, OSError) as error:
    _obstacle = f"the C++ kernels were not built: {error}"
CODES = {} if _obstacle else dtype_codes(_kernels)


@functools.cache
def _isa() -> int:
    """What the kernels take for "the best", or the one that the environment asks for."""
    name = os.environ.get(_ISA_VARIABLE)
    if not name:
        return -1
    if name not in _ISAS:
        raise ValueError(
            f"{_ISA_VARIABLE}: unknown instruction set {name!r}; choose from {', '.join(_ISAS)}"
        )
    return _ISAS.index(name)


def availability(device: torch.device) -> str | None:
    """None where the kernels were built for this machine, otherwise the reason in one line."""
    if device.type != "cpu":
        return "the C++ kernels take CPU tensors only"
    if _obstacle is not None:
        return _obstacle
    if _isa() >= 0 and _ISAS[_isa()] not in _kernels.isas():
        return f"{_ISA_VARIABLE} asks for {_ISAS[_isa()]}, which this machine or this build lacks"
    return None


def supports(op: str, *tensors: Tensor) -> bool:
    """float32, bfloat16 and float16, in one call if need be."""
    for tensor in tensors:  # noqa: SIM110  all() takes twice as long
        if tensor.dtype not in CODES:
            return False
    return True


def softmax_stats(logits: Tensor, target: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    logits = contiguous_rows(logits)
    n_rows, n_classes = logits.shape
    entropy = _empty_float32(logits, n_rows)
    lse = entropy.new_empty(n_rows)
    nll = None if target is None else entropy.new_empty(n_rows)
    _kernels.softmax_stats(
        *(CODES[logits.dtype], logits.data_ptr(), logits.stride()[0], n_rows, n_classes),
        *(address(target), entropy.data_ptr(), lse.data_ptr(), address(nll)),
        *_run(),
    )
    return entropy, lse, nll


def entropy_topk(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    logits = contiguous_rows(logits)
    entropy = _empty_float32(logits, k)
    index = logits.new_empty(k, dtype=torch.int64)
    _kernels.entropy_topk(
        *(CODES[logits.dtype], logits.data_ptr(), logits.stride()[0], *logits.shape),
        *(k, entropy.data_ptr(), index.data_ptr()),
        *_run(),
    )
    return entropy, index


def linear_ce_grad(
    features: Tensor,
    logits: Tensor,
    target: Tensor,
    index: Tensor | None,
    class_weights: Tensor | None,
) -> tuple[Tensor, Tensor]:
    dtype, work = features.dtype, _product_dtype(features.dtype)
    logits = contiguous_rows(logits)
    n_rows, n_classes = logits.shape
    n, source, chosen = n_rows, None, features
    if index is not None:
        n, source = index.shape[0], contiguous_rows(features)
        chosen = features.new_empty(n, features.shape[1])
    like = features if work is dtype else _empty_float32(features, 0)
    residual, grad_bias = like.new_empty(n, n_classes), like.new_empty(n_classes)
    _kernels.residual(
        *(CODES[logits.dtype], logits.data_ptr(), logits.stride()[0], n_rows, n_classes),
        *(target.data_ptr(), address(class_weights), address(index), n, *_features(source, chosen)),
        *(CODES[work], residual.data_ptr(), n_classes, grad_bias.data_ptr()),
        *_run(),
    )
    grad_weight = torch.mm(residual.t(), chosen if work is dtype else chosen.to(work))
    return (
        (grad_weight, grad_bias) if work is dtype else (grad_weight.to(dtype), grad_bias.to(dtype))
    )


def project_(grads: Sequence[Tensor], guides: Sequence[Tensor], rule: Rule) -> Scalars:
    pairs = [flat_pair(*pair) for pair in zip(grads, guides, strict=True)]
    scalars = _kernels.project(*_pairs(*pairs), rule_numbers(rule), *_run())
    if scalars[0] != 0.0:
        for grad, (updated, _) in zip(grads, pairs, strict=True):
            if updated is not grad:
                grad.copy_(updated)
    v, dot, guide_norm2, grad_norm2 = _scalars(grads[0], *scalars)
    return v, dot, guide_norm2, grad_norm2


def guided_linear_ce(
    features: Tensor,
    target: Tensor,
    guide_features: Tensor,
    guide_target: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    class_weights: Tensor | None,
    top_k: int,
    rule: Rule,
) -> HeadStep:
    dtype, work = features.dtype, _product_dtype(features.dtype)
    if work is not dtype:
        features, guide_features, weight = (
            features.to(work),
            guide_features.to(work),
            weight.to(work),
        )
        bias = None if bias is None else bias.to(work)

    transposed = weight.t()
    logits, guide_logits = _logits(features, transposed), _logits(guide_features, transposed)
    guide_features = contiguous_rows(guide_features)
    (n_rows, n_classes), width = logits.shape, weight.shape[1]
    selected = features.new_empty(top_k, width)
    guide_residual = logits.new_empty(top_k, n_classes)
    grad_bias, guide_grad_bias = logits.new_empty(n_classes), logits.new_empty(n_classes)
    index = target.new_empty(top_k)
    loss = _kernels.guided_residuals(
        *(CODES[work], n_classes, address(bias), address(class_weights)),
        *(logits.data_ptr(), n_rows, target.data_ptr(), grad_bias.data_ptr()),
        *(guide_logits.data_ptr(), guide_logits.shape[0], guide_target.data_ptr()),
        *(*_features(guide_features, selected), top_k, index.data_ptr()),
        *(guide_residual.data_ptr(), guide_grad_bias.data_ptr()),
        *_run(),
    )
    residual = logits  # it was overwritten
    grad_features = _times_weight(residual, weight)
    grad_weight = torch.mm(residual.t(), features)

    biases = () if bias is None else ((grad_bias, guide_grad_bias),)
    scalars = _project_head(
        grad_weight, residual, features, guide_residual, selected, biases, rule_numbers(rule)
    )
    if work is not dtype:
        grad_features, grad_weight = grad_features.to(dtype), grad_weight.to(dtype)
        grad_bias = grad_bias.to(dtype)
    loss, v, dot, guide_norm2, grad_norm2 = _scalars(features, loss, *scalars)
    return (
        *(loss, grad_features, grad_weight, None if bias is None else grad_bias),
        *(v, dot, guide_norm2, grad_norm2, index),
    )


def _empty_float32(like: Tensor, size: int) -> Tensor:
    """A vector with nothing in it yet.

    new_empty, here and elsewhere, is the cheapest way to one that does not look at the default
    dtype and device; cheaper still where it need not look for another dtype.
    """
    if like.dtype is torch.float32:
        return like.new_empty(size)
    return like.new_empty(size, dtype=torch.float32)


def _run() -> tuple[int, int]:
    """The number of threads and the instruction set, the last arguments of every kernel."""
    return torch.get_num_threads(), _isa()


def _features(source: Tensor | None, chosen: Tensor) -> tuple[int, int, int, int]:
    """Rows of features as the kernels take them, and the tensor for a copy of those that are
    chosen.
    """
    if source is None:
        return 0, 0, 0, 0
    size = source.element_size()
    return source.data_ptr(), source.stride()[0] * size, source.shape[1] * size, chosen.data_ptr()


@functools.cache
def _product_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of the matrix products. Half precision is widened where the processor cannot
    multiply it: there torch's products of half-precision matrices take many times as long as those
    of float32.
    """
    return (
        dtype
        if dtype is torch.bfloat16 and torch.cpu._is_avx512_bf16_supported()
        else torch.float32
    )


def _logits(features: Tensor, transposed: Tensor) -> Tensor:
    """features @ transposed."""
    n_rows = features.shape[0]
    if n_rows <= 2 * _ROWS_OF_A_PRODUCT or transposed.shape[1] < _ROWS_OF_A_PRODUCT // 8:
        return torch.mm(features, transposed)
    logits = features.new_empty(n_rows, transposed.shape[1])
    for first in range(0, n_rows, _ROWS_OF_A_PRODUCT):
        torch.mm(
            features[first : first + _ROWS_OF_A_PRODUCT],
            transposed,
            out=logits[first : first + _ROWS_OF_A_PRODUCT],
        )
    return logits


def _times_weight(residual: Tensor, weight: Tensor) -> Tensor:
    """residual @ weight."""
    n_rows, n_classes = residual.shape
    small = n_classes <= _kernels.small_inner and residual.dtype is torch.float32
    if not small or not (weight.is_contiguous() or weight.stride(1) == 1):
        return torch.mm(residual, weight)
    width = weight.shape[1]
    out = residual.new_empty(n_rows, width)
    _kernels.small_matmul(
        *(residual.data_ptr(), residual.stride()[0], weight.data_ptr(), weight.stride()[0]),
        *(n_rows, n_classes, width, out.data_ptr(), width),
        *_run(),
    )
    return out


def _pairs(*pairs: tuple[Tensor, Tensor]) -> tuple[list[int], list[int], list[int], list[int]]:
    """Gradients and guides as the kernels take them: dtypes, two lists of addresses, sizes."""
    codes, grads, guides, sizes = [], [], [], []
    for grad, guide in pairs:
        codes.append(CODES[grad.dtype])
        grads.append(grad.data_ptr())
        guides.append(guide.data_ptr())
        sizes.append(grad.numel())
    return codes, grads, guides, sizes


def _inner_products(*pairs: tuple[Tensor, Tensor]) -> tuple[float, float, float]:
    """<g, h>, <h, h> and <g, g> of the pairs (g, h) seen as two flat vectors."""
    return _kernels.inner_products(*_pairs(*pairs), *_run())


def sample_space_is_cheaper(rows: int, k: int, classes: int, width: int) -> bool:
    """Whether to take <g, g_p> and ‖g_p‖² from products of samples, without forming g_p.

    That multiplies k guide rows with B + k rows, and saves, for every element of the head, writing
    g_p and reading both gradients again.
    """
    break_even = _BREAK_EVEN if 4 * classes * width < _NEW_MEMORY else _BREAK_EVEN_NEW_MEMORY
    return sample_space.is_cheaper((rows + k) * k, classes, width, break_even)


def _project_head(
    grad_weight: Tensor,
    residual: Tensor,
    features: Tensor,
    guide_residual: Tensor,
    guide_features: Tensor,
    biases: _Pairs,
    rule: _RuleNumbers,
) -> _Numbers:
    """Project G = Aᵀ U, and with it the biases in ``biases``, on G_p = A_pᵀ U_p, in place."""
    top_k, n_classes = guide_residual.shape
    if not top_k:
        # No guide at all differs from a guide of zeros: it does not even look whether g is finite.
        own = _inner_products((grad_weight, grad_weight), *((g, g) for g, _ in biases))
        return 0.0, 0.0, 0.0, own[2]
    rows, width = features.shape
    operands = grad_weight, residual, features, guide_residual, guide_features
    if grad_weight.dtype is torch.float32 and sample_space_is_cheaper(
        rows, top_k, n_classes, width
    ):
        scalars = _project_in_sample_space(*operands, biases, rule)
        if scalars is not None:
            return scalars
    pair = grad_weight, torch.mm(guide_residual.t(), guide_features)
    return _kernels.project(*_pairs(pair, *biases), rule, *_run())


def _project_in_sample_space(
    grad_weight: Tensor,
    residual: Tensor,
    features: Tensor,
    guide_residual: Tensor,
    guide_features: Tensor,
    biases: _Pairs,
    rule: _RuleNumbers,
) -> _Numbers | None:
    """The same from products of samples, see :mod:`gaal_fast.ops.backends.sample_space`.

    None, with nothing changed, where these sums cancel so far that the rounding of the two factors
    would show, and where the factors or v leave the range of float32: the direct way squares sums
    that are formed already, in float64, and has no such trouble.
    """
    cross = torch.mm(residual, guide_residual.t()), torch.mm(features, guide_features.t())
    own = torch.mm(guide_residual, guide_residual.t()), torch.mm(guide_features, guide_features.t())
    dot, *cross_norms2 = _inner_products(cross)
    guide_norm2, *own_norms2 = _inner_products(own)
    grad_norm2 = _inner_products((grad_weight, grad_weight))[2]
    if biases:
        products = _inner_products(*biases)
        dot, guide_norm2, grad_norm2 = (
            dot + products[0],
            guide_norm2 + products[1],
            grad_norm2 + products[2],
        )
    # What is broken goes on as it is. The residuals of confident rows are e^-gap, and their
    # products soon nothing.
    if math.isfinite(grad_norm2 + own_norms2[1]) and not all(
        _LEAST_NORM2 < n < math.inf for n in (*own_norms2, *cross_norms2)
    ):
        return None
    # By Cauchy and Schwarz the left sides bound the sums of absolute values, and rounding is
    # relative to those. NaN goes on as it is.
    if (
        math.prod(own_norms2) > (_MOST_CANCELLATION * guide_norm2) ** 2
        or math.prod(cross_norms2) > _MOST_CANCELLATION**2 * guide_norm2 * grad_norm2
    ):
        return None
    v = _kernels.correction(dot, guide_norm2, grad_norm2, rule)
    if 0.0 < v < _SMALLEST or v > _LARGEST:
        return None
    if v != 0.0:
        grad_weight.addmm_(guide_residual.t(), guide_features, alpha=v)
        for grad, guide in biases:
            grad.add_(guide, alpha=v)
    return v, dot, guide_norm2, grad_norm2


def _scalars(like: Tensor, *values: float) -> list[Tensor]:
    """0-d float32 tensors.

    Filling them by torch takes four times as long, when the code for it is in no cache.
    """
    first = like.new_empty((), dtype=torch.float32)
    # Half the time of new_empty.
    results = [first] + [torch.empty_like(first) for _ in values[1:]]
    _kernels.write_floats([result.data_ptr() for result in results], values)
    return results
