"""The authors' released training step, restated in plain torch from its published description: the
baseline for speed and for equality.

For each batch it runs two forward passes of either encoder and four backward passes, copies two
whole head gradients to the CPU as float64 for each update and solves a quadratic program there.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

FRACTION, MARGIN, RIDGE = 0.5, 0.75, 1e-3


def project_by_quadratic_program(
    gradient: np.ndarray, memory: np.ndarray, margin: float = MARGIN, ridge: float = RIDGE
) -> np.ndarray:
    """Gradient plus v times memory, where v minimises 1/2 v (|memory|^2 + ridge) v + <gradient,
    memory> v subject to v >= margin.

    Uses quadprog, as the released code does, where it is installed; else the closed form of this
    one-variable program, which is faster and so never flatters us.
    """
    try:
        import quadprog
    except ImportError:
        v = max(margin, -float(gradient @ memory) / (float(memory @ memory) + ridge))
    else:
        quadratic = np.array([[float(memory @ memory) + ridge]])
        linear = np.array([-float(gradient @ memory)])
        v = quadprog.solve_qp(quadratic, linear, np.eye(1), np.array([margin]))[0][0]
    return gradient + v * memory


class ReleasedStep:
    """Two optimizer steps on one batch, image first.

    ``isolate=True`` drops the inactive encoder's gradients to None before each update instead of
    leaving them at zero, which takes away the drift that momentum and weight decay otherwise cause
    there; everything else is as released.
    """

    def __init__(
        self,
        image: nn.Module,
        table: nn.Module,
        head: nn.Linear,
        optimizer: Optimizer,
        *,
        isolate: bool,
    ) -> None:
        self.image, self.table, self.head, self.optimizer, self.isolate = (
            image,
            table,
            head,
            optimizer,
            isolate,
        )

    def __call__(self, images: Tensor, table: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Use one batch; returns the losses of the image and the table update."""
        image_features, table_features = self.image(images), self.table(table)
        memory = self._guiding_gradient(table_features, target)
        image_loss = self._update(image_features, target, memory, inactive=self.table)
        memory = self._guiding_gradient(self.image(images), target)
        table_loss = self._update(self.table(table), target, memory, inactive=self.image)
        self.optimizer.zero_grad(set_to_none=True)
        return image_loss, table_loss

    def _guiding_gradient(self, features: Tensor, target: Tensor) -> Tensor:
        logits = self.head(features)
        probability = logits.softmax(dim=1)
        entropy = -(probability * probability.log()).nan_to_num().sum(dim=1)
        chosen = entropy.topk(max(1, int(FRACTION * len(target)))).indices
        F.cross_entropy(logits[chosen], target[chosen]).backward()
        gradient = self._head_gradient().clone()
        self.optimizer.zero_grad(set_to_none=False)
        return gradient

    def _update(
        self, features: Tensor, target: Tensor, memory: Tensor, *, inactive: nn.Module
    ) -> Tensor:
        loss = F.cross_entropy(self.head(features), target)
        loss.backward()
        gradient = self._head_gradient()
        if torch.dot(gradient, memory) < 0:
            repaired = project_by_quadratic_program(
                gradient.cpu().double().numpy(), memory.cpu().double().numpy()
            )
            self._write_head_gradient(torch.from_numpy(repaired).to(gradient))
        if self.isolate:
            for parameter in inactive.parameters():
                parameter.grad = None
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=False)
        return loss.detach()

    def _head_gradient(self) -> Tensor:
        return torch.cat([p.grad.flatten() for p in self.head.parameters()])

    def _write_head_gradient(self, flat: Tensor) -> None:
        for parameter, part in zip(
            self.head.parameters(),
            flat.split([p.numel() for p in self.head.parameters()]),
            strict=True,
        ):
            parameter.grad = part.view_as(parameter)
