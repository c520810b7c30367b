"""What is timed against what: ours on every backend, plain torch, the released code's way, other
libraries for a part, and the floor.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from bench import plain
from bench.problems import RULE, Inputs, Problem
from gaal_fast import ops
from tests.reference.released import project_by_quadratic_program

Kind = Literal["ours", "baseline", "part", "floor"]


class Unavailable(Exception):
    """A variant cannot run here; the message says why."""


@dataclass(frozen=True)
class Variant:
    """One implementation of a problem.

    ``run(inputs)`` is what is timed; ``results(inputs, returned)`` names its outputs afterwards. A
    ``part`` computes only part of what the op does, a ``floor`` only the work that cannot be
    avoided; neither is a competitor. ``prepare(inputs)`` adds what only this variant needs.
    """

    name: str
    kind: Kind
    run: Callable[[Inputs], Any]
    results: Callable[[Inputs, Any], dict[str, Tensor]] = field(
        default=lambda inputs, returned: returned
    )
    prepare: Callable[[Inputs], None] = field(default=lambda inputs: None)
    context: Callable[[], AbstractContextManager] = contextlib.nullcontext
    graphable: bool = True  # a CUDA graph can hold it
    synchronizes: bool = (
        False  # it waits for the device itself, so it has no device time of its own
    )
    apart: bool = False  # on the CPU it is timed by itself: it slows down whatever comes next


def variants(
    problem: Problem, auto: str, *, compile: bool, alternatives: bool = False
) -> tuple[list[Variant], dict[str, str]]:
    """Everything that can be timed here for this problem, and by name why something else cannot;
    ``auto`` from :func:`auto_backend`.
    """
    found: list[Variant] = []
    missing: dict[str, str] = {}
    makers: list[tuple[str, Callable[[], Variant]]] = [("floor", lambda: floor(problem))]
    makers += [
        (f"ours {name}", partial(ours, problem, name, apart=name not in ("auto", auto)))
        for name in _backends(problem, auto)
    ]
    makers += [("eager", lambda: eager(problem))]
    if compile:
        torch._dynamo.reset()
        makers.append(("compile", lambda: compiled(problem)))
        if problem.device.type == "cuda":
            makers.append(("compile graphs static", lambda: compiled_graphs(problem, static=True)))
        if problem.device.type == "cuda" and problem.op == "guided_linear_ce":
            makers.append(("compile graphs", lambda: compiled_graphs(problem, static=False)))
    makers += (
        [("released", lambda: released(problem))]
        if problem.op in ("project_", "surgery", "guided_linear_ce")
        else []
    )
    makers += _parts(problem)
    if alternatives:
        for name, function in plain.ALTERNATIVES[problem.op].items():
            makers.append((f"eager {name}", partial(eager, problem, function, f"eager {name}")))
    for name, make in makers:
        try:
            found.append(make())
        except Unavailable as reason:
            missing[name] = str(reason)
    return found, missing


def _backends(problem: Problem, auto: str) -> list[str]:
    """Triton's interpreter on the CPU is for tests: its time says nothing. ``auto`` is one of the
    others, unless it mixes them.
    """
    names = ["native", "torch"] if problem.device.type == "cpu" else ["native", "triton", "torch"]
    return ["auto", *names] if "+" in auto else names


# -- ours
# --------------------------------------------------------------------------------------------------


def ours(problem: Problem, backend: str, *, apart: bool = False) -> Variant:
    """The public op with a backend by name, or ``"auto"``; ``apart`` as in :class:`Variant`, for a
    backend that nobody gets unasked.
    """
    reason = (
        ops.availability()[backend][_device_label(problem.device)] if backend != "auto" else None
    )
    if reason is not None:
        raise Unavailable(reason)
    run, results = _our_calls(problem)
    return Variant(
        f"ours {backend}", "ours", run, results, context=partial(ops.backend, backend), apart=apart
    )


def auto_backend(problem: Problem, inputs: Inputs) -> str:
    """The backend that ``auto`` takes for this problem; several where an op of the sequence
    differs.
    """
    x = inputs
    calls = {
        "softmax_stats": [("softmax_stats", "logits")],
        "entropy_topk": [("entropy_topk", "logits")],
        "linear_ce_grad": [("linear_ce_grad", "features", "logits")],
        "project_": [("project_", "grad_weight", "grad_bias", "guide_weight", "guide_bias")],
        "surgery": [
            ("entropy_topk", "logits"),
            ("linear_ce_grad", "guide_features", "logits"),
            ("project_", "grad_weight", "grad_bias", "fresh_weight", "fresh_bias"),
        ],
        "guided_linear_ce": [("guided_linear_ce", "features", "guide_features", "weight")],
    }[problem.op]
    with ops.backend("auto"):
        taken = [ops.selected_backend(op, *(x[name] for name in names)) for op, *names in calls]
    return "+".join(dict.fromkeys(taken))


def _device_label(device: torch.device) -> str:
    """As ``ops.availability`` names it."""
    return "cpu" if device.type == "cpu" else f"cuda:{device.index or 0}"


def _our_calls(
    problem: Problem,
) -> tuple[Callable[[Inputs], Any], Callable[[Inputs, Any], dict[str, Tensor]]]:
    k = problem.shape.selected

    def softmax_stats(x: Inputs) -> Any:
        return ops.softmax_stats(x["logits"], x["target"])

    def entropy_topk(x: Inputs) -> Any:
        return ops.entropy_topk(x["logits"], k)

    def linear_ce_grad(x: Inputs) -> Any:
        return ops.linear_ce_grad(x["features"], x["logits"], x["target"], x["index"])

    def project_(x: Inputs) -> Any:
        return ops.project_(
            [x["grad_weight"], x["grad_bias"]], [x["guide_weight"], x["guide_bias"]], **RULE
        )

    def surgery(x: Inputs) -> Any:
        _, index = ops.entropy_topk(x["logits"], k)
        guides = ops.linear_ce_grad(x["guide_features"], x["logits"], x["target"], index)
        return index, ops.project_([x["grad_weight"], x["grad_bias"]], guides, **RULE)

    def guided_linear_ce(x: Inputs) -> Any:
        return ops.guided_linear_ce(
            x["features"],
            x["target"],
            x["guide_features"],
            x["target"],
            x["weight"],
            x["bias"],
            top_k=k,
            **RULE,
        )

    def in_place(x: Inputs, projection: ops.Projection) -> dict[str, Tensor]:
        return {"v": projection.v, "grad_weight": x["grad_weight"], "grad_bias": x["grad_bias"]}

    return {
        "softmax_stats": (
            softmax_stats,
            lambda x, r: dict(zip(("entropy", "lse", "nll"), r, strict=True)),
        ),
        "entropy_topk": (
            entropy_topk,
            lambda x, r: dict(zip(("entropy", "index"), r, strict=True)),
        ),
        "linear_ce_grad": (
            linear_ce_grad,
            lambda x, r: dict(zip(("grad_weight", "grad_bias"), r, strict=True)),
        ),
        "project_": (project_, in_place),
        "surgery": (surgery, lambda x, r: in_place(x, r[1]) | {"index": r[0]}),
        "guided_linear_ce": (
            guided_linear_ce,
            lambda x, r: (
                {
                    name: getattr(r, name)
                    for name in ("loss", "grad_features", "grad_weight", "grad_bias", "index")
                }
                | {"v": r.projection.v}
            ),
        ),
    }[problem.op]


# -- plain torch
# --------------------------------------------------------------------------------------------------


def eager(
    problem: Problem, function: Callable[..., Any] | None = None, name: str = "eager"
) -> Variant:
    k = problem.shape.selected
    function = function or plain.FUNCTIONS[problem.op]
    return Variant(name, "baseline", lambda x: function(*plain.arguments(problem.op, x, k)))


def compiled(problem: Problem) -> Variant:
    """``torch.compile`` of the very same function for this very shape."""
    k = problem.shape.selected
    function = torch.compile(plain.FUNCTIONS[problem.op], dynamic=False, fullgraph=True)
    return Variant("compile", "baseline", lambda x: function(*plain.arguments(problem.op, x, k)))


def compiled_graphs(problem: Problem, *, static: bool) -> Variant:
    """The same under ``mode="reduce-overhead"``.

    An op that changes its input in place returns new tensors here instead, as that mode would give
    up CUDA graphs otherwise. ``static`` says that the inputs stay at their addresses, so that
    nothing is copied into the graph: the best it can do.
    """
    k = problem.shape.selected

    def fresh(*arguments: Any) -> Any:
        return plain.FUNCTIONS[problem.op](*_copies(problem.op, arguments))

    function = torch.compile(fresh, dynamic=False, fullgraph=True, mode="reduce-overhead")
    prefix = "static " if static else ""

    def prepare(x: Inputs) -> None:
        if static:
            for name, tensor in list(x.items()):
                alias = x[prefix + name] = tensor.detach()
                torch._dynamo.mark_static_address(alias, guard=False)

    def run(x: Inputs) -> Any:
        torch.compiler.cudagraph_mark_step_begin()
        return function(*plain.arguments(problem.op, x, k, prefix))

    return Variant(
        f"compile graphs{' static' * static}", "baseline", run, prepare=prepare, graphable=False
    )


def _copies(op: str, arguments: tuple) -> tuple:
    """The arguments with the gradients cloned; inside ``torch.compile`` the clone is fused with the
    update.
    """
    if op == "project_":
        grads, guides = arguments
        return [grad.clone() for grad in grads], guides
    if op == "surgery":
        *others, grad_weight, grad_bias, k = arguments
        return *others, grad_weight.clone(), grad_bias.clone(), k
    return arguments


# -- the released code's way
# --------------------------------------------------------------------------------------------------


def released(problem: Problem) -> Variant:
    """Both whole gradients joined, copied to the CPU as float64, repaired by a quadratic program
    there and copied back.

    Everything before that is plain torch's best way, not the released code's, so the difference to
    ``eager`` is the program alone.
    """
    k = problem.shape.selected

    def project(grads: list[Tensor], guides: list[Tensor]) -> dict[str, Tensor]:
        gradient, memory = (
            torch.cat([t.flatten() for t in tensors]) for tensors in (grads, guides)
        )
        if torch.dot(gradient, memory) < 0:
            pair = (t.cpu().double().numpy() for t in (gradient, memory))
            gradient = torch.from_numpy(
                project_by_quadratic_program(*pair, RULE["margin"], RULE["ridge"])
            ).to(gradient)
        weight, bias = gradient.split([grad.numel() for grad in grads])
        return {"grad_weight": weight.view_as(grads[0]), "grad_bias": bias}

    def run_project(x: Inputs) -> Any:
        return project([x["grad_weight"], x["grad_bias"]], [x["guide_weight"], x["guide_bias"]])

    def run_surgery(x: Inputs) -> Any:
        index, guides = plain.guiding_gradient(x["guide_features"], x["logits"], x["target"], k)
        return project([x["grad_weight"], x["grad_bias"]], guides) | {"index": index}

    def run_guided(x: Inputs) -> Any:
        loss, grad_features, grads = plain.head_gradient(
            x["features"], x["target"], x["weight"], x["bias"]
        )
        logits = F.linear(x["guide_features"], x["weight"], x["bias"])
        index, guides = plain.guiding_gradient(x["guide_features"], logits, x["target"], k)
        return project(grads, guides) | {
            "loss": loss,
            "grad_features": grad_features,
            "index": index,
        }

    run = {"project_": run_project, "surgery": run_surgery, "guided_linear_ce": run_guided}[
        problem.op
    ]
    return Variant("released", "baseline", run, graphable=False, synchronizes=True, apart=True)


# -- the floor, and other libraries' parts
# --------------------------------------------------------------------------------------------------


def floor(problem: Problem) -> Variant:
    """The work that no implementation can do without, by plain torch: its matrix products, or one
    read of its inputs.
    """
    shape, device, dtype = problem.shape, problem.device, problem.dtype

    def residuals(x: Inputs) -> None:
        for name, rows in (
            ("floor residual", shape.rows),
            ("floor guide residual", shape.selected),
        ):
            x[name] = torch.randn(rows, shape.classes, device=device).div_(rows).to(dtype)
        features = x["features"] if problem.op == "linear_ce_grad" else x["guide_features"]
        x["floor features"] = features[: shape.selected].clone()

    def read(x: Inputs) -> Any:
        return x["logits"].sum()

    def guide_product(x: Inputs) -> Any:
        return torch.mm(x["floor guide residual"].t(), x["floor features"])

    def dot_and_axpy(x: Inputs) -> Any:
        dot = torch.dot(x["grad_weight"].view(-1), x["guide_weight"].view(-1))
        return dot, x["grad_weight"].add_(x["guide_weight"], alpha=RULE["margin"])

    def five_products(x: Inputs) -> Any:
        return (
            torch.mm(x["features"], x["weight"].t()),
            torch.mm(x["guide_features"], x["weight"].t()),
            torch.mm(x["floor residual"], x["weight"]),
            torch.mm(x["floor residual"].t(), x["features"]),
            torch.mm(x["floor guide residual"].t(), x["floor features"]),
        )

    run, prepare = {
        "softmax_stats": (read, _nothing),
        "entropy_topk": (read, _nothing),
        "linear_ce_grad": (guide_product, residuals),
        "project_": (dot_and_axpy, _nothing),
        "surgery": (guide_product, residuals),
        "guided_linear_ce": (five_products, residuals),
    }[problem.op]
    return Variant("floor", "floor", run, prepare=prepare)


def _parts(problem: Problem) -> list[tuple[str, Callable[[], Variant]]]:
    gpu = problem.device.type == "cuda"
    if problem.op == "softmax_stats" and gpu:
        return [("liger cross-entropy", _liger)]
    if problem.op == "entropy_topk":
        return [("torch.topk alone", partial(_topk, problem))] + [
            ("flashinfer top-k alone", partial(_flashinfer, problem))
        ] * gpu
    return []


def _liger() -> Variant:
    """Liger's mean cross-entropy without gradient: one read of the logits, no entropy."""
    try:
        from liger_kernel.transformers.functional import liger_cross_entropy
    except ImportError as error:
        raise Unavailable(str(error)) from None

    def results(x: Inputs, returned: Any) -> dict[str, Tensor]:
        return {"loss": returned[0] if isinstance(returned, tuple) else returned}

    return Variant(
        "liger cross-entropy",
        "part",
        lambda x: liger_cross_entropy(x["logits"], x["target"]),
        results,
    )


def _topk(problem: Problem) -> Variant:
    """The selection alone, from entropies that somebody has computed."""
    k = problem.shape.selected
    return Variant(
        "torch.topk alone",
        "part",
        lambda x: x["entropy given"].topk(k),
        lambda x, r: {"entropy": r.values, "index": r.indices},
        _entropies,
    )


def _flashinfer(problem: Problem) -> Variant:
    try:
        from flashinfer import top_k
    except ImportError as error:
        raise Unavailable(str(error)) from None
    k = problem.shape.selected
    return Variant(
        "flashinfer top-k alone",
        "part",
        lambda x: top_k(x["entropy given"][None], k, sorted=True),
        lambda x, r: {"entropy": r[0][0], "index": r[1][0].long()},
        _entropies,
    )


def _entropies(x: Inputs) -> None:
    x["entropy given"] = plain.softmax_stats(x["logits"], x["target"])["entropy"]


def _nothing(x: Inputs) -> None:
    return None
