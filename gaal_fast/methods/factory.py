"""From the configuration to a method with its model."""

from __future__ import annotations

import torch
from torch import Tensor

from gaal_fast.config import Config, MethodConfig
from gaal_fast.methods.alternating import AlternatingLearning, SurgeryOptions
from gaal_fast.methods.base import Method
from gaal_fast.methods.joint import JointLearning
from gaal_fast.models import ConcatModel, SharedHeadModel, TableEncoder, build_image_encoder


def build_method(
    config: Config, *, classes: int, table_features: int, class_weights: Tensor | None = None
) -> Method:
    """The method ``config.method.name`` with freshly initialised weights (from torch's global
    random state).

    Args:
        config: the resolved configuration.
        classes: number of classes Y.
        table_features: columns of the preprocessed table.
        class_weights: float ``[Y]`` weights of the cross-entropy, or None.
    """
    method, model = config.method, config.model
    name = method.name
    wanted = method.order if name in ("gaal", "alternating", "concat") else [name]
    encoders, widths = {}, {}
    width = model.width
    if "image" in wanted:
        encoders["image"], width = build_image_encoder(
            model.image, width=width, weights=model.weights
        )
        widths["image"] = width
    elif width is None:
        # A table trained alone gets the width it has beside the image encoder, so that the two runs
        # compare.
        with torch.device("meta"):
            _, width = build_image_encoder(model.image)
    if "table" in wanted:
        table = TableEncoder(table_features, width, model.hidden)
        encoders["table"], widths["table"] = table, table.width
    if name == "concat":
        return JointLearning(ConcatModel(encoders, widths, classes), class_weights=class_weights)
    shared = SharedHeadModel(encoders, next(iter(widths.values())), classes)
    surgery = surgery_options(method) if name == "gaal" and method.surgery else None
    return AlternatingLearning(shared, order=wanted, surgery=surgery, class_weights=class_weights)


def surgery_options(method: MethodConfig) -> SurgeryOptions:
    """The surgery that the configuration asks for."""
    return SurgeryOptions(
        fractions={"image": method.lambda_image, "table": method.lambda_table}
        if method.selection
        else None,
        projection={
            "rule": method.rule,
            "epsilon": method.epsilon,
            "relative": method.relative,
            "margin": method.margin,
            "ridge": method.ridge,
            "max_correction": method.max_correction,
        },
        guide=method.guide,
    )
