"""Access to the C++ kernels below the ops: every instruction set, number of threads and memory
layout.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

ISAS = ("portable", "avx2", "avx512")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)

# As a float it is 3.4e38 (NaN in float16), so that one element read from a gap is seen in any sum.
CANARY = 0x7F


@dataclass(frozen=True)
class Guarded:
    """A matrix inside a larger piece of memory. ``assert_intact`` fails if a byte outside of the
    matrix has changed.
    """

    matrix: Tensor
    memory: Tensor

    def assert_intact(self) -> None:
        inside = torch.zeros_like(self.memory, dtype=torch.bool)
        start = self.matrix.data_ptr() - self.memory.data_ptr()
        size = self.matrix.element_size()
        for row in range(self.matrix.shape[0]):
            first = start + row * self.matrix.stride(0) * size
            inside[first : first + self.matrix.shape[1] * size] = True
        assert (self.memory[~inside] == CANARY).all(), "written outside of the matrix"


def guarded(values: Tensor, gap: int = 0, shift: int = 0) -> Guarded:
    """``values`` [rows, columns] with ``gap`` elements between rows, ``shift`` elements off a
    64-byte boundary.
    """
    rows, columns = values.shape
    size, stride = values.element_size(), max(columns + gap, 1)
    memory = torch.full(
        (64 + size * (shift + max(rows, 1) * stride) + 192,), CANARY, dtype=torch.uint8
    )
    start = (-memory.data_ptr()) % 64 + 64 + shift * size
    flat = torch.frombuffer(
        memory.numpy(), dtype=values.dtype, offset=start, count=max(rows, 1) * stride
    )
    matrix = flat.as_strided((rows, columns), (stride, 1))
    matrix.copy_(values)
    return Guarded(matrix, memory)


def wide(tensor: Tensor) -> np.ndarray:
    return tensor.to(torch.float64).numpy()


class Kernels:
    """``gaal_fast._native_cpu`` on tensors, with one instruction set and number of threads."""

    def __init__(self, module: ModuleType, isa: str, threads: int = 1) -> None:
        self.module, self.isa = module, isa
        self.codes = {getattr(torch, name): code for name, code in module.DTYPES.items()}
        self.run = (threads, ISAS.index(isa))

    def with_threads(self, threads: int) -> Kernels:
        return Kernels(self.module, self.isa, threads)

    def softmax_stats(
        self, logits: Tensor, target: Tensor | None = None, out: Tensor | None = None
    ) -> Tensor:
        """[3, rows]: entropy, lse, nll."""
        out = torch.full((3, len(logits)), torch.nan) if out is None else out
        self.module.softmax_stats(
            *(
                self.codes[logits.dtype],
                logits.data_ptr(),
                logits.stride(0),
                *logits.shape,
                0 if target is None else target.data_ptr(),
            ),
            *(out[0].data_ptr(), out[1].data_ptr(), 0 if target is None else out[2].data_ptr()),
            *self.run,
        )
        return out

    def entropy_topk(self, logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
        entropy, index = torch.full((k,), torch.nan), torch.full((k,), -1, dtype=torch.int64)
        self.module.entropy_topk(
            *(
                self.codes[logits.dtype],
                logits.data_ptr(),
                logits.stride(0),
                *logits.shape,
                k,
                entropy.data_ptr(),
                index.data_ptr(),
            ),
            *self.run,
        )
        return entropy, index

    def residual(
        self,
        logits: Tensor,
        target: Tensor,
        out: Tensor,
        sums: Tensor,
        index: Tensor | None = None,
        class_weights: Tensor | None = None,
        features: Tensor | None = None,
        chosen: Tensor | None = None,
    ) -> float:
        return self.module.residual(
            *(
                self.codes[logits.dtype],
                logits.data_ptr(),
                logits.stride(0),
                *logits.shape,
                target.data_ptr(),
            ),
            *(
                0 if class_weights is None else class_weights.data_ptr(),
                0 if index is None else index.data_ptr(),
                len(out),
            ),
            *self._features(features, chosen),
            *(self.codes[out.dtype], out.data_ptr(), out.stride(0), sums.data_ptr()),
            *self.run,
        )

    def guided_residuals(
        self,
        logits: Tensor,
        target: Tensor,
        bias: Tensor | None,
        guide_logits: Tensor,
        guide_target: Tensor,
        guide_features: Tensor,
        k: int,
        class_weights: Tensor | None = None,
    ) -> tuple[float, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Loss, residual, its column sums, index, the rows of features in it, their residual, and
        its column sums.
        """
        dtype, classes = logits.dtype, logits.shape[1]
        out, sums, guide_sums = (
            logits.clone(),
            torch.empty(classes, dtype=dtype),
            torch.empty(classes, dtype=dtype),
        )
        index, guide_out = torch.empty(k, dtype=torch.int64), torch.empty(k, classes, dtype=dtype)
        selected = torch.empty(k, guide_features.shape[1], dtype=dtype)
        loss = self.module.guided_residuals(
            *(
                self.codes[dtype],
                classes,
                0 if bias is None else bias.data_ptr(),
                0 if class_weights is None else class_weights.data_ptr(),
            ),
            *(out.data_ptr(), len(out), target.data_ptr(), sums.data_ptr()),
            *(guide_logits.data_ptr(), len(guide_logits), guide_target.data_ptr()),
            *(
                *self._features(guide_features, selected),
                k,
                index.data_ptr(),
                guide_out.data_ptr(),
                guide_sums.data_ptr(),
            ),
            *self.run,
        )
        return loss, out, sums, index, selected, guide_out, guide_sums

    @staticmethod
    def _features(features: Tensor | None, chosen: Tensor | None) -> tuple[int, int, int, int]:
        if features is None or chosen is None:
            return 0, 0, 0, 0
        size = features.element_size()
        return (
            features.data_ptr(),
            features.stride(0) * size,
            features.shape[1] * size,
            chosen.data_ptr(),
        )

    def _pairs(self, grads: list[Tensor], guides: list[Tensor]) -> tuple[list[int], ...]:
        return (
            *(
                [self.codes[g.dtype] for g in grads],
                [g.data_ptr() for g in grads],
                [h.data_ptr() for h in guides],
            ),
            [g.numel() for g in grads],
        )

    def inner_products(
        self, grads: list[Tensor], guides: list[Tensor]
    ) -> tuple[float, float, float]:
        return self.module.inner_products(*self._pairs(grads, guides), *self.run)

    def project(
        self, grads: list[Tensor], guides: list[Tensor], *rule: float
    ) -> tuple[float, float, float, float]:
        """``rule``: official, epsilon, relative, margin, ridge, max_correction (-1 for none)."""
        return self.module.project(*self._pairs(grads, guides), rule, *self.run)

    def small_matmul(self, a: Tensor, w: Tensor, out: Tensor) -> None:
        self.module.small_matmul(
            *(
                a.data_ptr(),
                a.stride(0),
                w.data_ptr(),
                w.stride(0),
                *a.shape,
                w.shape[1],
                out.data_ptr(),
                out.stride(0),
            ),
            *self.run,
        )


@pytest.fixture(scope="session")
def module() -> ModuleType:
    return pytest.importorskip("gaal_fast._native_cpu", reason="the C++ kernels were not built")


@pytest.fixture(params=ISAS)
def kernels(request: pytest.FixtureRequest, module: ModuleType) -> Kernels:
    if request.param not in module.isas():
        pytest.skip(f"no {request.param} kernels on this machine")
    return Kernels(module, request.param)
