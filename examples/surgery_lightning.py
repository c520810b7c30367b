"""Gradient surgery in Lightning's manual optimization: ``python examples/surgery_lightning.py``."""

from __future__ import annotations

from typing import Any

import lightning
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

import toy
from gaal_fast.surgery import GradientSurgery


class Alternating(lightning.LightningModule):
    """Two optimizer steps for each batch, one a modality."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model = toy.Model()
        self.surgery = GradientSurgery(self.model.head, epsilon=0.3, relative=True)
        self.steps, self.repaired = 0, torch.zeros((), dtype=torch.int64)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.model.parameters(), lr=1e-2)

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], index: int) -> None:
        image, table, label = batch
        optimizer = self.optimizers()
        # Only precision "16-mixed" has a scaler.
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        for name, values in (("image", image), ("table", table)):
            optimizer.zero_grad()
            self.manual_backward(cross_entropy(self.model(name, values), label))
            self.surgery.capture(name, scaler=scaler)
            for projection in self.surgery.repair(name, scaler=scaler).values():
                self.repaired = self.repaired.to(projection.v.device) + (projection.v > 0)
            optimizer.step()
            self.steps += 1

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["surgery"] = self.surgery.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.surgery.load_state_dict(checkpoint["surgery"])


def main() -> None:
    """Train on one device."""
    lightning.seed_everything(0, verbose=False)
    module = Alternating()
    trainer = lightning.Trainer(
        max_epochs=3, devices=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, DataLoader(toy.rows(), batch_size=64, shuffle=True))
    print(f"repaired {int(module.repaired)} of {module.steps} steps, {toy.accuracy(module.model)}")


if __name__ == "__main__":
    main()
