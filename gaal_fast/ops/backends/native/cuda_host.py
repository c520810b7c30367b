"""What the CUDA half of backend ``native`` has around each call: the compiled module, the stream,
workspaces.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor

from gaal_fast.ops._rule import Rule
from gaal_fast.ops.backends.native.buffers import address, dtype_codes, rule_numbers
from gaal_fast.ops.backends.protocol import Scalars


@functools.cache
def load() -> ModuleType | str:
    """The compiled module, or the reason why it is missing."""
    try:
        return importlib.import_module("gaal_fast._native_cuda")
    except (ImportError, OSError) as error:
        return str(error)


def module() -> ModuleType:
    """The compiled module.

    Raises:
        RuntimeError: It is missing.
    """
    found = load()
    if isinstance(found, str):
        raise RuntimeError(f"the CUDA kernels cannot be used: {found}")
    return found


@functools.cache
def codes() -> dict[torch.dtype, int]:
    """The dtypes that the kernels take, as they number them."""
    return dtype_codes(module())


@functools.cache
def availability(device: torch.device) -> str | None:
    """None where the kernels were built and run on ``device``, otherwise the reason in one line."""
    if device.type != "cuda":
        return "the CUDA kernels take CUDA devices only"
    found = load()
    if isinstance(found, str):
        return f"the CUDA kernels were not built: {found}"
    if torch.version.hip is not None:
        return "the CUDA kernels do not run on AMD GPUs"
    index = torch.cuda.current_device() if device.index is None else device.index
    return found.obstacle(index) or None


@functools.cache
def cooperative(device: int) -> bool:
    """Whether the device can launch a grid whose blocks wait for each other."""
    return bool(module().cooperative_launch_supported(device))


def index(device: torch.device) -> int:
    """The number of a device."""
    return device.index or 0


def place(tensor: Tensor) -> tuple[int, int, int]:
    """The device, the current stream and the dtype of ``tensor``, the first arguments of every
    kernel.
    """
    return index(tensor.device), stream(tensor.device), codes()[tensor.dtype]


# The public `torch.cuda.current_stream` makes a Python object for the stream, which costs more than
# some kernels.
_raw_stream = getattr(torch._C, "_cuda_getCurrentRawStream", None)


def stream(device: torch.device) -> int:
    """The address of the current stream."""
    if _raw_stream is None or device.index is None:
        return int(torch.cuda.current_stream(device).cuda_stream)
    return int(_raw_stream(device.index))


def workspace(op: str, device: torch.device, *sizes: int | tuple[int, ...]) -> Tensor | None:
    """Memory for a kernel beside its arguments, from PyTorch's allocator; None for none."""
    size = _workspace_bytes(module(), op, index(device), *sizes)
    return torch.empty(size, dtype=torch.uint8, device=device) if size else None


@functools.lru_cache(maxsize=4096)
def _workspace_bytes(module: ModuleType, op: str, *sizes: int | tuple[int, ...]) -> int:
    """Asked once for each shape."""
    return int(getattr(module, f"{op}_workspace")(*sizes))


def matrix(tensor: Tensor) -> tuple[int, int, int, int]:
    """A matrix with contiguous rows as the module takes it."""
    return tensor.data_ptr(), tensor.shape[0], tensor.shape[1], tensor.stride(0)


def rule_arguments(rule: Rule) -> tuple[bool, float, bool, float, float, float, int, int]:
    """A checked rule as the module takes it: a tensor as 0.0 and its address, which the kernels
    read when they run.
    """
    epsilon, margin = (
        address(number) if isinstance(number, Tensor) else 0
        for number in (rule.epsilon, rule.margin)
    )
    return *rule_numbers(rule), epsilon, margin


def project(
    pairs: Sequence[tuple[Tensor, Tensor]], rule: Rule, sigmas: Tensor | None = None
) -> Scalars:
    """The kernels of ``project_``, for pairs of one dtype that fill memory in the same way.

    Args:
        pairs: Gradients, changed in place, with their guides.
        rule: A checked rule.
        sigmas: The powers of two, (2,) float64, that the gradients and the guides carry; None for
            none.
    """
    first = pairs[0][0]
    sizes = tuple(grad.numel() for grad, _ in pairs)
    scalars = torch.empty(4, dtype=torch.float32, device=first.device)
    memory = workspace("project", first.device, codes()[first.dtype], sizes)
    module().project(
        *place(first),
        *([grad.data_ptr() for grad, _ in pairs], [guide.data_ptr() for _, guide in pairs], sizes),
        *(rule_arguments(rule), address(sigmas), scalars.data_ptr(), address(memory)),
    )
    v, dot, guide_norm2, grad_norm2 = scalars.unbind()
    return v, dot, guide_norm2, grad_norm2
