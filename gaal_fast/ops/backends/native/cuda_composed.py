"""The large head steps of backend ``native`` on CUDA: PyTorch's matrix products, and kernels for
what lies between.

Residuals carry no 1/B: in float16 it would push small probabilities below the smallest number. It
enters as a factor of the products. They do carry a power of two, sigma (see ``api.h``), which the
kernels after the products take away.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from gaal_fast.ops._rule import Rule
from gaal_fast.ops.backends.native import cuda_host as host
from gaal_fast.ops.backends.native.buffers import address
from gaal_fast.ops.backends.protocol import HeadStep


class Rows(NamedTuple):
    """A batch in front of the head.

    Attributes:
        features: (n, d), of the chosen rows only where some are chosen.
        logits: (B, Y), with contiguous rows.
        target: (B,) int64.
        chosen: (n,) int64, which rows; None for all.
    """

    features: Tensor
    logits: Tensor
    target: Tensor
    chosen: Tensor | None = None

    def residual(
        self, class_weights: Tensor | None, out: Tensor, sigma: Tensor, loss: Tensor | None = None
    ) -> None:
        """out[i] = sigma w (p - onehot) of row chosen[i], with w the row's class weight over the
        mean of those; ``out`` may be the logits.

        The kernels choose ``sigma``, a float64 tensor of one element; 1 where there is no row.
        """
        count, classes = out.shape
        if not count:
            sigma.fill_(1.0)
            if loss is not None:
                loss.fill_(math.nan)  # the mean of nothing
            return
        workspace = host.workspace("ce_residual", out.device, count, classes)
        host.module().ce_residual(
            *(*host.place(self.logits), host.matrix(self.logits), self.target.data_ptr()),
            *(address(self.chosen), count, address(class_weights), out.data_ptr(), out.stride(0)),
            *(sigma.data_ptr(), address(loss), address(workspace)),
        )


def linear_ce_grad(rows: Rows, class_weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """The gradient of all rows, with their residuals in memory."""
    dtype, device = rows.logits.dtype, rows.logits.device
    residual = torch.empty(*rows.logits.shape, dtype=dtype, device=device)
    sigma = torch.empty(1, dtype=torch.float64, device=device)
    rows.residual(class_weights, residual, sigma)
    grad_weight, grad_bias = _weighted_sum(residual, rows.features)
    return _unscaled(grad_weight, sigma), _unscaled(grad_bias, sigma)


def direct_step(
    batch: Rows,
    guide: Rows,
    weight: Tensor,
    has_bias: bool,
    class_weights: Tensor | None,
    rule: Rule,
) -> HeadStep:
    """Both head gradients formed, then projected."""
    logits, device, (rows, classes) = batch.logits, weight.device, batch.logits.shape
    loss = torch.empty((), dtype=torch.float32, device=device)
    sigmas = torch.empty(2, dtype=torch.float64, device=device)
    guide_residual = torch.empty(len(guide.features), classes, dtype=weight.dtype, device=device)
    guide.residual(class_weights, guide_residual, sigmas[1:])
    batch.residual(class_weights, logits, sigmas[:1], loss)
    grad_features = _unscaled(_scaled_product(logits, weight, 1 / max(rows, 1)), sigmas[:1])
    grads = _weighted_sum(logits, batch.features)
    guides = _weighted_sum(guide_residual, guide.features)
    pairs = list(zip(grads, guides, strict=True))[: 1 + has_bias]
    scalars = host.project(pairs, rule, sigmas)
    grad_weight, grad_bias = grads
    v, dot, guide_norm2, grad_norm2 = scalars
    assert guide.chosen is not None
    return (
        *(loss, grad_features, grad_weight, grad_bias if has_bias else None),
        *(v, dot, guide_norm2, grad_norm2, guide.chosen),
    )


def step_in_sample_space(
    batch: Rows,
    guide: Rows,
    weight: Tensor,
    has_bias: bool,
    class_weights: Tensor | None,
    rule: Rule,
) -> HeadStep:
    """Inner products from Gram matrices, and one product over the stacked rows.

    There has to be a row and a guide row.
    """
    device, dtype, (rows, classes) = weight.device, weight.dtype, batch.logits.shape
    top_k = len(guide.features)
    loss = torch.empty((), dtype=torch.float32, device=device)
    sigmas = torch.empty(2, dtype=torch.float64, device=device)
    residual = torch.empty(rows + top_k, classes, dtype=dtype, device=device)
    batch.residual(class_weights, residual[:rows], sigmas[:1], loss)
    guide.residual(class_weights, residual[rows:], sigmas[1:])
    stacked = torch.cat((batch.features, guide.features))
    residual_gram, feature_gram = gram(residual), gram(stacked)
    scalars = torch.empty(4, dtype=torch.float32, device=device)
    workspace = host.workspace("gram_project", device, rows, top_k)
    host.module().gram_project(
        *(*host.place(residual), rows, top_k, residual_gram.data_ptr(), feature_gram.data_ptr()),
        *(has_bias, sigmas.data_ptr(), residual.data_ptr(), classes, host.rule_arguments(rule)),
        *(scalars.data_ptr(), address(workspace)),
    )
    grad_features = _scaled_product(residual[:rows], weight, 1 / rows)
    grad_weight, grad_bias = _weighted_sum(residual, stacked, rows)
    v, dot, guide_norm2, grad_norm2 = scalars.unbind()
    assert guide.chosen is not None
    return (
        *(loss, grad_features, grad_weight, grad_bias if has_bias else None),
        *(v, dot, guide_norm2, grad_norm2, guide.chosen),
    )


def gram(x: Tensor) -> Tensor:
    """x xᵀ in float32: rounding it to half precision would cost more than rounding the operands."""
    return x @ x.t() if x.dtype is torch.float32 else torch.mm(x, x.t(), out_dtype=torch.float32)


def _unscaled(tensor: Tensor, sigma: Tensor) -> Tensor:
    """``tensor``, a contiguous one, divided in place by ``sigma``. Where that is 1 the kernel only
    looks.
    """
    host.module().unscale(*host.place(tensor), tensor.data_ptr(), tensor.numel(), sigma.data_ptr())
    return tensor


def _scaled_product(a: Tensor, b: Tensor, factor: float) -> Tensor:
    return a.new_empty(a.shape[0], b.shape[1]).addmm_(a, b, beta=0, alpha=factor)


def _weighted_sum(
    residual: Tensor, features: Tensor, rows: int | None = None
) -> tuple[Tensor, Tensor]:
    """residualᵀ features / rows and the column sums of the residuals over ``rows`` (how many
    residuals there are if None).
    """
    factor = 1 / max(residual.shape[0] if rows is None else rows, 1)
    grad_weight = _scaled_product(residual.t(), features, factor)
    return grad_weight, residual.sum(0, dtype=torch.float32).mul_(factor).to(residual.dtype)
