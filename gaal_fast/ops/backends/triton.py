"""Backend ``triton``: the kernels of ``gaal_fast.kernels`` on NVIDIA GPUs, and on the CPU under
Triton's interpreter, for tests.

Importing this module imports Triton; ``_dispatch`` does so when a call first asks for the backend.
Products of float32 matrices are full float32 unless the user turned TF32 on for PyTorch's own
(``torch.backends.cuda.matmul.allow_tf32``).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor
from triton.runtime.errors import InterpreterError

from gaal_fast.kernels import _launch, guided, project
from gaal_fast.kernels.entropy_topk import MAX_ROWS, entropy_topk
from gaal_fast.kernels.linear_ce_grad import linear_ce_grad
from gaal_fast.kernels.softmax_stats import softmax_stats
from gaal_fast.ops._rule import Rule
from gaal_fast.ops.backends.protocol import HeadStep, Scalars

__all__ = [
    "availability",
    "entropy_topk",
    "guided_linear_ce",
    "linear_ce_grad",
    "project_",
    "softmax_stats",
    "supports",
]

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def availability(device: torch.device) -> str | None:
    """None on an NVIDIA GPU of compute capability 8.0 or newer, and on the CPU if the interpreter
    is on and works.
    """
    if device.type == "cuda":
        if torch.version.hip is not None:
            return "the kernels are tested on NVIDIA GPUs only"
        if torch.cuda.get_device_capability(device) < (8, 0):
            return "it needs a GPU of compute capability 8.0 or newer"
        return None
    if device.type == "cpu":
        return _interpreter_problem()
    return f"there are no kernels for {device.type}"


@functools.cache
def _interpreter_problem() -> str | None:
    if not _launch.interpreted():
        return (
            "on the CPU it runs only under Triton's interpreter (TRITON_INTERPRET=1, set before"
            " Triton is imported)"
        )
    try:
        _launch.probe()
    except InterpreterError as error:
        return f"this Triton's interpreter does not work with the NumPy installed here ({error})"
    return None


def supports(op: str, *tensors: Tensor) -> bool:
    """Whether the kernels take this call: no float64, at most ``MAX_ROWS`` rows to select from."""
    if any(tensor.dtype not in _DTYPES for tensor in tensors):
        return False
    # The interpreter has no bfloat16 matrix product.
    if (
        op in ("linear_ce_grad", "guided_linear_ce")
        and tensors[0].is_cpu
        and tensors[0].dtype is torch.bfloat16
    ):
        return False
    if op in ("entropy_topk", "guided_linear_ce"):
        selected_from = tensors[0] if op == "entropy_topk" else tensors[1]
        return selected_from.shape[0] <= MAX_ROWS
    return True


def project_(grads: Sequence[Tensor], guides: Sequence[Tensor], rule: Rule) -> Scalars:
    return project.project_(grads, guides, rule)


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
    batch = features, target, guide_features, guide_target
    return guided.guided_linear_ce(*batch, weight, bias, class_weights, top_k, rule)
