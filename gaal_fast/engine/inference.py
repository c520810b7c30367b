"""A finished run as something to predict with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gaal_fast.config import Config
from gaal_fast.data import (
    FusionDataset,
    PredictionData,
    TablePreprocessor,
    dead_readers_as_user_errors,
    load_for_prediction,
    make_loader,
)
from gaal_fast.data.batch import InputSpec
from gaal_fast.engine.evaluation import predict
from gaal_fast.engine.precision import set_precision
from gaal_fast.engine.task import stored_task
from gaal_fast.errors import UserError
from gaal_fast.methods import Method, build_method
from gaal_fast.runs import folder as run_folder
from gaal_fast.runs.folder import RunFolder
from gaal_fast.tasks import Predictions, Task


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
        config, facts = folder.config(), folder.read_json(run_folder.DATA)
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
            raise UserError(
                f"--run: the weights in {path} do not fit its configuration:"
                f" {str(error).splitlines()[-1].strip()}"
            ) from None
        set_precision(method, config.train.precision)
        return cls(folder, config, method.to(device).eval(), device)

    @property
    def task(self) -> Task:
        """What is predicted."""
        return self.method.task

    def warn_if_unfinished(self, warn: Callable[[str], None]) -> None:
        """Say that these are the best weights so far, where training was stopped before its end."""
        if not self.folder.finished:
            warn(
                f"the training of {self.folder.path} has not finished; its best weights so far are"
                f" used; {self.folder.how_to_go_on()}"
            )

    def read(
        self,
        csv: Path,
        images: Path | None,
        *,
        labelled: bool = False,
        encoding: str | None = None,
        delimiter: str | None = None,
        decimal: str | None = None,
        thousands: str | None = None,
    ) -> PredictionData:
        """A table to predict, in any column order and with any further columns; ``labelled`` reads
        the target too. ``encoding``, ``delimiter``, ``decimal`` and ``thousands`` are those of its
        text, where they are not to be found out.

        Columns that are absent count as missing, with a warning. Raises ``UserError`` when nothing
        is left to predict from, and naming the column when one holds something else than in
        training.
        """
        return load_for_prediction(
            csv,
            self.folder.path,
            images=images,
            image_size=self.config.data.image_size,
            labels=labelled,
            modalities=tuple(self.method.modalities),
            progress=self.config.train.progress,
            encoding=encoding,
            delimiter=delimiter,
            decimal=decimal,
            thousands=thousands,
        )

    def predict(
        self, data: PredictionData, *, batch_size: int | None = None, workers: int | None = None
    ) -> Predictions:
        """Outputs for every row of ``data``, in its order."""
        return self.predict_dataset(data.dataset, batch_size=batch_size, workers=workers)

    def predict_dataset(
        self, dataset: FusionDataset, *, batch_size: int | None = None, workers: int | None = None
    ) -> Predictions:
        """Outputs for every row of a dataset, in its order. Modalities that the model does not
        know are not read.

        ``workers`` is the number of reader processes; None: as in training. Raises ``UserError``
        when one of them fails.
        """
        loader = make_loader(
            dataset.only(self.method.modalities),
            batch_size or 2 * self.config.train.batch_size,
            workers=self.config.data.workers if workers is None else workers,
        )
        with dead_readers_as_user_errors():
            return predict(self.method, loader, device=self.device)


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
    size = config.data.image_size
    return {"image": InputSpec("image", (3, size, size)), **inputs}
