"""Captured gradients: how one is kept, added to, matched with the current gradient, saved and
loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gaal_fast._surgery.gradients import check_gradient, kept_copy, total

# One modality's gradient, by name of the parameter.
Guide = dict[str, Tensor]


def kept(parts: Mapping[str, Tensor], current: Mapping[str, Tensor], former: Guide) -> Guide:
    """``parts`` as a guide that shares no memory with the gradients ``current``.

    Copies go into the memory of ``former``, the guide that is replaced, where they fit.
    """
    return {
        name: kept_copy(part, current.get(name), former.get(name)) for name, part in parts.items()
    }


def accumulated(modality: str, former: Guide, parts: Mapping[str, Tensor]) -> Guide:
    """The sum of a guide and another part of the same modality's gradient.

    Raises:
        ValueError: A parameter has another shape now.
    """
    for name in former.keys() & parts.keys():
        if former[name].shape != parts[name].shape:
            raise ValueError(_other_shape(modality, name, former[name], parts[name]))
    return former | {
        name: total(former[name], part) if name in former else part for name, part in parts.items()
    }


def matching(
    modality: str, guide: Guide, grads: Mapping[str, Tensor], known: Mapping[str, Tensor]
) -> Guide:
    """The guide's part for each gradient, zeros where it has none.

    Args:
        modality: Whose guide it is, for the messages.
        guide: The captured gradient.
        grads: The current gradients.
        known: All shared parameters.

    Raises:
        ValueError: The guide has a parameter that is not shared any more, or of another shape.
    """
    for name in guide.keys() - known.keys():
        raise ValueError(
            f"the captured gradient of {modality!r} is of parameter {name}, which is shared no"
            " more: forget() it"
        )
    for name, grad in grads.items():
        if name in guide and guide[name].shape != grad.shape:
            raise ValueError(_other_shape(modality, name, guide[name], grad))
    return {
        name: guide[name] if name in guide else torch.zeros_like(grad)
        for name, grad in grads.items()
    }


def saved(guides: Mapping[str, Guide]) -> dict[str, Any]:
    """Copies of all guides, for ``torch.save``."""
    return {
        "guides": {
            modality: {name: part.clone() for name, part in guide.items()}
            for modality, guide in guides.items()
        }
    }


def loaded(state: object, known: Mapping[str, Tensor]) -> dict[str, Guide]:
    """The guides of :func:`saved`, on the devices of their parameters.

    Args:
        state: What :func:`saved` returned.
        known: All shared parameters.

    Raises:
        TypeError: ``state`` is no such dictionary of dense tensors.
        ValueError: A parameter is not shared here, or has another shape.
    """
    if (
        not isinstance(state, Mapping)
        or set(state) != {"guides"}
        or not isinstance(state["guides"], Mapping)
    ):
        raise TypeError(
            "state must be what state_dict() returns: a dictionary with the key 'guides'"
        )
    found: dict[str, Guide] = {}
    for modality, guide in state["guides"].items():
        if not isinstance(guide, Mapping):
            raise TypeError(
                f"state: the guide {modality!r} must be a dictionary of tensors, got"
                f" {type(guide).__name__}"
            )
        for name, part in guide.items():
            if name not in known:
                raise ValueError(
                    f"state: the guide {modality!r} has a gradient of {name!r}, which is no shared"
                    " parameter"
                )
            check_gradient(f"state: the guide {modality!r} of parameter {name}", part, known[name])
        with torch.inference_mode(False):
            found[modality] = {
                name: part.detach().to(known[name].device, copy=True)
                for name, part in guide.items()
            }
    return found


def _other_shape(modality: str, name: str, guide: Tensor, grad: Tensor) -> str:
    return (
        f"the captured gradient of {modality!r} for parameter {name} has shape"
        f" {tuple(guide.shape)}, the current one {tuple(grad.shape)}: forget() it"
    )
