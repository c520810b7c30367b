"""The fused operations of GAAL: entropy selection, the head's gradient, and gradient surgery.

Every op takes float32, bfloat16, float16 and float64 tensors of any strides, also empty batches,
keeps its sums in float32 at least, is deterministic bit for bit, never waits for the device, and is
registered with ``torch.library`` under ``torch.ops.gaal_fast``, so that
``torch.compile(fullgraph=True)`` takes it whole. float64 and whatever a faster backend does not
support go through backend ``torch``.

A tensor that is not plain memory goes through the registered op, in whatever argument it comes:
fake, functional, traced, lazily negated and wrapped tensors give what the same values in memory
give, or a TypeError names the argument. Results are constants to autograd; ``torch.func.grad`` and
forward-mode AD, which would make a derivative of 0 of that, are refused.
"""

from __future__ import annotations

from gaal_fast.ops._dispatch import (
    availability,
    backend,
    requested_backend,
    selected_backend,
    set_backend,
)
from gaal_fast.ops.entropy_topk import entropy_topk
from gaal_fast.ops.guided_linear_ce import GuidedStep, guided_linear_ce
from gaal_fast.ops.linear_ce_grad import linear_ce_grad
from gaal_fast.ops.project import Projection, project_
from gaal_fast.ops.softmax_stats import softmax_stats

__all__ = [
    "GuidedStep",
    "Projection",
    "availability",
    "backend",
    "entropy_topk",
    "guided_linear_ce",
    "linear_ce_grad",
    "project_",
    "requested_backend",
    "selected_backend",
    "set_backend",
    "softmax_stats",
]
