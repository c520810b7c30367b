"""Honest ceilings: cheap baselines on the split of a training, fitted on its training rows.

Linear models and boosted trees on each modality's features and on all of them together, and the
product of the linear models of the modalities over the prior. Images count by the features of a
frozen encoder, or by thumbnails where no pretrained one is at hand. The validation rows choose
regularization, rounds of boosting and the number of principal components; the test rows are only
scored. Nothing costs more than a part of an epoch of training, and tables take seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from gaal_fast.config import Config, ModelConfig
from gaal_fast.data import FusionData
from gaal_fast.data.batch import InputSpec
from gaal_fast.engine.features import THUMBNAIL, Thumbnails, features
from gaal_fast.engine.learners import (
    MOST_ROWS,
    ClassLearners,
    Fitted,
    Learners,
    NumberLearners,
    Rows,
)
from gaal_fast.engine.task import task_of
from gaal_fast.methods.build import modalities_of
from gaal_fast.models.encoders import build_image_encoder
from gaal_fast.runs.ceilings import COLUMNS, PRODUCT, as_rows
from gaal_fast.runs.folder import CEILINGS, RunFolder
from gaal_fast.runs.summary import PARTS, Ceiling, Ceilings, Part
from gaal_fast.tasks import FUSED, Classification, Predictions, Regression, Task

# Principal components of image features to try.
COMPONENTS = (30, 100)
# Features of no more than this many numbers a row are used as they are.
FEW_FEATURES = 32


@dataclass(frozen=True)
class Found:
    """The baselines of a data set.

    Attributes:
        ceilings: By name: ``table trees``, ``image+table logistic``, ``product``.
        outputs: Float64 ``[n, outputs]`` by name and part: log-probabilities, or mean and
            logarithm of the variance of standardized values.
        notes: What was left out or bounded, in sentences.
    """

    ceilings: dict[str, Ceiling]
    outputs: dict[str, dict[Part, np.ndarray]]
    notes: list[str]


def fit_ceilings(
    config: Config, data: FusionData, modalities: Sequence[str], *, device: torch.device
) -> Found:
    """Fit and score the ceilings of some modalities.

    Every row of a part counts, as in the fused score: one without a modality is predicted from
    what it has, and from the prior where that is nothing.

    Args:
        config: With paths that are found.
        data: Its parts.
        modalities: Names of the inputs to use; those without a feature are left out.
        device: Where image encoders compute.

    Raises:
        UserError: For pretrained weights that do not fit.
    """
    return _Fitting(config, data, device).run(modalities)


def write_ceilings(
    configs: Sequence[Config],
    data: FusionData,
    folder: RunFolder,
    *,
    device: torch.device,
    say: Callable[[str], None],
) -> Ceilings:
    """Fit the ceilings of all modalities that one of the methods takes, and write them down.

    Args:
        configs: One for each method, on the same data, as the folder keeps them.
        data: Of all of them.
        folder: Where ``ceilings.csv`` goes.
        device: Where image encoders compute.
        say: Told what was left out or bounded.
    """
    located = [folder.located(config) for config in configs]
    taken = {name for config in located for name in modalities_of(config, data.modality_names)}
    names = [name for name in data.modality_names if name in taken]
    found = fit_ceilings(located[0], data, names, device=device)
    folder.write_rows(CEILINGS, as_rows(found.ceilings), COLUMNS)
    for note in found.notes:
        say(f"ceilings: {note}")
    return found.ceilings


def frozen_encoder(spec: InputSpec, model: ModelConfig) -> tuple[nn.Module, str]:
    """What gives an input's features without training, and its name.

    An image encoder with pretrained weights as it starts, thumbnails without them, and the
    identity for features that are ready. torch's random state stays as it is.
    """
    if spec.kind != "image":
        return nn.Identity(), spec.kind
    if model.weights is None:
        return Thumbnails(), f"thumbnails {THUMBNAIL}x{THUMBNAIL}"
    with torch.random.fork_rng(devices=[]):
        encoder, _ = build_image_encoder(
            model.image, width=model.width, weights=model.weights, freeze=True
        )
        encoder.projection = None  # to the width wanted, by weights drawn at random
    source = model.weights if isinstance(model.weights, str) else model.weights.name
    return encoder, f"{model.image} from {source}"


@dataclass
class _Block:
    """One modality's features, scaled by the training rows before they are learned from.

    Attributes:
        name: Of the modality.
        what: What they are.
        values: Float64 ``[n, d]`` by part, NaN in rows without the modality.
        compress: Whether their principal components take their place.
    """

    name: str
    what: str
    values: dict[str, np.ndarray]
    compress: bool = False


class _Fitting:
    def __init__(self, config: Config, data: FusionData, device: torch.device) -> None:
        self.config, self.data, self.device = config, data, device
        self.task: Task = task_of(data, config)
        self.learners: Learners
        seed = config.train.seed
        if isinstance(self.task, Regression):
            self.task = Regression(self.task.targets).fit(data.train.target[data.train.rows])
            self.learners = NumberLearners(self.task, seed)
        else:
            assert isinstance(self.task, Classification)
            self.learners = ClassLearners(self.task, seed)
        rows = data.split.train
        if len(rows) > MOST_ROWS:
            rows = np.sort(np.random.default_rng(seed).permutation(rows)[:MOST_ROWS])
        # Unlike ``data.train`` these are not augmented.
        self.parts = {"train": data.dataset(rows), "val": data.val, "test": data.test}
        self.target = {part: rows.target[rows.rows] for part, rows in self.parts.items()}
        self.found = Found({}, {}, [])
        if len(rows) < len(data.split.train):
            self.found.notes.append(
                f"fitted on {len(rows)} of the {len(data.split.train)} training rows"
            )

    def run(self, modalities: Sequence[str]) -> Found:
        specs = self.data.train.specs
        usable = [name for name in modalities if specs[name].features]
        raw = [self._features(name, specs[name]) for name in usable]
        learnable = [block for block in raw if self._is_learnable(block)]
        with self._bar(2 * len(learnable) + 2 * (len(learnable) > 1)) as bar, _one_thread():
            self._fit(learnable, bar)
        return self.found

    def _fit(self, raw: Sequence[_Block], bar: tqdm) -> None:
        """All learners on each modality, then on all of them."""
        blocks: list[_Block] = []
        linear: list[Fitted] = []
        for block, fitted in map(self._best_linear, raw):
            bar.set_postfix_str(block.name)
            bar.update()
            blocks.append(block)
            linear.append(fitted)
            self._add(block.name, fitted, [block])
            self._trees(block.name, [block])
            bar.update()
        if len(blocks) > 1:
            name = "+".join(block.name for block in blocks)
            bar.set_postfix_str(name)
            self._add(name, self._linear(blocks), blocks)
            bar.update()
            self._trees(name, blocks)
            self._product(name, blocks, linear)
            bar.update()

    def _bar(self, fits: int) -> tqdm:
        progress = self.config.train.progress
        return tqdm(
            total=fits,
            desc="fitting ceilings",
            leave=False,
            delay=1,
            disable=None if progress else True,  # None: only on a terminal
        )

    # -- features

    def _features(self, name: str, spec: InputSpec) -> _Block:
        """A modality's features as the frozen encoder gives them."""
        encoder, what = frozen_encoder(spec, self.config.model)
        found = {
            part: features(
                encoder,
                rows,
                name,
                device=self.device,
                batch_size=2 * self.config.train.batch_size,
                workers=self.config.data.workers,
                progress=self.config.train.progress,
            )
            for part, rows in self.parts.items()
        }
        width = max(values.shape[1] for values, _ in found.values())
        block = _Block(name, what, {}, compress=spec.kind != "table" and width > FEW_FEATURES)
        for part, (values, places) in found.items():
            block.values[part] = np.full((len(self.target[part]), width), np.nan)
            if len(places):
                # An encoder may overflow on an odd image; such a row counts as one without.
                finite = np.isfinite(values).all(axis=1)
                block.values[part][places[finite]] = values[finite]
        return block

    def _is_learnable(self, block: _Block) -> bool:
        possible = self.learners.is_possible(self._rows("train", [block])[1])
        if not possible:
            self.found.notes.append(f"no ceiling of {block.name}: too few training rows have it")
        return possible

    def _best_linear(self, block: _Block) -> tuple[_Block, Fitted]:
        """A modality's features, scaled, with the linear model on them."""
        _standardize(block.values)
        if not block.compress:
            return block, self._linear([block])
        fits = [(each, self._linear([each])) for each in self._components(block)]
        return min(fits, key=lambda fit: fit[1].loss)

    def _components(self, block: _Block) -> Iterator[_Block]:
        """The first few principal components, in several numbers, with one scale for all."""
        from sklearn.decomposition import PCA

        train, _ = self._rows("train", [block])
        most = min(train.shape)
        sizes = sorted({min(size, most) for size in COMPONENTS})
        with np.errstate(invalid="ignore"):  # images that are all alike have no variance to share
            pca = PCA(sizes[-1], svd_solver="randomized", random_state=self.learners.seed)
            pca.fit(train)
        for size in sizes:
            scale = np.sqrt(pca.explained_variance_[:size].mean()) or 1.0
            values = {}
            for part, whole in block.values.items():
                values[part] = np.full((len(whole), size), np.nan)
                there = ~np.isnan(whole[:, 0])
                if there.any():
                    values[part][there] = pca.transform(whole[there])[:, :size] / scale
            yield _Block(block.name, f"{block.what}, {size} components", values)

    # -- learners

    def _linear(self, blocks: Sequence[_Block]) -> Fitted:
        return self.learners.linear(self._rows("train", blocks), self._rows("val", blocks))

    def _trees(self, name: str, blocks: Sequence[_Block]) -> None:
        fitted = self.learners.trees(self._rows("train", blocks), self._rows("val", blocks))
        if fitted is not None:
            self._add(name, fitted, blocks)
            return
        note = "no trees: with so many classes they would take minutes"
        if note not in self.found.notes:
            self.found.notes.append(note)

    def _rows(self, part: str, blocks: Sequence[_Block]) -> Rows:
        """Features and targets of the rows of a part that have one of the modalities."""
        return _present(_joined(part, blocks), self.target[part])

    def _product(self, inputs: str, blocks: Sequence[_Block], linear: Sequence[Fitted]) -> None:
        """The product of the modalities' linear models over the prior."""
        pairs = list(zip(blocks, linear, strict=True))
        outputs = {
            part: self.learners.product([self._outputs(part, [b], fitted) for b, fitted in pairs])
            for part in PARTS
        }
        self._score(
            PRODUCT,
            Ceiling(
                inputs=inputs,
                learner=PRODUCT,
                features=_names(blocks),
                chosen="",
                train_rows=min(fitted.rows for fitted in linear),
                val=None,
                test=None,
            ),
            outputs,
        )

    def _add(self, inputs: str, fitted: Fitted, blocks: Sequence[_Block]) -> None:
        self._score(
            f"{inputs} {fitted.learner}",
            Ceiling(
                inputs=inputs,
                learner=fitted.learner,
                features=_names(blocks),
                chosen=fitted.chosen,
                train_rows=fitted.rows,
                val=None,
                test=None,
            ),
            {part: self._outputs(part, blocks, fitted) for part in PARTS},
        )

    def _outputs(self, part: str, blocks: Sequence[_Block], fitted: Fitted) -> np.ndarray:
        """Outputs for every row of a part, the prior for those without a modality."""
        values = _joined(part, blocks)
        there = ~np.isnan(values).all(axis=1)
        outputs = np.tile(self.learners.prior, (len(values), 1))
        if there.any():
            outputs[there] = fitted.predict(values[there])
        return outputs

    def _score(self, name: str, ceiling: Ceiling, outputs: dict[Part, np.ndarray]) -> None:
        for part, values in outputs.items():
            scores = self.task.scores(Predictions({FUSED: values}, {}, self.target[part]))
            ceiling[part] = scores[self.task.score][FUSED]
        self.found.ceilings[name], self.found.outputs[name] = ceiling, outputs


def _one_thread() -> AbstractContextManager[object]:
    """Matrices are small here: threads would wait for each other, for minutes on a busy machine."""
    from threadpoolctl import threadpool_limits  # scikit-learn's own dependency

    return threadpool_limits(1)


def _names(blocks: Sequence[_Block]) -> str:
    return " + ".join(dict.fromkeys(block.what for block in blocks))


def _joined(part: str, blocks: Sequence[_Block]) -> np.ndarray:
    return np.hstack([block.values[part] for block in blocks])


def _present(values: np.ndarray, target: np.ndarray) -> Rows:
    """The rows that have a feature at all."""
    there = ~np.isnan(values).all(axis=1)
    return values[there], target[there]


def _standardize(values: dict[str, np.ndarray]) -> None:
    """Mean 0 and variance 1 over the training rows, in place; a constant column becomes 0."""
    mean, spread = np.nanmean(values["train"], axis=0), np.nanstd(values["train"], axis=0)
    spread[spread < 1e-12] = np.inf
    for part, own in values.items():
        values[part] = (own - mean) / spread
