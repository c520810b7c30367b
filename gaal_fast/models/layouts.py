"""The names that files of pretrained weights give to the tensors of an encoder."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

State = Mapping[str, Tensor]
# A counter of batch normalization, which no result depends on and older files do not have.
_COUNTER = "num_batches_tracked"
# What classifiers are called: torchvision's and timm's ResNets, timm, vision transformers, the
# port of EfficientNet-Lite.
_CLASSIFIERS = frozenset({"fc", "classifier", "head", "heads", "head_dist", "_fc", "last_linear"})
# The children of torchvision's ResNet that have tensors, by their place, as
# ``nn.Sequential(*resnet.children())`` numbers them.
_NUMBERED = {"0": "conv1", "1": "bn1", **{str(n + 3): f"layer{n}" for n in range(1, 5)}}
# Names of a block of the PyTorch port of EfficientNet-Lite, in timm's words: the first stage, which
# has no expansion, and all others.
_FIRST = {
    "_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2",
}  # fmt: skip
_OTHER = {
    "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
    "_project_conv": "conv_pwl", "_bn2": "bn3",
}  # fmt: skip
_OUTSIDE = {
    "_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2",
    "_fc": "classifier",
}  # fmt: skip


@dataclass(frozen=True)
class Fit:
    """How the tensors of a file fit an encoder.

    Attributes:
        found: those that fit, under the encoder's names.
        missing: the encoder's tensors that the file does not have.
        misshapen: by the encoder's name, the shapes there and here.
        prefix: what stands before the encoder's names in the file.
        classifier: the file's names of a classifier on top of the encoder.
        others: how many tensors of the file are neither.
    """

    found: dict[str, Tensor]
    missing: list[str]
    misshapen: dict[str, tuple[torch.Size, torch.Size]]
    prefix: str
    classifier: list[str]
    others: int

    @property
    def whole(self) -> bool:
        """Whether every tensor of the encoder was found."""
        return not self.missing and not self.misshapen


def best_fit(own: State, state: State) -> Fit:
    """Find an encoder in a file: under a prefix, and under the names of other libraries.

    Args:
        own: the encoder's state; only names and shapes count.
        state: the tensors of the file.
    """
    fits = [
        _fit(own, named, prefix)
        for named in _layouts(own, state)
        for prefix in _prefixes(own, named)
    ]
    # Of equal ones the shortest prefix: a copy of the encoder (a momentum teacher) comes later.
    return max(fits, key=lambda fit: (len(fit.found), -len(fit.prefix)))


def _fit(own: State, state: State, prefix: str) -> Fit:
    inner = {
        name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)
    }
    needed = [name for name in own if not name.endswith(_COUNTER)]
    found = {
        name: inner[name] for name in own if name in inner and inner[name].shape == own[name].shape
    }
    misshapen = {
        name: (inner[name].shape, own[name].shape)
        for name in needed
        if name in inner and name not in found
    }
    unused = [name for name in inner if name not in own]
    classifier = sorted(name for name in unused if name.split(".")[0] in _CLASSIFIERS)
    others = len(state) - len(inner) + len(unused) - len(classifier)
    missing = [name for name in needed if name not in inner]
    return Fit(found, missing, misshapen, prefix, [prefix + name for name in classifier], others)


def _prefixes(own: State, state: State) -> list[str]:
    """What stands before the encoder's first or last name: ``module.``, ``model.``,
    ``encoder_imaging.`` or any combination.
    """
    names = list(own)
    found = {
        name.removesuffix(anchor)
        for anchor in (names[0], next(n for n in reversed(names) if not n.endswith(_COUNTER)))
        for name in state
        if name.endswith(anchor)
    }
    return ["", *sorted(prefix for prefix in found if prefix.endswith("."))]


def _layouts(own: State, state: State) -> Iterator[State]:
    """The tensors of a file as it names them, and as the encoder would if the names are those of
    another library.
    """
    yield state
    if "conv_stem.weight" in own:
        yield _from_lite_port(own, state)
    if "layer1.0.conv1.weight" in own:
        yield {_from_numbered(name): value for name, value in state.items()}


def _from_numbered(name: str) -> str:
    """``4.0.conv1.weight`` as ``layer1.0.conv1.weight``, after any prefix."""
    found = re.fullmatch(r"((?:[^.]+\.)*?)([01]|[4-7])\.(.+)", name)
    return f"{found[1]}{_NUMBERED[found[2]]}.{found[3]}" if found else name


def _from_lite_port(own: State, state: State) -> State:
    """The names of the PyTorch port of EfficientNet-Lite in timm's words.

    Source: compared tensor by tensor; all of them map and agree in shape.
    """
    places = list(
        dict.fromkeys(
            (int(stage), int(block))
            for stage, block in (found for name in own for found in _block(name))
        )
    )

    def renamed(name: str) -> str:
        if found := re.fullmatch(r"(.*?)_blocks\.(\d+)\.(\w+)\.(\w+)", name):
            prefix, number, part, tensor = found.groups()
            if int(number) >= len(places):
                return name
            stage, block = places[int(number)]
            parts = _FIRST if stage == 0 else _OTHER
            return f"{prefix}blocks.{stage}.{block}.{parts.get(part, part)}.{tensor}"
        if found := re.fullmatch(r"(.*?)(_conv_stem|_bn0|_conv_head|_bn1|_fc)\.(\w+)", name):
            return f"{found[1]}{_OUTSIDE[found[2]]}.{found[3]}"
        return name

    return {renamed(name): value for name, value in state.items()}


def _block(name: str) -> list[tuple[str, str]]:
    return re.findall(r"^blocks\.(\d+)\.(\d+)\.", name)
