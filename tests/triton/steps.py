"""Calls with the options of the rule by name, and whole steps of the head for the tests."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tests.reference import oracle
from tests.triton import helpers


def make_guided(
    rows: int,
    guides: int,
    classes: int,
    width: int,
    k: int,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> dict:
    normal = helpers.generator(seed)
    return {
        "features": normal(rows, width, dtype=dtype),
        "target": helpers.labels(rows, classes, seed),
        "guide_features": normal(guides, width, dtype=dtype),
        "guide_target": helpers.labels(guides, classes, seed + 1),
        "weight": normal(classes, width, dtype=dtype, scale=1.0 / math.sqrt(max(width, 1))),
        "bias": normal(classes, dtype=dtype, scale=0.3),
        "class_weights": None,
        "top_k": k,
        "epsilon": 0.2,
        "relative": True,
    }


NAMES = (
    "loss",
    "grad_features",
    "grad_weight",
    "grad_bias",
    "v",
    "dot",
    "guide_norm2",
    "grad_norm2",
    "index",
)


def project(
    grads: Sequence[Tensor], guides: Sequence[Tensor], **options: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The kernels' host function."""
    from gaal_fast.kernels.project import project_

    return project_(grads, guides, oracle.Rule(**options))


def run_guided(arguments: Mapping[str, Any]) -> dict[str, Tensor]:
    """The results by name. The options of the rule are among the arguments."""
    from gaal_fast.kernels.guided import guided_linear_ce

    options = {name: arguments[name] for name in vars(oracle.Rule()) if name in arguments}
    others = {name: value for name, value in arguments.items() if name not in options}
    return dict(zip(NAMES, guided_linear_ce(**others, rule=oracle.Rule(**options)), strict=True))
