"""A finished run as something to predict with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import confusion_matrix
from torch import Tensor, nn

from gaal_fast.config import Config, TableSettings
from gaal_fast.data import (
    DataIssue,
    FusionDataset,
    PredictionData,
    TablePreprocessor,
    dead_readers_as_user_errors,
    load_data,
    load_for_prediction,
    make_loader,
)
from gaal_fast.data.batch import InputSpec
from gaal_fast.data.reading import Reading
from gaal_fast.engine.analysis.calibration import calibrated
from gaal_fast.engine.evaluation import predict_batches
from gaal_fast.engine.features import features
from gaal_fast.engine.precision import set_precision
from gaal_fast.engine.task import stored_task
from gaal_fast.errors import UserError
from gaal_fast.methods import Method, build_method
from gaal_fast.models import Encoders
from gaal_fast.runs.analysis import CALIBRATION
from gaal_fast.runs.folder import DATA, RunFolder
from gaal_fast.tasks import FUSED, Predictions, Task

USED = "used_modalities"


@dataclass(frozen=True)
class Answer:
    """A table with predictions.

    Attributes:
        table: The columns of the input in their order, then those of the predictions, and what
            each row was predicted from.
        used: By row, the modalities it was predicted from: ``image+table``, ``none``.
        replaced: Columns of the input whose name a prediction has, and which are left out.
        issues: Cells that could not be used, each once.
    """

    table: pd.DataFrame
    used: list[str]
    replaced: list[str]
    issues: list[DataIssue]


@dataclass
class TrainedRun:
    """The best weights of a run with all they need: ``TrainedRun.load(folder).predict(csv,
    images)``.
    """

    folder: RunFolder
    config: Config
    method: Method
    device: torch.device

    @classmethod
    def load(cls, path: Path, *, device: torch.device, plugins: Sequence[Path] = ()) -> TrainedRun:
        """Open a run folder.

        Args:
            path: The folder.
            device: Where to compute.
            plugins: Files of the user's own methods; a run trained with such a file needs it here,
                as nothing in a run folder is executed.

        Raises:
            UserError: With the key ``run``, where it is none, has no weights yet, or holds several
                runs.
        """
        folder = RunFolder.open(path)
        if compared := folder.compared():
            one = f"name one of its runs, such as {compared[0].path}"
            raise UserError(f": {path} holds a comparison; {one}", key="run")
        if seeds := folder.seeds():
            one = f"name one of them, such as {seeds[0].path}"
            raise UserError(f": {path} holds {len(seeds)} seeds; {one}", key="run")
        config, facts = folder.config(plugins), folder.read_json(DATA)
        preprocessor, weights = folder.preprocessor(), folder.weights()
        # The trained weights replace whatever the encoder started from, so a file of pretrained
        # ones need not exist any more.
        method = build_method(
            folder.located(config),
            stored_task(facts, preprocessor.schema.classes, config),
            stored_inputs(facts, preprocessor, config),
            model=config.model.model_copy(update={"weights": None}),
        )
        try:
            method.load_state_dict(weights)
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()
            message = f": the weights in {path} do not fit its configuration: {reason}"
            raise UserError(message, key="run") from None
        set_precision(method, config.train.precision)
        return cls(folder, config, method.to(device).eval(), device)

    @property
    def task(self) -> Task:
        """What is predicted."""
        return self.method.task

    def doubts(self) -> list[str]:
        """What to warn of before predicting: a training that was stopped before its end."""
        if self.folder.finished:
            return []
        return [
            f"the training of {self.folder.path} has not finished; its best weights so far are"
            f" used; {self.folder.how_to_go_on()}"
        ]

    def read(
        self,
        csv: Path,
        images: Path | None,
        *,
        labelled: bool = False,
        **table: Unpack[TableSettings],
    ) -> PredictionData:
        """A table to predict, in any column order and with any further columns.

        Args:
            csv: The table. Columns that are absent count as missing, with a warning.
            images: The folder of its images; None for that of the table.
            labelled: Whether to read the target too.
            table: ``encoding``, ``delimiter``, ``decimal`` and ``thousands`` of its text, where
                they are not to be found out, and further ``tables``, called as in training.

        Raises:
            UserError: Where nothing is left to predict from, or naming the column that holds
                something else than in training.
        """
        size, resampling = self.config.data.resize
        return load_for_prediction(
            csv,
            self.folder.path,
            images=images,
            image_size=size,
            resampling=resampling,
            labels=labelled,
            modalities=tuple(self.method.modalities),
            progress=self.config.train.progress,
            **table,
        )

    def predict(
        self, data: PredictionData, *, batch_size: int | None = None, workers: int | None = None
    ) -> Predictions:
        """Outputs for every row of ``data``, in its order."""
        return self.predict_dataset(data.dataset, batch_size=batch_size, workers=workers)

    def predict_dataset(
        self, dataset: FusionDataset, *, batch_size: int | None = None, workers: int | None = None
    ) -> Predictions:
        """Outputs for every row of a dataset, in its order.

        Args:
            dataset: Modalities that the model does not know are not read.
            batch_size: Rows at once; None for twice that of training.
            workers: Reader processes; None for as many as in training.

        Raises:
            UserError: Where one of the readers fails.
        """
        loader = make_loader(
            dataset.only(self.method.modalities),
            batch_size or 2 * self.config.train.batch_size,
            workers=self.config.data.workers if workers is None else workers,
        )
        with dead_readers_as_user_errors():
            return predict_batches(self.method, loader, device=self.device)

    def embeddings(
        self, data: PredictionData, *, workers: int | None = None
    ) -> tuple[pd.DataFrame, pd.DataFrame]:
        """The features that each modality's encoder makes of every row of ``data``.

        Args:
            data: The rows, in order.
            workers: Reader processes; None for as many as in training.

        Returns:
            The columns of the input that are no features of its table, such as names and keys; and
            float32 ``image.0``, ``image.1`` ... by modality, NaN in rows without it.

        Raises:
            UserError: Where the method has no encoders that give features.
        """
        encoders = getattr(self.method, "encoders", None)
        if not isinstance(encoders, Encoders):
            message = f": the method {self.config.method.name} has no encoders that give features"
            raise UserError(message, key="embeddings")
        own = set(data.schema.features)
        kept = [name for name in data.frame.columns if name.strip() not in own]
        parts = []
        for name in self.method.modalities:
            values, rows = features(
                _OneEncoder(encoders, name),
                data.dataset,
                name,
                device=self.device,
                batch_size=2 * self.config.train.batch_size,
                workers=self.config.data.workers if workers is None else workers,
                progress=self.config.train.progress,
            )
            whole = np.full((len(data.frame), encoders.width), np.nan, np.float32)
            if len(rows):
                whole[rows] = values
            columns = [f"{name}.{place}" for place in range(encoders.width)]
            parts.append(pd.DataFrame(whole, columns=columns))
        found = pd.concat(parts, axis=1)
        kept = [name for name in kept if name not in found.columns]
        return data.frame[kept].reset_index(drop=True), found

    def predict_part(self, part: str, *, workers: int | None = None) -> Predictions:
        """Outputs for a part of the run's own split: ``train``, ``val`` or ``test``.

        Raises:
            UserError: Where the data is not there or no longer the same, or has no such part.
        """
        config, folder = self.folder.located(self.config).data, self.folder
        instead = "give a table with --csv"
        if config.csv is None or not config.csv.expanduser().exists():
            message = f": {config.csv}, which {folder.path} was trained on, is not there; {instead}"
            raise UserError(message, key="run")
        data = load_data(
            config, progress=self.config.train.progress, reading=Reading.load(folder.path)
        )
        if data.fingerprint != folder.read_json(DATA)["fingerprint"]:
            message = f": {config.csv} is no longer what {folder.path} was trained on; {instead}"
            raise UserError(message, key="run")
        rows = getattr(data.split, part)
        if not len(rows):
            message = f": the run has no {part} part; name another one, or {instead}"
            raise UserError(message, key="split")
        return self.predict_dataset(data.dataset(rows), workers=workers)

    def calibrated(self, predictions: Predictions) -> Predictions:
        """The predictions as sure as they were right on validation rows; as they are where the run
        keeps no temperatures. No prediction changes, only its probability or its deviation.
        """
        if not self.folder.file(CALIBRATION).is_file():
            return predictions
        temperatures = self.folder.read_json(CALIBRATION)["temperature"]
        return calibrated(self.task, predictions, temperatures)

    def answer(self, data: PredictionData, *, workers: int | None = None) -> Answer:
        """The table of ``data`` with its predictions, at the temperatures of the run."""
        predictions = self.calibrated(self.predict(data, workers=workers))
        used = predictions.used_modalities()
        table, replaced = with_predictions(data.frame, self.task.columns(predictions), used)
        issues = {(i.row, i.column): i for i in (*data.issues, *predictions.issues)}
        return Answer(table, used, replaced, list(issues.values()))


class _OneEncoder(nn.Module):
    """The encoder of one modality, as a module of its own."""

    def __init__(self, encoders: Encoders, name: str) -> None:
        super().__init__()
        self.encoders, self.name = encoders, name

    def forward(self, values: Tensor) -> Tensor:
        return self.encoders(self.name, values)


def with_predictions(
    frame: pd.DataFrame, columns: pd.DataFrame, used: Sequence[str]
) -> tuple[pd.DataFrame, list[str]]:
    """A table beside its predictions.

    Args:
        frame: The input, N rows.
        columns: What the task says of them, N rows.
        used: What each row was predicted from.

    Returns:
        The columns of the input in their order, then those of the task and ``used_modalities``; and
        the columns of the input that are left out because a prediction has their name.
    """
    table = columns.assign(**{USED: list(used)})
    replaced = [name for name in frame.columns if name in table.columns]
    kept = frame.drop(columns=replaced).reset_index(drop=True)
    return pd.concat([kept, table], axis=1), replaced


def confusion_counts(predictions: Predictions, classes: int) -> np.ndarray:
    """int64 ``[Y, Y]`` counts of rows with a known label: true class by row, fused prediction by
    column.
    """
    known = predictions.target >= 0
    guess = predictions.outputs[FUSED].argmax(axis=1)
    return confusion_matrix(predictions.target[known], guess[known], labels=np.arange(classes))


def stored_inputs(
    facts: Mapping[str, Any], preprocessor: TablePreprocessor, config: Config
) -> dict[str, InputSpec]:
    """The modalities of a finished run's data.

    Args:
        facts: what the run folder's ``data.json`` holds; older ones do not name the inputs.
        preprocessor: of the run.
        config: of the run.
    """
    if "inputs" in facts:
        return {
            name: InputSpec(spec["kind"], tuple(spec["shape"]))
            for name, spec in facts["inputs"].items()
        }
    inputs = {"table": InputSpec("table", (len(preprocessor.feature_names),))}
    if preprocessor.schema.image_column is None:
        return inputs
    size, _ = config.data.resize
    return {"image": InputSpec("image", (3, size, size)), **inputs}
