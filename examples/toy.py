"""What the examples share: drawn rows with two modalities, and a model with a shared head."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

CLASSES, IMAGE, TABLE, WIDTH = 4, 16, 8, 32
MODALITIES = ("image", "table")


class Model(nn.Module):
    """An encoder for each modality and one linear head for both."""

    def __init__(self) -> None:
        super().__init__()
        sizes = {"image": IMAGE, "table": TABLE}
        self.encoders = nn.ModuleDict(
            {name: nn.Sequential(nn.Linear(size, WIDTH), nn.ReLU()) for name, size in sizes.items()}
        )
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, name: str, values: Tensor) -> Tensor:
        """Logits [B, classes] from one modality."""
        return self.head(self.encoders[name](values))


def rows(count: int = 1024, *, seed: int = 0) -> TensorDataset:
    """Image [B, 16], table [B, 8] and label [B]. Either modality alone tells most classes apart."""
    random = torch.Generator().manual_seed(seed)
    centers = torch.Generator().manual_seed(0)
    label = torch.randint(CLASSES, (count,), generator=random)
    image, table = (
        0.6 * torch.randn(CLASSES, size, generator=centers)[label]
        + torch.randn(count, size, generator=random)
        for size in (IMAGE, TABLE)
    )
    return TensorDataset(image, table, label)


@torch.no_grad()
def accuracy(model: Model) -> str:
    """Accuracy on new rows: of the mean of both logits, and of each modality's."""
    *values, label = (part.to(model.head.weight.device) for part in rows(seed=1).tensors)
    logits = dict(zip(MODALITIES, map(model, MODALITIES, values), strict=True))
    logits = {"fused": torch.stack(list(logits.values())).mean(0), **logits}
    right = {name: (z.argmax(1) == label).float().mean().item() for name, z in logits.items()}
    return "accuracy " + " ".join(f"{name} {share:.3f}" for name, share in right.items())
