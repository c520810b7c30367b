"""From a saved preprocessor to the inputs of predictions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from gaal_fast.config import DataConfig
from gaal_fast.data import PredictionData, load_data, load_for_prediction, make_loader
from gaal_fast.data.reading import ImageReading
from gaal_fast.errors import UserError
from tests.data.conftest import catalogue

MakeConfig = Callable[..., DataConfig]


def test_prediction_reads_any_order_further_columns_and_rows_that_lack_something(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    frame = catalogue()
    config = make_config(frame)
    data = load_data(config, progress=False)
    data.preprocessor.save(tmp_path / "run")
    data.reading.save(tmp_path / "run")
    new = frame[["seen", "photo", "colour", "width"]].assign(
        colour=lambda f: f["colour"].replace("grey", "violet"), extra="x"
    )[:30]
    new.loc[2, "photo"] = "absent.png"
    new.loc[4, "photo"] = None
    new.loc[[4, 6], ["seen", "colour", "width"]] = None
    new.to_csv(tmp_path / "new.csv", index=False)
    (config.images / "008.png").write_bytes(b"broken")
    read = load_for_prediction(
        tmp_path / "new.csv", tmp_path / "run", images=config.images, image_size=8
    )
    batches = list(make_loader(read.dataset, 7))
    assert torch.cat([batch.index for batch in batches]).tolist() == list(range(30))
    assert read.classes == data.classes
    assert set(read.target) == {-1}
    [whole] = make_loader(read.dataset, 30)
    assert sorted(set(range(30)) - set(whole.views["image"].rows.tolist())) == [2, 4, 8]
    assert sorted(set(range(30)) - set(whole.views["table"].rows.tolist())) == [4, 6]
    assert {(issue.row, issue.reason) for issue in read.issues} == {
        (2, "no such file"),
        (4, "no image named"),
    }
    assert [issue.row for issue in whole.issues] == [8]
    same = [row for row in range(30) if frame["colour"][row] != "grey" and row not in (4, 6)]
    kept = {row: position for position, row in enumerate(whole.views["table"].rows.tolist())}
    assert torch.equal(
        whole.views["table"].values[[kept[row] for row in same]],
        torch.from_numpy(data.table.features[same]),
    )

    alone = load_for_prediction(tmp_path / "new.csv", tmp_path / "run", image_size=8)
    assert alone.dataset.present()["image"].sum() == 0
    assert alone.warnings == [
        'column "colour": 7 of 28 values (25 %) were never seen in training (first: "violet")',
        "no folder of images is given: predicting from the table alone",
    ]
    labelled = load_for_prediction(
        config.csv, tmp_path / "run", images=config.images, image_size=8, labels=True
    )
    assert labelled.target.tolist() == data.target.tolist()


def test_prediction_refuses_tables_of_another_kind(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(catalogue())
    data = load_data(config, progress=False)
    data.preprocessor.save(tmp_path / "run")
    data.reading.save(tmp_path / "run")
    csv = tmp_path / "new.csv"
    for frame, options, message in (
        (pd.DataFrame({"a": [1]}), {}, "another data set"),
        (catalogue()[["photo"]], {"images": None}, "^--images: none of the 60 images"),
        (catalogue()[["photo"]], {"modalities": ("table",)}, "another data set"),
        (catalogue().assign(width="wide"), {}, 'column "width" is numeric but row 1 holds "wide"'),
        (
            catalogue().drop(columns="photo"),
            {},
            'lacks the image column the model was trained on: "photo"',
        ),
        (catalogue().drop(columns="kind"), {"labels": True}, 'no column "kind"'),
        (catalogue().assign(photo="x.png"), {"modalities": ["image"]}, "none of the 60 images"),
        (
            catalogue().assign(photo="x.png"),
            {"modalities": ["image"], "images": None},
            "^--images: none of the 60 images",
        ),
        (
            catalogue().drop(columns="photo"),
            {"modalities": ["image"], "images": None},
            "lacks the image column",
        ),
    ):
        frame.to_csv(csv, index=False)
        with pytest.raises(UserError, match=message):
            load_for_prediction(
                csv, tmp_path / "run", **{"images": config.images, "image_size": 8, **options}
            )
    catalogue().assign(photo=None).to_csv(csv, index=False)
    assert (
        not load_for_prediction(csv, tmp_path / "run", images=config.images)
        .dataset.present()["image"]
        .any()
    )


def test_prediction_from_images_alone_or_from_some_columns(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    config = make_config(catalogue())
    data = load_data(config, progress=False)
    data.preprocessor.save(tmp_path / "run")
    data.reading.save(tmp_path / "run")
    csv = tmp_path / "new.csv"
    catalogue()[["photo"]].to_csv(csv, index=False)
    read = load_for_prediction(csv, tmp_path / "run", images=config.images, image_size=8)
    assert read.warnings == [
        f'{csv} has none of the table columns the model was trained on ("width", "seen", "colour"):'
        " predicting from the images alone"
    ]
    [batch] = make_loader(read.dataset, 60)
    assert (len(batch.views["image"].rows), len(batch.views["table"].rows)) == (60, 0)
    catalogue()[["colour"]].to_csv(csv, index=False)
    read = load_for_prediction(csv, tmp_path / "run", image_size=8)
    assert (
        f'{csv} lacks columns the model was trained on: "width", "seen"; they count as missing in'
        " every row" in read.warnings
    )
    assert read.dataset.present()["table"].all()


def test_labels_that_the_model_does_not_know_are_counted(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    config = make_config(catalogue(), with_images=False, drop=["photo"])
    data = load_data(config, progress=False)
    data.preprocessor.save(tmp_path / "run")
    data.reading.save(tmp_path / "run")
    frame = catalogue().assign(kind=lambda f: f["kind"].replace("cup", "mug"))
    frame.loc[[1, 4], "kind"] = ["jug", None]
    frame.to_csv(tmp_path / "new.csv", index=False)
    read = load_for_prediction(tmp_path / "new.csv", tmp_path / "run", labels=True)
    assert read.warnings == [
        (
            'target column "kind": 21 of 60 rows have a class that the model does not know and are'
            ' not scored: "mug" (20), "jug" (1)'
        ),
        'target column "kind": 1 of 60 rows have no label and are not scored',
    ]
    assert (read.target == -1).sum() == 22


def test_a_table_of_file_and_label_has_images_alone(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    frame = catalogue()[["photo", "kind"]]
    config = make_config(frame)
    data = load_data(config, progress=False)
    assert data.table_width == 0
    assert data.warnings == data.issues == []
    assert "table features: 0 (only --method.name image can be trained)" in data.describe()
    assert not any(line.startswith("rows without") for line in data.describe())
    data.preprocessor.save(tmp_path / "run")
    data.reading.save(tmp_path / "run")
    frame[["photo"]].to_csv(tmp_path / "new.csv", index=False)
    read = load_for_prediction(
        tmp_path / "new.csv",
        tmp_path / "run",
        images=config.images,
        image_size=8,
        modalities=["image"],
    )
    assert read.dataset.present()["image"].all()
    assert read.warnings == []


@pytest.mark.parametrize("rows", [1, 60])
@pytest.mark.parametrize("photo", ["gone.png", "http://x.org/a.png", None])
def test_rows_whose_images_are_all_absent_are_predicted_from_the_table(
    make_config: MakeConfig, tmp_path: Path, rows: int, photo: str | None
) -> None:
    config = make_config(catalogue())
    data = load_data(config, progress=False)
    data.preprocessor.save(tmp_path / "run")
    data.reading.save(tmp_path / "run")
    csv = tmp_path / "new.csv"
    catalogue()[:rows].assign(photo=photo).to_csv(csv, index=False)
    read = load_for_prediction(csv, tmp_path / "run", images=config.images, image_size=8)
    assert {name: int(present.sum()) for name, present in read.dataset.present().items()} == {
        "image": 0,
        "table": rows,
    }
    assert len(read.issues) == rows
    assert [line.rsplit(": ", 1)[1] for line in read.warnings] == (
        [] if photo is None else ["predicting from the table alone"]
    )


def test_images_named_by_absolute_paths_or_beside_the_table_need_no_folder(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    config = make_config(catalogue())
    data = load_data(config, progress=False)
    data.preprocessor.save(tmp_path / "run")
    data.reading.save(tmp_path / "run")
    photo = catalogue()["photo"]
    csv = tmp_path / "new.csv"
    for names, found in (
        ([str(config.images / name) for name in photo], 60),
        ([(config.images / name).as_uri() for name in photo], 60),
        ([f"{config.images.name}/{name}" for name in photo], 60),
        ([str(config.images / name) if row % 2 else "x.png" for row, name in enumerate(photo)], 30),
        ([f"/elsewhere/{name}" for name in photo], 0),
    ):
        catalogue().assign(photo=names).to_csv(csv, index=False)
        read = load_for_prediction(csv, tmp_path / "run", image_size=8)
        assert read.dataset.present()["image"].sum() == found
        assert (
            read.warnings == ["no folder of images is given: predicting from the table alone"]
        ) == (found == 0)


def test_the_range_of_the_training_images_is_kept_and_applied(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    config = make_config(catalogue())
    for row, name in enumerate(catalogue()["photo"]):
        Image.fromarray(
            np.full((8, 8), 1000 + row, np.uint16) + np.arange(8, dtype=np.uint16) * 100
        ).save(config.images / name)
    data = load_data(config, progress=False)
    assert data.reading.images == ImageReading(bits16=(0, 4095))
    assert data.describe()[2].startswith("16-bit images: values 0 to 4095 become 0 to 255")
    assert data.images.get(5)[0][0, 0, 0] == round(1005 / 4095 * 255)
    data.preprocessor.save(tmp_path / "run")
    data.reading.save(tmp_path / "run")
    # One image alone would be given another range.
    Image.fromarray(np.full((8, 8), 255, np.uint16)).save(config.images / "000.png")
    catalogue()[:1].to_csv(tmp_path / "new.csv", index=False)
    read = load_for_prediction(
        tmp_path / "new.csv", tmp_path / "run", images=config.images, image_size=8
    )
    image = read.dataset.__getitems__([0]).views["image"].values
    assert torch.equal(image, torch.full((1, 3, 8, 8), 16, dtype=torch.uint8))
    assert "nearly black" in read.warnings[0]
    config.image_range = (1000, 2000)
    data = load_data(config, progress=False)
    assert data.images.get(5)[0][0, 0, 0] == round(5 / 1000 * 255)
    again = load_data(
        DataConfig(**{**vars(config), "image_range": None}), progress=False, reading=data.reading
    )
    assert again.reading == data.reading
    assert again.images.get(5)[0][0, 0, 0] == 1


def rewritten(
    frame: pd.DataFrame,
    path: Path,
    *,
    decimal: str,
    thousands: str,
    sep: str,
    encoding: str = "utf-8",
) -> Path:
    """The same rows with other marks in their numbers."""
    marks = str.maketrans({".": decimal, ",": thousands})
    written = frame.assign(
        width=[f"{value:,}".translate(marks) for value in frame["width"]],
        area=[f"{value:,}".translate(marks) for value in frame["area"]],
    )
    path.write_bytes(written.to_csv(index=False, sep=sep).encode(encoding))
    return path


def table_inputs(data: PredictionData) -> np.ndarray:
    return data.dataset.__getitems__(list(range(len(data.dataset)))).views["table"].values.numpy()


@pytest.mark.parametrize(
    ("decimal", "thousands", "sep", "encoding"),
    [
        (",", ".", ";", "cp1252"),
        (",", " ", "\t", "utf-16"),
        (".", ",", "|", "utf-8"),
        (".", "\u2019", ",", "utf-8"),
    ],
)
def test_the_same_rows_are_the_same_features_however_they_are_written(
    make_config: MakeConfig, tmp_path: Path, decimal: str, thousands: str, sep: str, encoding: str
) -> None:
    rng = np.random.default_rng(3)
    frame = catalogue().assign(
        width=rng.normal(3000, 900, 60).round(2), area=rng.integers(1000, 9000, 60)
    )
    data = load_data(make_config(frame), progress=False)
    csv = rewritten(
        frame,
        tmp_path / "new.csv",
        decimal=decimal,
        thousands=thousands,
        sep=sep,
        encoding=encoding,
    )
    data.preprocessor.save(tmp_path / "run")
    data.reading.save(tmp_path / "run")
    predicted = load_for_prediction(csv, tmp_path / "run")
    np.testing.assert_array_equal(table_inputs(predicted), data.table.features)
    assert predicted.frame["area"][0] == f"{frame['area'][0]:,}".replace(",", thousands)
    config = make_config(frame)
    config.csv = csv
    again = load_data(config, progress=False)
    np.testing.assert_array_equal(again.table.features, data.table.features)


def test_one_bad_number_costs_one_cell(make_config: MakeConfig, tmp_path: Path) -> None:
    frame = catalogue()
    data = load_data(make_config(frame), progress=False)
    data.preprocessor.save(tmp_path / "run")
    data.reading.save(tmp_path / "run")
    csv = tmp_path / "new.csv"
    frame.assign(width=["wide", *frame["width"][1:]]).to_csv(csv, index=False)
    predicted = load_for_prediction(csv, tmp_path / "run")
    told = 'column "width": 1 of 52 values are no numbers (row 1 holds "wide"); taken as missing'
    assert told in predicted.warnings
    frame.assign(width=[None, *frame["width"][1:]]).to_csv(csv, index=False)
    empty = load_for_prediction(csv, tmp_path / "run")
    np.testing.assert_array_equal(table_inputs(predicted), table_inputs(empty))
