"""Ready features as an input: by order or by key, standardized, and the same at prediction."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from gaal_fast.config import DataConfig
from gaal_fast.data import FusionData, data_fingerprint, load_data, load_for_prediction
from gaal_fast.errors import UserError
from tests.data.conftest import catalogue, write_images

N, WIDTH = 60, 5


def vectors() -> np.ndarray:
    values = np.random.default_rng(0).normal(3, 7, (N, WIDTH)).astype(np.float32)
    values[:, 4] = 2  # says nothing, and must not divide by zero
    return values


def as_table(values: np.ndarray, codes: pd.Series) -> pd.DataFrame:
    columns = {f"v.{place}": values[:, place] for place in range(values.shape[1])}
    return pd.DataFrame({"code": codes, **columns})


@pytest.fixture
def place(tmp_path: Path) -> Path:
    frame = catalogue(N)
    frame.to_csv(tmp_path / "cups.csv", index=False)
    write_images(tmp_path / "images", frame["photo"].tolist())
    np.save(tmp_path / "clip.npy", vectors())
    return tmp_path


def load(place: Path, *files: str, **changes: object) -> FusionData:
    keys = {
        "csv": place / "cups.csv", "images": place / "images", "target": "kind", "image_size": 8,
        "augment": "none", "embeddings": ",".join(str(place / file) for file in files),
    }  # fmt: skip
    return load_data(DataConfig(**{**keys, **changes}), progress=False)


def values_of(data: FusionData, name: str) -> np.ndarray:
    side = data.modalities[name]
    assert side.present.all()
    return side.modality().load(np.arange(N), np.zeros(N, int)).values.numpy()


def test_an_array_belongs_to_the_rows_in_order_and_is_standardized_by_the_training_rows(
    place: Path,
) -> None:
    data = load(place, "clip.npy")
    assert data.modality_names == ["image", "table", "clip"]
    assert data.train.specs["clip"].kind == "embedding"
    own = vectors().astype(np.float64)
    train = data.split.train
    spread = own[train].std(axis=0)
    spread[4] = 1
    expected = (own - own[train].mean(axis=0)) / spread
    np.testing.assert_allclose(values_of(data, "clip"), expected, atol=1e-5)
    assert "clip: embedding of 5 numbers" in data.describe()


@pytest.mark.parametrize("kind", ["csv", "parquet", "lists"])
def test_a_table_is_joined_by_the_key_whatever_its_order_and_other_columns(
    kind: str, place: Path
) -> None:
    codes = catalogue(N)["code"]
    table = as_table(vectors(), codes)
    if kind == "lists":
        table = pd.DataFrame({"code": codes, "vector": list(vectors())})
    table = table.assign(kind="cup", note="x").sample(frac=1, random_state=0)
    file = "clip.csv" if kind == "csv" else "clip.parquet"
    table.to_csv(place / file, index=False) if kind == "csv" else table.to_parquet(place / file)
    data = load(place, file, key="code")
    by_order = load(place, "clip.npy")
    np.testing.assert_allclose(values_of(data, "clip"), values_of(by_order, "clip"), atol=1e-4)
    (line,) = [line for line in data.warnings if "no embedding" in line]
    assert '"kind", "note"' in line


def test_rows_without_a_finite_vector_or_key_are_missing(place: Path) -> None:
    values = vectors()
    values[3], values[7, 1], values[11, 2] = np.nan, np.inf, np.nan
    np.save(place / "clip.npy", values)
    data = load(place, "clip.npy")
    assert np.flatnonzero(~data.modalities["clip"].present).tolist() == [3, 7, 11]
    assert any("2 rows of" in line and "not finite throughout" in line for line in data.warnings)
    assert "rows without clip: 3" in data.describe()
    as_table(vectors(), catalogue(N)["code"]).iloc[5:].to_csv(place / "few.csv", index=False)
    data = load(place, "few.csv", key="code")
    assert np.flatnonzero(~data.modalities["few"].present).tolist() == [0, 1, 2, 3, 4]
    batch = data.dataset(np.arange(4, 8)).__getitems__([0, 1, 2, 3])
    assert batch.views["few"].rows.tolist() == [1, 2, 3]
    assert torch.isfinite(batch.views["few"].values).all()


def test_a_table_of_labels_alone_is_no_input_beside_them(place: Path) -> None:
    catalogue(N)[["code", "kind"]].to_csv(place / "cups.csv", index=False)
    data = load(place, "clip.npy", images=None)
    assert data.modality_names == ["clip"]
    assert list(data.train.specs) == ["clip"]
    with_images = catalogue(N)[["photo", "kind"]]
    with_images.to_csv(place / "cups.csv", index=False)
    assert load(place, "clip.npy").modality_names == ["image", "clip"]


def test_what_the_data_are_includes_the_contents_of_the_file(place: Path) -> None:
    config = DataConfig(csv=place / "cups.csv", target="kind")
    with_file = config.model_copy(update={"embeddings": [place / "clip.npy"]})
    before = data_fingerprint(with_file)
    assert before != data_fingerprint(config)
    np.save(place / "clip.npy", vectors() + 1)
    assert data_fingerprint(with_file) != before


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (vectors()[:-1], "has 59 rows, .*cups.csv has 60; they belong in order"),
        (vectors().reshape(-1), "one row of them for each row; it is float32 .300."),
        (np.array([["a"]] * N), "must hold numbers"),
        (np.array([[object()]] * N), "is no .npy of numbers"),
        (vectors() * np.nan, "no row of finite numbers"),
        (vectors()[:, :0], "no numbers in its rows"),
        (b"junk", "is no .npy of numbers"),
    ],
)
def test_an_array_that_does_not_fit_is_refused(
    content: np.ndarray | bytes, words: str, place: Path
) -> None:
    if isinstance(content, bytes):
        (place / "clip.npy").write_bytes(content)
    else:
        np.save(place / "clip.npy", content, allow_pickle=True)
    with pytest.raises(UserError, match=words) as refused:
        load(place, "clip.npy")
    assert refused.value.key == "data.embeddings"


def test_a_table_needs_a_key_and_numbers_and_names_must_differ(place: Path) -> None:
    as_table(vectors(), catalogue(N)["code"]).to_csv(place / "t.csv", index=False)
    with pytest.raises(UserError, match=r"is needed with --data.embeddings .*t.csv") as refused:
        load(place, "t.csv")
    assert refused.value.key == "data.key"
    catalogue(N)[["code"]].assign(text="x").to_csv(place / "t.csv", index=False)
    with pytest.raises(UserError, match="has no column of numbers"):
        load(place, "t.csv", key="code")
    np.save(place / "table.npy", vectors())
    with pytest.raises(UserError, match="would be called table"):
        load(place, "table.npy")
    (place / "more").mkdir()
    np.save(place / "more" / "clip.npy", vectors())
    with pytest.raises(UserError, match="would be called clip"):
        load(place, "clip.npy", "more/clip.npy")


def test_prediction_standardizes_as_training_did_and_names_what_is_missing(place: Path) -> None:
    as_table(vectors(), catalogue(N)["code"]).to_csv(place / "dino.csv", index=False)
    data = load(place, "clip.npy", "dino.csv", key="code")
    run = place / "run"
    run.mkdir()
    data.save(run)
    new = catalogue(N).iloc[10:20].drop(columns="kind")
    new.to_csv(place / "new.csv", index=False)
    (place / "later").mkdir()
    np.save(place / "later" / "clip.npy", vectors()[10:20])
    files = [place / "later" / "clip.npy", place / "dino.csv"]

    def predict(*given: Path) -> tuple[dict, list[str]]:
        found = load_for_prediction(
            place / "new.csv", run, images=place / "images", embeddings=given, image_size=8,
            progress=False,
        )  # fmt: skip
        assert list(found.modalities) == ["image", "table", "clip", "dino"]
        return dict(found.modalities), found.warnings

    sides, warnings = predict(*files)
    assert not any("embedding" in line for line in warnings)
    for name in ("clip", "dino"):
        np.testing.assert_allclose(sides[name].features, values_of(data, name)[10:20], atol=1e-5)
    sides, warnings = predict(files[1])
    assert not sides["clip"].present.any()
    assert 'the embedding "clip" of the training is not given: missing in every row' in warnings
    np.save(place / "later" / "clip.npy", vectors()[10:20, :3])
    with pytest.raises(UserError, match="has 3 numbers a row, in training it were 5"):
        predict(*files)
    with pytest.raises(UserError, match="has the name of no embedding of the training"):
        predict(place / "other.npy")


def test_a_single_embedding_may_have_another_name_and_an_array_training_has_no_key(
    place: Path,
) -> None:
    run = place / "run"
    run.mkdir()
    load(place, "clip.npy").save(run)
    catalogue(N).iloc[:9].to_csv(place / "new.csv", index=False)
    np.save(place / "new.npy", vectors()[:9])
    as_table(vectors(), catalogue(N)["code"]).to_csv(place / "new_table.csv", index=False)

    def predict(file: str) -> int:
        found = load_for_prediction(
            place / "new.csv", run, images=place / "images", embeddings=[place / file],
            image_size=8, progress=False,
        )  # fmt: skip
        return int(found.modalities["clip"].present.sum())

    assert predict("new.npy") == 9
    with pytest.raises(UserError, match=r"the training had no key; give a \.npy"):
        predict("new_table.csv")
