"""The training loop: epochs of a method's steps, validation, early stopping and checkpoints."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from gaal_fast.config import Config
from gaal_fast.data import (
    DataIssue,
    EpochSampler,
    FusionData,
    dead_readers_as_user_errors,
    make_loader,
    write_issues,
)
from gaal_fast.engine.evaluation import MULTI, predict, scores
from gaal_fast.engine.log import STEP_COLUMNS, accuracy_words, describe, epoch_row, step_rows
from gaal_fast.engine.optim import build_optimizer, build_scheduler
from gaal_fast.errors import AlreadyFinished, Interrupted, UserError
from gaal_fast.methods import HalfStep, build_method
from gaal_fast.runs import figures
from gaal_fast.runs import folder as run_folder
from gaal_fast.runs.folder import RunFolder

# Steps between two updates of the bar's numbers: each waits for the device.
BAR_EVERY = 8


@dataclass
class Progress:
    """Where a run stands; all of it is in the checkpoint."""

    step: int = 0  # batches used
    epoch: int = 0  # epochs finished
    batch: int = 0  # batches used of the epoch under way
    seconds: float = 0.0  # spent in training steps
    best_score: float = -math.inf  # of the kind that ``train.select`` names, higher is better
    best_nll: float = math.inf
    best_epoch: int = 0
    stopping_score: float = -math.inf  # what early stopping measures a gain against
    stale_epochs: int = 0
    epoch_steps: list[dict[str, Any]] = field(
        default_factory=list
    )  # updates of the epoch under way
    history: list[dict[str, Any]] = field(default_factory=list)  # finished epochs


class Trainer:
    """Train one seed into one run folder.

    The state after n batches depends on the configuration, the data and n alone: the order of rows
    and their augmentation are functions of (seed, epoch, row), so a run that was stopped anywhere
    and resumed ends with the same bits as one that was not.
    """

    def __init__(
        self, config: Config, data: FusionData, folder: RunFolder, *, device: torch.device
    ) -> None:
        self.config, self.folder, self.device = config, folder, device
        self.data = data = replace(data, seed=config.train.seed)
        torch.manual_seed(config.train.seed)
        self.method = build_method(
            config,
            classes=len(data.classes),
            table_features=data.table_width,
            class_weights=None if data.class_weights is None else data.class_weights.to(device),
        )
        # Convolutions are fastest with channels innermost, on CPU and GPU alike; the values do not
        # depend on it.
        self.model = self.method.model.to(device, memory_format=torch.channels_last)
        self.model.autocast_dtype = torch.bfloat16 if config.train.precision == "bf16" else None
        self.optimizer = build_optimizer(self.model, config.optim)
        self.scheduler = build_scheduler(self.optimizer, config.optim, config.train.epochs)
        self.progress = Progress()
        self.best: dict[str, Tensor] = {}
        self.issues: dict[tuple[int, str], DataIssue] = {}
        self._note(data.issues)
        for part in (data.train, data.val, data.test):
            part.modalities = [m for m in part.modalities if m.name in self.model.modalities]
        train = config.train
        self.sampler = EpochSampler(len(data.train), train.batch_size, seed=train.seed)
        self.loader = make_loader(
            data.train,
            sampler=self.sampler,
            workers=config.data.workers,
            pin_memory=device.type == "cuda",
        )
        self._interrupt = threading.Event()

    # -- the run
    # -------------------------------------------------------------------------------------------------------

    def fit(self) -> dict[str, Any]:
        """Train to the end and return the summary. Raises ``Interrupted``, after saving, on Ctrl-C."""
        with dead_readers_as_user_errors():
            with self._ctrl_c_at_a_step_boundary():
                while not self._finished():
                    if self._run_epoch():
                        self._end_epoch()
                    self._save()
                    if self._interrupt.is_set() and not self._finished():
                        raise Interrupted
            return self._summarise()

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
                    f"--resume: {folder.path} is finished and has no {run_folder.CHECKPOINT} to go"
                    " on from"
                )
            for name in (run_folder.STEPS, run_folder.METRICS, run_folder.WEIGHTS):
                folder.file(name).unlink(missing_ok=True)
            return
        state = folder.checkpoint()
        if state["fingerprint"] != self.data.fingerprint:
            raise UserError(f"--resume: the data is not what {self.folder.path} was trained on")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.method.load_state_dict(state["method"])
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_rng"], self.device)
        self.progress = Progress(**state["progress"])
        self.best = state["best"]
        self._note(DataIssue(**issue) for issue in state["issues"])
        at = self.progress
        if self._finished() and self._has_summary():
            raise AlreadyFinished(
                f"--resume: {folder.path} is finished after {at.epoch} epochs ({at.step} steps); "
                "to go on raise --train.epochs, --train.max-steps or --train.patience"
            )
        folder.keep_rows(run_folder.STEPS, "step", at.step)
        folder.keep_rows(run_folder.METRICS, "epoch", at.epoch)

    def _finished(self) -> bool:
        train, at = self.config.train, self.progress
        return self._enough_steps() or at.epoch >= train.epochs or at.stale_epochs >= train.patience

    def _has_summary(self) -> bool:
        """Whether the summary is about where the run stands; one of a shorter run may be there."""
        if not self.folder.finished:
            return False
        summary = self.folder.read_json(run_folder.SUMMARY)
        return (summary["epochs"], summary["steps"]) == (self.progress.epoch, self.progress.step)

    def _enough_steps(self) -> bool:
        limit = self.config.train.max_steps
        return limit is not None and self.progress.step >= limit

    def _save(self) -> None:
        self.folder.save_checkpoint(
            {
                "fingerprint": self.data.fingerprint,
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scheduler": {
                    k: v for k, v in self.scheduler.state_dict().items() if k != "lr_lambdas"
                },
                "method": self.method.state_dict(),
                "rng": torch.get_rng_state(),
                "cuda_rng": (
                    torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None
                ),
                "progress": asdict(self.progress),
                "best": self.best,
                "issues": [asdict(issue) for issue in self.issues.values()],
            }
        )

    @contextmanager
    def _ctrl_c_at_a_step_boundary(self) -> Iterator[None]:
        """The first Ctrl-C asks for a stop after the running step, so that what is saved is whole;
        the second one is Python's own.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        former = signal.getsignal(signal.SIGINT)

        def ask(_signal: int, _frame: Any) -> None:
            self._interrupt.set()
            signal.signal(signal.SIGINT, former)

        signal.signal(signal.SIGINT, ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, former)

    # -- one epoch
    # -----------------------------------------------------------------------------------------------------

    def _run_epoch(self) -> bool:
        """Use the batches of the epoch under way; False when ``max_steps`` or Ctrl-C ended it
        early.
        """
        at, train = self.progress, self.config.train
        self.sampler.set_epoch(at.epoch, at.batch)
        batches = self.sampler.batches_per_epoch
        if not batches:
            raise UserError(
                f"{len(self.data.train)} training rows are too few to train on: a batch needs two"
            )
        self.model.train()
        halves: list[tuple[int, HalfStep]] = []
        whole, started = True, time.perf_counter()
        bar = tqdm(
            total=batches,
            initial=at.batch,
            desc=f"epoch {at.epoch + 1}/{train.epochs}",
            unit="batch",
            leave=False,
            disable=None if train.progress else True,  # None: only on a terminal
        )
        with bar:
            for batch in self.loader:
                self._note(batch.issues)
                reports = self.method.training_step(batch.to(self.device), self.optimizer)
                at.step += 1
                at.batch += 1
                halves += [(at.step, report) for report in reports]
                bar.update()
                if not bar.disable and at.batch % BAR_EVERY == 0:
                    bar.set_postfix_str(self._bar_words(halves))
                if at.batch < batches and (self._interrupt.is_set() or self._enough_steps()):
                    whole = False
                    break
        at.seconds += time.perf_counter() - started
        rows = step_rows(halves, at.epoch + 1)
        self.folder.append_rows(run_folder.STEPS, rows, STEP_COLUMNS)
        at.epoch_steps += rows
        return whole

    def _bar_words(self, halves: list[tuple[int, HalfStep]]) -> str:
        words = describe(step_rows(halves[-4 * BAR_EVERY :], self.progress.epoch))
        if self.progress.history:
            last = self.progress.history[-1]
            words += " | val " + accuracy_words(
                {k[13:]: v for k, v in last.items() if k.startswith("val.accuracy.")}
            )
        return words

    def _end_epoch(self) -> None:
        at = self.progress
        validation = self._evaluate("val")
        at.epoch += 1
        at.batch = 0
        row = {"epoch": at.epoch, "step": at.step, "lr": self.optimizer.param_groups[0]["lr"]}
        row |= epoch_row(at.epoch_steps, validation) | {"seconds": round(at.seconds, 3)}
        at.history.append(row)
        if self.config.train.progress:
            tqdm.write(
                f"epoch {at.epoch:3d}  {describe(at.epoch_steps)} | val"
                f" {accuracy_words(validation['accuracy'])}"
            )
        at.epoch_steps = []
        self.scheduler.step()
        self._keep_best(validation)
        self.folder.write_rows(
            run_folder.METRICS,
            at.history,
            list(dict.fromkeys(key for entry in at.history for key in entry)),
        )

    def _keep_best(self, validation: dict[str, dict[str, Any]]) -> None:
        """Best is the highest fused validation score, among equals the lowest loss; only gains
        above ``min_delta`` renew patience.
        """
        at, score = self.progress, self._score(validation)
        if self._beats_best(validation):
            at.best_score, at.best_nll, at.best_epoch = score, validation["nll"][MULTI], at.epoch
            self.best = self._weights()
            self.folder.save_weights(self.best)
        if score > at.stopping_score + self.config.train.min_delta:
            at.stopping_score, at.stale_epochs = score, 0
        else:
            at.stale_epochs += 1

    def _beats_best(self, validation: dict[str, dict[str, Any]]) -> bool:
        return (self._score(validation), -validation["nll"][MULTI]) > (
            self.progress.best_score,
            -self.progress.best_nll,
        )

    def _score(self, validation: dict[str, dict[str, Any]]) -> float:
        """The fused validation score that ``train.select`` names, higher is better."""
        key = {"accuracy": "accuracy", "balanced": "balanced_accuracy", "loss": "nll"}[
            self.config.train.select
        ]
        value = validation[key][MULTI]
        return -value if key == "nll" else value

    def _weights(self) -> dict[str, Tensor]:
        return {
            name: value.detach().cpu().clone() for name, value in self.model.state_dict().items()
        }

    # -- evaluation
    # ----------------------------------------------------------------------------------------------------

    def _evaluate(self, part: str) -> dict[str, dict[str, Any]]:
        loader = make_loader(
            getattr(self.data, part),
            2 * self.config.train.batch_size,
            workers=self.config.data.workers,
        )
        predictions = predict(
            self.model,
            loader,
            device=self.device,
            prior=self.data.class_counts / len(self.data.train),
        )
        self._note(predictions.issues)
        return scores(predictions)

    def _summarise(self) -> dict[str, Any]:
        """Score the best weights on the test rows, which nothing has read until now, and write what
        a finished run holds.
        """
        at, best, best_epoch = self.progress, self.best, self.progress.best_epoch
        if at.batch and self._beats_best(
            self._evaluate("val")
        ):  # stopped inside an epoch, so not validated yet
            best, best_epoch = self._weights(), at.epoch + 1
        latest = self._weights()
        self.model.load_state_dict(best)
        self.folder.save_weights(best)
        summary = {
            "method": self.config.method.name,
            "seed": self.config.train.seed,
            "epochs": at.epoch,
            "steps": at.step,
            "best_epoch": best_epoch,
            "seconds": round(at.seconds, 1),
            "split": self.data.split.hash,
            "val": self._evaluate("val"),
            "test": self._evaluate("test"),
        }
        self.model.load_state_dict(latest)
        write_issues(self.issues.values(), self.folder.file(run_folder.DATA_ISSUES))
        figures.learning_curves(self.folder)
        figures.conflict(self.folder)
        self.folder.write_json(run_folder.SUMMARY, summary)
        return summary

    def _note(self, issues: Any) -> None:
        self.issues |= {(issue.row, issue.column): issue for issue in issues}
