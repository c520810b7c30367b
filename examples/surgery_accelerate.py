"""Gradient surgery with Hugging Face accelerate, on one device or several.

``python examples/surgery_accelerate.py``, or ``accelerate launch examples/surgery_accelerate.py``.
"""

from __future__ import annotations

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import set_seed
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

import toy
from gaal_fast.surgery import GradientSurgery


def main() -> None:
    """Train with a step for every second batch, the modalities in turn."""
    set_seed(0)
    # The encoder that rests has no gradients, which DistributedDataParallel has to expect.
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    accelerator = Accelerator(gradient_accumulation_steps=2, kwargs_handlers=[unused])
    plain = toy.Model()
    model, optimizer, loader = accelerator.prepare(
        plain,
        torch.optim.Adam(plain.parameters(), lr=1e-2),
        DataLoader(toy.rows(), batch_size=32, shuffle=True),
    )
    # After prepare, which may have moved the parameters. Ranks see equal gradients.
    surgery = GradientSurgery(accelerator.unwrap_model(model).head, epsilon=0.3, relative=True)
    steps, repaired = 0, torch.zeros((), dtype=torch.int64, device=accelerator.device)
    for _ in range(6):
        for image, table, label in loader:
            name, values = (("image", image), ("table", table))[steps % 2]
            with accelerator.accumulate(model):
                accelerator.backward(cross_entropy(model(name, values), label))
                if accelerator.sync_gradients:  # the last backward before a step
                    surgery.capture(name, scaler=accelerator.scaler)
                    report = surgery.repair(name, scaler=accelerator.scaler)
                    for projection in report.values():
                        repaired += projection.v > 0
                optimizer.step()
                optimizer.zero_grad()
            steps += accelerator.sync_gradients
    words = f"repaired {int(repaired)} of {steps} steps"
    accelerator.print(f"{words}, {toy.accuracy(accelerator.unwrap_model(model))}")


if __name__ == "__main__":
    main()
