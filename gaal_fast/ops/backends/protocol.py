"""The contract of a backend, as a type that every backend is checked against.

B rows, Y classes, d features, k selected rows, P guide rows. B, P, k and d may be 0; Y is at least
1.

What the public wrapper has already seen to when one of these functions is called: every argument
has the right type and shape and one device; ``features``, ``logits``, ``guide_features``,
``weight`` and ``bias`` share one floating dtype, with any strides (``bias`` contiguous);
``target``, ``guide_target`` and ``index`` are contiguous int64, and in range on the CPU (nowhere
else: looking would cost a synchronization, so a backend writes NaN for an illegal label);
``class_weights`` is contiguous float32, or float64 beside float64 features; ``0 <= k <= B`` and
``0 <= top_k <= P``;
``grads`` and ``guides`` are non-empty lists of equal length with equal shapes and dtypes pair by
pair, with any strides; the pairs of one call may differ in dtype among themselves (a backend that
wants one dtype says so in ``supports``); ``rule`` is checked; no gradient is being recorded and
autocast is off.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from gaal_fast.ops._rule import Rule

# v, <g, g_p>, ‖g_p‖² and ‖g‖²: 0-d, float32 (float64 where a gradient is float64).
Scalars = tuple[Tensor, Tensor, Tensor, Tensor]
# loss, grad_features[B,d], grad_weight[Y,d], grad_bias[Y] or None, the four of `Scalars`,
# index[top_k].
HeadStep = tuple[
    Tensor, Tensor, Tensor, Tensor | None, Tensor, Tensor, Tensor, Tensor, Tensor
]  # fmt: skip


class Backend(Protocol):
    """A module with these functions."""

    def availability(self, device: torch.device) -> str | None:
        """None where the backend runs on ``device``, otherwise the reason in one line."""

    def supports(self, op: str, *tensors: Tensor) -> bool:
        """Whether the backend takes this very call: a cheap look at dtypes, shapes, strides and
        device, on the host.

        ``tensors`` are the call's floating tensors only, in this order: ``softmax_stats(logits)``,
        ``entropy_topk(logits)``, ``linear_ce_grad(features, logits)``, ``project_(*grads)`` (guides
        are alike), ``guided_linear_ce(features, guide_features, weight)``.
        """

    def softmax_stats(
        self, logits: Tensor, target: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """logits[B,Y], target[B] -> entropy[B], lse[B], nll[B] (None without target)."""

    def entropy_topk(self, logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """logits[B,Y] -> entropy[k], index[k]."""

    def linear_ce_grad(
        self,
        features: Tensor,
        logits: Tensor,
        target: Tensor,
        index: Tensor | None,
        class_weights: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """features[B,d], logits[B,Y], target[B], index[k], class_weights[Y] -> grad_weight[Y,d],
        grad_bias[Y].
        """

    def project_(self, grads: Sequence[Tensor], guides: Sequence[Tensor], rule: Rule) -> Scalars:
        """``grads`` are changed in place."""

    def guided_linear_ce(
        self,
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
        """features[B,d], target[B], guide_features[P,d], guide_target[P], weight[Y,d], bias[Y],
        class_weights[Y].
        """


if TYPE_CHECKING:
    from gaal_fast.ops.backends import torch as torch_backend
    from gaal_fast.ops.backends import triton
    from gaal_fast.ops.backends.native import cpu, cuda

    _backends: tuple[Backend, ...] = (torch_backend, triton, cpu, cuda)
