"""Several image columns, and further tables joined by a key."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from gaal_fast.config import DataConfig
from gaal_fast.data import FusionData, data_fingerprint, load_data, load_for_prediction
from gaal_fast.data.reading import Reading
from gaal_fast.data.sides import image_names_of, table_names_of
from gaal_fast.errors import UserError
from tests.data.conftest import write_images

N = 60
RNG = np.random.default_rng(4)


def houses() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "id": [f"h{i:03d}" for i in range(N)],
            "front": [f"f{i}.png" for i in range(N)],
            "kitchen": ["" if i % 5 == 0 else f"k{i}.png" for i in range(N)],
            "area": RNG.normal(100, 20, N).round(1),
            "kind": [("flat", "house", "farm")[i % 3] for i in range(N)],
        }
    )


def registry() -> pd.DataFrame:
    """A row for every second house, in another order, and one for none."""
    rows = RNG.permutation(np.arange(0, N, 2))
    return pd.DataFrame(
        {
            "id": [*(f"h{i:03d}" for i in rows), "h999"],
            "year": [*(1900 + rows), 2500],
            "heat": [*np.where(rows % 4, "gas", "oil"), "sun"],
        }
    )


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    frame = houses()
    write_images(tmp_path / "images", [*frame["front"], *filter(None, frame["kitchen"])])
    frame.to_csv(tmp_path / "houses.csv", index=False)
    registry().to_csv(tmp_path / "registry.csv", index=False)
    return tmp_path


def config(place: Path, **changes: object) -> DataConfig:
    keys = {
        "csv": place / "houses.csv", "images": place / "images", "target": "kind", "image_size": 8,
        "image_column": "front,kitchen", "tables": str(place / "registry.csv"), "key": "id",
        "augment": "none",
    }  # fmt: skip
    return DataConfig(**{**keys, **changes})


def load(place: Path, **changes: object) -> FusionData:
    return load_data(config(place, **changes), progress=False)


def test_each_column_and_table_is_an_input_of_its_own(place: Path) -> None:
    data = load(place)
    assert data.modality_names == data.train.modality_names
    assert data.modality_names == ["front", "kitchen", "table", "registry"]
    assert data.schema.image_columns == ("front", "kitchen")
    assert (data.schema.features, data.schema.key) == (("area",), "id")
    present = {name: side.present for name, side in data.modalities.items()}
    assert present["front"].all() and present["table"].all()
    assert np.flatnonzero(~present["kitchen"]).tolist() == list(range(0, N, 5))
    assert np.flatnonzero(present["registry"]).tolist() == list(range(0, N, 2))
    for column, offset in (("front", 0), ("kitchen", N)):
        named = [name for name in houses()[column] if name]
        store = data.modalities[column].store
        row = 7
        color = offset + named.index(houses()[column][row])
        pixel = torch.tensor([color, 2 * color, 255 - color], dtype=torch.uint8)
        assert torch.equal(store.get(row)[0][:, 0, 0], pixel)
    assert data.images is data.modalities["front"].store
    assert data.table is data.modalities["table"].arrays
    assert "40 of" not in " ".join(data.warnings)
    assert any("30 of 60 rows have no row in" in line for line in data.warnings)
    assert any("train on their other inputs alone" in line for line in data.warnings)
    assert {"rows without kitchen: 12", "rows without registry: 30", "registry features: 3"} <= set(
        data.describe()
    )


def test_a_joined_table_is_fitted_on_the_training_rows_that_it_has(place: Path) -> None:
    data = load(place)
    side = data.modalities["registry"]
    assert side.preprocessor.feature_names == ["year", "heat=gas", "heat=oil"]
    rows = data.split.train[side.present[data.split.train]]
    years = side.arrays.features[rows, 0]
    np.testing.assert_allclose([years.mean(), years.std()], [0, 1], atol=1e-5)
    slope = np.diff(side.arrays.features[::2, 0])
    np.testing.assert_allclose(slope, slope[0], rtol=1e-4)  # row i was built in 1900 + i
    assert (side.arrays.features[0::4, 2] == 1).all() and (side.arrays.features[2::4, 1] == 1).all()


def test_a_run_folder_holds_every_table_and_predicts_with_any_of_them_missing(place: Path) -> None:
    data, run = load(place), place / "run"
    data.save(run)
    assert sorted(path.name for path in run.iterdir()) == [
        "preprocessor-registry.skops", "preprocessor.skops", "reading.json", "schema-registry.json",
        "schema.json",
    ]  # fmt: skip
    assert Reading.load(run) == data.reading
    options = {"images": place / "images", "image_size": 8, "progress": False}
    tables = [place / "registry.csv"]
    read = load_for_prediction(place / "houses.csv", run, tables=tables, labels=True, **options)
    np.testing.assert_array_equal(read.target, data.target)
    assert list(read.modalities) == data.modality_names
    for name, side in read.modalities.items():
        np.testing.assert_array_equal(side.present, data.modalities[name].present)
    for name in ("table", "registry"):
        np.testing.assert_array_equal(
            read.modalities[name].arrays.features, data.modalities[name].arrays.features
        )
    without = load_for_prediction(place / "houses.csv", run, **options)
    assert not without.modalities["registry"].present.any()
    assert without.warnings == [
        'the table "registry" of the training is not given: missing in every row'
    ]
    houses().drop(columns=["kitchen", "area"]).to_csv(place / "less.csv", index=False)
    less = load_for_prediction(place / "less.csv", run, tables=tables, modalities=None, **{
        **options, "images": None
    })  # fmt: skip
    present = {name: side.present.any() for name, side in less.modalities.items()}
    assert present == {"front": False, "kitchen": False, "table": False, "registry": True}
    assert sum("no folder of images" in line for line in less.warnings) == 1
    two = load_for_prediction(
        place / "houses.csv", run, tables=tables, modalities=("kitchen", "table"), **options
    )
    assert list(two.modalities) == ["kitchen", "table"]
    registry().to_csv(place / "other.csv", index=False)
    with pytest.raises(UserError, match=r'other\.csv has the name of no table .*"registry"'):
        load_for_prediction(place / "houses.csv", run, tables=[place / "other.csv"], **options)


def test_one_name_is_one_input_called_image(place: Path) -> None:
    data = load(place, image_column="front", tables=[], key=None)
    assert data.modality_names == ["image", "table"]
    assert data.schema.dropped["kitchen"] == (
        'names pictures too, and those of one column are used: "front"'
    )
    frame = houses().rename(columns={"front": "front, big"})
    frame.to_csv(place / "houses.csv", index=False)
    for name in ("front, big", '"front, big"', ["front, big"]):
        data = load(place, image_column=name, tables=[], key=None)
        assert data.schema.image_columns == ("front, big",)
    data = load(place, image_column=["kitchen", "front, big"], tables=[], key=None)
    assert data.modality_names == ["kitchen", "front_big", "table"]


def test_a_column_or_table_named_twice_is_refused() -> None:
    for keys in ({"image_column": "a,b,a"}, {"tables": "a.csv,a.csv"}):
        with pytest.raises(ValueError, match="names one thing twice"):
            DataConfig(**keys)


def test_a_fingerprint_tells_the_tables_and_stays_without_them(place: Path) -> None:
    plain = config(place, tables=[], key=None)
    digests = {data_fingerprint(plain), data_fingerprint(config(place))}
    registry().assign(year=1).to_csv(place / "registry.csv", index=False)
    digests.add(data_fingerprint(config(place)))
    digests.add(data_fingerprint(config(place, tables=[], key=None, task="classification")))
    assert len(digests) == 4


def test_declared_names_may_be_of_any_table(place: Path) -> None:
    data = load(place, categorical="year", drop="heat", numeric="area")
    schema = data.modalities["registry"].preprocessor.schema
    assert (schema.categorical, schema.dropped) == (("year",), {"heat": "dropped on request"})
    with pytest.raises(UserError, match='no column "yeer"'):
        load(place, categorical="yeer")


def test_a_target_in_a_joined_table_is_left_out(place: Path) -> None:
    registry().assign(kind="flat").to_csv(place / "registry.csv", index=False)
    data = load(place)
    assert data.modalities["registry"].preprocessor.schema.features == ("year", "heat")
    assert any('column "kind" is left out: the target has that name' in w for w in data.warnings)


@pytest.mark.parametrize(
    ("change", "keys", "message"),
    [
        (
            lambda t: pd.concat([t, t[3:4]]),
            {},
            r'registry\.csv: key column "id" has "h0\d+" in sev',
        ),
        (lambda t: t.rename(columns={"id": "nr"}), {}, r'no column "id" in .*registry\.csv'),
        (lambda t: t.assign(id=[f"x{i}" for i in range(len(t))]), {}, 'no value of "id" is in'),
        (lambda t: t, {"key": None}, r"--data\.key is needed with --data\.tables"),
        (lambda t: t, {"tables": []}, r"--data\.key is about --data\.tables"),
        (lambda t: t[["id"]], {}, r"registry\.csv: the table has no usable column"),
        (lambda t: t, {"image_column": "front,frnt"}, r'no column "frnt" .*nearest: "front"'),
    ],
)
def test_what_cannot_be_joined_is_refused_in_one_line(
    place: Path, change: object, keys: dict[str, object], message: str
) -> None:
    change(registry()).to_csv(place / "registry.csv", index=False)
    with pytest.raises(UserError, match=message) as caught:
        load(place, **keys)
    assert "\n" not in str(caught.value)


def test_names_of_inputs_are_distinct() -> None:
    assert image_names_of([]) == {}
    assert image_names_of(["a b.c"]) == {"image": "a b.c"}
    eyes = {"left_eye": "left eye", "right_eye": "right.eye"}
    assert image_names_of(list(eyes.values())) == eyes
    assert table_names_of([Path("d/more.csv.gz")], ["image"]) == {"more": Path("d/more.csv.gz")}
    for columns in (["a b", "a.b"], ["table", "x"], ["fused", "x"]):
        with pytest.raises(UserError, match=r"--data\.image-column: .* would be called"):
            image_names_of(columns)
    same = (["x/table.csv"], []), (["a/x.csv", "b/x.tsv"], []), (["front.csv"], ["front"])
    for files, taken in same:
        with pytest.raises(UserError, match=r"--data\.tables: .* would be called"):
            table_names_of([Path(file) for file in files], taken)
