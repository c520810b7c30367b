"""The number format that encoders compute in."""

from __future__ import annotations

from typing import Literal

import torch

from gaal_fast.methods import Method
from gaal_fast.models import Encoders


def set_precision(method: Method, precision: Literal["fp32", "bf16"]) -> None:
    """Let all encoders of a method, those of its teachers too, compute in one number format."""
    for module in method.modules():
        if isinstance(module, Encoders):
            module.autocast = torch.bfloat16 if precision == "bf16" else None
