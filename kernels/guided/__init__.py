"""One whole step of the shared head, lines 8 to 15 of Algorithm 1, in three launches.

With the active modality's features U [B, d], the guide's features U_p [P, d] and the head (W, b):

1. Logits of both, row statistics, the loss, and the k guide rows of highest entropy (equations (1),
   (6), (7)). While both batches and Y are small the logits come from a kernel that also reduces
   each tile to partial row statistics; beyond (``plan.own_logits``) PyTorch's matrix product makes
   them and the launch reads them once. The last program to arrive merges the statistics and
   selects.
2. <g, g_p>, |g_p|^2, |g|^2 and v (equation (5)), and beside them grad_features = A W, which needs
   no v.
3. The corrected head gradient g + v g_p.

With a_i = c_i (p_i - onehot(y_i)) (see ``linear_ce_grad``), C = sum c_i over the active rows and
C_p over the selected guide rows, g = A^T U / C and g_p = A_p^T U_p / C_p. Launches 2 and 3 come in
two forms:

direct   2 forms a tile of g and the same tile of g_p, adds their products up and stores both; 3
         reads both back: g + v g_p.
gram     2 works in sample space. With the bias as a feature that is always 1,

             <g, g_p> = sum_ij (A A_p^T)_ij ((U U_p^T)_ij + 1) / (C C_p)

         and likewise for the norms, so that no gradient is formed. 3 is one product over the B + k
         stacked rows: it accumulates the guide's rows first, scales the accumulator by v C / C_p,
         and goes on with the active rows.

``plan`` chooses from the shapes and the precision of the products, on the host. A workspace belongs
to one call.

Residuals of confident rows are as small as e^-80. Launch 1 leaves, per batch, the power of two that
brings the largest |c_i (p_y - 1)| near 1 (``_device.lift``); the products of launches 2 and 3 take
a_i times that, so that neither their squares nor a float16 operand underflows, and what comes out
is divided by it: sums in float64, gradients on the accumulator. The direct form keeps g_p
multiplied. Traffic of launch 1 beside the logits: 3 floats per row and part written and read, 3 per
row written.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gaal_fast.kernels._launch import contiguous, dot_precision, rows_contiguous, ticket
from gaal_fast.kernels._rule import Rule, rule_constants, rule_values

from .plan import Problem, make_plan

# Arguments that belong to a bias, where there is none.
_NO_BIAS = dict.fromkeys(("bias_ptr", "grad_bias_ptr", "plain_bias_ptr", "guide_bias_ptr"))


def guided_linear_ce(
    features: Tensor,
    target: Tensor,
    guide_features: Tensor,
    guide_target: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    class_weights: Tensor | None,
    top_k: int,
    rule: Rule,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Loss, feature gradient and corrected head gradient of one step.

    Three launches, and two products of PyTorch unless ``plan.own_logits``.

    Args:
        features: [B, d], float32, float16 or bfloat16.
        target: [B] int64.
        guide_features: [P, d], P <= ``entropy_topk.MAX_ROWS``.
        guide_target: [P] int64.
        weight: [Y, d].
        bias: [Y] or None.
        class_weights: [Y] or None.
        top_k: k, the guide rows of highest entropy that make g_p; 0 leaves g as it is.
        rule: how v is found.

    Returns:
        loss [], grad_features [B, d], grad_weight [Y, d], grad_bias [Y] or None, v [], dot [],
        guide_norm2 [], grad_norm2 [], index [k]. Gradients in the dtype of ``features``, scalars
        float32. A label outside [0, Y) makes what depends on it NaN.
    """
    features, guide_features, weight = map(rows_contiguous, (features, guide_features, weight))
    bias = contiguous(bias)
    (B, d), Y, device = features.shape, weight.shape[0], features.device
    P = guide_features.shape[0] if top_k else 0
    precision = dot_precision(features.dtype)
    problem = Problem(B, P, Y, d, top_k, features.dtype, precision, bias is not None)
    plan = make_plan(problem, rule_constants(rule))
    memory = plan.allocate(features)
    values: dict[str, object] = {
        **_NO_BIAS,
        **memory,
        **plan.numbers,
        **rule_values(rule),
        "features_ptr": features,
        "features_stride": features.stride(0),
        "guide_features_ptr": guide_features,
        "guide_features_stride": guide_features.stride(0),
        "weight_ptr": weight,
        "weight_stride": weight.stride(0),
        "bias_ptr": bias,
        "target_ptr": target.contiguous(),
        "guide_target_ptr": guide_target.contiguous(),
        "class_weights_ptr": contiguous(class_weights),
        "ticket_ptr": ticket(device),
    }
    if plan.own_logits:
        logits, guide_logits = memory["stacked_ptr"].split((B, P))
    else:
        logits = torch.nn.functional.linear(features, weight, bias)
        guide_logits = torch.nn.functional.linear(guide_features[:P], weight, bias)
    values |= {
        "logits_ptr": logits,
        "logits_stride": logits.stride(0),
        "guide_logits_ptr": guide_logits,
        "guide_logits_stride": guide_logits.stride(0),
    }
    for launch in plan.launches:
        launch.run({name: values[name] for name in launch.names}, device)
    return (
        memory["loss_ptr"],
        memory["grad_features_ptr"],
        memory["grad_weight_ptr"],
        memory.get("grad_bias_ptr"),
        memory["v_ptr"],
        memory["dot_ptr"],
        memory["guide_norm2_ptr"],
        memory["grad_norm2_ptr"],
        memory["index_ptr"],
    )
