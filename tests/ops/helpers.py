"""What the tests of the ops share: backends, tolerances, naive baselines, memory layouts, poisoned
memory.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gaal_fast import ops
from gaal_fast.ops._rule import Rule
from gaal_fast.ops.backends.native import cpu as native

# Has to be set before triton is imported, and then no kernel of that process is compiled. Every
# operation takes a thousand times as long, so that tests make fewer repetitions of the same.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

FLOAT32, FLOAT64, FLOAT16, BFLOAT16 = torch.float32, torch.float64, torch.float16, torch.bfloat16
DTYPES = [
    pytest.param(d, id=str(d).removeprefix("torch.")) for d in (FLOAT32, FLOAT16, BFLOAT16, FLOAT64)
]

# Every width at which a kernel changes its way: one lane, around a vector, a warp, a block, the
# sizes of the paper, and beyond a tile.
WIDTHS = (1, 2, 3, 31, 32, 33, 127, 128, 129, 286, 717, 1023, 1024, 1025, 10007)


@dataclass(frozen=True)
class Backend:
    """A backend on a device."""

    name: str
    device: str
    most_elements: int | None = (
        None  # beyond which a test would take too long, under the interpreter
    )
    isa: str | None = None  # instruction set of the native kernels on the CPU; the widest if None

    @contextlib.contextmanager
    def in_force(self) -> Iterator[None]:
        device = torch.device(self.device)
        missing = ops.availability()[self.name].get(
            f"{device.type}:0" if device.type == "cuda" else "cpu"
        )
        if missing is not None:
            pytest.skip(f"backend {self.name!r} cannot be used on {self.device}: {missing}")
        with ops.backend(self.name), pytest.MonkeyPatch.context() as patch:
            if self.isa is not None:
                if self.isa not in native._kernels.isas():
                    pytest.skip(f"no {self.isa} kernels on this machine")
                patch.setattr(native, "_isa", lambda: native._ISAS.index(self.isa))
            yield

    def require(self, op: str, *tensors: Tensor) -> None:
        """Skip where the backend does not take such a call (another backend then takes it) or it is
        too long for the interpreter.
        """
        elements = sum(t.numel() for t in tensors)
        if self.most_elements is not None and elements > self.most_elements:
            pytest.skip(f"{elements} elements are too many for the interpreter")
        try:
            ops.selected_backend(op, *tensors)
        except RuntimeError as error:
            pytest.skip(str(error))


def array(tensor: Tensor) -> np.ndarray:
    """The exact values in float64."""
    return tensor.detach().cpu().to(FLOAT64).numpy()


def assert_no_worse(
    fast: Tensor,
    naive: Tensor,
    truth: np.ndarray | float,
    scale: np.ndarray | float = 0.0,
    *,
    ulps: float = 8.0,
    dtype: torch.dtype | None = None,
) -> None:
    """``fast`` is as near to the truth as the plain expression in the same dtype, up to a few units
    in the last place.

    The tolerance calibrates itself: the error of the naive eager expression (not of our ``torch``
    backend) is measured on the same input, and nothing has to be guessed per dtype or size. Errors
    are measured in units of ``scale``, elementwise: the size of the parts that are summed up, since
    rounding errors are relative to these and not to a sum in which they cancel. |truth| is added to
    it.

        |fast - truth| <= scale (max |naive - truth| / scale + ulps eps)

    NaN and infinities must stand exactly where the truth has them.

    Args:
        fast: the result under test.
        naive: the same from a plain expression.
        truth: the same in float64.
        scale: broadcast to the shape of ``truth``.
        ulps: the few units in the last place.
        dtype: gives eps; the dtype of ``fast`` if None, another one where something on the way was
            rounded to that.
    """
    info = torch.finfo(fast.dtype)
    eps = torch.finfo(dtype or fast.dtype).eps
    got, plain, want = array(fast), array(naive), np.asarray(truth)
    assert got.shape == want.shape, f"shape {got.shape} instead of {want.shape}"
    # What is too large for the dtype is infinite in it.
    with np.errstate(over="ignore", invalid="ignore"):
        want = np.where(np.abs(want) > info.max * (1 + info.eps / 4), np.sign(want) * np.inf, want)
    special = ~np.isfinite(want)
    np.testing.assert_array_equal(
        got[special], want[special], err_msg="NaN or inf in the wrong place"
    )
    assert np.isfinite(got[~special]).all(), "NaN or inf where the truth is finite"
    if special.all():
        return
    size = np.broadcast_to(np.abs(scale), want.shape)[~special] + np.abs(want[~special])
    # Below the normal numbers precision is absolute.
    size = size + info.smallest_normal / (1.0 if fast.dtype is not FLOAT16 else 8.0)
    allowed = ulps * eps
    plain_error = np.abs(np.broadcast_to(plain, want.shape)[~special] - want[~special]) / size
    if np.isfinite(plain_error).any():
        allowed += plain_error[np.isfinite(plain_error)].max()
    error = np.abs(got[~special] - want[~special]) / size
    worst = int(error.argmax())
    assert error[worst] <= allowed, (
        f"error {error[worst] / eps:.1f} ulp of the scale, allowed {allowed / eps:.1f}: got"
        f" {got[~special][worst]!r}, truth {want[~special][worst]!r} (finite element {worst} of"
        f" {error.size})"
    )


def assert_selection(entropy: Tensor, index: Tensor, truth: np.ndarray, k: int) -> None:
    """``index`` is a top-k of rows whose true entropies are ``truth``, as far as rounding leaves it
    open, in the documented order.
    """
    eps = torch.finfo(entropy.dtype).eps
    values, rows = array(entropy), index.cpu().numpy()
    assert index.dtype is torch.int64 and values.shape == rows.shape == (k,)
    assert len(set(rows.tolist())) == k and (
        k == 0 or (rows.min() >= 0 and rows.max() < len(truth))
    )
    slack = 16 * eps * (1.0 + np.nan_to_num(truth))
    assert np.array_equal(np.isnan(values), np.isnan(truth[rows]))
    finite = ~np.isnan(values)
    assert (np.abs(values - truth[rows])[finite] <= slack[rows][finite]).all()
    for i in range(k - 1):  # NaN first, then descending; among equals the smaller row first
        if values[i] == values[i + 1] or (np.isnan(values[i]) and np.isnan(values[i + 1])):
            assert rows[i] < rows[i + 1], (
                f"tie of rows {rows[i]} and {rows[i + 1]} in the wrong order"
            )
        else:
            assert np.isnan(values[i]) or values[i] > values[i + 1]
    if 0 < k < len(truth):
        left = np.setdiff1d(np.arange(len(truth)), rows)
        if np.isnan(truth[left]).any():
            assert not finite.any() and rows.max() < left[np.isnan(truth[left])].min()
        elif finite.any():
            last = rows[-1]
            assert (truth[left] <= truth[last] + slack[left] + slack[last]).all(), (
                "a row of higher entropy was left out"
            )


def naive_stats(logits: Tensor, target: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """The plain expressions, in float32 for half-precision logits as everybody writes them."""
    z = logits if logits.dtype is FLOAT64 else logits.float()
    log_p = torch.log_softmax(z, dim=1)
    entropy = -torch.where(log_p == -torch.inf, 0.0, log_p.exp() * log_p).sum(dim=1)
    return (
        entropy,
        torch.logsumexp(z, dim=1),
        None if target is None else F.nll_loss(log_p, target.long(), reduction="none"),
    )


def naive_head_gradient(
    features: Tensor,
    logits: Tensor,
    target: Tensor,
    index: Tensor | None,
    class_weights: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Autograd through the cross-entropy, then the matrix product, all in the dtype of the
    features.
    """
    rows = slice(None) if index is None else index.long()
    z = logits[rows].detach().clone().requires_grad_()
    weight = None if class_weights is None else class_weights.to(z.dtype)
    F.cross_entropy(z, target[rows].long(), weight=weight).backward()
    return z.grad.t() @ features[rows], z.grad.sum(dim=0)


def naive_factor(dot: Tensor, guide_norm2: Tensor, grad_norm2: Tensor, rule: Any) -> Tensor:
    """v in the dtype of its inputs, from an ``oracle.Rule``."""
    if rule.rule == "paper":
        floor = rule.epsilon * (grad_norm2.sqrt() * guide_norm2.sqrt() if rule.relative else 1.0)
        v = ((floor - dot) / guide_norm2).clamp(min=0.0)
    else:
        v = torch.where(
            dot < 0,
            (-dot / (guide_norm2 + rule.ridge)).clamp(min=rule.margin),
            torch.zeros_like(dot),
        )
    if rule.max_correction is not None:
        v = torch.minimum(v, rule.max_correction * (grad_norm2 / guide_norm2).sqrt())
    return torch.where(guide_norm2 == 0, torch.zeros_like(v), v)


def naive_project(
    grads: Sequence[Tensor], guides: Sequence[Tensor], rule: Any
) -> tuple[list[Tensor], tuple[Tensor, ...]]:
    """Flatten, dot, add: new gradients and (v, dot, ‖g_p‖², ‖g‖²)."""
    g, p = (torch.cat([t.reshape(-1) for t in tensors]) for tensors in (grads, guides))
    dot, guide_norm2, grad_norm2 = g @ p, p @ p, g @ g
    v = naive_factor(dot, guide_norm2, grad_norm2, rule)
    return [grad + v * guide for grad, guide in zip(grads, guides, strict=True)], (
        v,
        dot,
        guide_norm2,
        grad_norm2,
    )


def options(rule: Any) -> dict[str, Any]:
    """An ``oracle.Rule`` as the keyword arguments of the ops."""
    return dict(vars(rule))


def rule_of(rule: Any) -> Rule:
    """An ``oracle.Rule`` as a backend takes it."""
    return Rule(**options(rule))


def random_logits(
    rows: int,
    classes: int,
    dtype: torch.dtype,
    seed: int = 0,
    spread: float = 3.0,
    device: str = "cpu",
) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (
        (spread * torch.randn(rows, classes, generator=generator, dtype=FLOAT64))
        .to(dtype)
        .to(device)
    )


def random_labels(rows: int, classes: int, seed: int = 0, device: str = "cpu") -> Tensor:
    return torch.randint(
        0, classes, (rows,), generator=torch.Generator().manual_seed(seed + 10_000)
    ).to(device)


def _transposed(x: Tensor) -> Tensor:
    return x.t().contiguous().t()


def _sliced_columns(x: Tensor) -> Tensor:
    wide = x.new_full((x.shape[0], x.shape[1] + 3), torch.nan)
    wide[:, 1:-2] = x
    return wide[:, 1:-2]


def _every_other_column(x: Tensor) -> Tensor:
    wide = x.new_full((x.shape[0], 2 * x.shape[1]), torch.nan)
    wide[:, ::2] = x
    return wide[:, ::2]


def _every_other_row(x: Tensor) -> Tensor:
    tall = x.new_full((2 * x.shape[0], x.shape[1]), torch.nan)
    tall[1::2] = x
    return tall[1::2]


def _misaligned(x: Tensor) -> Tensor:
    flat = x.new_full((x.numel() + 1,), torch.nan)
    flat[1:] = x.reshape(-1)
    return flat[1:].view(x.shape)


# Ways to lay the same matrix out in memory. What lies between the elements is NaN, so that a kernel
# that reads it shows it.
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": _transposed,
    "sliced columns": _sliced_columns,
    "every other column": _every_other_column,
    "every other row": _every_other_row,
    "misaligned": _misaligned,
}


@contextlib.contextmanager
def poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fresh memory holds NaN (floating) or a huge negative number (integer) instead of whatever was
    there, usually zeros.
    """

    def poison(tensor: Tensor) -> Tensor:
        return tensor.fill_(
            torch.nan if tensor.is_floating_point() else torch.iinfo(tensor.dtype).min // 2
        )

    def poisoning(allocate: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda *args, **kwargs: poison(allocate(*args, **kwargs))

    with monkeypatch.context() as patch:
        for name in ("empty", "empty_like", "empty_strided"):
            patch.setattr(torch, name, poisoning(getattr(torch, name)))
        for name in ("new_empty", "new_empty_strided"):
            patch.setattr(Tensor, name, poisoning(getattr(Tensor, name)))
        yield


def flatten(result: Any) -> list[Tensor]:
    """All tensors of a nested result."""
    if isinstance(result, Tensor):
        return [result]
    return [] if result is None else [tensor for part in result for tensor in flatten(part)]


def bits(result: Any) -> list[bytes]:
    """The exact contents of every tensor of a result."""
    return [
        t.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes()
        for t in flatten(result)
    ]


def assert_reproducible(
    monkeypatch: pytest.MonkeyPatch, call: Callable[[], Any], runs: int = 20
) -> None:
    """Every run gives the same bits, also where fresh memory is poisoned (an output or a workspace
    that is read before it is written).
    """
    first = bits(call())
    assert first
    with poisoned_memory(monkeypatch):
        assert bits(call()) == first, "the result depends on what fresh memory held"
    for run in range(2, 4 if INTERPRETED else runs):
        assert bits(call()) == first, f"run {run} differs"
