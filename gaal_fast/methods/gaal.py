"""Gradient-aligned alternating learning (Algorithm 1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import ConfigDict, Field
from torch import Tensor, no_grad

from gaal_fast.config import Fraction, ModelConfig
from gaal_fast.data.batch import Batch, InputSpec
from gaal_fast.methods.alternating import Alternating
from gaal_fast.methods.base import SMALLEST_BATCH, Update, method
from gaal_fast.methods.memory import Memory
from gaal_fast.ops._rule import Rule
from gaal_fast.tasks import Guide, Task


@method("gaal", paper="arXiv 2604.01579")
class Gaal(Alternating):
    """Alternating learning with uncertainty-guided gradient surgery.

    Before the head moves, its gradient g is repaired with the gradient g_p that the modality before
    it in the order (cyclically) has on its most uncertain rows.

    A turn costs one forward and one backward pass of the active encoder and at most one forward
    pass of the guiding one. With a single modality there is nothing to guide it, and this is
    unimodal learning.
    """

    class Options(Alternating.Options):
        # Further modalities have keys lambda-NAME of their own.
        model_config = ConfigDict(extra="allow")
        __pydantic_extra__: dict[str, Fraction]
        per_modality: ClassVar = ("lambda",)

        rule: Literal["paper", "official"] = Field(
            "paper", description="equation (5), or what the authors' code does"
        )
        # Chosen on validation rows (bench/README.md); a cosine means the same at every size of
        # gradient, which a plain epsilon does not.
        epsilon: float = Field(0.3, ge=0, description="alignment margin of equation (3)")
        relative: bool = Field(
            True,
            description=(
                "epsilon is a cosine: multiply it by both norms; false: equation (3) as it stands"
            ),
        )
        margin: float = Field(0.75, ge=0, description="lower bound of v on conflict, rule official")
        ridge: float = Field(
            1e-3, ge=0, description="added to the guide's squared norm, rule official"
        )
        max_correction: float | None = Field(
            None, gt=0, description="largest correction as a multiple of the gradient"
        )
        lambda_image: Fraction = Field(
            0.5, description="share of image rows, most uncertain first, that guide the table"
        )
        lambda_table: Fraction = Field(
            0.5, description="share of table rows, most uncertain first, that guide the image"
        )
        guide: Literal["fresh", "cached"] = Field(
            "fresh", description="guiding features: newest weights, or last half-step"
        )
        surgery: bool = Field(True, description="repair the head's gradient (Table II, CGS)")
        selection: bool = Field(
            True, description="guide by the most uncertain rows only (Table II, UGG)"
        )

    def __init__(
        self, options: Options, task: Task, inputs: Mapping[str, InputSpec], model: ModelConfig
    ) -> None:
        super().__init__(options, task, inputs, model)
        self.surgery = options.surgery and len(self.order) > 1
        self.cached = options.guide == "cached"
        self.fractions: dict[str, float] | None = None
        if options.selection:
            self.fractions = {name: options.of("lambda", name, 0.5) for name in self.modalities}
        self.rule = Rule(
            rule=options.rule,
            epsilon=options.epsilon,
            relative=options.relative,
            margin=options.margin,
            ridge=options.ridge,
            max_correction=options.max_correction,
        )
        self.last_turn = Memory()

    def turn(self, name: str, batch: Batch, update: Update) -> None:
        """Update one encoder by its own gradient and the head by the repaired one."""
        features, target = self.features(name, batch)
        guide = self._guide(name, batch) if self.surgery else None
        if guide is None:
            update(name, self.task.loss(self.head(features), target))
        else:
            update(name, lambda: self._guided_backward(features, target, guide, update))
        if self.surgery and self.cached:
            self.last_turn.keep(name, features, target)

    def _guided_backward(
        self, features: Tensor, target: Tensor, guide: Guide, update: Update
    ) -> dict[str, Tensor]:
        """Equations (2) to (8): leave the raw gradient in the active encoder and the repaired one
        in the head.
        """
        step = self.task.guided_head_step(
            self.head, features, target, guide, self.rule, update.reduce
        )
        if features.requires_grad:  # not those of a frozen encoder
            features.backward(step.grad_features)
        self.head.weight.grad, self.head.bias.grad = step.grad_weight, step.grad_bias
        found = step.projection
        return {
            "loss": step.loss,
            "cosine": found.cosine,
            "v": found.v,
            # Already there: with v they say how large the correction is beside the gradient.
            "guide_norm2": found.guide_norm2,
            "grad_norm2": found.grad_norm2,
        }

    def _guide(self, name: str, batch: Batch) -> Guide | None:
        """The modality whose turn was before; None where this batch has no rows of it."""
        guide = self.order[self.order.index(name) - 1]
        if self.cached and guide in self.last_turn:
            features, target = self.last_turn[guide]
        elif len(batch.views[guide].rows) < SMALLEST_BATCH:
            return None
        else:
            # Train mode on purpose: Algorithm 1 uses one and the same forward pass, and its
            # statistics move once for each.
            with no_grad():
                features, target = self.features(guide, batch)
        return Guide(features, target, self.guiding_rows(guide, len(target)))

    def guiding_rows(self, guide: str, rows: int) -> int:
        """k = max(1, floor(lambda B)); the small term keeps 0.7 * 10 from being read as 6.999..."""
        if self.fractions is None:
            return rows
        return max(1, int(self.fractions[guide] * rows + 1e-9))
