"""Regression: standardized values, squared error or a Gaussian likelihood, and R2."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error
from torch import Tensor

from gaal_fast.data.batch import Batch
from gaal_fast.tasks.base import FUSED, Predictions, Scores, Task

if TYPE_CHECKING:
    import pandas as pd

# Bounds of the logarithm of a predicted variance, of a target with variance one: beyond them a
# single row could decide a whole step.
LOG_VARIANCE = (-10.0, 10.0)


class Regression(Task):
    """t values, standardized by the training rows inside the task.

    A head puts out t means, and with loss ``"nll"`` t logarithms of a variance after them, both of
    the standardized target.

    Args:
        targets: t, values of a row.
        loss: ``"nll"``, the Gaussian negative log-likelihood, or ``"mse"``, half the squared error.
    """

    selections: ClassVar = {"auto": "r2", "r2": "r2", "loss": "-loss"}
    tie: ClassVar = "-loss"
    epoch_scores: ClassVar = ("r2", "mae", "rmse", "loss")
    words: ClassVar = {"r2": "R²", "mae": "MAE", "rmse": "RMSE", "loss": "loss", "rows": "rows"}
    mean: Tensor
    std: Tensor

    def __init__(self, targets: int = 1, loss: Literal["mse", "nll"] = "nll") -> None:
        super().__init__()
        self.targets, self.has_variance = targets, loss == "nll"
        self.outputs = 2 * targets if self.has_variance else targets
        # In the model's state, so that its weights alone say what its outputs mean.
        self.register_buffer("mean", torch.zeros(targets, dtype=torch.float64))
        self.register_buffer("std", torch.ones(targets, dtype=torch.float64))

    def fit(self, target: np.ndarray) -> Regression:
        """Standardize by these values ``[n, t]``, those of the training rows."""
        values = torch.from_numpy(np.asarray(target, np.float64).reshape(-1, self.targets))
        spread = values.std(dim=0, correction=0)
        self.mean = values.mean(dim=0)
        self.std = torch.where(spread > 0, spread, torch.ones_like(spread))
        return self

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Mean over rows and values; Gaussian without its constant, or half the squared error."""
        standardized = ((target - self.mean) / self.std).to(output.dtype)
        error2 = (output[:, : self.targets] - standardized).square()
        if not self.has_variance:
            return 0.5 * error2.mean()
        spread = self._log_variance(output)
        return 0.5 * (spread + error2 * torch.exp(-spread)).mean()

    def uncertainty(self, output: Tensor) -> Tensor | None:
        """The predicted variance of the standardized target, summed over its values; None without
        one.
        """
        return self._log_variance(output).exp().sum(dim=1) if self.has_variance else None

    def prior(self) -> np.ndarray:
        """Mean and variance of the training rows."""
        return np.zeros(self.outputs)

    def fuse(self, outputs: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """The mean of the modalities' means (equation (10)), with the variance of their mixture:
        where modalities disagree, the fused prediction is less certain than each.

        Weights by precision would take the modalities' errors for independent, which those of one
        row are not.
        """
        if not self.has_variance or not outputs:
            return super().fuse(outputs, batch)
        moments = {name: self._moments(values) for name, values in outputs.items()}
        mean, square = super().fuse(moments, batch).chunk(2, dim=1)
        known = torch.zeros(len(batch), 1, dtype=torch.bool, device=mean.device)
        for name in outputs:
            known[batch.views[name].rows] = True
        variance = (square - mean.square()).clamp(min=math.exp(LOG_VARIANCE[0]))
        return torch.cat([mean, torch.where(known, variance.log(), 0.0)], dim=1)

    def _moments(self, output: Tensor) -> Tensor:
        """First and second moment of each row's Gaussian."""
        mean = output[:, : self.targets]
        return torch.cat([mean, mean.square() + self._log_variance(output).exp()], dim=1)

    def _log_variance(self, output: Tensor) -> Tensor:
        return output[:, self.targets :].clamp(*LOG_VARIANCE)

    def row_losses(self, output: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Gaussian negative log-likelihood of the standardized values, without its constant, or
        half their squared error; the mean over the values of a row.
        """
        scale, shift = self.std.numpy(force=True), self.mean.numpy(force=True)
        error2 = np.square(output[:, : self.targets] - (target - shift) / scale)
        if not self.has_variance:
            return 0.5 * error2.mean(axis=1)
        spread = np.clip(output[:, self.targets :], *LOG_VARIANCE)
        return 0.5 * (spread + error2 * np.exp(-spread)).mean(axis=1)

    @property
    def has_temperature(self) -> bool:
        """Whether there is a variance, which alone a temperature changes."""
        return self.has_variance

    def tempered(self, output: np.ndarray, temperature: np.ndarray | float) -> np.ndarray:
        """The variance times the temperature."""
        if not self.has_variance:
            return output
        spread = np.clip(output[:, self.targets :], *LOG_VARIANCE) + np.log(temperature)
        return np.concatenate([output[:, : self.targets], spread], axis=1)

    def columns(self, predictions: Predictions) -> pd.DataFrame:
        """``prediction`` and, with a variance, ``prediction_std``, in the target's own units.

        Several targets have a number after the name: ``prediction_1``.
        """
        import pandas as pd

        values = self.readout(torch.from_numpy(predictions.outputs[FUSED]))
        return pd.DataFrame(values.numpy(), columns=self.readout_columns)

    @property
    def readout_columns(self) -> list[str]:
        names = ["prediction", "prediction_std"] if self.has_variance else ["prediction"]
        numbers = [""] if self.targets == 1 else [f"_{i + 1}" for i in range(self.targets)]
        return [f"{name}{number}" for name in names for number in numbers]

    def readout(self, output: Tensor, temperature: Tensor | float = 1.0) -> Tensor:
        """Values and standard deviations ``[N, columns]`` float64, in the target's own units; the
        variance is multiplied by the temperature.
        """
        mean, std = self.mean.to(output.device), self.std.to(output.device)
        values = [output[:, : self.targets] * std + mean]
        if self.has_variance:
            spread = self._log_variance(output) + torch.as_tensor(temperature).log()
            values.append((0.5 * spread.clamp(*LOG_VARIANCE)).exp() * std)
        return torch.cat(values, dim=1)

    def values(self, output: np.ndarray) -> np.ndarray:
        """Predicted values ``[n, t]`` in the target's own units, of outputs ``[n, outputs]``."""
        return self.readout(torch.from_numpy(output))[:, : self.targets].numpy()

    def deviations(self, output: np.ndarray) -> np.ndarray:
        """Their standard deviations ``[n, t]``, in the same units; only with a variance."""
        return self.readout(torch.from_numpy(output))[:, self.targets :].numpy()

    @property
    def readout_unit(self) -> Tensor:
        return self.std.cpu().repeat(2 if self.has_variance else 1)

    def scores(self, predictions: Predictions) -> Scores:
        """r2, mae and rmse in the target's own units, loss (what training minimizes) and rows (how
        many were counted). Several values of a row count alike.
        """
        table: Scores = {name: {} for name in self.words}
        for name, output in predictions.outputs.items():
            # Without a single row, as where there is no test part, a target has no width.
            target = predictions.target_of(name).reshape(-1, self.targets)
            known = np.isfinite(target).all(axis=1)
            target, output = target[known], output[known]
            found = self._scores(output, target) if len(target) else {}
            for score, values in table.items():
                values[name] = len(target) if score == "rows" else found.get(score)
        return table

    @torch.no_grad()
    def _scores(self, output: np.ndarray, target: np.ndarray) -> dict[str, float | None]:
        guess = self.values(output)
        device = self.mean.device
        loss = self.loss(
            torch.from_numpy(output).to(device), torch.from_numpy(target).to(device)
        ).item()
        return {
            "r2": float(r2_score(target, guess)) if len(target) > 1 else None,
            "mae": float(mean_absolute_error(target, guess)),
            "rmse": float(root_mean_squared_error(target, guess)),
            "loss": loss,
        }
