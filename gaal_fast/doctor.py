"""``python -m gaal_fast.doctor``: what is installed here, which backend every op takes, and whether
it agrees with plain torch.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gaal_fast.config import Parser
from gaal_fast.config.command import command
from gaal_fast.runs.environment import environment

if TYPE_CHECKING:
    import torch
    from torch import Tensor

ROWS, CLASSES, WIDTH, TOP = 64, 286, 128, 32
# Rounding of a different order of summation, in units of the float32 epsilon times the largest
# value.
ALLOWED_EPSILONS = 64
FLOAT32_EPSILON = 2.0**-23


@dataclass(frozen=True)
class Check:
    """One op on one device: who takes it, and how far it and torch are from float64 truth (largest
    relative error over the outputs).
    """

    device: str
    op: str
    backend: str
    error: float
    torch_error: float

    @property
    def good(self) -> bool:
        """Whether the op is as exact as torch, but for rounding."""
        return self.error <= self.torch_error + ALLOWED_EPSILONS * FLOAT32_EPSILON


@command()
def main(argv: Sequence[str]) -> int:
    """Print what is here; exit code 1 where an op is wrong."""
    parser = Parser(
        prog="python -m gaal_fast.doctor",
        description="Report the installation and check every op against plain torch.",
        example="python -m gaal_fast.doctor",
    )
    parser.parse(argv)
    from gaal_fast import ops

    for line in _installation():
        print(line)
    print(
        f"\nbackend asked for: {ops.requested_backend()} (change with GAAL_FAST_BACKEND or"
        " gaal_fast.ops.set_backend)"
    )
    for name, devices in ops.availability().items():
        for device, reason in devices.items():
            print(f"  {name:<8}{device:<8}{'ready' if reason is None else f'not usable: {reason}'}")
    print(
        f"\n{'op':<20}{'device':<8}{'takes':<8}{'error':>10}{'torch':>10}   against float64 on"
        " random input"
    )
    checks = list(check_ops())
    for check in checks:
        verdict = "ok" if check.good else "WRONG"
        print(
            f"{check.op:<20}{check.device:<8}{check.backend:<8}{check.error:>10.1e}{check.torch_error:>10.1e}"
            f"   {verdict}"
        )
    return 0 if all(check.good for check in checks) else 1


def _installation() -> Iterator[str]:
    found = environment()
    yield f"gaal_fast {found['gaal_fast']}, Python {found['python']}, {found['platform']}"
    yield "  ".join(
        f"{name} {version or '(not installed)'}" for name, version in found["packages"].items()
    )
    yield f"CPU: {found['cpu']}, {found['cpu_threads']} threads"
    yield (
        f"GPU: {found['gpu'] or 'none that torch can use'} (torch built for CUDA"
        f" {found['cuda'] or 'no'})"
    )


def check_ops() -> Iterator[Check]:
    """Run every op on every device here, with the backend it would take and with torch, on the same
    random float32 input.
    """
    import torch

    from gaal_fast import ops

    devices = ["cpu"] + [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    for device in devices:
        for op, (tensors, call) in _calls(torch.device(device)).items():
            with ops.backend("torch"):
                truth = call(*(t.double() for t in tensors))
                plain = call(*tensors)
            chosen = ops.selected_backend(op, *tensors)
            yield Check(device, op, chosen, _error(call(*tensors), truth), _error(plain, truth))


def _calls(device: torch.device) -> dict[str, tuple[list[Tensor], Callable[..., list[Tensor]]]]:
    """For each op its float inputs and a call of them that returns the float outputs."""
    import torch

    from gaal_fast import ops

    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device)

    target = torch.randint(CLASSES, (ROWS,), generator=generator).to(device)
    logits, features, guide = 3 * normal(ROWS, CLASSES), normal(ROWS, WIDTH), normal(ROWS, WIDTH)
    weight, bias, gradient, guiding = (
        normal(CLASSES, WIDTH) / 8,
        normal(CLASSES),
        normal(CLASSES, WIDTH),
        normal(CLASSES, WIDTH),
    )

    def stats(z: Tensor) -> list[Tensor]:
        return [value for value in ops.softmax_stats(z, target) if value is not None]

    def project(g: Tensor, p: Tensor) -> list[Tensor]:
        repaired = g.clone()
        result = ops.project_([repaired], [p], epsilon=0.1, relative=True)
        return [repaired, *result]

    def guided(u: Tensor, p: Tensor, w: Tensor, b: Tensor) -> list[Tensor]:
        step = ops.guided_linear_ce(
            u, target, p, target, w, b, top_k=TOP, epsilon=0.1, relative=True
        )
        parts = [step.loss, step.grad_features, step.grad_weight, step.grad_bias, *step.projection]
        return [part for part in parts if part is not None]

    return {
        "softmax_stats": ([logits], stats),
        "entropy_topk": ([logits], lambda z: [ops.entropy_topk(z, TOP)[0]]),
        "linear_ce_grad": ([features, logits], lambda u, z: list(ops.linear_ce_grad(u, z, target))),
        "project_": ([gradient, guiding], project),
        "guided_linear_ce": ([features, guide, weight, bias], guided),
    }


def _error(found: list[Tensor], truth: list[Tensor]) -> float:
    """Largest deviation over all outputs, each relative to the largest value of its truth."""
    return max(
        float((f.double() - t).abs().max() / t.abs().max().clamp(min=1e-30))
        for f, t in zip(found, truth, strict=True)
    )


if __name__ == "__main__":
    sys.exit(main())
