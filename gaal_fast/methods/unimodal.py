"""Unimodal learning: one modality alone, under a classifier of its own."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from gaal_fast.config import MethodConfig
from gaal_fast.data.batch import Batch
from gaal_fast.errors import UserError, nearest
from gaal_fast.methods.base import SMALLEST_BATCH, Update, method
from gaal_fast.methods.shared_head import SharedHead


class Alone(SharedHead):
    """One modality with its encoder and a linear head."""

    @staticmethod
    def one_of(wanted: str, available: Sequence[str], key: str) -> list[str]:
        """The modality that is trained on; raises ``UserError`` where the data does not have it."""
        if wanted not in available:
            names, near = ", ".join(available), nearest(wanted, available)
            raise UserError(f"must be one of {names}, got {wanted}{near}", key=key)
        return [wanted]

    def step(self, batch: Batch, update: Update) -> None:
        """Update encoder and head by the modality's own loss (equation (1))."""
        [name] = self.modalities
        if len(batch.views[name].rows) >= SMALLEST_BATCH:
            features, target = self.features(name, batch)
            update(name, self.task.loss(self.head(features), target))


@method("unimodal", paper="arXiv 2604.01579, Table I")
class Unimodal(Alone):
    """The modality alone that --method.modality names."""

    class Options(MethodConfig):
        modality: str = Field(description="the modality to train on, such as an image column")

    @classmethod
    def takes(cls, options: MethodConfig, available: Sequence[str]) -> list[str]:
        assert isinstance(options, cls.Options)
        return cls.one_of(options.modality, available, "method.modality")


@method("image", paper="arXiv 2604.01579, Table I")
class ImageAlone(Alone):
    """The images alone."""

    @classmethod
    def takes(cls, options: MethodConfig, available: Sequence[str]) -> list[str]:
        return cls.one_of("image", available, "method.name")


@method("table", paper="arXiv 2604.01579, Table I")
class TableAlone(Alone):
    """The table alone."""

    @classmethod
    def takes(cls, options: MethodConfig, available: Sequence[str]) -> list[str]:
        return cls.one_of("table", available, "method.name")
