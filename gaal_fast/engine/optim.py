"""Optimizer and learning-rate schedule from the configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler, StepLR

from gaal_fast.config import OptimConfig
from gaal_fast.models import ImageEncoder


def build_optimizer(modules: Sequence[nn.Module], config: OptimConfig) -> Optimizer:
    """One optimizer for all parameters of some modules: it passes over those without a gradient,
    so encoders not at their turn stand still. It does not hold what is frozen.

    The first group has the learning rate ``config.lr``; pretrained networks are a second one where
    they have a rate of their own.
    """
    held = dict.fromkeys(p for m in modules for p in m.parameters() if p.requires_grad)
    parameters: list[dict[str, Any]] = [{"params": list(held)}]
    if config.encoder_lr is not None:
        slow = _pretrained(modules)
        parameters = [
            {"params": [p for p in held if p not in slow]},
            {"params": [p for p in held if p in slow], "lr": config.encoder_lr},
        ]
    if config.name == "sgd":
        return SGD(
            parameters, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay
        )
    kind = Adam if config.name == "adam" else AdamW
    return kind(parameters, lr=config.lr, weight_decay=config.weight_decay)


def _pretrained(modules: Sequence[nn.Module]) -> set[nn.Parameter]:
    """The parameters of the image encoders that start from pretrained weights."""
    return {
        parameter
        for module in modules
        for encoder in module.modules()
        if isinstance(encoder, ImageEncoder) and encoder.pretrained
        for parameter in encoder.network.parameters()
    }


def build_scheduler(optimizer: Optimizer, config: OptimConfig, epochs: int) -> LRScheduler:
    """A schedule stepped once an epoch."""
    if config.schedule == "step":
        return StepLR(optimizer, config.step_size, config.gamma)
    if config.schedule == "cosine":
        return CosineAnnealingLR(optimizer, epochs)
    return LambdaLR(optimizer, lambda epoch: 1.0)
