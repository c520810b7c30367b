"""Backend ``native`` on CUDA tensors: the kernels of ``csrc/cuda`` through
``gaal_fast._native_cuda``.

Each function is one call of the compiled module, which enqueues one to three kernels on the current
stream and returns; workspaces come from PyTorch's caching allocator, so calls can be captured in a
CUDA graph and nothing is shared between streams or threads.

Where matrix products are large, :func:`guided_linear_ce` and :func:`linear_ce_grad` leave them to
PyTorch (cuBLAS) and use kernels for what lies between, see :mod:`cuda_composed`. The kernels' own
products are IEEE float32 for float32 and tensor-core products with float32 sums for half precision.
TF32 is used by PyTorch's products only, where the program allows it
(``torch.backends.cuda.matmul``).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gaal_fast.ops._rule import Rule
from gaal_fast.ops.backends import sample_space as between_samples
from gaal_fast.ops.backends.native import cuda_composed as composed
from gaal_fast.ops.backends.native import cuda_host as host
from gaal_fast.ops.backends.native.buffers import address, contiguous_rows, flat_pair
from gaal_fast.ops.backends.native.cuda_host import availability
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

_INT32_MAX = 2**31 - 1

# Multiply-adds of the head's products up to which the kernels do them: about 60 µs of float32 work
# on an H200. Above, PyTorch's products should be faster by more than the launches that they cost.
# Set from datasheet rates, not yet from measurements.
_MOST_MULTIPLY_ADDS = 2**31
# The kernels' whole step holds logits in float32 and sorts the guide rows in one block.
_MOST_CLASSES = 8192
_MOST_ROWS = 4096

# The c of `sample_space_is_cheaper`, for about half of an H200's float32 rate, a quarter of its
# tensor cores' and 4.3 TB/s of its memory. Set from datasheet rates, not yet from measurements.
_BREAK_EVEN = {torch.float32: 90, torch.float16: 600, torch.bfloat16: 600}


def supports(op: str, *tensors: Tensor) -> bool:
    """One dtype of float32, float16 and bfloat16; sizes that fit 31 bits; of rows to select from
    what one block can sort.
    """
    dtype = tensors[0].dtype
    if dtype not in host.codes() or any(tensor.dtype is not dtype for tensor in tensors):
        return False
    if op == "project_":
        return True
    if any(max(tensor.shape) > _INT32_MAX - 64 for tensor in tensors):
        return False
    if op == "entropy_topk":
        return bool(tensors[0].shape[0] <= host.module().max_selection)
    if op == "guided_linear_ce":
        return bool(tensors[1].shape[0] <= host.module().max_selection)
    return True


def softmax_stats(logits: Tensor, target: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    device = logits.device
    logits = contiguous_rows(logits)
    entropy = torch.empty(logits.shape[0], dtype=torch.float32, device=device)
    lse = torch.empty_like(entropy)
    nll = None if target is None else torch.empty_like(entropy)
    workspace = host.workspace("softmax_stats", device, *logits.shape)
    host.module().softmax_stats(
        *(*host.place(logits), host.matrix(logits), address(target)),
        *(entropy.data_ptr(), lse.data_ptr(), address(nll), address(workspace)),
    )
    return entropy, lse, nll


def entropy_topk(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    device = logits.device
    logits = contiguous_rows(logits)
    entropy = torch.empty(k, dtype=torch.float32, device=device)
    index = torch.empty(k, dtype=torch.int64, device=device)
    if k:
        workspace = host.workspace("entropy_topk", device, *logits.shape)
        host.module().entropy_topk(
            *(*host.place(logits), host.matrix(logits), k),
            *(entropy.data_ptr(), index.data_ptr(), address(workspace)),
        )
    return entropy, index


def linear_ce_grad(
    features: Tensor,
    logits: Tensor,
    target: Tensor,
    index: Tensor | None,
    class_weights: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """With an index, or while the product is small, the residuals are made from the logits as the
    product reads them.

    The gradient of all rows with at least ``_MOST_MULTIPLY_ADDS`` multiply-adds goes through
    PyTorch's product instead, which needs the (B, Y) residuals in memory.
    """
    device, dtype = features.device, features.dtype
    (rows, classes), width = logits.shape, features.shape[1]
    class_weights = _in_range(class_weights, dtype)
    logits = contiguous_rows(logits)
    if index is None and rows * classes * width >= _MOST_MULTIPLY_ADDS:
        return composed.linear_ce_grad(composed.Rows(features, logits, target), class_weights)
    features = contiguous_rows(features)
    count = rows if index is None else index.shape[0]
    grad_weight = torch.empty(classes, width, dtype=dtype, device=device)
    grad_bias = torch.empty(classes, dtype=dtype, device=device)
    workspace = host.workspace("linear_ce_grad", device, host.codes()[dtype], count, classes, width)
    host.module().linear_ce_grad(
        *(*host.place(features), host.matrix(features), host.matrix(logits)),
        *(target.data_ptr(), address(index), count, address(class_weights)),
        *(grad_weight.data_ptr(), grad_bias.data_ptr(), address(workspace)),
    )
    return grad_weight, grad_bias


def project_(grads: Sequence[Tensor], guides: Sequence[Tensor], rule: Rule) -> Scalars:
    """One launch for the inner products and v, one for the update; more only for more than 96
    tensors.

    Pairs of tensors that do not fill memory in the same way go through copies.
    """
    pairs = [flat_pair(*pair) for pair in zip(grads, guides, strict=True)]
    scalars = host.project(pairs, rule)
    for grad, (updated, _) in zip(grads, pairs, strict=True):
        if updated is not grad:
            grad.copy_(updated)
    return scalars


def sample_space_is_cheaper(
    rows: int, k: int, classes: int, width: int, dtype: torch.dtype
) -> bool:
    """Whether the inner products come from Gram matrices. Decided from shapes and precision alone,
    on the host.

    With n = B + k stacked rows, half of each Gram matrix costs n² (Y + d) / 2 multiply-adds that
    the direct path does not do. The direct path writes g_p, reads it and g again and writes g, some
    12 Y d bytes that the sample space does not move. The two meet at n² (Y + d) = c Y d, where c =
    24 · (multiply-adds per second) / (bytes per second).
    """
    pairs = (rows + k) ** 2
    return pairs > 0 and between_samples.is_cheaper(pairs, classes, width, _BREAK_EVEN[dtype])


def guided_path(rows: int, guide_rows: int, k: int, classes: int, width: int) -> str:
    """How a head step is done, from shapes alone: ``"cooperative"`` (one launch) or ``"composed"``
    (with PyTorch's products).

    One launch while its products, (3B + P + k) Y d multiply-adds, number at most
    ``_MOST_MULTIPLY_ADDS``; on a device without cooperative launches three launches take its place.
    """
    empty = rows == 0 or k == 0 or width == 0
    small = (
        (3 * rows + guide_rows + k) * classes * width <= _MOST_MULTIPLY_ADDS
        and classes <= _MOST_CLASSES
        and rows <= _MOST_ROWS
    )
    return "cooperative" if guide_rows <= _MOST_ROWS and (small or empty) else "composed"


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
    *,
    path: str | None = None,
    sample_space: bool | None = None,
) -> HeadStep:
    """``path`` ("cooperative", "launches" or "composed") and ``sample_space`` override the choices
    made from the shapes.
    """
    dtype = features.dtype
    rows, width = features.shape
    guide_rows, classes = guide_features.shape[0], weight.shape[0]
    class_weights = _in_range(class_weights, dtype)
    if path is None:
        path = guided_path(rows, guide_rows, top_k, classes, width)
    if sample_space is None:
        sample_space = sample_space_is_cheaper(rows, top_k, classes, width, dtype)
    sample_space = sample_space and rows + top_k > 0  # a Gram matrix of nothing sums nothing
    if path != "composed":
        return _in_kernels(
            *(features, target, guide_features, guide_target, weight, bias, class_weights, top_k),
            *(rule, sample_space, path == "cooperative"),
        )
    guide_logits = torch.nn.functional.linear(guide_features, weight, bias)
    index = entropy_topk(guide_logits, top_k)[1]
    guide = composed.Rows(guide_features.index_select(0, index), guide_logits, guide_target, index)
    batch = composed.Rows(features, torch.nn.functional.linear(features, weight, bias), target)
    # One product over the stacked rows needs v in the operands: float16 has no range for that.
    stacked = sample_space and rows > 0 and top_k > 0 and dtype is not torch.float16
    step = composed.step_in_sample_space if stacked else composed.direct_step
    return step(batch, guide, weight, bias is not None, class_weights, rule)


def _in_kernels(
    features: Tensor,
    target: Tensor,
    guide_features: Tensor,
    guide_target: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    class_weights: Tensor | None,
    top_k: int,
    rule: Rule,
    sample_space: bool,
    cooperative: bool,
) -> HeadStep:
    """The head step as one call of the module: one launch if ``cooperative``, else three."""
    device, dtype = features.device, features.dtype
    (rows, width), classes = features.shape, weight.shape[0]
    features, guide_features = contiguous_rows(features), contiguous_rows(guide_features)
    weight = contiguous_rows(weight)
    grad_features = torch.empty(rows, width, dtype=dtype, device=device)
    grad_weight = torch.empty(classes, width, dtype=dtype, device=device)
    grad_bias = None if bias is None else torch.empty(classes, dtype=dtype, device=device)
    scalars = torch.empty(5, dtype=torch.float32, device=device)
    index = torch.empty(top_k, dtype=torch.int64, device=device)
    sizes = rows, guide_features.shape[0], classes, width, top_k, sample_space
    workspace = host.workspace("guided_linear_ce", device, host.codes()[dtype], *sizes)
    host.module().guided_linear_ce(
        *(*host.place(features), host.matrix(features), target.data_ptr()),
        *(host.matrix(guide_features), guide_target.data_ptr(), host.matrix(weight)),
        *(address(bias), address(class_weights), top_k, host.rule_arguments(rule)),
        *(sample_space, cooperative and host.cooperative(host.index(device))),
        *(grad_features.data_ptr(), grad_weight.data_ptr(), address(grad_bias)),
        *(scalars.data_ptr(), index.data_ptr(), address(workspace)),
    )
    loss, v, dot, guide_norm2, grad_norm2 = scalars.unbind()
    return loss, grad_features, grad_weight, grad_bias, v, dot, guide_norm2, grad_norm2, index


def _in_range(class_weights: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """The means do not change with the scale of the weights, but float16 residuals need weights
    near 1.
    """
    if class_weights is None or dtype is not torch.float16:
        return class_weights
    return class_weights / class_weights.mean()
