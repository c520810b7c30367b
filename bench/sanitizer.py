"""compute-sanitizer over every op of every GPU backend: memcheck, racecheck, synccheck and
initcheck.

``python -m bench.sanitizer`` first runs the ops once without it (which also fills Triton's cache),
then under all four tools at once, each with PyTorch's caching allocator off so that reads beyond a
tensor are seen. ``--inner`` only runs the ops and compares them with backend ``torch``.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from gaal_fast import ops

TOOLS = ("memcheck", "racecheck", "synccheck", "initcheck")
ERROR_CODE = 86

# Odd sizes, one class, more classes than one block takes, one row, every row selected.
SHAPES = (
    (1, 1, 1, 1),
    (7, 2, 33, 3),
    (33, 286, 65, 16),
    (64, 717, 128, 64),
    (5, 5003, 40, 2),
    (130, 31, 257, 1),
)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def exercise(device: torch.device) -> Iterator[str]:
    """Run every op on small awkward inputs; yields what disagrees with backend ``torch`` beyond
    rounding.
    """
    backends = [
        name
        for name in ("native", "triton")
        if ops.availability()[name][f"cuda:{device.index or 0}"] is None
    ]
    if not backends:
        yield "no GPU backend is available"
    for backend in backends:
        for shape in SHAPES:
            for dtype in DTYPES:
                yield from _one(device, backend, *shape, dtype)


def _one(
    device: torch.device,
    backend: str,
    rows: int,
    classes: int,
    width: int,
    k: int,
    dtype: torch.dtype,
) -> Iterator[str]:
    generator = torch.Generator(device).manual_seed(rows * classes)

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=generator, device=device).to(dtype)

    # Columns of a wider matrix: rows that are not next to one another, as users have them.
    features, guide = normal(rows, width + 3)[:, :width], normal(rows, width)
    logits, weight, bias = (
        normal(rows, classes + 1)[:, :classes],
        normal(classes, width) / width**0.5,
        normal(classes),
    )
    target = torch.randint(classes, (rows,), generator=generator, device=device)
    index = torch.arange(k, device=device)

    gradient, guides = [weight * 0.5 - 1, bias.clone()], [weight, bias]

    def project() -> Sequence[torch.Tensor]:
        changed = [part.clone() for part in gradient]
        return [*changed, *ops.project_(changed, guides, epsilon=0.5, relative=True)]

    def guided() -> Sequence[torch.Tensor]:
        step = ops.guided_linear_ce(
            features, target, guide, target, weight, bias, top_k=k, epsilon=0.5, relative=True
        )
        return [step.loss, step.grad_features]

    # By op: the tensors that decide whether the backend takes it, and the call.
    calls: dict[str, tuple[Sequence[torch.Tensor], Callable[[], Sequence[torch.Tensor]]]] = {
        "softmax_stats": ([logits], lambda: ops.softmax_stats(logits, target)),
        "entropy_topk": ([logits], lambda: ops.entropy_topk(logits, k)[:1]),
        "linear_ce_grad": (
            [features, logits],
            lambda: ops.linear_ce_grad(features, logits, target, index),
        ),
        "project_": ([*gradient, *guides], project),
        "guided_linear_ce": ([features, guide, weight], guided),
    }
    tolerance = 1e-4 if dtype == torch.float32 else 5e-2
    for op, (tensors, call) in calls.items():
        with ops.backend("torch"):
            expected = call()
        with ops.backend(backend):
            try:
                ops.selected_backend(op, *tensors)
            except RuntimeError:  # not a call that this backend takes
                continue
            found = call()
        for position, (a, b) in enumerate(zip(found, expected, strict=True)):
            scale = float(b.abs().max()) + 1e-3
            if not float((a.float() - b.float()).abs().max()) <= tolerance * scale:
                yield (
                    f"{backend} {op} result {position} at {rows}x{classes}x{width}, k={k}, {dtype}"
                )


def command(tool: str, inner: Sequence[str]) -> list[str]:
    return [
        find_sanitizer() or "compute-sanitizer",
        "--tool",
        tool,
        "--error-exitcode",
        str(ERROR_CODE),
        "--print-limit",
        "20",
        "--target-processes",
        "application-only",
        "--report-api-errors",
        "no",
        *inner,
    ]


def find_sanitizer() -> str | None:
    for folder in (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"):
        if folder and (found := Path(folder, "bin", "compute-sanitizer")).is_file():
            return str(found)
    return shutil.which("compute-sanitizer")


def kernels_at_fault(text: str) -> Counter[str]:
    """How often each kernel is named in a report."""
    return Counter(name[:100] for name in re.findall(r"=========\s+at (.+?)\+0x", text))


def run_tools(limit: float) -> dict[str, str]:
    """The verdict of each tool: "clean", or what it found."""
    inner = [sys.executable, "-m", "bench.sanitizer", "--inner"]
    environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    began = time.monotonic()
    running = {
        tool: subprocess.Popen(
            command(tool, inner),
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for tool in TOOLS
    }
    verdicts = {}
    for tool, process in running.items():
        try:
            text, _ = process.communicate(timeout=max(1.0, limit - (time.monotonic() - began)))
        except subprocess.TimeoutExpired:
            process.kill()
            text, _ = process.communicate()
            verdicts[tool] = f"not finished in {limit:.0f} s"
        else:
            summary = re.findall(r"(?:ERROR|RACECHECK) SUMMARY: (.+)", text)
            clean = process.returncode == 0 and summary
            verdicts[tool] = (
                "clean"
                if clean
                else f"exit code {process.returncode}, {summary[-1] if summary else 'no summary'}"
            )
        if verdicts[tool] != "clean":
            print(f"--- {tool}\n{text[-3000:]}")
            for name, count in kernels_at_fault(text).most_common(10):
                verdicts[tool] += f"; {count} at {name}"
    return verdicts


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.sanitizer",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--inner", action="store_true", help="run the ops only")
    parser.add_argument("--seconds", type=float, default=150, help="for all tools together")
    arguments = parser.parse_args(argv)
    if not torch.cuda.is_available():
        print("not run: no GPU that torch can use")
        return 0
    if arguments.inner:
        wrong = list(exercise(torch.device("cuda")))
        torch.cuda.synchronize()
        print("\n".join(wrong) or "every op agrees with backend torch")
        return 1 if wrong else 0
    began = time.monotonic()
    plain = subprocess.run(
        [sys.executable, "-m", "bench.sanitizer", "--inner"],
        text=True,
        capture_output=True,
        timeout=arguments.seconds,
    )
    print(plain.stdout, plain.stderr[-2000:], sep="")
    if find_sanitizer() is None:
        print("compute-sanitizer was not found")
        return 1
    verdicts = run_tools(arguments.seconds - (time.monotonic() - began))
    for tool, verdict in verdicts.items():
        print(f"{tool}: {verdict}")
    return 0 if plain.returncode == 0 and all(v == "clean" for v in verdicts.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
