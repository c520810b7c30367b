"""The cheap baselines against scikit-learn called directly, and what they must not do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import accuracy_score, log_loss, r2_score
from sklearn.preprocessing import StandardScaler

from gaal_fast.config import Config
from gaal_fast.data.dataset import TableModality
from gaal_fast.engine import ceilings as module
from gaal_fast.engine import learners
from gaal_fast.engine.ceilings import Found, fit_ceilings, frozen_encoder
from gaal_fast.engine.learners import STRENGTHS, ClassLearners, NumberLearners
from gaal_fast.models.encoders import build_image_encoder
from gaal_fast.tasks import Classification, Regression
from tests.engine.drawn import Drawn, Shades, drawn_classes, drawn_values

CONFIG = Config.model_validate({"train": {"progress": False}})
CPU = torch.device("cpu")


def fit(data: Drawn, names: list[str] | None = None, config: Config = CONFIG) -> Found:
    wanted = names or [modality.name for modality in data.modalities]
    return fit_ceilings(config, data, wanted, device=CPU)  # type: ignore[arg-type]


def pair(kind: str = "classes", rows: int = 200, absent: bool = False) -> Drawn:
    """A table and an image, of which some rows lack one or both where ``absent``."""
    whole = drawn_classes(rows) if kind == "classes" else drawn_values(rows)
    image, facts = whole.modalities[0], whole.modalities[2]
    assert isinstance(facts, TableModality)
    if not absent:
        everywhere = np.ones(rows, dtype=bool)
        image.present = facts.present = everywhere  # type: ignore[misc, attr-defined]
    return Drawn(whole.target, [image, facts])


def table_of(data: Drawn) -> np.ndarray:
    return data.modalities[1].features.numpy().astype(np.float64)  # type: ignore[attr-defined]


def direct_logistic(x: np.ndarray, data: Drawn) -> np.ndarray:
    """Log-probabilities of all rows by the strength with the least validation log loss."""
    train, val = data.split.train, data.split.val
    models = [
        LogisticRegression(C=c, max_iter=1000).fit(x[train], data.target[train]) for c in STRENGTHS
    ]
    best = min(models, key=lambda m: log_loss(data.target[val], m.predict_proba(x[val])))
    return best.predict_log_proba(x)


def test_logistic_regression_on_the_table_is_scikit_learns() -> None:
    data = pair()
    found = fit(data)
    x = StandardScaler().fit(table_of(data)[data.split.train]).transform(table_of(data))
    expected = direct_logistic(x, data)
    own = found.outputs["facts logistic"]
    for part in ("val", "test"):
        rows = getattr(data.split, part)
        np.testing.assert_allclose(own[part], expected[rows], atol=1e-3)
        score = accuracy_score(data.target[rows], expected[rows].argmax(1))
        assert found.ceilings["facts logistic"][part] == pytest.approx(score)


def test_logistic_regression_on_the_image_and_on_both_use_principal_components() -> None:
    data = pair()
    found = fit(data)
    ceiling = found.ceilings["front logistic"]
    assert ceiling["features"] == "thumbnails 16x16, 30 components"
    train = data.split.train
    raw = data.modalities[0].images.flatten(1).numpy().astype(np.float64)  # type: ignore[attr-defined]
    scaled = StandardScaler().fit(raw[train]).transform(raw)
    pca = PCA(30, svd_solver="full").fit(scaled[train])
    components = pca.transform(scaled) / np.sqrt(pca.explained_variance_.mean())
    x = StandardScaler().fit(table_of(data)[train]).transform(table_of(data))
    for name, features in (
        ("front logistic", components),
        ("front+facts logistic", np.hstack([components, x])),
    ):
        expected = direct_logistic(features, data)[data.split.test]
        # The components come from a randomized decomposition.
        assert np.abs(found.outputs[name]["test"] - expected).mean() < 0.05
        assert found.ceilings[name]["test"] == pytest.approx(
            accuracy_score(data.target[data.split.test], expected.argmax(1)), abs=0.03
        )


def test_trees_are_scikit_learns_with_the_rounds_that_suit_the_validation_rows() -> None:
    data = pair()
    found = fit(data, ["facts"])
    rounds = int(found.ceilings["facts trees"]["chosen"].split()[0])
    train, val, test = data.split.train, data.split.val, data.split.test
    x = StandardScaler().fit(table_of(data)[train]).transform(table_of(data))

    def direct(number: int) -> HistGradientBoostingClassifier:
        return HistGradientBoostingClassifier(
            max_iter=number, early_stopping=False, random_state=0, **learners._TREE
        ).fit(x[train], data.target[train])

    expected = direct(rounds).predict_proba(x[test])
    np.testing.assert_allclose(np.exp(found.outputs["facts trees"]["test"]), expected, atol=1e-9)
    losses = [
        log_loss(data.target[val], direct(number).predict_proba(x[val]))
        for number in (max(1, rounds - 1), rounds, rounds + 1)
    ]
    assert losses[1] == min(losses)


def test_the_product_of_classes_is_the_formula() -> None:
    counts = np.array([5.0, 3.0, 2.0])
    own = ClassLearners(Classification(["a", "b", "c"], counts), seed=0)
    rng = np.random.default_rng(0)
    image, table = (np.log(rng.dirichlet(np.ones(3), 4)) for _ in range(2))
    raw = np.exp(image) * np.exp(table) / (counts / counts.sum())
    expected = raw / raw.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(np.exp(own.product([image, table])), expected, rtol=1e-12)
    # A modality that a row lacks is the prior and adds nothing.
    lacking = np.tile(own.prior, (4, 1))
    np.testing.assert_allclose(own.product([lacking, table]), table, atol=1e-12)


def test_the_product_of_numbers_weighs_by_precision_over_the_prior() -> None:
    """The density of the product of two normals over the standard one, on a grid."""
    own = NumberLearners(Regression(1).fit(np.array([[0.0], [2.0]])), seed=0)
    means, variances = (0.8, -0.2), (0.5, 0.25)
    outputs = [np.array([[m, np.log(v)]]) for m, v in zip(means, variances, strict=True)]
    grid = np.linspace(-8, 8, 20001)
    density = np.exp(
        sum(-((grid - m) ** 2) / (2 * v) for m, v in zip(means, variances, strict=True))
        + grid**2 / 2
    )
    density /= density.sum()
    mean = (grid * density).sum()
    variance = ((grid - mean) ** 2 * density).sum()
    np.testing.assert_allclose(own.product(outputs)[0], [mean, np.log(variance)], atol=1e-6)
    np.testing.assert_allclose(own.product([outputs[0], own.prior[None]]), outputs[0], atol=1e-12)


@pytest.mark.parametrize("kind", ["classes", "numbers"])
def test_nothing_is_fitted_or_chosen_on_the_test_rows(kind: str) -> None:
    clean, poisoned = pair(kind), pair(kind)
    test = clean.split.test
    rng = np.random.default_rng(9)
    image, facts = poisoned.modalities
    image.images[test] = 1e3 * torch.from_numpy(  # type: ignore[attr-defined]
        rng.normal(size=(len(test), *image.spec.shape)).astype(np.float32)
    )
    facts.features[test] = 1e3  # type: ignore[attr-defined]
    poisoned.target[test] = rng.permutation(poisoned.target[test])
    one, other = fit(clean), fit(poisoned)
    assert list(one.ceilings) == list(other.ceilings)
    for name, ceiling in one.ceilings.items():
        # Log-probabilities of the validation rows are the same bits: so are the parameters.
        np.testing.assert_array_equal(one.outputs[name]["val"], other.outputs[name]["val"])
        assert not np.array_equal(one.outputs[name]["test"], other.outputs[name]["test"])
        for key in ("chosen", "features", "val", "train_rows"):
            assert ceiling[key] == other.ceilings[name][key]  # type: ignore[literal-required]


def test_they_are_a_function_of_data_and_seed_and_leave_torchs_random_state_alone() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    one, other = fit(pair()), fit(pair())
    assert torch.equal(before, torch.get_rng_state())
    assert one.ceilings == other.ceilings


def test_ridge_regression_is_scikit_learns_and_r2_is_the_score() -> None:
    data = pair("numbers")
    found = fit(data)
    train, val, test = data.split.train, data.split.val, data.split.test
    x = StandardScaler().fit(table_of(data)[train]).transform(table_of(data))
    best = min(
        (Ridge(alpha=alpha).fit(x[train], data.target[train]) for alpha in learners.RIDGE),
        key=lambda model: ((model.predict(x[val]) - data.target[val]) ** 2).mean(),
    )
    score = r2_score(data.target[test], best.predict(x[test]))
    assert found.ceilings["facts ridge"]["test"] == pytest.approx(score, abs=1e-9)
    scores = {name: ceiling["test"] for name, ceiling in found.ceilings.items()}
    assert set(scores) == {
        *(
            f"{what} {how}"
            for what in ("front", "facts", "front+facts")
            for how in ("ridge", "trees")
        ),
        "product",
    }
    # The two know different parts of the sum: only together are they right.
    assert scores["front+facts ridge"] > max(scores["front ridge"], scores["facts ridge"]) + 0.1
    assert scores["product"] > max(scores["front ridge"], scores["facts ridge"])


def test_a_row_without_a_modality_is_predicted_from_what_it_has() -> None:
    data = pair(absent=True)
    rows = data.split.test
    image, facts = (modality.present[rows] for modality in data.modalities)
    facts[:2] = image[:2] = False
    data.modalities[0].present[rows[:2]] = data.modalities[1].present[rows[:2]] = False
    assert (facts & ~image).any()
    assert (image & ~facts).any()
    found = fit(data)
    counts = data.class_counts
    prior = np.log(counts / counts.sum())
    own = {name: parts["test"] for name, parts in found.outputs.items()}
    np.testing.assert_allclose(own["front logistic"][~image], np.tile(prior, ((~image).sum(), 1)))
    only = facts & ~image
    np.testing.assert_allclose(own["product"][only], own["facts logistic"][only], atol=1e-12)
    for name in own:
        np.testing.assert_allclose(own[name][:2], np.tile(prior, (2, 1)), atol=1e-12)
    # One of both is not the prior.
    assert np.abs(own["front+facts trees"][only] - prior).max() > 0.1
    assert np.abs(own["front+facts logistic"][only] - prior).max() > 0.1


def test_a_modality_that_hardly_a_training_row_has_is_left_out_and_named() -> None:
    data = pair()
    data.modalities[0].present = data.modalities[0].present.copy()  # type: ignore[misc]
    data.modalities[0].present[data.split.train[1:]] = False
    found = fit(data)
    assert set(found.ceilings) == {"facts logistic", "facts trees"}
    assert found.notes == ["no ceiling of front: too few training rows have it"]


def test_many_rows_are_sampled_and_many_classes_do_without_trees(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MOST_ROWS", 50)
    found = fit(pair(), ["facts"])
    assert found.notes == ["fitted on 50 of the 120 training rows"]
    assert {ceiling["train_rows"] for ceiling in found.ceilings.values()} == {50}
    monkeypatch.setattr(learners, "TREES", 2 * learners.FEWEST_ROUNDS)
    found = fit(pair())
    assert not any(ceiling["learner"] == "trees" for ceiling in found.ceilings.values())
    assert sum("no trees" in note for note in found.notes) == 1


def test_a_class_that_no_sampled_row_has_is_hardly_ever_predicted() -> None:
    own = ClassLearners(Classification(["a", "b", "c", "d"], np.array([50, 1, 40, 9])), seed=0)
    rng = np.random.default_rng(0)
    x, target = rng.normal(size=(60, 3)), rng.choice([0, 2, 3], 60)
    trees = own.trees((x[:40], target[:40]), (x[40:], target[40:]))
    assert trees is not None
    for fitted in (own.linear((x[:40], target[:40]), (x[40:], target[40:])), trees):
        output = fitted.predict(x)
        assert output.shape == (60, 4)
        assert np.isfinite(output).all()
        assert (output[:, 1] < -20).all()
        np.testing.assert_allclose(np.exp(output).sum(axis=1), 1, atol=1e-6)


def test_without_validation_or_test_rows_of_a_modality_there_is_still_a_ceiling() -> None:
    data = pair()
    data.modalities[1].present = data.modalities[1].present.copy()  # type: ignore[misc]
    data.modalities[1].present[data.split.val] = False
    data.split.test = data.split.test[:0]
    data.test = data.dataset(data.split.test)  # type: ignore[attr-defined]
    found = fit(data)
    assert found.ceilings["facts logistic"]["chosen"] == "C 1"
    assert all(ceiling["test"] is None for ceiling in found.ceilings.values())
    assert found.ceilings["front logistic"]["val"] >= 0.4  # type: ignore[operator]


def test_a_pretrained_encoder_gives_the_features(tmp_path: Path) -> None:
    torch.manual_seed(1)
    encoder, width = build_image_encoder("small")
    weights = tmp_path / "own.safetensors"
    save_file(encoder.state_dict(), weights)
    model = CONFIG.model.model_copy(update={"image": "small", "weights": weights})
    spec = pair().modalities[0].spec
    frozen, what = frozen_encoder(spec, model)
    assert what == "small from own.safetensors"
    images = torch.rand(3, *spec.shape)
    torch.testing.assert_close(frozen.eval()(images), encoder.eval()(images))
    assert frozen(images).shape == (3, width)
    config = CONFIG.model_copy(update={"model": model})
    assert fit(pair(), ["front"], config).ceilings["front trees"]["features"].startswith(what)


def test_an_image_that_is_noise_leaves_the_table_on_top() -> None:
    data = pair()
    noise = Shades("front", np.zeros(len(data.target)), np.ones(len(data.target), dtype=bool))
    noisy = Drawn(data.target, [noise, data.modalities[1]])
    scores: dict[str, Any] = {n: c["test"] for n, c in fit(noisy).ceilings.items()}
    assert scores["facts logistic"] > scores["front logistic"] + 0.1


@pytest.mark.filterwarnings("error")
def test_images_that_are_all_alike_say_what_the_prior_says() -> None:
    data = pair()
    data.modalities[0].images[:] = 0.5  # type: ignore[attr-defined]
    found = fit(data)
    counts = data.class_counts
    expected = np.log(counts / counts.sum())
    np.testing.assert_allclose(
        found.outputs["front logistic"]["test"], np.tile(expected, (40, 1)), atol=0.02
    )


def test_a_row_whose_features_overflow_counts_as_one_without() -> None:
    data = pair()
    row = int(data.split.test[0])
    data.modalities[0].images[row] = torch.inf  # type: ignore[attr-defined]
    found = fit(data)
    counts = data.class_counts
    np.testing.assert_allclose(
        found.outputs["front logistic"]["test"][0], np.log(counts / counts.sum())
    )
    assert np.isfinite(found.outputs["front+facts trees"]["test"]).all()
