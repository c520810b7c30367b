"""The part of backend ``native`` that takes CUDA tensors: the kernels of ``csrc/cuda`` through
``gaal_fast._native_cuda``.

Same functions as every backend (see the package's docstring). Each is one call of the compiled
module, which enqueues one to three kernels on the current stream and returns; workspaces come from
PyTorch's caching allocator, so calls can be captured in a CUDA graph and nothing is shared between
streams or threads.

Where matrix products are large, :func:`guided_linear_ce` and :func:`linear_ce_grad` leave them to
PyTorch (cuBLAS) and use kernels for what lies between. The kernels' own products are IEEE float32
for float32 and tensor-core products with float32 sums for half precision. TF32 is used by PyTorch's
products only, where the program allows it (``torch.backends.cuda.matmul``).
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor

_INT32_MAX = 2**31 - 1

# Multiply-adds of the head's products up to which the kernels do them: about 60 µs of float32 work
# on an H200. Above, PyTorch's products should be faster by more than the launches that they cost.
# Set from datasheet rates, not yet from measurements.
_MOST_MULTIPLY_ADDS = 2**31
# The kernels' whole step holds logits in float32 and sorts the guide rows in one block.
_MOST_CLASSES = 8192
_MOST_ROWS = 4096

# The c of `takes_sample_space`, for about half of an H200's float32 rate, a quarter of its tensor
# cores' and 4.3 TB/s of its memory. Set from datasheet rates, not yet from measurements.
_BREAK_EVEN = {torch.float32: 90, torch.float16: 600, torch.bfloat16: 600}

# (rule, epsilon, relative, margin, ridge, max_correction); epsilon and margin as floats or as 0-d
# float64 tensors on the device.
Options = tuple[str, float | Tensor, bool, float | Tensor, float, float | None]


@functools.cache
def _load() -> ModuleType | str:
    """The compiled module, or the reason why it is missing."""
    try:
        return importlib.import_module("gaal_fast._native_cuda")
    except (ImportError, OSError) as error:
        return str(error)


def _module() -> ModuleType:
    module = _load()
    if isinstance(module, str):
        raise RuntimeError(f"the CUDA kernels cannot be used: {module}")
    return module


@functools.cache
def _codes() -> dict[torch.dtype, int]:
    """The dtypes that the kernels take, and their codes."""
    return {getattr(torch, name): code for name, code in _module().DTYPES.items()}


@functools.cache
def availability(device: torch.device) -> str | None:
    """None where the kernels were built and run on ``device``, otherwise the reason in one line."""
    if device.type != "cuda":
        return "the CUDA kernels take CUDA devices only"
    module = _load()
    if isinstance(module, str):
        return f"the CUDA kernels were not built: {module}"
    if torch.version.hip is not None:
        return "the CUDA kernels do not run on AMD GPUs"
    return (
        module.obstacle(torch.cuda.current_device() if device.index is None else device.index)
        or None
    )


def supports(op: str, *tensors: Tensor) -> bool:
    """One dtype of float32, float16 and bfloat16; sizes that fit 31 bits; of rows to select from
    what one block can sort.
    """
    dtype = tensors[0].dtype
    if dtype not in _codes() or any(tensor.dtype is not dtype for tensor in tensors):
        return False
    if op == "project_":
        return True
    if any(max(tensor.shape) > _INT32_MAX - 64 for tensor in tensors):
        return False
    if op == "entropy_topk":
        return tensors[0].shape[0] <= _module().max_selection
    if op == "guided_linear_ce":
        return tensors[1].shape[0] <= _module().max_selection
    return True


def softmax_stats(logits: Tensor, target: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    module, device = _module(), logits.device
    logits = _rows(logits)
    n_rows, n_classes = logits.shape
    entropy = torch.empty(n_rows, dtype=torch.float32, device=device)
    lse = torch.empty_like(entropy)
    nll = None if target is None else torch.empty_like(entropy)
    workspace = _workspace(_softmax_stats_bytes(_index(device), n_rows, n_classes), device)
    module.softmax_stats(
        *(
            _index(device),
            _stream(device),
            _codes()[logits.dtype],
            _matrix(logits),
            _address(target),
        ),
        *(entropy.data_ptr(), lse.data_ptr(), _address(nll), _address(workspace)),
    )
    return entropy, lse, nll


def entropy_topk(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    module, device = _module(), logits.device
    logits = _rows(logits)
    entropy = torch.empty(k, dtype=torch.float32, device=device)
    index = torch.empty(k, dtype=torch.int64, device=device)
    if k:
        workspace = _workspace(_entropy_topk_bytes(_index(device), *logits.shape), device)
        module.entropy_topk(
            *(_index(device), _stream(device), _codes()[logits.dtype], _matrix(logits), k),
            *(entropy.data_ptr(), index.data_ptr(), _address(workspace)),
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
    module, device, dtype = _module(), features.device, features.dtype
    n_rows, n_classes = logits.shape
    width = features.shape[1]
    class_weights = _in_range(class_weights, dtype)
    if index is None and n_rows * n_classes * width >= _MOST_MULTIPLY_ADDS:
        residual = torch.empty(n_rows, n_classes, dtype=dtype, device=device)
        sigma = torch.empty(1, dtype=torch.float64, device=device)
        _write_residual(module, _rows(logits), target, None, class_weights, residual, sigma, None)
        return tuple(
            _unscaled(module, gradient, sigma) for gradient in _weighted_sum(residual, features)
        )
    features, logits = _rows(features), _rows(logits)
    count = n_rows if index is None else index.shape[0]
    grad_weight = torch.empty(n_classes, width, dtype=dtype, device=device)
    grad_bias = torch.empty(n_classes, dtype=dtype, device=device)
    workspace = _workspace(
        _linear_ce_grad_bytes(_index(device), _codes()[dtype], count, n_classes, width), device
    )
    module.linear_ce_grad(
        *(
            _index(device),
            _stream(device),
            _codes()[dtype],
            _matrix(features),
            _matrix(logits),
            target.data_ptr(),
            _address(index),
        ),
        *(
            count,
            _address(class_weights),
            grad_weight.data_ptr(),
            grad_bias.data_ptr(),
            _address(workspace),
        ),
    )
    return grad_weight, grad_bias


def project_(
    grads: Sequence[Tensor],
    guides: Sequence[Tensor],
    rule: str,
    epsilon: float | Tensor,
    relative: bool,
    margin: float | Tensor,
    ridge: float,
    max_correction: float | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One launch for the inner products and v, one for the update; more only for more than 96
    tensors.

    Pairs of tensors that do not fill memory in the same way go through contiguous copies.
    """
    module, device, code = _module(), grads[0].device, _codes()[grads[0].dtype]
    given, grads, guides = grads, list(grads), list(guides)
    for i, (grad, guide) in enumerate(zip(grads, guides, strict=True)):
        if not _same_layout(grad, guide):
            grads[i], guides[i] = grad.contiguous(), guide.contiguous()
    sizes = [grad.numel() for grad in grads]
    scalars = torch.empty(4, dtype=torch.float32, device=device)
    workspace = _workspace(module.project_workspace(_index(device), code, sizes), device)
    module.project(
        *(
            _index(device),
            _stream(device),
            code,
            [grad.data_ptr() for grad in grads],
            [guide.data_ptr() for guide in guides],
            sizes,
        ),
        *(
            _options(rule, epsilon, relative, margin, ridge, max_correction),
            0,
            scalars.data_ptr(),
            _address(workspace),
        ),
    )
    for old, new in zip(given, grads, strict=True):
        if new.data_ptr() != old.data_ptr():
            old.copy_(new)
    return scalars.unbind()


def takes_sample_space(rows: int, k: int, classes: int, width: int, dtype: torch.dtype) -> bool:
    """Whether the inner products come from Gram matrices. Decided from shapes and precision alone,
    on the host.

    With n = B + k stacked rows, half of each Gram matrix costs n² (Y + d) / 2 multiply-adds that
    the direct path does not do. The direct path writes g_p, reads it and g again and writes g, some
    12 Y d bytes that the sample space does not move. The two meet at n² (Y + d) = c Y d, where c =
    24 · (multiply-adds per second) / (bytes per second).
    """
    stacked = rows + k
    return (
        stacked > 0 and stacked * stacked * (classes + width) < _BREAK_EVEN[dtype] * classes * width
    )


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
    *options: object,
    path: str | None = None,
    sample_space: bool | None = None,
) -> tuple[Tensor | None, ...]:
    """``path`` ("cooperative", "launches" or "composed") and ``sample_space`` override the choices
    made from the shapes.
    """
    device, dtype = features.device, features.dtype
    rows, width = features.shape
    guide_rows, classes = guide_features.shape[0], weight.shape[0]
    class_weights = _in_range(class_weights, dtype)
    if path is None:
        path = guided_path(rows, guide_rows, top_k, classes, width)
    if sample_space is None:
        sample_space = takes_sample_space(rows, top_k, classes, width, dtype)
    if path == "composed":
        arguments = (
            features,
            target,
            guide_features,
            guide_target,
            weight,
            bias,
            class_weights,
            top_k,
        )
        return _composed(*arguments, _options(*options), sample_space)

    module, number = _module(), _index(device)
    cooperative = path == "cooperative" and _cooperative(number)
    features, guide_features, weight = _rows(features), _rows(guide_features), _rows(weight)
    grad_features = torch.empty(rows, width, dtype=dtype, device=device)
    grad_weight = torch.empty(classes, width, dtype=dtype, device=device)
    grad_bias = None if bias is None else torch.empty(classes, dtype=dtype, device=device)
    scalars = torch.empty(5, dtype=torch.float32, device=device)
    index = torch.empty(top_k, dtype=torch.int64, device=device)
    workspace = _workspace(
        _guided_bytes(
            number, _codes()[dtype], rows, guide_rows, classes, width, top_k, sample_space
        ),
        device,
    )
    module.guided_linear_ce(
        *(
            number,
            _stream(device),
            _codes()[dtype],
            _matrix(features),
            target.data_ptr(),
            _matrix(guide_features),
            guide_target.data_ptr(),
        ),
        *(
            _matrix(weight),
            _address(bias),
            _address(class_weights),
            top_k,
            _options(*options),
            sample_space,
            cooperative,
        ),
        *(
            grad_features.data_ptr(),
            grad_weight.data_ptr(),
            _address(grad_bias),
            scalars.data_ptr(),
            index.data_ptr(),
        ),
        _address(workspace),
    )
    loss, v, dot, guide_norm2, grad_norm2 = scalars.unbind()
    return loss, grad_features, grad_weight, grad_bias, v, dot, guide_norm2, grad_norm2, index


def _composed(
    features: Tensor,
    target: Tensor,
    guide_features: Tensor,
    guide_target: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    class_weights: Tensor | None,
    top_k: int,
    options: tuple,
    sample_space: bool,
) -> tuple[Tensor | None, ...]:
    """The head step around PyTorch's products, for at least one row and one guide row.

    Residuals carry no 1/B: in float16 it would push small probabilities below the smallest number.
    It enters as a factor of the products. They do carry a power of two, ``sigmas`` of the batch and
    of the guide (see ``api.h``), which the kernels after the products take away.
    """
    module, device, dtype = _module(), features.device, features.dtype
    number, stream, code = _index(device), _stream(device), _codes()[features.dtype]
    rows, classes = features.shape[0], weight.shape[0]

    guide_logits = torch.nn.functional.linear(guide_features, weight, bias)
    index = entropy_topk(guide_logits, top_k)[1]
    chosen = guide_features.index_select(0, index)
    logits = torch.nn.functional.linear(features, weight, bias)
    loss = torch.empty((), dtype=torch.float32, device=device)
    sigmas = torch.empty(2, dtype=torch.float64, device=device)

    # One product over the stacked rows needs v in the operands: float16 has no range for that.
    if sample_space and dtype is not torch.float16:
        residual = torch.empty(rows + top_k, classes, dtype=dtype, device=device)
        _write_residual(
            module, logits, target, None, class_weights, residual[:rows], sigmas[:1], loss
        )
        _write_residual(
            module,
            guide_logits,
            guide_target,
            index,
            class_weights,
            residual[rows:],
            sigmas[1:],
            None,
        )
        stacked = torch.cat((features, chosen))
        residual_gram, feature_gram = _gram(residual), _gram(stacked)
        scalars = torch.empty(4, dtype=torch.float32, device=device)
        workspace = _workspace(module.gram_project_workspace(number, rows, top_k), device)
        module.gram_project(
            *(
                number,
                stream,
                code,
                rows,
                top_k,
                residual_gram.data_ptr(),
                feature_gram.data_ptr(),
                bias is not None,
            ),
            *(
                sigmas.data_ptr(),
                residual.data_ptr(),
                classes,
                options,
                scalars.data_ptr(),
                _address(workspace),
            ),
        )
        grad_features = _scaled_product(residual[:rows], weight, 1 / rows)
        grad_weight, grad_bias = _weighted_sum(residual, stacked, rows)
        return (
            loss,
            grad_features,
            grad_weight,
            None if bias is None else grad_bias,
            *scalars.unbind(),
            index,
        )

    guide_residual = torch.empty(top_k, classes, dtype=dtype, device=device)
    _write_residual(
        module, guide_logits, guide_target, index, class_weights, guide_residual, sigmas[1:], None
    )
    _write_residual(module, logits, target, None, class_weights, logits, sigmas[:1], loss)
    grad_features = _unscaled(module, _scaled_product(logits, weight, 1 / rows), sigmas[:1])
    grads, guides = (
        list(_weighted_sum(logits, features)),
        list(_weighted_sum(guide_residual, chosen)),
    )
    if bias is None:
        grads, guides = grads[:1], guides[:1]
    scalars = torch.empty(4, dtype=torch.float32, device=device)
    sizes = [grad.numel() for grad in grads]
    workspace = _workspace(module.project_workspace(number, code, sizes), device)
    module.project(
        *(
            number,
            stream,
            code,
            [grad.data_ptr() for grad in grads],
            [guide.data_ptr() for guide in guides],
            sizes,
        ),
        *(options, sigmas.data_ptr(), scalars.data_ptr(), _address(workspace)),
    )
    return (
        loss,
        grad_features,
        grads[0],
        None if bias is None else grads[1],
        *scalars.unbind(),
        index,
    )


def _write_residual(
    module: ModuleType,
    logits: Tensor,
    target: Tensor,
    index: Tensor | None,
    class_weights: Tensor | None,
    out: Tensor,
    sigma: Tensor,
    loss: Tensor | None,
) -> None:
    """out[i] = sigma w (p - onehot) of row index[i], with w the row's class weight over the mean of
    those; ``out`` may be ``logits``.

    The kernels choose ``sigma``, a float64 tensor of one element.
    """
    count, device = out.shape[0], logits.device
    workspace = _workspace(_ce_residual_bytes(_index(device), count, logits.shape[1]), device)
    module.ce_residual(
        *(
            _index(device),
            _stream(device),
            _codes()[logits.dtype],
            _matrix(logits),
            target.data_ptr(),
            _address(index),
            count,
        ),
        *(
            _address(class_weights),
            out.data_ptr(),
            out.stride(0),
            sigma.data_ptr(),
            _address(loss),
            _address(workspace),
        ),
    )


def _unscaled(module: ModuleType, tensor: Tensor, sigma: Tensor) -> Tensor:
    """``tensor``, a contiguous one, divided in place by ``sigma``. Where that is 1 the kernel only
    looks.
    """
    device = tensor.device
    module.unscale(
        _index(device),
        _stream(device),
        _codes()[tensor.dtype],
        tensor.data_ptr(),
        tensor.numel(),
        sigma.data_ptr(),
    )
    return tensor


def _scaled_product(a: Tensor, b: Tensor, factor: float) -> Tensor:
    return a.new_empty(a.shape[0], b.shape[1]).addmm_(a, b, beta=0, alpha=factor)


def _weighted_sum(
    residual: Tensor, features: Tensor, rows: int | None = None
) -> tuple[Tensor, Tensor]:
    """residualᵀ features / rows and the column sums of the residuals over ``rows`` (how many
    residuals there are if None).
    """
    factor = 1 / (residual.shape[0] if rows is None else rows)
    grad_weight = _scaled_product(residual.t(), features, factor)
    return grad_weight, residual.sum(0, dtype=torch.float32).mul_(factor).to(residual.dtype)


def _gram(x: Tensor) -> Tensor:
    """x xᵀ in float32: rounding it to half precision would cost more than rounding the operands."""
    return x @ x.t() if x.dtype is torch.float32 else torch.mm(x, x.t(), out_dtype=torch.float32)


def _in_range(class_weights: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """The means do not change with the scale of the weights, but float16 residuals need weights
    near 1.
    """
    if class_weights is None or dtype is not torch.float16:
        return class_weights
    return class_weights / class_weights.mean()


def _same_layout(a: Tensor, b: Tensor) -> bool:
    """Whether both tensors fill their memory without gaps and in the same order, so that they can
    be walked as flat arrays.
    """
    if a.is_contiguous() and b.is_contiguous():
        return True
    if a.stride() != b.stride():
        return False
    expected = 1
    for stride, size in sorted(
        (stride, size) for stride, size in zip(a.stride(), a.shape, strict=True) if size > 1
    ):
        if stride != expected:
            return False
        expected *= size
    return True


def _rows(matrix: Tensor) -> Tensor:
    """``matrix`` itself where its rows are contiguous, whatever lies between them, otherwise a
    copy.
    """
    return matrix if matrix.stride(1) == 1 or matrix.shape[1] <= 1 else matrix.contiguous()


def _matrix(tensor: Tensor) -> tuple[int, int, int, int]:
    return tensor.data_ptr(), tensor.shape[0], tensor.shape[1], tensor.stride(0)


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _index(device: torch.device) -> int:
    return device.index or 0


# The public `torch.cuda.current_stream` makes a Python object for the stream, which costs more than
# some kernels.
_raw_stream = getattr(torch._C, "_cuda_getCurrentRawStream", None)


def _stream(device: torch.device) -> int:
    if _raw_stream is None or device.index is None:
        return torch.cuda.current_stream(device).cuda_stream
    return _raw_stream(device.index)


def _workspace(size: int, device: torch.device) -> Tensor | None:
    return torch.empty(size, dtype=torch.uint8, device=device) if size else None


def _options(
    rule: str,
    epsilon: float | Tensor,
    relative: bool,
    margin: float | Tensor,
    ridge: float,
    max_correction: float | None,
) -> tuple[bool, float, bool, float, float, float, int, int]:
    """The options as the module takes them: a tensor as 0.0 and its address, which the kernels read
    when they run.
    """
    values, addresses = [], []
    for number in (epsilon, margin):
        on_device = isinstance(number, Tensor)
        values.append(0.0 if on_device else number)
        addresses.append(number.data_ptr() if on_device else 0)
    bound = -1.0 if max_correction is None else max_correction
    return rule == "official", values[0], relative, values[1], ridge, bound, *addresses


# Sizes of workspaces, asked once for each shape.
@functools.lru_cache(maxsize=1024)
def _softmax_stats_bytes(*sizes: int) -> int:
    return _module().softmax_stats_workspace(*sizes)


@functools.lru_cache(maxsize=1024)
def _entropy_topk_bytes(*sizes: int) -> int:
    return _module().entropy_topk_workspace(*sizes)


@functools.lru_cache(maxsize=1024)
def _linear_ce_grad_bytes(*sizes: int) -> int:
    return _module().linear_ce_grad_workspace(*sizes)


@functools.lru_cache(maxsize=1024)
def _ce_residual_bytes(*sizes: int) -> int:
    return _module().ce_residual_workspace(*sizes)


@functools.lru_cache(maxsize=1024)
def _guided_bytes(*sizes: int) -> int:
    return _module().guided_linear_ce_workspace(*sizes)


@functools.cache
def _cooperative(device: int) -> bool:
    return _module().cooperative_launch_supported(device)
