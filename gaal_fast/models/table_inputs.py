"""Fitted preprocessing as modules: raw numbers and codes to the features of an encoder."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

# The proleptic Gregorian calendar, counted from 1 March of the year 0, so that a leap day is the
# last day of its year: the days before 1970, and those of 400, 100 and 4 years.
_EPOCH, _ERA, _CENTURY, _OLYMPIAD = 719_468, 146_097, 36_524, 1_461
_JANUARY = 306  # days from 1 March to 1 January
_QUARTER = math.pi / 2


class TableInputs(nn.Module):
    """The features that a table encoder was trained on, from a row's own numbers and codes.

    Float64 until the features are scaled, as in training: a date has more digits than float32.
    Nothing here depends on values by control flow, so that it can be exported.

    Args:
        low: float64 ``[Q]``, smallest value of each quantity that counts.
        high: float64 ``[Q]``, largest value that counts.
        dates: how many of the last quantities are days since 1970-01-01.
        parts: int64 ``[P - Q]``, positions of the parts used among those of ``date_parts``.
        median: float64 ``[P]``, in place of a missing value.
        mean: float64 ``[P]``.
        scale: float64 ``[P]``.
        indicators: int64 ``[M]``, quantities whose missing cells are a feature.
        places: for each of the C categories int64 ``[levels + 2]``, the feature of each level, of a
            missing cell and of a level never seen, -1 for none.
        n_levels: L, features of levels.
        largest: bound of a feature, in standard deviations.
        missing: the code of a missing cell; one that no level has is a level never seen.
    """

    low: Tensor
    high: Tensor
    parts: Tensor | None
    median: Tensor
    mean: Tensor
    scale: Tensor
    indicators: Tensor | None
    counts: Tensor
    starts: Tensor
    places: Tensor

    def __init__(
        self,
        *,
        low: np.ndarray,
        high: np.ndarray,
        dates: int,
        parts: np.ndarray,
        median: np.ndarray,
        mean: np.ndarray,
        scale: np.ndarray,
        indicators: np.ndarray,
        places: Sequence[np.ndarray],
        n_levels: int,
        largest: float,
        missing: int,
    ) -> None:
        super().__init__()
        self.dates, self.n_levels = dates, n_levels
        self.largest, self.missing = largest, missing
        counts = np.array([len(place) - 2 for place in places], dtype=np.int64)
        flat = np.concatenate([*places, np.zeros(0, dtype=np.int64)])
        arrays = {
            **{"low": low, "high": high, "parts": parts, "median": median, "mean": mean},
            **{"scale": scale, "indicators": indicators, "counts": counts},
            "starts": np.cumsum(counts + 2) - counts - 2,
            # What has no feature goes to one more, which is cut off.
            "places": np.where(flat < 0, n_levels, flat),
        }
        for name, values in arrays.items():
            # An empty tensor cannot be in an exported file.
            tensor = torch.from_numpy(np.array(values)) if len(values) else None
            self.register_buffer(name, tensor)

    def forward(self, numbers: Tensor | None, codes: Tensor | None) -> tuple[Tensor, Tensor]:
        """Features of a batch.

        Args:
            numbers: float64 ``[B, Q]``, NaN where missing; None where Q is 0.
            codes: int64 ``[B, C]``; None where C is 0.

        Returns:
            float32 ``[B, D]``, and bool ``[B]``: the rows that have a value at all.
        """
        features: list[Tensor] = []
        present: list[Tensor] = []
        if numbers is not None:
            counts = (numbers >= self.low) & (numbers <= self.high)  # neither does NaN
            numbers = torch.where(counts, numbers, torch.nan)
            features += self._scaled(numbers, counts)
            present.append(counts.any(dim=1))
        if codes is not None:
            features.append(self._one_hot(codes))
            present.append((codes != self.missing).any(dim=1))
        has_any = present[0] if len(present) == 1 else present[0] | present[1]
        return torch.cat(features, dim=1).float(), has_any

    def _scaled(self, numbers: Tensor, known: Tensor) -> list[Tensor]:
        values = numbers
        if self.parts is not None:
            parts = _date_parts(numbers[:, -self.dates :])
            values = torch.cat([numbers, parts[:, self.parts]], dim=1)
        values = torch.where(values.isnan(), self.median, values)
        scaled = ((values - self.mean) / self.scale).clamp(-self.largest, self.largest)
        if self.indicators is None:
            return [scaled]
        return [scaled, (~known)[:, self.indicators].to(numbers.dtype)]

    def _one_hot(self, codes: Tensor) -> Tensor:
        known = (codes >= 0) & (codes < self.counts)
        unknown = torch.where(codes == self.missing, self.counts, self.counts + 1)
        place = self.places[self.starts + torch.where(known, codes, unknown)]
        features = torch.zeros(codes.shape[0], self.n_levels + 1, dtype=torch.float64)
        return features.scatter(1, place, 1.0)[:, : self.n_levels]


class EmbeddingInputs(nn.Module):
    """The features of an embedding's encoder, from a row's own vector.

    Args:
        mean: float64 ``[D]``.
        std: float64 ``[D]``.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: np.ndarray, std: np.ndarray) -> None:
        super().__init__()
        self.register_buffer("mean", torch.from_numpy(mean.copy()))
        self.register_buffer("std", torch.from_numpy(std.copy()))

    def forward(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """float32 ``[B, D]``, and bool ``[B]``: the rows whose numbers are all finite, of float64
        ``[B, D]``.
        """
        present = (values.abs() < torch.inf).all(dim=1)  # neither is NaN
        features = ((values - self.mean) / self.std).float()
        return torch.where(present[:, None], features, 0.0), present


def _date_parts(days: Tensor) -> Tensor:
    """The seven repeating parts of each of the dates ``[B, dates]``, in the order of
    ``date_parts``: ``[B, 7 * dates]``.
    """
    whole = days.floor()
    day, of_year = _calendar(whole)
    turns = [of_year / 365.25, _remainder(whole + 3, 7) / 7, days - whole]
    parts = [day]
    for turn in turns:
        angle = 2 * math.pi * turn
        # Not every runtime has a cosine of float64.
        parts += [angle.sin(), (angle + _QUARTER).sin()]
    return torch.stack(parts, dim=2).flatten(1)


def _remainder(values: Tensor, divisor: int) -> Tensor:
    """Of whole float64 values, in 0 ... divisor - 1."""
    return values - divisor * (values / divisor).floor()


def _calendar(days: Tensor) -> tuple[Tensor, Tensor]:
    """Day of the month, from 1, and day of the year, from 0, of whole days since 1970-01-01."""
    in_era = _remainder(days + _EPOCH, _ERA)
    # Without the leap days before it, every year has 365 days.
    leap_days = (
        (in_era / (_OLYMPIAD - 1)).floor()
        - (in_era / _CENTURY).floor()
        + (in_era / (_ERA - 1)).floor()
    )
    year = ((in_era - leap_days) / 365).floor()
    from_march = in_era - (365 * year + (year / 4).floor() - (year / 100).floor())
    # Five months from March on have 153 days, whichever of them is the first.
    month = ((5 * from_march + 2) / 153).floor()
    day = from_march - ((153 * month + 2) / 5).floor() + 1
    leap = (_remainder(year, 4) == 0) & ((_remainder(year, 100) != 0) | (year == 0))
    before_march = 59 + leap.to(days.dtype)
    of_year = torch.where(from_march >= _JANUARY, from_march - _JANUARY, from_march + before_march)
    return day, of_year
