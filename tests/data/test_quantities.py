"""A target that is a quantity: when it is one, how it is scaled and split, and read again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gaal_fast.config import DataConfig
from gaal_fast.data import load_data, load_for_prediction
from gaal_fast.data.quantities import Quantity, decide_task, read_quantity
from gaal_fast.data.tables.numbers import NumberColumns
from gaal_fast.data.tables.schema import TableSchema, TargetScale
from gaal_fast.errors import UserError
from tests.data.conftest import catalogue

MakeConfig = Callable[..., DataConfig]
RNG = np.random.default_rng(2)
PRICES = RNG.normal(100, 10, 60).round(4)


def decide(cells: object, asked: str = "auto") -> tuple[str, str]:
    frame = pd.DataFrame({"y": cells})
    return decide_task(frame["y"], asked, NumberColumns(frame))


@pytest.mark.parametrize(
    ("cells", "task"),
    [
        (PRICES, "regression"),
        ([f"{price:.4f}" for price in PRICES], "regression"),
        ([f"{price:.4f} €".replace(".", ",") for price in PRICES], "regression"),
        (RNG.normal(size=5), "regression"),  # nearly as many as rows
        (RNG.integers(18, 90, 300), "regression"),  # ages
        (RNG.permutation(1000)[:50] * 10, "regression"),
        ([*PRICES.astype(str)[:58], "", ""], "regression"),
        (RNG.integers(0, 21, 300) / 2 * 2, "classification"),
        (np.tile([0.5, 1.0, 1.5, 2.0, 2.5], 12), "classification"),  # ratings
        (np.tile(np.arange(18, 90), 20), "classification"),  # twenty rows each
        (np.arange(300) % 100, "classification"),  # codes of classes: no gap from 0
        (np.arange(300) % 100 + 1, "classification"),
        (np.arange(60) % 2, "classification"),
        ([f"{code:03d}" for code in RNG.permutation(1000)[:60]], "classification"),
        (list("abc") * 20, "classification"),
        ([*PRICES.astype(str)[:59], "cheap"], "classification"),
        ([True, False] * 30, "classification"),
        (pd.to_datetime(["2024-01-01", "2024-02-01"] * 30), "classification"),
    ],
)
def test_what_is_a_quantity(cells: object, task: str) -> None:
    assert decide(cells)[0] == task


def test_what_was_decided_is_said_with_the_flag_that_changes_it() -> None:
    words = f'"y" has {len(set(PRICES))} different numbers in 60 rows'
    assert decide(PRICES)[1] == (
        f"regression: {words} (--data.task classification makes each a class)"
    )
    assert decide(np.arange(60) % 5)[1] == (
        'classification: "y" has 5 different numbers in 60 rows'
        " (--data.task regression predicts the number)"
    )
    assert decide(list("abc") * 20)[1] == decide([0, 1] * 30)[1] == ""
    assert decide(PRICES, "classification") == ("classification", "")
    assert decide(list("abc"), "regression") == ("regression", "")


def test_cells_without_a_number_are_listed() -> None:
    frame = pd.DataFrame({"y": ["1.5", "dear", "", "2.5"]})
    warnings: list[str] = []
    quantity = read_quantity(frame["y"], NumberColumns(frame), warnings)
    np.testing.assert_array_equal(quantity.values, [1.5, np.nan, np.nan, 2.5])
    assert [(issue.row, issue.reason) for issue in quantity.issues] == [
        (1, "no number: row left out"),
        (2, "no label: row left out"),
    ]
    assert warnings == [
        'target column "y": 1 values are no numbers (row 2 holds "dear"); those rows are left out'
    ]
    with pytest.raises(UserError, match=r'target column "y" has no numbers \(row 1 holds "a"\)'):
        frame = pd.DataFrame({"y": list("abc")})
        read_quantity(frame["y"], NumberColumns(frame), [])


def test_strata_are_tenths_by_value() -> None:
    values = RNG.permutation(np.r_[np.arange(200.0), [np.nan] * 3])
    strata = Quantity(values, []).strata
    assert np.bincount(strata[strata >= 0]).tolist() == [20] * 10
    np.testing.assert_array_equal(strata < 0, np.isnan(values))
    known = ~np.isnan(values)
    assert (np.diff(strata[known][np.argsort(values[known])]) >= 0).all()
    assert set(Quantity(np.arange(7.0), []).strata) == {0}
    uneven = Quantity(np.r_[np.zeros(90), np.arange(10.0)], []).strata
    assert set(uneven) == set(range(uneven.max() + 1))


def test_a_scale_is_that_of_the_values_and_refuses_a_constant() -> None:
    scale = TargetScale.of(PRICES, "y")
    np.testing.assert_allclose([scale.mean, scale.scale], [PRICES.mean(), PRICES.std()], rtol=1e-12)
    for constant in (0.0, 0.1, 3.0):
        with pytest.raises(UserError, match="one value only"):
            TargetScale.of(np.full(30, constant), "y")


def test_a_quantity_is_loaded_scaled_by_its_training_rows_and_read_again(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    frame = catalogue().assign(price=[f"{price:.4f}" for price in PRICES])
    frame.loc[7, "price"] = ""
    config = make_config(frame, target="price")
    data = load_data(config, progress=False)
    assert (data.task, data.classes, data.schema.categorical) == (
        "regression",
        [],
        ("colour", "kind"),
    )
    assert data.target.dtype == np.float64 and data.class_counts.size == 0
    train = data.target[data.split.train]
    scale = data.target_scale
    np.testing.assert_allclose([train.mean(), train.std()], [scale.mean, scale.scale], rtol=1e-12)
    known = np.arange(60) != 7
    np.testing.assert_allclose(data.target[known], PRICES[known], atol=1e-4)
    assert np.isnan(data.target[7])
    assert 7 not in np.concatenate([data.split.train, data.split.val, data.split.test])
    assert [len(data.split.train), len(data.split.val), len(data.split.test)] == [41, 6, 12]
    assert f"target: price (mean {scale.mean:.4g}, standard deviation {scale.scale:.4g})" in (
        data.describe()
    )
    assert any("--data.task classification" in line for line in data.describe())
    assert data.split.hash == load_data(config, progress=False).split.hash
    data.save(tmp_path / "run")
    new = frame.assign(price=[f"{price:.4f}".replace(".", ",") for price in PRICES])
    new.to_csv(tmp_path / "new.csv", index=False, sep=";")
    read = load_for_prediction(
        tmp_path / "new.csv", tmp_path / "run", images=config.images, image_size=8, labels=True
    )
    np.testing.assert_allclose(read.target, PRICES, atol=1e-4)
    assert read.target_scale == scale
    unlabelled = load_for_prediction(tmp_path / "new.csv", tmp_path / "run", image_size=8)
    assert np.isnan(unlabelled.target).all()


def test_a_column_that_gives_the_quantity_away_is_named(make_config: MakeConfig) -> None:
    price = np.linspace(1, 2, 400) ** 3
    frame = pd.DataFrame({"price": price, "gross": price * 1.19, "noise": RNG.normal(size=400)})
    data = load_data(make_config(frame.sample(frac=1, random_state=0), target="price"))
    [warning] = [line for line in data.warnings if "alone predicts" in line]
    assert warning.startswith('column "gross" alone predicts the target (in the right tenth in')


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rare_classes": "drop"}, r"--data\.rare-classes is about classes, .*regression: .price"),
        ({"class_weights": "balanced"}, r"--data\.class-weights is about classes"),
        ({"class_weights": "balanced", "task": "regression"}, r"--data\.class-weights"),
        ({"target": "kind", "task": "regression"}, 'target column "kind" has no numbers'),
    ],
)
def test_options_of_the_other_task_are_refused(
    make_config: MakeConfig, options: dict[str, object], message: str
) -> None:
    frame = catalogue().assign(price=PRICES)
    with pytest.raises(UserError, match=message):
        load_data(make_config(frame, **{"target": "price", **options}), progress=False)


def test_groups_and_a_given_split_keep_their_rows_together(make_config: MakeConfig) -> None:
    frame = catalogue().assign(price=PRICES, house=np.arange(60) // 3)
    data = load_data(make_config(frame, target="price", group_column="house"), progress=False)
    houses = [set(np.asarray(part) // 3) for part in (data.split.train, data.split.val)]
    assert not houses[0] & houses[1]
    frame["part"] = np.where(np.arange(60) % 4, "train", "test")
    given = load_data(make_config(frame, target="price", split_column="part"), progress=False)
    assert given.split.test.tolist() == list(range(0, 60, 4))


def test_a_schema_of_an_earlier_version_is_read() -> None:
    schema = TableSchema("y", image_column="photo", numeric=("w",))
    text = schema.to_json()
    for later in ("scale", "key", "more_image_columns"):
        assert later not in text
    assert TableSchema.from_json(text) == schema
    scaled = TableSchema(
        "y", image_column="a", more_image_columns=("b",), key="id", scale=TargetScale(1.5, 2.0)
    )
    assert TableSchema.from_json(scaled.to_json()) == scaled
    assert scaled.image_columns == ("a", "b")
