"""Gradient surgery with mixed precision, gradient accumulation and clipping.

float16 with a ``GradScaler`` on a GPU, bfloat16 on the CPU: ``python examples/surgery_amp.py``.
"""

from __future__ import annotations

import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

import toy
from gaal_fast.surgery import GradientSurgery

PARTS = 2  # backward passes for each step


def main() -> None:
    """Train as in ``surgery_plain_torch.py``, each step from several scaled backward passes."""
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    half = torch.float16 if device == "cuda" else torch.bfloat16
    model = toy.Model().to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    scaler = torch.amp.GradScaler(device, enabled=half is torch.float16)
    surgery = GradientSurgery(model.head, epsilon=0.3, relative=True)
    steps, repaired = 0, torch.zeros((), dtype=torch.int64, device=device)
    for _ in range(3):
        for batch in DataLoader(toy.rows(), batch_size=64, shuffle=True):
            image, table, label = (part.to(device) for part in batch)
            for name, values in (("image", image), ("table", table)):
                optimizer.zero_grad()
                for x, y in zip(values.chunk(PARTS), label.chunk(PARTS), strict=True):
                    with torch.autocast(device, dtype=half):
                        loss = cross_entropy(model(name, x), y) / PARTS
                    scaler.scale(loss).backward()
                # Once for each step, after the last backward and before anything is unscaled.
                surgery.capture(name, scaler=scaler)
                for projection in surgery.repair(name, scaler=scaler).values():
                    repaired += projection.v > 0
                scaler.unscale_(optimizer)
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                scaler.step(optimizer)
                scaler.update()
                steps += 1
    print(f"repaired {int(repaired)} of {steps} steps, {toy.accuracy(model)}")


if __name__ == "__main__":
    main()
