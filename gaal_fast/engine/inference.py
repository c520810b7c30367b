"""A finished run as something to predict with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from gaal_fast.config import Config
from gaal_fast.data import (
    FusionDataset,
    PredictionData,
    dead_readers_as_user_errors,
    load_for_prediction,
    make_loader,
)
from gaal_fast.engine import Predictions, predict
from gaal_fast.errors import UserError
from gaal_fast.methods import build_method
from gaal_fast.models import FusionModel
from gaal_fast.runs import folder as run_folder
from gaal_fast.runs.folder import RunFolder


@dataclass
class TrainedRun:
    """The best weights of a run with all they need: ``TrainedRun.load(folder).predict(csv,
    images)``.
    """

    folder: RunFolder
    config: Config
    model: FusionModel
    classes: tuple[str | int, ...]
    prior: np.ndarray  # float64 [Y], class frequencies of the training rows
    device: torch.device

    @classmethod
    def load(cls, path: Path, *, device: torch.device) -> TrainedRun:
        """Open a run folder. Raises ``UserError`` when it is none, is not finished, or holds
        several seeds.
        """
        folder = RunFolder.open(path)
        if compared := folder.compared():
            raise UserError(
                f"--run: {path} holds a comparison; name one of its runs, such as"
                f" {compared[0].path}"
            )
        if seeds := folder.seeds():
            raise UserError(
                f"--run: {path} holds {len(seeds)} seeds; name one of them, such as {seeds[0].path}"
            )
        config, facts, preprocessor = (
            folder.config(),
            folder.read_json(run_folder.DATA),
            folder.preprocessor(),
        )
        weights, classes = folder.weights(), preprocessor.schema.classes
        # The trained weights replace whatever the encoder started from, so a file of pretrained
        # ones need not exist any more.
        untrained = config.model_copy(
            update={"model": config.model.model_copy(update={"weights": None})}
        )
        model = build_method(
            untrained, classes=len(classes), table_features=len(preprocessor.feature_names)
        ).model
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            raise UserError(
                f"--run: the weights in {path} do not fit its configuration:"
                f" {str(error).splitlines()[-1].strip()}"
            ) from None
        model.autocast_dtype = torch.bfloat16 if config.train.precision == "bf16" else None
        counts = np.asarray(facts["class_counts"], dtype=np.float64)
        return cls(folder, config, model.to(device).eval(), classes, counts / counts.sum(), device)

    def warn_if_unfinished(self, warn: Callable[[str], None]) -> None:
        """Say that these are the best weights so far, where training was stopped before its end."""
        if not self.folder.finished:
            warn(
                f"the training of {self.folder.path} has not finished; its best weights so far are"
                f" used; {self.folder.how_to_go_on()}"
            )

    def read(
        self, csv: Path, images: Path | None, *, labelled: bool = False, **table: str | None
    ) -> PredictionData:
        """A table to predict, in any column order and with any further columns; ``labelled`` reads
        the target too.

        table: ``encoding``, ``delimiter``, ``decimal`` and ``thousands`` of its text, where they
        are not to be found out.

        Columns that are absent count as missing, with a warning. Raises ``UserError`` when nothing
        is left to predict from, and naming the column when one holds something else than in
        training.
        """
        return load_for_prediction(
            csv, self.folder.path, images=images, image_size=self.config.data.image_size, labels=labelled,
            modalities=tuple(self.model.modalities), progress=self.config.train.progress, **table,
        )  # fmt: skip

    def predict(
        self, data: PredictionData, *, batch_size: int | None = None, workers: int | None = None
    ) -> Predictions:
        """Logits for every row of ``data``, in its order."""
        return self.predict_dataset(data.dataset, batch_size=batch_size, workers=workers)

    def predict_dataset(
        self, dataset: FusionDataset, *, batch_size: int | None = None, workers: int | None = None
    ) -> Predictions:
        """Logits for every row of a dataset, in its order. Modalities that the model does not know
        are not read.

        ``workers`` is the number of reader processes; None: as in training. Raises ``UserError``
        when one of them fails.
        """
        dataset.modalities = [m for m in dataset.modalities if m.name in self.model.modalities]
        workers = self.config.data.workers if workers is None else workers
        loader = make_loader(
            dataset, batch_size or 2 * self.config.train.batch_size, workers=workers
        )
        with dead_readers_as_user_errors():
            return predict(self.model, loader, device=self.device, prior=self.prior)
