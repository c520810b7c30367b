"""One whole step of the shared head: loss, gradient to the features, and the head gradient after
surgery.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from gaal_fast.ops import _checks as check
from gaal_fast.ops._dispatch import run
from gaal_fast.ops._registration import call, overload, register, traced
from gaal_fast.ops._rule import DEFAULT, Rule, schema
from gaal_fast.ops.project import Projection

if TYPE_CHECKING:
    from gaal_fast.ops.backends.protocol import HeadStep


class GuidedStep(NamedTuple):
    """The result of :func:`guided_linear_ce`.

    Attributes:
        loss: 0-d, mean cross-entropy of the active modality's batch; float32 (float64 for float64
            features).
        grad_features: (B, d) gradient of the loss with respect to the features.
        grad_weight: (Y, d) gradient of the loss with respect to the head's weight, after the
            projection.
        grad_bias: (Y,) likewise for the bias, None for a head without one.
        projection: v, ⟨g, g_p⟩, ‖g_p‖² and ‖g‖².
        index: (top_k,) int64, the guide rows that made g_p, by entropy descending.
    """

    loss: Tensor
    grad_features: Tensor
    grad_weight: Tensor
    grad_bias: Tensor | None
    projection: Projection
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which nobody needs here


def guided_linear_ce(
    features: Tensor,
    target: Tensor,
    guide_features: Tensor,
    guide_target: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    top_k: int,
    rule: str = DEFAULT.rule,
    epsilon: float | Tensor = DEFAULT.epsilon,
    relative: bool = DEFAULT.relative,
    margin: float | Tensor = DEFAULT.margin,
    ridge: float = DEFAULT.ridge,
    max_correction: float | None = DEFAULT.max_correction,
    class_weights: Tensor | None = None,
) -> GuidedStep:
    """Lines 8 to 15 of Algorithm 1 for a linear head that two modalities share, encoders aside.

    1. The active modality's loss: mean cross-entropy of features Wᵀ + b (equation 1), its gradient
       to the features, and g, its gradient to (W, b).
    2. The ``top_k`` rows of highest entropy of the guide's logits (equations 6 and 7), and g_p, the
       gradient of their mean cross-entropy to (W, b) (equation 8).
    3. g + v g_p (equation 5), see :func:`project_` for the rules.

    ``top_k=0`` (or an empty guide) leaves g as it is, and NaN or inf in g_p makes the head's
    gradient NaN. A batch of no rows has loss NaN and g = 0. Not differentiable: assign the results
    to ``.grad`` and call ``features.backward(grad_features)``.

    Args:
        features: (B, d) of the active modality, float32, bfloat16, float16 or float64, any strides.
        target: (B,) integer labels in [0, Y).
        guide_features: (P, d) of the guiding modality, of the same dtype. P may differ from B.
        guide_target: (P,) integer labels in [0, Y).
        weight: (Y, d) of the same dtype, Y at least 1.
        bias: (Y,) of the same dtype, or None.
        top_k: how many guide rows, in [0, P].
        rule, epsilon, relative, margin, ridge, max_correction: as :func:`project_`.
        class_weights: (Y,) floating weights of the classes in both means, or None for equal
            weights.

    Returns:
        A :class:`GuidedStep`; gradients in the dtype of ``features``, sums kept in float32 at
        least. Nothing waits for the device.

    Raises:
        TypeError: an argument that is no tensor or has a wrong dtype.
        ValueError: a wrong shape or device, a bad option, or, on the CPU, a label out of range
            (elsewhere it makes the results NaN).
    """
    options = Rule(rule, epsilon, relative, margin, ridge, max_correction)
    tensors = (features, target, guide_features, guide_target, weight, bias, class_weights)
    if traced(*tensors, epsilon, margin, ridge, max_correction):
        op, arguments = overload(_op, _op_scheduled, options)
        results = call(op, *tensors, top_k, *arguments)
    else:
        results = _eager(*tensors, top_k, options)
    loss, grad_features, grad_weight, grad_bias, v, dot, guide_norm2, grad_norm2, index = results
    if bias is None:
        grad_bias = None
    projection = Projection(v, dot, guide_norm2, grad_norm2)
    return GuidedStep(loss, grad_features, grad_weight, grad_bias, projection, index)


def _check(
    features: Tensor,
    target: Tensor,
    guide_features: Tensor,
    guide_target: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    class_weights: Tensor | None,
    values: bool,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    rows, width = check.matrix("features", features)
    guide_rows, _ = check.matrix("guide_features", guide_features, width)
    check.like("guide_features", guide_features, "features", features)
    classes, _ = check.matrix("weight", weight, width)
    check.like("weight", weight, "features", features)
    if classes < 1:
        raise ValueError(f"weight must have at least one row, got shape {tuple(weight.shape)}")
    device = features.device
    target = check.integers("target", target, rows, classes, device, values)
    guide_target = check.integers("guide_target", guide_target, guide_rows, classes, device, values)
    if bias is not None:
        check.floating("bias", bias)
        check.like("bias", bias, "features", features)
        check.vector("bias", bias, classes, device)
        bias = bias.contiguous()
    return target, guide_target, bias, check.class_weight_vector(class_weights, classes, features)


def _eager(
    features: Tensor,
    target: Tensor,
    guide_features: Tensor,
    guide_target: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    class_weights: Tensor | None,
    top_k: int,
    rule: Rule,
) -> HeadStep:
    target, guide_target, bias, class_weights = _check(
        features, target, guide_features, guide_target, weight, bias, class_weights, values=True
    )
    top_k = check.count("top_k", top_k, guide_features.shape[0], "guide_features")
    rule = rule.checked(features.device)
    step: HeadStep = run(
        "guided_linear_ce",
        (features, guide_features, weight),
        *(features, target, guide_features, guide_target, weight, bias, class_weights),
        *(top_k, rule),
    )
    return step


_NAMES = ("features", "target", "guide_features", "guide_target", "weight", "bias", "class_weights")


def _kernel(
    features: Tensor,
    target: Tensor,
    guide_features: Tensor,
    guide_target: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    class_weights: Tensor | None,
    top_k: int,
    *options: Any,
) -> tuple[Tensor, ...]:
    tensors = (features, target, guide_features, guide_target, weight, bias, class_weights)
    rule = Rule(*options)
    check.in_memory(**dict(zip(_NAMES, tensors, strict=True)), **rule.numbers)
    loss, grad_features, grad_weight, grad_bias, *others = _eager(*tensors, top_k, rule)
    # A schema has no optional results: the missing bias gradient is an empty tensor here.
    if grad_bias is None:
        grad_bias = grad_weight.new_empty(0)
    return loss, grad_features, grad_weight, grad_bias, *others


def _fake(
    features: Tensor,
    target: Tensor,
    guide_features: Tensor,
    guide_target: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    class_weights: Tensor | None,
    top_k: int,
    *options: Any,
) -> tuple[Tensor, ...]:
    tensors = (features, target, guide_features, guide_target, weight, bias, class_weights)
    check.dense(**dict(zip(_NAMES, tensors, strict=True)))
    _check(*tensors, values=False)
    Rule(*options).checked(features.device, values=False)
    classes, dtype = weight.shape[0], check.accumulator(features.dtype)
    loss, *scalars = (features.new_empty((), dtype=dtype) for _ in range(5))
    return (
        loss,
        features.new_empty(features.shape),
        features.new_empty(classes, features.shape[1]),
        features.new_empty(0 if bias is None else classes),
        *scalars,
        features.new_empty(top_k, dtype=torch.int64),
    )


def _schema(name: str, rule: str) -> str:
    return (
        f"{name}(Tensor features, Tensor target, Tensor guide_features, Tensor guide_target, Tensor"
        f" weight, Tensor? bias, Tensor? class_weights, SymInt top_k, {rule}) -> (Tensor, Tensor,"
        " Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
    )


_op: torch._ops.OpOverload = register(_schema("guided_linear_ce", schema("float")), _kernel, _fake)
_op_scheduled: torch._ops.OpOverload = register(
    _schema("guided_linear_ce.scheduled", schema("Tensor")), _kernel, _fake
)
