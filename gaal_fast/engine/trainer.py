"""The training loop: phases of epochs of a method's steps, validation, early stopping and
checkpoints.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from gaal_fast.config import Config
from gaal_fast.data import (
    DataIssue,
    EpochSampler,
    FusionData,
    FusionDataset,
    dead_readers_as_user_errors,
    make_loader,
    write_issues,
)
from gaal_fast.data.batch import Batch
from gaal_fast.engine.analysis.passes import Analyze, read_parts
from gaal_fast.engine.evaluation import predict_batches
from gaal_fast.engine.optim import build_optimizer, build_scheduler
from gaal_fast.engine.precision import set_precision
from gaal_fast.engine.state import (
    Progress,
    RandomState,
    interrupt_at_a_step_boundary,
    optimizer_state,
    tensors,
)
from gaal_fast.engine.task import task_of
from gaal_fast.engine.update import OptimizerUpdate
from gaal_fast.errors import AlreadyFinished, Interrupted, UserError
from gaal_fast.methods import Method, Phase, build_method
from gaal_fast.runs import figures
from gaal_fast.runs import folder as run_folder
from gaal_fast.runs.folder import RunFolder
from gaal_fast.runs.recorder import CsvRecorder, Recorder, Row, step_words
from gaal_fast.runs.summary import RunSummary, score_words
from gaal_fast.tasks import FUSED, Scores

# Steps between two updates of the bar's numbers: each waits for the device.
BAR_EVERY = 8


class Trainer:
    """Train one seed into one run folder.

    The state after n batches depends on the configuration, the data and n alone: the order of rows
    and their augmentation are functions of (seed, epoch, row), so a run that was stopped anywhere
    and resumed ends with the same bits as one that was not.
    """

    def __init__(
        self,
        config: Config,
        data: FusionData,
        folder: RunFolder,
        *,
        device: torch.device,
        analyze: Analyze | None = None,
    ) -> None:
        self.config, self.folder, self.device, self.analyze = config, folder, device, analyze
        self.data = replace(data, seed=config.train.seed)
        torch.manual_seed(config.train.seed)
        task = task_of(self.data, config)
        self.score = task.selection(config.train.select)
        method = build_method(config, task, self.data.train.specs)
        # Convolutions are fastest with channels innermost, on CPU and GPU alike; the values do not
        # depend on it.
        self.method: Method = method.to(device).to(memory_format=torch.channels_last)
        set_precision(self.method, config.train.precision)
        self.phases = self.method.phases()
        self.recorder: Recorder = CsvRecorder(folder, phases=len(self.phases) > 1)
        self.progress = Progress()
        self.best: dict[str, Tensor] = {}
        self.issues: dict[tuple[int, str], DataIssue] = {}
        self._note(data.issues)
        train = config.train
        self.sampler = EpochSampler(len(self.data.train), train.batch_size, seed=train.seed)
        self._interrupt = threading.Event()
        self._begin_phase()

    # -- the run

    def fit(self) -> RunSummary:
        """Train to the end and return the summary; on Ctrl-C save and raise ``Interrupted``."""
        with dead_readers_as_user_errors():
            with interrupt_at_a_step_boundary(self._interrupt):
                while not self._finished():
                    if self._run_epoch():
                        self._end_epoch()
                    self._save()
                    if self._interrupt.is_set() and not self._finished():
                        raise Interrupted
            return self._summarize()

    def resume(self) -> None:
        """Take up the folder's checkpoint, or start from the beginning where the run was stopped
        before its first one.

        Raises ``UserError`` when the checkpoint belongs to other data, and ``AlreadyFinished`` when
        the run came to its end and has its summary. A run that was stopped between the two is left
        to write it.
        """
        folder = self.folder
        if not folder.file(run_folder.CHECKPOINT).is_file():
            if folder.finished:
                raise AlreadyFinished(
                    f": {folder.path} is finished and has no {run_folder.CHECKPOINT} to go on from",
                    key="resume",
                )
            for name in (run_folder.STEPS, run_folder.METRICS, run_folder.WEIGHTS):
                folder.file(name).unlink(missing_ok=True)
            return
        state = folder.checkpoint()
        if state["fingerprint"] != self.data.fingerprint:
            raise UserError(
                f": the data is not what {self.folder.path} was trained on", key="resume"
            )
        at = self.progress = Progress(**state["progress"])
        self._begin_phase()
        if state["best"]:  # through the model, so that the tensors of former versions are renamed
            self._load(state["best"])
            self.best = tensors(self.method)
        self._load(state["method"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        RandomState(**state["random"]).restore(self.device)
        self._note(DataIssue(**issue) for issue in state["issues"])
        if self._finished() and self._has_summary():
            raise AlreadyFinished(
                f": {folder.path} is finished after {at.epoch} epochs ({at.step} steps); "
                "to go on raise --train.epochs, --train.max-steps or --train.patience",
                key="resume",
            )
        self.recorder.restore(state["recorder"], step=at.step, epoch=at.epoch)

    def _save(self) -> None:
        self.folder.save_checkpoint(
            {
                "fingerprint": self.data.fingerprint,
                "method": self.method.state_dict(),
                **optimizer_state(self.optimizer, self.scheduler),
                "random": asdict(RandomState.of(self.device)),
                "progress": asdict(self.progress),
                "recorder": self.recorder.state(),
                "best": self.best,
                "issues": [asdict(issue) for issue in self.issues.values()],
            }
        )

    def _load(self, state: Mapping[str, Tensor]) -> None:
        self.method.load_state_dict(state)
        self.method.to(self.device)  # what a method keeps comes from where the state lies

    # -- phases

    @property
    def phase(self) -> Phase:
        """The phase under way."""
        return self.phases[self.progress.phase]

    @property
    def _last_phase(self) -> bool:
        return self.progress.phase == len(self.phases) - 1

    @property
    def _phase_epochs(self) -> int:
        return self.config.train.epochs if self.phase.epochs is None else self.phase.epochs

    def _begin_phase(self) -> None:
        """An optimizer, a schedule and a reader of batches for the phase under way."""
        phase, config = self.phase, self.config
        self.optimizer = build_optimizer(phase.trains, config.optim)
        self.scheduler = build_scheduler(self.optimizer, config.optim, self._phase_epochs)
        self.update = OptimizerUpdate(
            self.optimizer, self._record, clip_norm=config.optim.clip_norm
        )
        self.loader = make_loader(
            self.data.train.only(self.method.modalities, phase.views),
            sampler=self.sampler,
            workers=config.data.workers,
            pin_memory=self.device.type == "cuda",
        )

    def _phase_over(self) -> bool:
        at = self.progress
        stale = self.phase.epochs is None and at.stale_epochs >= self.config.train.patience
        return stale or at.phase_epoch >= self._phase_epochs

    def _finished(self) -> bool:
        return self._enough_steps() or (self._last_phase and self._phase_over())

    def _enough_steps(self) -> bool:
        limit = self.config.train.max_steps
        return limit is not None and self.progress.step >= limit

    def _has_summary(self) -> bool:
        """Whether the summary is about where the run stands; one of a shorter run may be there."""
        if not self.folder.finished:
            return False
        summary = self.folder.read_json(run_folder.SUMMARY)
        return (summary["epochs"], summary["steps"]) == (self.progress.epoch, self.progress.step)

    # -- one epoch

    def _run_epoch(self) -> bool:
        """Use the batches of the epoch under way; False when ``max_steps`` or Ctrl-C ended it
        early.
        """
        at, phase = self.progress, self.phase
        self.sampler.set_epoch(at.epoch, at.batch)
        batches = self.sampler.batches_per_epoch
        if not batches:
            raise UserError(
                f"{len(self.data.train)} training rows are too few to train on: a batch needs two"
            )
        started = time.perf_counter()
        self.method.train()
        if not at.batch and type(self.method).start_epoch is not Method.start_epoch:
            self.method.start_epoch(phase, at.phase_epoch, self._whole_set())
            self.method.train()
        whole = True
        with self._bar(batches) as bar:
            for batch in self.loader:
                self._note(batch.issues)
                phase.step(batch.to(self.device), self.update)
                at.step += 1
                at.batch += 1
                bar.update()
                if not bar.disable and at.batch % BAR_EVERY == 0:
                    bar.set_postfix_str(self._bar_words())
                if at.batch < batches and (self._interrupt.is_set() or self._enough_steps()):
                    whole = False
                    break
        at.seconds += time.perf_counter() - started
        self.recorder.flush()
        return whole

    def _record(self, part: str, scalars: Mapping[str, Tensor]) -> None:
        at = self.progress
        self.recorder.step(at.step + 1, at.epoch + 1, self.phase.name, part, scalars)

    def _whole_set(self) -> Iterable[Batch]:
        """All training rows in the table's order, not augmented."""
        rows = self.data.dataset(self.data.split.train)
        return _OnDevice(self._in_order(rows), self.device)

    def _bar(self, batches: int) -> tqdm[Any]:
        name = "" if len(self.phases) == 1 else f"{self.phase.name} "
        return tqdm(
            total=batches,
            initial=self.progress.batch,
            desc=f"{name}epoch {self.progress.phase_epoch + 1}/{self._phase_epochs}",
            unit="batch",
            leave=False,
            disable=None if self.config.train.progress else True,  # None: only on a terminal
        )

    def _bar_words(self) -> str:
        words = step_words(self.recorder.recent(4 * BAR_EVERY))
        if self.recorder.history:
            prefix = f"val.{self.method.task.score}."
            last = {
                name.removeprefix(prefix): value
                for name, value in self.recorder.history[-1].items()
                if name.startswith(prefix) and not isinstance(value, str)
            }
            words += f" | val {score_words(last)}"
        return words

    def _end_epoch(self) -> None:
        at, task = self.progress, self.method.task
        validation = self._evaluate("val")
        at.epoch, at.phase_epoch, at.batch = at.epoch + 1, at.phase_epoch + 1, 0
        if self.config.train.progress:
            steps, scores = step_words(self.recorder.rows), score_words(validation[task.score])
            tqdm.write(f"epoch {at.epoch:3d}  {steps} | val {scores}")
        row: Row = {"epoch": at.epoch, "step": at.step}
        if len(self.phases) > 1:
            row["phase"] = self.phase.name
        row["lr"] = self.optimizer.param_groups[0]["lr"]
        shown = {score: validation[score] for score in task.epoch_scores}
        self.recorder.epoch(row, shown, seconds=round(at.seconds, 3))
        self.scheduler.step()
        self._keep_best(validation)
        if self._phase_over() and not self._last_phase:
            self._next_phase()

    def _next_phase(self) -> None:
        if self.phase.selects:
            self._load(self.best)
        self.progress.next_phase()
        self._begin_phase()

    # -- selection

    def _keep_best(self, validation: Scores) -> None:
        """Best is the best fused validation score, among equals that of the task's second one; only
        gains above ``min_delta`` renew patience.
        """
        at = self.progress
        score, tie = self._rank(validation)
        if not self.phase.selects or (score, tie) > (at.best_score, at.best_tie):
            at.best_score, at.best_tie, at.best_epoch = score, tie, at.epoch
            self.best = tensors(self.method)
            self.folder.save_weights(self.best)
        if score > at.stopping_score + self.config.train.min_delta:
            at.stopping_score, at.stale_epochs = score, 0
        else:
            at.stale_epochs += 1

    def _beats_best(self, validation: Scores) -> bool:
        return self._rank(validation) > (self.progress.best_score, self.progress.best_tie)

    def _rank(self, validation: Scores) -> tuple[float, float]:
        """The fused score that ``train.select`` names and the one for ties, higher is better."""

        def value(score: str) -> float:
            found = validation[score.removeprefix("-")][FUSED]
            if found is None:
                return -math.inf
            return -found if score.startswith("-") else found

        return value(self.score), value(self.method.task.tie)

    # -- evaluation

    def _evaluate(self, part: str) -> Scores:
        batches = self._in_order(getattr(self.data, part))
        predictions = predict_batches(self.method, batches, device=self.device)
        self._note(predictions.issues)
        return self.method.task.scores(predictions)

    def _in_order(self, rows: FusionDataset) -> DataLoader[Batch]:
        size, workers = 2 * self.config.train.batch_size, self.config.data.workers
        return make_loader(rows.only(self.method.modalities), size, workers=workers)

    def _summarize(self) -> RunSummary:
        """Score the best weights on the test rows, which nothing has read until now, and write what
        a finished run holds.
        """
        at, best, best_epoch = self.progress, self.best, self.progress.best_epoch
        # Stopped inside an epoch, so not validated yet.
        if at.batch and (not self.phase.selects or self._beats_best(self._evaluate("val"))):
            best, best_epoch = tensors(self.method), at.epoch + 1
        latest = tensors(self.method)
        self._load(best)
        self.folder.save_weights(best)
        passes = read_parts(
            self.method,
            self.data,
            self._in_order,
            device=self.device,
            analyzed=self.analyze is not None,
        )
        self._note(issue for seen in passes.values() for issue in seen.predictions.issues)
        summary: RunSummary = {
            "method": self.config.method.name,
            "seed": self.config.train.seed,
            "epochs": at.epoch,
            "steps": at.step,
            "best_epoch": best_epoch,
            "seconds": round(at.seconds, 1),
            "split": self.data.split.hash,
            "val": self.method.task.scores(passes["val"].predictions),
            "test": self.method.task.scores(passes["test"].predictions),
        }
        self._load(latest)
        write_issues(self.issues.values(), self.folder.file(run_folder.DATA_ISSUES))
        figures.learning_curves(self.folder)
        figures.conflict(self.folder)
        if self.analyze is not None:
            self.analyze(passes, summary, self.issues.values())
        self.folder.write_json(run_folder.SUMMARY, summary)
        return summary

    def _note(self, issues: Iterable[DataIssue]) -> None:
        self.issues |= {(issue.row, issue.column): issue for issue in issues}


class _OnDevice:
    """Batches of a loader on a device, any number of times."""

    def __init__(self, loader: DataLoader[Batch], device: torch.device) -> None:
        self.loader, self.device = loader, device

    def __iter__(self) -> Iterator[Batch]:
        return (batch.to(self.device) for batch in self.loader)
