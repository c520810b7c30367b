"""Gradient surgery in a plain PyTorch loop: ``python examples/surgery_plain_torch.py``."""

from __future__ import annotations

import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

import toy
from gaal_fast.surgery import GradientSurgery


def main() -> None:
    """Train two encoders in turn, both through one head whose gradient is repaired."""
    torch.manual_seed(0)
    model = toy.Model()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    # A repair makes <g, guide> at least 0.3 of the product of both norms (equation 3).
    surgery = GradientSurgery(model.head, epsilon=0.3, relative=True)
    steps, repaired = 0, torch.zeros((), dtype=torch.int64)
    for _ in range(3):
        for image, table, label in DataLoader(toy.rows(), batch_size=64, shuffle=True):
            for name, values in (("image", image), ("table", table)):
                optimizer.zero_grad()  # to None, so that Adam leaves the other encoder alone
                cross_entropy(model(name, values), label).backward()
                surgery.capture(name)  # a guide for the other modality's next step
                for projection in surgery.repair(name).values():
                    repaired += projection.v > 0  # a device scalar: nothing waits for a GPU
                optimizer.step()
                steps += 1
    print(f"repaired {int(repaired)} of {steps} steps, {toy.accuracy(model)}")


if __name__ == "__main__":
    main()
