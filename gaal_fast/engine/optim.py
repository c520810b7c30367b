"""Optimizer and learning-rate schedule from the configuration."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler, StepLR

from gaal_fast.config import OptimConfig


def build_optimizer(modules: Sequence[nn.Module], config: OptimConfig) -> Optimizer:
    """One optimizer for all parameters of some modules: it passes over those without a gradient,
    so encoders not at their turn stand still.
    """
    parameters = list(dict.fromkeys(p for module in modules for p in module.parameters()))
    if config.name == "sgd":
        return SGD(
            parameters, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay
        )
    kind = Adam if config.name == "adam" else AdamW
    return kind(parameters, lr=config.lr, weight_decay=config.weight_decay)


def build_scheduler(optimizer: Optimizer, config: OptimConfig, epochs: int) -> LRScheduler:
    """A schedule stepped once an epoch."""
    if config.schedule == "step":
        return StepLR(optimizer, config.step_size, config.gamma)
    if config.schedule == "cosine":
        return CosineAnnealingLR(optimizer, epochs)
    return LambdaLR(optimizer, lambda epoch: 1.0)
