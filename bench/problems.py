"""The timed operations: their inputs, what their results must be in float64, and the least memory
traffic they need.

The float64 results are restated here in plain torch and share no code with ``gaal_fast``. All
problems use ``rule="official"``, the form of the surgery that the released code also computes, and
inputs whose gradients conflict, so that the repair is really carried out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

OPS = ("softmax_stats", "entropy_topk", "linear_ce_grad", "project_", "surgery", "guided_linear_ce")
# Those whose time is that of reading and writing memory once the shape is large.
MEMORY_BOUND = ("softmax_stats", "entropy_topk", "project_")
RULE = {"rule": "official", "margin": 0.75, "ridge": 1e-3}
FRACTION = 0.5

Inputs = dict[str, Tensor]

_CHUNK = 1 << 24  # elements of the logits that are held in float64 at a time


@dataclass(frozen=True)
class Shape:
    """B rows, Y classes, d features; half of the guide's rows are selected."""

    rows: int
    classes: int
    width: int

    @property
    def selected(self) -> int:
        return max(1, int(FRACTION * self.rows))

    def __str__(self) -> str:
        return f"{self.rows}x{self.classes}x{self.width}"

    @classmethod
    def parse(cls, text: str) -> Shape:
        """``"256x286x2048"``; raises ValueError for anything else."""
        sizes = [int(part) for part in text.lower().split("x")]
        if len(sizes) != 3 or min(sizes) < 1:
            raise ValueError(f"{text!r} is not BxYxd")
        return cls(*sizes)


@dataclass(frozen=True)
class Expected:
    """A float64 result and the size that its error is measured against."""

    value: Tensor
    scale: float


@dataclass(frozen=True)
class Problem:
    """One op at one shape."""

    op: str
    shape: Shape
    dtype: torch.dtype
    device: torch.device

    def inputs(self, seed: int) -> Inputs:
        """Fresh random inputs.

        Both modalities carry their class, in opposite directions, so that gradients conflict; rows
        of the guide vary in length, so that some are surer than others. What is changed in place
        (``grad_weight``, ``grad_bias``) is restored by :meth:`restore` from ``fresh_weight`` and
        ``fresh_bias``.
        """
        shape = self.shape
        generator = torch.Generator(self.device).manual_seed(seed)

        def normal(*size: int) -> Tensor:
            return torch.randn(*size, generator=generator, device=self.device)

        target = torch.randint(
            shape.classes, (shape.rows,), generator=generator, device=self.device
        )
        if self.op == "project_":
            guide_weight, guide_bias = normal(shape.classes, shape.width), normal(shape.classes)
            return self._with_gradient(
                {"guide_weight": guide_weight, "guide_bias": guide_bias},
                normal(*guide_weight.shape) - guide_weight,
                normal(shape.classes) - guide_bias,
            )
        if self.op in ("softmax_stats", "entropy_topk"):
            length = torch.rand(shape.rows, 1, generator=generator, device=self.device) * 2.5 + 0.5
            return self._cast(
                {"logits": normal(shape.rows, shape.classes).mul_(length), "target": target}
            )
        centre = normal(shape.classes, shape.width)[target]
        length = torch.rand(shape.rows, 1, generator=generator, device=self.device) * 2.5 + 0.5
        features = normal(shape.rows, shape.width) + centre
        guide_features = length * (normal(shape.rows, shape.width) - centre)
        weight, bias = (
            normal(shape.classes, shape.width) / math.sqrt(shape.width),
            0.1 * normal(shape.classes),
        )
        if self.op == "guided_linear_ce":
            named = {
                "features": features,
                "target": target,
                "guide_features": guide_features,
                "weight": weight,
                "bias": bias,
            }
            return self._cast(named)
        logits = torch.addmm(bias, guide_features, weight.t())
        if self.op == "linear_ce_grad":
            index = torch.randperm(shape.rows, generator=generator, device=self.device)[
                : shape.selected
            ]
            return self._cast(
                {"features": guide_features, "logits": logits, "target": target, "index": index}
            )
        residual = torch.addmm(bias, features, weight.t()).softmax(dim=1)
        residual[torch.arange(shape.rows, device=self.device), target] -= 1.0
        residual /= shape.rows
        named = {"guide_features": guide_features, "logits": logits, "target": target}
        return self._with_gradient(named, residual.t() @ features, residual.sum(dim=0))

    def _cast(self, named: Inputs) -> Inputs:
        return {name: t.to(self.dtype) if t.is_floating_point() else t for name, t in named.items()}

    def _with_gradient(self, named: Inputs, grad_weight: Tensor, grad_bias: Tensor) -> Inputs:
        named = self._cast(named | {"fresh_weight": grad_weight, "fresh_bias": grad_bias})
        return named | {
            "grad_weight": named["fresh_weight"].clone(),
            "grad_bias": named["fresh_bias"].clone(),
        }

    @staticmethod
    def restore(inputs: Inputs) -> None:
        """Undo what an op did in place."""
        if "fresh_weight" in inputs:
            inputs["grad_weight"].copy_(inputs["fresh_weight"])
            inputs["grad_bias"].copy_(inputs["fresh_bias"])

    @property
    def results(self) -> tuple[str, ...]:
        """What an implementation of the whole op must produce to be checked."""
        return {
            "softmax_stats": ("entropy", "lse", "nll"),
            "entropy_topk": ("entropy", "index"),
            "linear_ce_grad": ("grad_weight", "grad_bias"),
            "project_": ("grad_weight", "grad_bias"),
            "surgery": ("index", "grad_weight", "grad_bias"),
            "guided_linear_ce": ("index", "loss", "grad_features", "grad_weight", "grad_bias"),
        }[self.op]

    @property
    def bytes(self) -> int:
        """Compulsory traffic: every input read once and every output written once, except where two
        passes cannot be avoided.
        """
        b, y, d, k = self.shape.rows, self.shape.classes, self.shape.width, self.shape.selected
        element = self.dtype.itemsize
        gradient = (y * d + y) * element
        return {
            "softmax_stats": b * y * element
            + 8 * b
            + 3 * 4 * b,  # logits and targets in; entropy, lse, nll out
            "entropy_topk": b * y * element + (4 + 8) * k,  # logits in; k entropies and indices out
            "linear_ce_grad": (k * y + k * d) * element
            + 16 * k
            + gradient,  # the selected rows in; one gradient out
            "project_": 5
            # g and g_p read for v, then both again and g written: v is known only after the first
            # pass
            * gradient,
            "surgery": (b * y + k * d) * element
            + 8 * b
            + 2 * gradient,  # logits, selected features, g in and out; g_p is never needed
            "guided_linear_ce": (3 * b * d + y * d) * element
            + 16 * b
            + gradient,  # both features and W in; dL/du and one gradient out
        }[self.op]

    @property
    def flops(self) -> int:
        """Multiply-adds of the matrix products, times two."""
        b, y, d, k = self.shape.rows, self.shape.classes, self.shape.width, self.shape.selected
        products = {"linear_ce_grad": k, "surgery": k, "guided_linear_ce": 4 * b + k}
        return 2 * products.get(self.op, 0) * y * d

    @property
    def set_bytes(self) -> int:
        """Memory of one set of inputs."""
        b, y, d = self.shape.rows, self.shape.classes, self.shape.width
        elements = {
            "softmax_stats": b * y,
            "entropy_topk": b * y,
            "linear_ce_grad": b * (y + d),
            "project_": 3 * y * d,
            "surgery": b * (y + d) + 2 * y * d,
            "guided_linear_ce": 2 * b * d + y * d,
        }
        return elements[self.op] * self.dtype.itemsize

    @property
    def working_bytes(self) -> int:
        """Roughly what all implementations' results and temporaries and the float64 truth take
        beside the inputs.
        """
        b, y, d = self.shape.rows, self.shape.classes, self.shape.width
        logits = 0 if self.op == "project_" else b * y
        gradient = 0 if self.op in ("softmax_stats", "entropy_topk") else y * d
        return (
            4 * (6 * logits + 8 * gradient + 4 * b * d)
            + 8 * (2 * gradient + b * d)
            + 5 * 8 * min(b * y, _CHUNK)
        )

    @property
    def key(self) -> str:
        """What the op's time depends on: d does not matter to the statistics, nor B to the
        projection.
        """
        if self.op in ("softmax_stats", "entropy_topk"):
            return f"{self.shape.rows}x{self.shape.classes}"
        if self.op == "project_":
            return f"{self.shape.classes}x{self.shape.width}"
        return str(self.shape)


class Truth:
    """Float64 results of one set of inputs, in plain torch."""

    def __init__(self, problem: Problem, inputs: Inputs) -> None:
        self.problem, self.inputs = problem, inputs
        self._by_selection: dict[tuple[int, ...], dict[str, Expected]] = {}

    def expected(self, index: Tensor | None) -> dict[str, Expected]:
        """The results, given the rows that an implementation selected (:meth:`selection_error`
        judges the selection itself).
        """
        if index is None:
            index = self.inputs.get(
                "index", self.selection if self._selects else torch.empty(0, dtype=torch.int64)
            )
        key = tuple(sorted(index.tolist()))
        if key not in self._by_selection:
            self._by_selection[key] = self._results(index)
        return self._by_selection[key]

    @property
    def _selects(self) -> bool:
        return "index" in self.problem.results

    @cached_property
    def selection(self) -> Tensor:
        """The k rows of highest entropy."""
        return self.entropy.argsort(descending=True, stable=True)[: self.problem.shape.selected]

    def selection_error(self, index: Tensor) -> str | None:
        """What is wrong with a selection, or None. Rows whose order rounding of the logits may turn
        around may stand either way.
        """
        k, rows = self.problem.shape.selected, self.problem.shape.rows
        if index.dtype != torch.int64 or tuple(index.shape) != (k,):
            return f"index is {index.dtype}{list(index.shape)}"
        if int(index.min()) < 0 or int(index.max()) >= rows or len(index.unique()) != k:
            return "index holds a row twice or none of the batch"
        entropy, slack = self.entropy[index], self.slack[index]
        if bool((entropy[1:] > entropy[:-1] + slack[1:] + slack[:-1]).any()):
            return "index is not in order of the entropy"
        left_out = torch.ones(rows, dtype=torch.bool, device=index.device)
        left_out[index] = False
        if k < rows and bool(
            ((self.entropy - self.slack)[left_out].max() > (entropy + slack).min()).item()
        ):
            return "index leaves out a row of higher entropy"
        return None

    @cached_property
    def entropy(self) -> Tensor:
        return self._entropy_and_slack[0]

    @cached_property
    def slack(self) -> Tensor:
        """How far rounding of each logit in the problem's dtype may move a row's entropy, to first
        order.
        """
        return self._entropy_and_slack[1]

    @cached_property
    def _entropy_and_slack(self) -> tuple[Tensor, Tensor]:
        entropies, slacks = [], []
        epsilon = torch.finfo(self.problem.dtype).eps
        for _, z, log_p in self._guide_chunks(None):
            p = log_p.exp()
            entropy = -(p * log_p).sum(dim=1)
            entropies.append(entropy)
            # dH = -sum_c p_c (log p_c + H) dz_c. A product of d terms rounds a little more than
            # once; float32 sums of Y terms too.
            sensitivity = (p * (log_p + entropy[:, None]).abs()).sum(dim=1)
            slacks.append(
                4 * epsilon * sensitivity * z.abs().amax(dim=1)
                + 16 * torch.finfo(torch.float32).eps * (1 + entropy)
            )
        return torch.cat(entropies), torch.cat(slacks)

    def _expected_entropy(self, entropy: Tensor) -> Expected:
        """Measured against the logits where these are larger: the entropy is a difference of terms
        of their size.
        """
        return Expected(
            entropy, max(float(entropy.abs().max()), float(self.inputs["logits"].abs().max()))
        )

    def _guide_chunks(self, index: Tensor | None) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Some rows at a time: their numbers, logits and log-probabilities of the modality whose
        rows are selected.
        """
        features = (
            self.inputs.get("guide_features") if self.problem.op == "guided_linear_ce" else None
        )
        yield from self._chunks(features, index)

    def _chunks(
        self, features: Tensor | None, index: Tensor | None
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Logits are given, unless there are ``features`` to compute them from."""
        shape = self.problem.shape
        rows = torch.arange(shape.rows, device=self.problem.device) if index is None else index
        weight = bias = None
        if features is not None:
            weight, bias = self.inputs["weight"].double(), self.inputs["bias"].double()
        for part in rows.split(max(1, _CHUNK // shape.classes)):
            if features is None:
                z = self.inputs["logits"][part].double()
            else:
                z = torch.addmm(bias, features[part].double(), weight.t())
            yield part, z, z.log_softmax(dim=1)

    def _gradient(
        self, features: Tensor, index: Tensor | None, *, logits_of_features: bool
    ) -> _HeadGradient:
        """Gradient of the mean cross-entropy of the rows in ``index`` to the head, and to the
        features.
        """
        shape, target = self.problem.shape, self.inputs["target"]
        count = shape.rows if index is None else len(index)
        weight = torch.zeros(
            shape.classes, shape.width, dtype=torch.float64, device=features.device
        )
        bias = weight.new_zeros(shape.classes)
        to_features, loss = [], weight.new_zeros(())
        for part, _, log_p in self._chunks(features if logits_of_features else None, index):
            place = target[part][:, None]
            loss -= log_p.gather(1, place).sum() / count
            residual = (
                log_p.exp().scatter_add_(1, place, log_p.new_full(place.shape, -1.0)).div_(count)
            )
            weight.addmm_(residual.t(), features[part].double())
            bias += residual.sum(dim=0)
            if logits_of_features and index is None:
                to_features.append(residual @ self.inputs["weight"].double())
        return _HeadGradient(weight, bias, loss, torch.cat(to_features) if to_features else None)

    def _results(self, index: Tensor) -> dict[str, Expected]:
        op, inputs = self.problem.op, self.inputs
        if op == "softmax_stats":
            nll, lse = [], []
            for part, z, log_p in self._guide_chunks(None):
                nll.append(-log_p.gather(1, inputs["target"][part][:, None]).squeeze(1))
                lse.append(z.logsumexp(dim=1))
            values = {"entropy": self.entropy, "lse": torch.cat(lse), "nll": torch.cat(nll)}
            return _by_norm(values | {"loss": values["nll"].mean()}) | {
                "entropy": self._expected_entropy(self.entropy)
            }
        if op == "entropy_topk":
            return {"entropy": self._expected_entropy(self.entropy[index])}
        if op == "linear_ce_grad":
            found = self._gradient(inputs["features"], index, logits_of_features=False)
            return _by_norm({"grad_weight": found.weight, "grad_bias": found.bias})
        if op == "project_":
            return _repaired(
                (inputs["fresh_weight"], inputs["fresh_bias"]),
                (inputs["guide_weight"], inputs["guide_bias"]),
            )
        guide = self._gradient(
            inputs["guide_features"], index, logits_of_features=op == "guided_linear_ce"
        )
        if op == "surgery":
            return _repaired(
                (inputs["fresh_weight"], inputs["fresh_bias"]), (guide.weight, guide.bias)
            )
        found = self._gradient(inputs["features"], None, logits_of_features=True)
        repaired = _repaired((found.weight, found.bias), (guide.weight, guide.bias))
        return repaired | _by_norm({"loss": found.loss, "grad_features": found.features})


@dataclass(frozen=True)
class _HeadGradient:
    weight: Tensor
    bias: Tensor
    loss: Tensor
    features: Tensor | None


def _by_norm(values: Mapping[str, Tensor]) -> dict[str, Expected]:
    return {
        name: Expected(value, float(value.abs().max()) if value.numel() else 1.0)
        for name, value in values.items()
    }


def _repaired(grads: tuple[Tensor, Tensor], guides: tuple[Tensor, Tensor]) -> dict[str, Expected]:
    """g + v g_p of the released code's rule. Scalars may cancel, so they are measured against the
    norms they are made from.
    """
    g, p = ([part.double() for part in parts] for parts in (grads, guides))
    dot = sum((a * b).sum() for a, b in zip(g, p, strict=True))
    norm2 = sum((b * b).sum() for b in p)
    grad_norm2 = sum((a * a).sum() for a in g)
    v = (
        torch.clamp(-dot / (norm2 + RULE["ridge"]), min=RULE["margin"])
        if dot < 0
        else torch.zeros_like(dot)
    )
    moved = {"grad_weight": g[0] + v * p[0], "grad_bias": g[1] + v * p[1]}
    # The parts of g + v g_p cancel where the gradients oppose each other; their rounding does not.
    scale = float(max(g[0].abs().max(), (v * p[0]).abs().max()))
    return {
        "grad_weight": Expected(moved["grad_weight"], scale),
        "grad_bias": Expected(
            moved["grad_bias"], float(max(g[1].abs().max(), (v * p[1]).abs().max()))
        ),
        "v": Expected(v, float(max(v, (grad_norm2 / norm2).sqrt()))),
    }
