"""The one place where an optimizer steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

# Averages tensors over the ranks, in place.
Reduce = Callable[[Sequence[Tensor]], None]


class OptimizerUpdate:
    """Zero the gradients, fill them, reduce, unscale, repair, clip, step and record, in this order.

    Gradients are averaged over the ranks before they are repaired, as v of equation (5) is not
    linear in g; and unscaled before, as epsilon refers to true gradients.

    Args:
        optimizer: of the phase under way.
        record: takes the part and the scalars of each update, on the device.
        reduce: averages gradients over the ranks; None on a single one.
        unscale: divides the optimizer's gradients by the scale of the loss; None for none.
        clip_norm: largest norm of the gradient of all parameters; None for no bound.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        record: Callable[[str, Mapping[str, Tensor]], None],
        *,
        reduce: Reduce | None = None,
        unscale: Callable[[Optimizer], None] | None = None,
        clip_norm: float | None = None,
    ) -> None:
        self.optimizer, self.record = optimizer, record
        self.reduce, self.unscale, self.clip_norm = reduce, unscale, clip_norm

    def __call__(
        self,
        part: str,
        loss: Tensor | Callable[[], Mapping[str, Tensor]],
        *,
        repair: Callable[[], Mapping[str, Tensor]] | None = None,
        **scalars: Tensor,
    ) -> None:
        """As :class:`gaal_fast.methods.Update` says."""
        self.optimizer.zero_grad(set_to_none=True)
        found = _backward(loss)
        if self.reduce is not None:
            self.reduce([grad for p in self._parameters() if (grad := p.grad) is not None])
        if self.unscale is not None:
            self.unscale(self.optimizer)
        if repair is not None:
            found |= repair()
        if self.clip_norm is not None:
            found["grad_norm"] = clip_grad_norm_(self._parameters(), self.clip_norm)
        self.optimizer.step()
        self.record(part, found | scalars)

    def _parameters(self) -> list[Tensor]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]


def _backward(loss: Tensor | Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
    if not isinstance(loss, Tensor):
        return dict(loss())
    loss.backward()
    return {"loss": loss.detach()}
