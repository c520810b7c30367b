"""Backend ``torch``: every op in plain PyTorch, on any device and for float64 too. The readable
reference of the other backends.

Sums are kept in float32 (float64 for float64 input), the scalars of the projection in float64.
Nothing here reads a value back from another device, and no sum depends on timing, so results are
equal bit for bit from run to run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from gaal_fast.ops._checks import accumulator
from gaal_fast.ops._rule import Rule
from gaal_fast.ops.backends import sample_space
from gaal_fast.ops.backends.protocol import HeadStep, Scalars

# Elements of a gradient that are widened to float64 at a time: the temporaries stay in a core's
# cache on a CPU, and on a GPU large gradients still take few launches.
_CPU_BLOCK = 1 << 15
_DEVICE_BLOCK = 1 << 22

# Columns of half-precision features or weights that are widened to float32 at a time.
_COLUMNS = 1024

# Largest exponents of the powers of two that bring numbers into the range of float32, far enough
# from its end.
_MOST_SCALE = 96
_MOST_POWER = 126

# The sample-space path is taken where its extra multiply-adds number less than this for every
# element of the head's gradient: about what one pass of the direct path's inner products and update
# over an element costs, in multiply-adds of a float32 matrix product.
_BREAK_EVEN = 100


def availability(device: torch.device) -> str | None:
    """Every device that PyTorch has."""
    return None


def supports(op: str, *tensors: Tensor) -> bool:
    """Every call."""
    return True


def softmax_stats(logits: Tensor, target: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """With m the row's maximum, r = Σ e^(x-m) without one copy of m and t = Σ e^(x-m) (x-m):
    H = log1p r - t / (1 + r), lse = m + log1p r, nll = log1p r - (x_y - m). Neither log1p r nor -t
    cancels anything, however small r is.
    """
    top, _, shifted, others, rest = _without_largest(logits)
    # 0 · -inf is NaN, but a class of probability 0 adds nothing to the entropy.
    t = (others * shifted).masked_fill_(shifted == -torch.inf, 0.0).sum(dim=1)
    log_s = rest.log1p()
    nll = None if target is None else log_s - _at_target(shifted, target)
    return log_s - t / (1.0 + rest), top.squeeze(1) + log_s, nll


def entropy_topk(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """A stable descending sort: ties stay in the order of the rows, NaN comes first."""
    entropy, index = softmax_stats(logits, None)[0].sort(descending=True, stable=True)
    return entropy[:k].clone(), index[:k].clone()


def linear_ce_grad(
    features: Tensor,
    logits: Tensor,
    target: Tensor,
    index: Tensor | None,
    class_weights: Tensor | None,
) -> tuple[Tensor, Tensor]:
    if index is not None:
        features, logits, target = (
            features.index_select(0, index),
            logits.index_select(0, index),
            target.index_select(0, index),
        )
    _, residual = _loss_and_residual(logits, target, class_weights)
    return _product(residual.t(), features, features.dtype), residual.sum(dim=0).to(features.dtype)


def project_(grads: Sequence[Tensor], guides: Sequence[Tensor], rule: Rule) -> Scalars:
    dot, guide_norm2, grad_norm2 = _inner_products(grads, guides)
    v = _correction(dot, guide_norm2, grad_norm2, rule)
    _add_scaled(grads, guides, v)
    dtype = torch.float64 if any(grad.dtype == torch.float64 for grad in grads) else torch.float32
    return v.to(dtype), dot.to(dtype), guide_norm2.to(dtype), grad_norm2.to(dtype)


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
    logits = torch.nn.functional.linear(features, weight, bias)
    loss, residual = _loss_and_residual(logits, target, class_weights)
    grad_features = _product(residual, weight, weight.dtype)

    guide_logits = torch.nn.functional.linear(guide_features, weight, bias)
    _, index = entropy_topk(guide_logits, top_k)
    guide_features = guide_features.index_select(0, index)
    _, guide_residual = _loss_and_residual(
        guide_logits.index_select(0, index), guide_target.index_select(0, index), class_weights
    )

    path = (
        _head_gradient_gram
        if sample_space_is_cheaper(len(features), top_k, *weight.shape)
        else _head_gradient_direct
    )
    grad_weight, grad_bias, *scalars = path(
        residual, features, guide_residual, guide_features, bias is not None, rule
    )
    v, dot, guide_norm2, grad_norm2 = (scalar.to(residual.dtype) for scalar in scalars)
    grad_weight = grad_weight.to(weight.dtype)
    grad_bias = None if grad_bias is None else grad_bias.to(weight.dtype)
    return loss, grad_features, grad_weight, grad_bias, v, dot, guide_norm2, grad_norm2, index


def _at_target(rows: Tensor, target: Tensor) -> Tensor:
    """rows[i, target[i]], NaN where the target is no column: on a GPU nobody has looked at the
    labels before.
    """
    classes = rows.shape[1]
    legal = (target >= 0) & (target < classes)
    return torch.where(
        legal, rows.gather(1, target.clamp(0, classes - 1)[:, None]).squeeze(1), torch.nan
    )


def _without_largest(logits: Tensor) -> tuple[Tensor, ...]:
    """m and the column of one class that has it, x - m, e^(x-m) with 0 in that column, and the sum
    of this over the row.
    """
    # In one layout, so that equal rows get equal sums wherever they lie: the order of a sum depends
    # on the strides.
    x = logits.to(accumulator(logits.dtype)).contiguous()
    top, column = x.max(dim=1, keepdim=True)
    shifted = x - top
    others = shifted.exp()
    # e^0 - 1, so that a NaN stays one.
    _add_at(others, column, -1.0)
    return top, column, shifted, others, others.sum(dim=1)


def _add_at(matrix: Tensor, column: Tensor, values: Tensor | float) -> None:
    """matrix[i, column[i]] += values[i]."""
    matrix.scatter_(1, column, matrix.gather(1, column) + values)


def _loss_and_residual(
    logits: Tensor, target: Tensor, class_weights: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The mean cross-entropy and its gradient to the logits, A_i = w_i (p_i - onehot(y_i)), in the
    accumulator's dtype.

    (1 + r) (p_y - 1) is -r for the largest class and e^(x_y-m) - (1 + r) for another one: nothing
    cancels in either.
    """
    _, column, shifted, residual, rest = _without_largest(logits)
    nll = rest.log1p() - _at_target(shifted, target)
    legal = target.clamp(0, logits.shape[1] - 1)
    share = torch.ones_like(nll) if class_weights is None else class_weights[legal]
    share = share / share.sum()
    share = torch.where(legal == target, share, torch.nan)
    # The one-hot vector has one element per row: subtracted there, it is never formed.
    legal, rest = legal[:, None], rest[:, None]
    other = (legal != column).to(rest.dtype)
    _add_at(residual, legal, -(rest + other))
    _add_at(residual, column, other)
    # The sum of no terms is 0, but the mean of no terms is NaN.
    loss = (share * nll).sum() if len(nll) else nll.mean()
    return loss, residual.mul_(share[:, None] / (1.0 + rest))


def _product(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """a @ b in ``dtype``, with ``a`` and the sums in the accumulator's dtype. Half-precision ``b``
    is widened some columns at a time.
    """
    if a.dtype == b.dtype:
        return a @ b
    out = torch.empty(a.shape[0], b.shape[1], dtype=dtype, device=b.device)
    for columns, block in zip(out.split(_COLUMNS, dim=1), b.split(_COLUMNS, dim=1), strict=True):
        columns.copy_(a @ block.to(a.dtype))
    return out


def sample_space_is_cheaper(rows: int, k: int, classes: int, width: int) -> bool:
    """Whether to take the inner products of the head's gradients in sample space.

    With B rows and k guide rows the Gram matrices hold B² + Bk + k² pairs. The direct path takes a
    handful of passes over the elements of both gradients that the Gram path does not.
    """
    pairs = rows * rows + rows * k + k * k
    return sample_space.is_cheaper(pairs, classes, width, _BREAK_EVEN)


def _head_gradient_direct(
    residual: Tensor,
    features: Tensor,
    guide_residual: Tensor,
    guide_features: Tensor,
    has_bias: bool,
    rule: Rule,
) -> tuple[Tensor, Tensor | None, Tensor, Tensor, Tensor, Tensor]:
    """Both gradients formed, then projected: (grad_weight, grad_bias | None, v, <g, g_p>, ‖g_p‖²,
    ‖g‖²).
    """
    grads, guides = (
        [_product(a.t(), u, a.dtype)] + ([a.sum(dim=0)] if has_bias else [])
        for a, u in ((residual, features), (guide_residual, guide_features))
    )
    if len(guide_residual):
        v, dot, guide_norm2, grad_norm2 = project_(grads, guides, rule)
    # no guide at all differs from a guide of zeros: it does not even look whether g is finite
    else:
        grad_norm2 = _inner_products(grads, grads)[0]
        v, dot, guide_norm2 = grad_norm2.new_zeros(3).unbind()
    return grads[0], grads[1] if has_bias else None, v, dot, guide_norm2, grad_norm2


def _head_gradient_gram(
    residual: Tensor,
    features: Tensor,
    guide_residual: Tensor,
    guide_features: Tensor,
    has_bias: bool,
    rule: Rule,
) -> tuple[Tensor, Tensor | None, Tensor, Tensor, Tensor, Tensor]:
    """The same from inner products of samples, with g_p never formed, see
    :mod:`gaal_fast.ops.backends.sample_space`.

    The bias is a feature that is always 1, so it adds 1 to every element of the second matrix.
    """
    (a, scale_a), (a_p, scale_a_p) = _near_one(residual), _near_one(guide_residual)
    (u, scale_u), (u_p, scale_u_p) = (
        _near_one(features.to(residual.dtype)),
        _near_one(guide_features.to(residual.dtype)),
    )
    scale, scale_p = scale_a * scale_u, scale_a_p * scale_u_p
    one, one_p = (scale_u, scale_u_p) if has_bias else (0.0, 0.0)

    def inner(a: Tensor, u: Tensor, b: Tensor, w: Tensor, ones: Tensor | float) -> Tensor:
        # Few terms, and they cancel where the gradients are nearly orthogonal: float64 costs
        # nothing.
        wide = _scalar_dtype(a.device)
        return torch.dot((a @ b.t()).to(wide).flatten(), ((u @ w.t()).to(wide) + ones).flatten())

    dot = inner(a, u, a_p, u_p, one * one_p) / scale / scale_p
    guide_norm2 = inner(a_p, u_p, a_p, u_p, one_p * one_p) / scale_p / scale_p
    grad_norm2 = inner(a, u, a, u, one * one) / scale / scale
    v = _correction(dot, guide_norm2, grad_norm2, rule)
    added = a_p * (v / scale_p).to(a_p.dtype)
    grad_weight = _product(residual.t(), features, residual.dtype).addmm_(added.t(), u_p)
    grad_bias = residual.sum(dim=0) + (added * one_p).sum(dim=0) if has_bias else None
    return grad_weight, grad_bias, v, dot, guide_norm2, grad_norm2


def _near_one(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """``matrix`` times a power of two that brings its largest element near 1, and that power, 0-d
    in float64.

    The residual of a confident row is e^-gap, and the square of that is no number of float32 any
    more.
    """
    largest = matrix.abs().max() if matrix.numel() else matrix.new_ones(())
    exponent = (
        largest.to(_scalar_dtype(matrix.device)).log2().floor().clamp(-_MOST_SCALE, _MOST_SCALE)
    )
    scale = torch.exp2(-exponent.nan_to_num())  # a NaN stays in its own row
    return matrix * scale.to(matrix.dtype), scale


def _scalar_dtype(device: torch.device) -> torch.dtype:
    """float64, except on Apple's GPUs, which have none."""
    return torch.float32 if device.type == "mps" else torch.float64


def _blocks(g: Tensor, p: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Matching views of ``g`` and ``p``, each small enough to be widened."""
    size = _CPU_BLOCK if g.is_cpu else _DEVICE_BLOCK
    if g.numel() <= size:
        yield g, p
    elif g.is_contiguous() and p.is_contiguous():
        yield from zip(g.view(-1).split(size), p.view(-1).split(size), strict=True)
    else:
        longest = max(range(g.dim()), key=g.size)
        step = max(1, g.size(longest) * size // g.numel())
        for part, other in zip(g.split(step, dim=longest), p.split(step, dim=longest), strict=True):
            yield from _blocks(part, other)


def _inner_products(
    grads: Sequence[Tensor], guides: Sequence[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """<g, g_p>, ‖g_p‖² and ‖g‖² in float64, block by block, so that no copy of a gradient is ever
    made.
    """
    dtype = _scalar_dtype(grads[0].device)
    total = torch.zeros(3, dtype=dtype, device=grads[0].device)
    for grad, guide in zip(grads, guides, strict=True):
        for g, p in _blocks(grad, guide):
            g, p = g.reshape(-1).to(dtype), p.reshape(-1).to(dtype)
            total += torch.stack((torch.dot(g, p), torch.dot(p, p), torch.dot(g, g)))
    dot, guide_norm2, grad_norm2 = total.unbind()
    return dot, guide_norm2, grad_norm2


def _correction(dot: Tensor, guide_norm2: Tensor, grad_norm2: Tensor, rule: Rule) -> Tensor:
    """v of equation 5, or of the released code, from 0-d tensors. ``clamp`` and ``minimum`` keep
    NaN, unlike a comparison.
    """
    kind, epsilon, relative, margin, ridge, bound = rule
    if kind == "paper":
        target = epsilon * grad_norm2.sqrt() * guide_norm2.sqrt() if relative else epsilon
        v = ((target - dot) / guide_norm2).clamp(min=0.0)
    else:
        v = torch.where(dot < 0, (-dot / (guide_norm2 + ridge)).clamp(min=margin), 0.0)
    if bound is not None:
        v = torch.minimum(v, bound * (grad_norm2 / guide_norm2).sqrt())
    v = torch.where(guide_norm2 == 0, 0.0, v)
    return torch.where(dot.isfinite() & guide_norm2.isfinite(), v, torch.nan)


def _add_scaled(grads: Sequence[Tensor], guides: Sequence[Tensor], v: Tensor) -> None:
    """g += v g_p, except that nothing at all happens for v = 0 (adding 0 would turn -0 into 0).

    v may be beyond float32 although v g_p is not, so it is applied in two factors, of which the
    first is a power of two and mostly 1.
    """
    still = v == 0
    on_host = still.is_cpu  # a look at v is then no synchronization
    if on_host and still:
        return
    exponent = v.log2().floor()
    power = torch.exp2(
        (exponent - exponent.clamp(-_MOST_SCALE, _MOST_SCALE)).clamp(-_MOST_POWER, _MOST_POWER)
    )
    for grad, guide in zip(grads, guides, strict=True):
        dtype = accumulator(grad.dtype)
        coarse, fine = power.to(dtype), (v / power).to(dtype)
        if on_host and grad.dtype == dtype and power == 1:
            grad.addcmul_(guide, fine)
            continue
        for g, p in _blocks(grad, guide):
            g.copy_(
                torch.where(
                    still, g, torch.addcmul(g.to(dtype), p.to(dtype) * coarse, fine).to(g.dtype)
                )
            )
