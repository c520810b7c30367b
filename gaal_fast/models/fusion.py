"""Classifiers over named modalities: one shared linear head (the paper) and the concatenation
baseline.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn


class FusionModel(nn.Module, ABC):
    """Encoders of named modalities with a linear classifier. A row may lack any modality.

    ``inputs[m]`` holds only the rows that have modality ``m``, and ``rows[m]`` (int64 ``[n_m]``)
    says where in the batch they stand.
    """

    def __init__(self, encoders: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict(encoders)
        self.autocast_dtype: torch.dtype | None = None

    @property
    def modalities(self) -> list[str]:
        return list(self.encoders)

    @abstractmethod
    def unimodal_logits(self, name: str, features: Tensor) -> Tensor:
        """Logits ``[n, Y]`` of one modality from its features ``[n, d]``."""

    @abstractmethod
    def fuse(self, logits: Mapping[str, Tensor], rows: Mapping[str, Tensor], size: int) -> Tensor:
        """Multimodal logits ``[size, Y]`` from the unimodal ones, using for each row what it has."""

    def encode(self, name: str, inputs: Tensor) -> Tensor:
        """Features ``[n, d]``; an encoder under ``autocast_dtype`` hands them on in float32, which
        the head computes in.
        """
        if self.autocast_dtype is None:
            return self.encoders[name](inputs)
        with torch.autocast(inputs.device.type, dtype=self.autocast_dtype):
            features = self.encoders[name](inputs)
        return features.float()

    def predict_logits(
        self, inputs: Mapping[str, Tensor], rows: Mapping[str, Tensor], size: int
    ) -> dict[str, Tensor]:
        """Unimodal logits ``[n_m, Y]`` by name, and ``fused`` ``[size, Y]``."""
        logits = {
            m: self.unimodal_logits(m, self.encode(m, inputs[m]))
            for m in self.modalities
            if len(rows[m])
        }
        return {**logits, "fused": self.fuse(logits, rows, size)}


class SharedHeadModel(FusionModel):
    """Encoders of one width under one shared linear classifier psi (paper, section III-B).

    The multimodal logits are the mean of the unimodal ones, equation (10); a row that lacks a
    modality uses those it has.
    """

    def __init__(self, encoders: Mapping[str, nn.Module], width: int, classes: int) -> None:
        super().__init__(encoders)
        self.head = nn.Linear(width, classes)

    def unimodal_logits(self, name: str, features: Tensor) -> Tensor:
        return self.head(features)

    def fuse(self, logits: Mapping[str, Tensor], rows: Mapping[str, Tensor], size: int) -> Tensor:
        total = self.head.weight.new_zeros(size, self.head.out_features)
        present = self.head.weight.new_zeros(size, 1)
        for name, values in logits.items():
            total.index_add_(0, rows[name], values.to(total.dtype))
            present.index_add_(0, rows[name], torch.ones_like(values[:, :1]))
        return total / present.clamp(min=1)


class ConcatModel(FusionModel):
    """Joint late fusion z = W [u^1; u^2; ...] + b, the concatenation baseline (CF in Table I).

    A modality alone is read off its slice of W with its share of the bias, so that the unimodal
    logits add up to z.
    """

    def __init__(
        self, encoders: Mapping[str, nn.Module], widths: Mapping[str, int], classes: int
    ) -> None:
        super().__init__(encoders)
        self.widths = dict(widths)
        self.head = nn.Linear(sum(self.widths.values()), classes)

    def unimodal_logits(self, name: str, features: Tensor) -> Tensor:
        start = sum(self.widths[m] for m in self.modalities[: self.modalities.index(name)])
        weight = self.head.weight[:, start : start + self.widths[name]]
        return nn.functional.linear(features, weight, self.head.bias / len(self.widths))

    def fuse(self, logits: Mapping[str, Tensor], rows: Mapping[str, Tensor], size: int) -> Tensor:
        total = self.head.weight.new_zeros(size, self.head.out_features)
        for name, values in logits.items():
            total = total.index_add(0, rows[name], values.to(total.dtype))
        return total
