"""The operations in plain torch, as fast as plain torch can say them: the baselines for eager and
``torch.compile``.

Every function here was chosen against the alternatives in ``ALTERNATIVES``, which
``python -m bench.ops --alternatives`` times beside them: gradients written out instead of autograd,
the softmax computed once, temporaries reused in place, no copy of a gradient.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.problems import RULE, Inputs

Results = dict[str, Tensor]


def softmax_stats(logits: Tensor, target: Tensor) -> Results:
    log_p = logits.log_softmax(dim=1, dtype=torch.float32)
    place = target[:, None]
    nll = -log_p.gather(1, place).squeeze(1)
    # One gathered logit gives the log-sum-exp without another pass.
    lse = logits.gather(1, place).squeeze(1) + nll
    return {"entropy": log_p.exp().mul_(log_p).sum(dim=1).neg_(), "lse": lse, "nll": nll}


def entropy_topk(logits: Tensor, k: int) -> Results:
    entropy, index, _ = _select(logits, k)
    return {"entropy": entropy, "index": index}


def linear_ce_grad(features: Tensor, logits: Tensor, target: Tensor, index: Tensor) -> Results:
    residual = _residual(
        logits[index].log_softmax(dim=1, dtype=torch.float32).exp_(), target[index]
    ).to(features.dtype)
    return {"grad_weight": residual.t() @ features[index], "grad_bias": residual.sum(dim=0)}


def project_(grads: list[Tensor], guides: list[Tensor]) -> Results:
    dot, norm2 = _dot(grads, guides), _dot(guides, guides)
    v = torch.where(dot < 0, (-dot / (norm2 + RULE["ridge"])).clamp(min=RULE["margin"]), 0.0)
    for grad, guide in zip(grads, guides, strict=True):
        grad.addcmul_(guide, v.to(grad.dtype))
    return {"v": v, "grad_weight": grads[0], "grad_bias": grads[1]}


def surgery(
    guide_features: Tensor,
    logits: Tensor,
    target: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    k: int,
) -> Results:
    index, guides = guiding_gradient(guide_features, logits, target, k)
    return project_([grad_weight, grad_bias], guides) | {"index": index}


def guided_linear_ce(
    features: Tensor, target: Tensor, guide_features: Tensor, weight: Tensor, bias: Tensor, k: int
) -> Results:
    loss, grad_features, grads = head_gradient(features, target, weight, bias)
    index, guides = guiding_gradient(
        guide_features, F.linear(guide_features, weight, bias), target, k
    )
    return project_(grads, guides) | {"loss": loss, "grad_features": grad_features, "index": index}


def head_gradient(
    features: Tensor, target: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Mean cross-entropy of the active modality, its gradient to the features, and to the head."""
    log_p = F.linear(features, weight, bias).log_softmax(dim=1, dtype=torch.float32)
    loss = F.nll_loss(log_p, target)
    residual = _residual(log_p.exp_(), target).to(weight.dtype)
    return loss, residual @ weight, [residual.t() @ features, residual.sum(dim=0)]


def guiding_gradient(
    guide_features: Tensor, logits: Tensor, target: Tensor, k: int
) -> tuple[Tensor, list[Tensor]]:
    """The selected rows and the head's gradient of their mean cross-entropy."""
    _, index, p = _select(logits, k)
    residual = _residual(p[index], target[index]).to(guide_features.dtype)
    return index, [residual.t() @ guide_features[index], residual.sum(dim=0)]


def _select(logits: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Entropy and index of the k most uncertain rows, and the probabilities of all."""
    log_p = logits.log_softmax(dim=1, dtype=torch.float32)
    p = log_p.exp()
    top = log_p.mul_(p).sum(dim=1).neg_().topk(k)
    return top.values, top.indices, p


def _residual(p: Tensor, target: Tensor) -> Tensor:
    """(p - onehot) / rows, in place of p."""
    place = target[:, None]
    return p.scatter_add_(1, place, torch.full_like(place, -1.0, dtype=p.dtype)).div_(len(p))


def _dot(a: list[Tensor], b: list[Tensor]) -> Tensor:
    """<a, b> of two lists of tensors seen as flat vectors, in float32 at least."""
    if a[0].dtype == torch.float32:
        return sum(torch.dot(x.flatten(), y.flatten()) for x, y in zip(a, b, strict=True))
    # Half precision: torch.dot would also round its sum to half precision, and overflow in float16.
    return sum((x.float() * y.float()).sum() for x, y in zip(a, b, strict=True))


_ARGUMENTS = {
    "softmax_stats": ("logits", "target"),
    "entropy_topk": ("logits",),
    "linear_ce_grad": ("features", "logits", "target", "index"),
    "project_": ("grad_weight", "grad_bias", "guide_weight", "guide_bias"),
    "surgery": ("guide_features", "logits", "target", "grad_weight", "grad_bias"),
    "guided_linear_ce": ("features", "target", "guide_features", "weight", "bias"),
}


def arguments(op: str, inputs: Inputs, k: int, prefix: str = "") -> tuple:
    """What an op's function takes, from a problem's inputs whose names begin with ``prefix``."""
    tensors = [inputs[prefix + name] for name in _ARGUMENTS[op]]
    if op == "project_":
        return tensors[:2], tensors[2:]
    return (
        (*tensors, k) if op in ("entropy_topk", "surgery", "guided_linear_ce") else tuple(tensors)
    )


FUNCTIONS: dict[str, Callable[..., Results]] = {
    f.__name__: f
    for f in (softmax_stats, entropy_topk, linear_ce_grad, project_, surgery, guided_linear_ce)
}


# The other ways of saying the same, to show that the baselines are the best of them.


def _stats_from_logsumexp(logits: Tensor, target: Tensor) -> Results:
    lse = logits.float().logsumexp(dim=1)
    p = (logits - lse[:, None]).exp()
    nll = lse - logits.gather(1, target[:, None]).squeeze(1)
    return {"entropy": lse - (p * logits).sum(dim=1), "lse": lse, "nll": nll}


def _stats_by_cross_entropy(logits: Tensor, target: Tensor) -> Results:
    log_p = logits.float().log_softmax(dim=1)
    nll = F.cross_entropy(logits.float(), target, reduction="none")
    return {
        "entropy": -(log_p.exp() * log_p).sum(dim=1),
        "lse": logits.float().logsumexp(dim=1),
        "nll": nll,
    }


def _topk_by_entr(logits: Tensor, k: int) -> Results:
    top = torch.special.entr(logits.softmax(dim=1, dtype=torch.float32)).sum(dim=1).topk(k)
    return {"entropy": top.values, "index": top.indices}


def _grad_by_autograd(features: Tensor, logits: Tensor, target: Tensor, index: Tensor) -> Results:
    chosen = logits[index].float().requires_grad_()
    (residual,) = torch.autograd.grad(F.cross_entropy(chosen, target[index]), chosen)
    residual = residual.to(features.dtype)
    return {"grad_weight": residual.t() @ features[index], "grad_bias": residual.sum(dim=0)}


def _project_by_products(grads: list[Tensor], guides: list[Tensor]) -> Results:
    dot = sum((a * b).sum() for a, b in zip(grads, guides, strict=True))
    norm2 = sum((b * b).sum() for b in guides)
    v = torch.where(dot < 0, (-dot / (norm2 + RULE["ridge"])).clamp(min=RULE["margin"]), 0.0)
    for grad, guide in zip(grads, guides, strict=True):
        grad.add_(v * guide)
    return {"v": v, "grad_weight": grads[0], "grad_bias": grads[1]}


def _project_by_item(grads: list[Tensor], guides: list[Tensor]) -> Results:
    dot, norm2 = float(_dot(grads, guides)), float(_dot(guides, guides))
    v = max(RULE["margin"], -dot / (norm2 + RULE["ridge"])) if dot < 0 else 0.0
    for grad, guide in zip(grads, guides, strict=True):
        grad.add_(guide, alpha=v)
    return {"v": torch.tensor(v), "grad_weight": grads[0], "grad_bias": grads[1]}


def _guided_by_autograd(
    features: Tensor, target: Tensor, guide_features: Tensor, weight: Tensor, bias: Tensor, k: int
) -> Results:
    """Autograd for the active modality and for the selected logits of the guide."""
    features, weight, bias = (t.detach().requires_grad_() for t in (features, weight, bias))
    loss = F.cross_entropy(F.linear(features, weight, bias), target)
    grad_features, *grads = torch.autograd.grad(loss, (features, weight, bias))
    with torch.no_grad():
        logits = F.linear(guide_features, weight, bias)
        log_p = logits.log_softmax(dim=1)
        index = (-(log_p.exp() * log_p).sum(dim=1)).topk(k).indices
    chosen = logits[index].requires_grad_()
    (residual,) = torch.autograd.grad(F.cross_entropy(chosen, target[index]), chosen)
    with torch.no_grad():
        repaired = project_(
            list(grads), [residual.t() @ guide_features[index], residual.sum(dim=0)]
        )
    return repaired | {"loss": loss.detach(), "grad_features": grad_features, "index": index}


def _guided_by_autograd_throughout(
    features: Tensor, target: Tensor, guide_features: Tensor, weight: Tensor, bias: Tensor, k: int
) -> Results:
    """Autograd for both modalities, the selected rows taken from logits with a graph."""
    features, weight, bias = (t.detach().requires_grad_() for t in (features, weight, bias))
    loss = F.cross_entropy(F.linear(features, weight, bias), target)
    grad_features, *grads = torch.autograd.grad(loss, (features, weight, bias))
    logits = F.linear(guide_features, weight, bias)
    with torch.no_grad():
        log_p = logits.log_softmax(dim=1)
        index = (-(log_p.exp() * log_p).sum(dim=1)).topk(k).indices
    guides = torch.autograd.grad(F.cross_entropy(logits[index], target[index]), (weight, bias))
    with torch.no_grad():
        repaired = project_(list(grads), list(guides))
    return repaired | {"loss": loss.detach(), "grad_features": grad_features, "index": index}


ALTERNATIVES: dict[str, dict[str, Callable[..., Results]]] = {
    "softmax_stats": {
        "from logsumexp": _stats_from_logsumexp,
        "by cross_entropy": _stats_by_cross_entropy,
    },
    "entropy_topk": {"by entr": _topk_by_entr},
    "linear_ce_grad": {"by autograd": _grad_by_autograd},
    "project_": {"by products": _project_by_products, "by item": _project_by_item},
    "surgery": {},
    "guided_linear_ce": {
        "by autograd": _guided_by_autograd,
        "by autograd throughout": _guided_by_autograd_throughout,
    },
}
