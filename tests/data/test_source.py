"""From a configuration to data; bad input in one line, nothing written."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from gaal_fast.config import DataConfig
from gaal_fast.data import (
    EpochSampler,
    data_fingerprint,
    issues_frame,
    load_data,
    make_loader,
    read_split,
    write_issues,
)
from gaal_fast.errors import UserError
from tests.data.conftest import catalogue, write_images

MakeConfig = Callable[..., DataConfig]


def snapshot(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_table_with_images_is_loaded_whole(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(catalogue(), class_weights="balanced")
    before = snapshot(tmp_path)
    data = load_data(config, progress=False)
    assert snapshot(tmp_path) == before
    schema = data.schema
    assert (schema.image_column, schema.numeric, schema.categorical, schema.dates) == (
        "photo",
        ("width",),
        ("colour",),
        ("seen",),
    )
    assert schema.dropped == {"code": "an identifier (every value is different)"}
    assert data.classes == ["bowl", "cup", "plate"]
    assert data.modality_names == ["image", "table"]
    assert (len(data.train), len(data.val), len(data.test)) == (42, 6, 12)
    assert data.class_counts.tolist() == [14, 14, 14]
    assert torch.equal(data.class_weights, torch.ones(3))
    assert data.table_width == data.preprocessor.n_features == data.table.features.shape[1]
    assert data.issues == data.warnings == []
    labels = np.array(data.classes)[data.target]
    assert labels.tolist() == catalogue()["kind"].tolist()
    batch = data.test.__getitems__(range(12))
    assert batch.index.tolist() == data.split.test.tolist()
    assert torch.equal(batch.target, torch.from_numpy(data.target[data.split.test]))
    row = data.split.test[3]
    assert torch.equal(
        data.images.get(row)[0][:, 0, 0], torch.tensor([row, 2 * row, 255 - row], dtype=torch.uint8)
    )
    assert any("60" in line and "42 train, 6 val, 12 test" in line for line in data.describe())


def test_training_is_augmented_and_evaluation_is_not(make_config: MakeConfig) -> None:
    data = load_data(make_config(catalogue(), augment="paper"), seed=3, progress=False)
    one, two = (
        data.train.__getitems__([(epoch, i) for i in range(20)]).views["image"].values
        for epoch in (0, 1)
    )
    assert not torch.equal(one, two)
    plain = data.dataset(data.split.train).__getitems__(range(20)).views["image"].values
    assert not torch.equal(one, plain)
    assert torch.equal(
        load_data(make_config(catalogue()), progress=False)
        .train.__getitems__(range(20))
        .views["image"]
        .values,
        plain,
    )
    again = load_data(
        make_config(catalogue(), augment="paper", cache="none"), seed=3, progress=False
    )
    assert torch.equal(
        again.train.__getitems__([(1, i) for i in range(20)]).views["image"].values, two
    )


def test_missing_and_broken_images_and_labels_are_listed_and_the_rest_trains(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    frame = catalogue()
    frame.loc[3, "photo"] = None
    frame.loc[5, "kind"] = "?"
    frame.loc[[7, 8], ["width", "colour", "seen"]] = None
    config = make_config(frame)
    (config.images / "008.png").write_bytes(b"broken")
    (config.images / "009.png").unlink()
    for cache in ("ram", "none"):
        config.cache = cache
        data = load_data(config, progress=False)
        found = {(issue.row, issue.column): issue.reason for issue in data.issues}
        expected = {(3, "photo"), (5, "kind"), (9, "photo")} | (
            {(8, "photo"), (8, "")} if cache == "ram" else set()
        )
        assert set(found) == expected
        assert found[3, "photo"] == "no image named"
        assert found[9, "photo"] == "no such file"
        assert 5 not in np.concatenate([data.split.train, data.split.val, data.split.test])
        batch = data.dataset(np.array([3, 6, 7, 8, 9])).__getitems__(range(5))
        assert batch.views["image"].rows.tolist() == [1, 2]
        assert batch.views["table"].rows.tolist() == [0, 1, 4]
        assert any("rows have no value in the target column" in line for line in data.warnings)
        assert any(
            f"{len(expected & {(r, 'photo') for r in range(60)})} of 60 rows have no usable image"
            in w
            for w in data.warnings
        )
    assert write_issues(data.issues + data.issues, tmp_path / "issues.csv") == 3
    written = pd.read_csv(tmp_path / "issues.csv", keep_default_na=False)
    assert list(written.columns) == ["row", "column", "path", "reason"]
    assert written["row"].tolist() == [3, 5, 9]
    assert issues_frame([]).columns.tolist() == ["row", "column", "path", "reason"]


def test_a_leaking_column_is_named(make_config: MakeConfig) -> None:
    frame = catalogue(150)
    frame["verdict"] = frame["kind"].map({"cup": "K1", "bowl": "K2", "plate": "K3"})
    [warning] = load_data(
        make_config(frame, with_images=False, drop=["photo"]), progress=False
    ).warnings
    assert '"verdict" alone predicts the target (right in 100%' in warning
    assert '--data.drop "verdict"' in warning


def test_images_beside_the_table_need_no_folder(make_config: MakeConfig, tmp_path: Path) -> None:
    frame = catalogue()
    config = make_config(frame, with_images=False)
    with pytest.raises(UserError, match='named in column "photo" exists'):
        load_data(config, progress=False)
    write_images(tmp_path, frame["photo"].tolist())
    data = load_data(config, progress=False)
    assert data.schema.image_column == "photo"
    assert data.issues == []
    alone = load_data(make_config(frame.drop(columns="photo")), progress=False)
    assert alone.modality_names == ["table"]
    assert alone.images is None


def test_split_and_group_columns_reach_the_split(make_config: MakeConfig, tmp_path: Path) -> None:
    frame = catalogue()
    frame["part"] = (["train"] * 7 + ["val", "test", "test"]) * 6
    frame["who"] = np.arange(60) // 4
    data = load_data(
        make_config(frame, split_column="part", with_images=False, drop=["photo"]), progress=False
    )
    assert data.split.val.tolist() == list(range(7, 60, 10))
    data.split.to_frame().to_csv(tmp_path / "split.csv", index=False)
    assert read_split(tmp_path / "split.csv", data.split.hash).hash == data.split.hash
    data = load_data(
        make_config(frame, group_column="who", with_images=False, drop=["photo", "part"]),
        progress=False,
    )
    parts = [set(frame["who"][getattr(data.split, part)]) for part in ("train", "val", "test")]
    assert len(set.union(*parts)) == sum(map(len, parts)) == 15


def test_the_fingerprint_follows_the_table_and_what_decides_features_and_parts(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    config = make_config(catalogue(), with_images=False)
    first = data_fingerprint(config)
    config.csv = Path(str(config.csv.rename(tmp_path / "moved.csv")))
    config.augment, config.cache, config.workers, config.class_weights = (
        "paper",
        "disk",
        3,
        "balanced",
    )
    assert data_fingerprint(config) == first
    assert data_fingerprint(config.model_copy(update={"image_resampling": "bilinear"})) == first
    changes = {
        "split_seed": 1,
        "drop": ["seen"],
        "image_size": 9,
        "image_resampling": "bicubic",
        "image_range": (0, 9),
        "target": "colour",
        "min_category_count": 2,
    }
    for name, value in changes.items():
        assert data_fingerprint(DataConfig(**{**vars(config), name: value})) != first
    config.csv.write_bytes(config.csv.read_bytes() + b"\n")
    assert data_fingerprint(config) != first


def test_rare_classes_are_refused_dropped_or_only_trained_on(make_config: MakeConfig) -> None:
    frame = catalogue()
    frame.loc[[3, 8], "kind"] = ["jug", "vase"]
    options = {"with_images": False, "drop": ["photo"]}
    with pytest.raises(
        UserError, match=r"classes \"jug\", \"vase\" have one row each.*--data\.rare-classes drop"
    ):
        load_data(make_config(frame, **options), progress=False)
    data = load_data(make_config(frame, rare_classes="drop", **options), progress=False)
    assert data.classes == ["bowl", "cup", "plate"]
    assert [(issue.row, issue.reason) for issue in data.issues] == [
        (3, "class with a single row: left out"), (8, "class with a single row: left out")
    ]  # fmt: skip
    assert data.warnings == [
        'target column "kind": 2 rows are left out, of classes with a single row: "jug", "vase"'
        " (--data.rare-classes drop)"
    ]
    assert len(data.split.to_frame()) == 58
    data = load_data(make_config(frame, rare_classes="train", **options), progress=False)
    assert data.classes == ["bowl", "cup", "jug", "plate", "vase"]
    assert {3, 8} <= set(data.split.train.tolist())
    assert len(data.split.to_frame()) == 60


def test_classes_without_a_training_row_are_dropped_on_request(make_config: MakeConfig) -> None:
    frame = catalogue()
    frame["part"] = ["train"] * 40 + ["val"] * 10 + ["test"] * 10
    frame.loc[[50, 51], "kind"] = "jug"
    options = {"with_images": False, "drop": ["photo"], "split_column": "part"}
    with pytest.raises(
        UserError, match=r'class "jug" has no row in the training part; .*--data\.rare-classes drop'
    ):
        load_data(make_config(frame, **options), progress=False)
    data = load_data(make_config(frame, rare_classes="drop", **options), progress=False)
    assert data.classes == ["bowl", "cup", "plate"]
    assert data.split.test.tolist() == list(range(52, 60))
    assert np.array(data.classes)[data.target[52:]].tolist() == frame["kind"][52:].tolist()
    assert data.warnings == [
        'target column "kind": 2 rows are left out, of classes without a training row: "jug"'
        " (--data.rare-classes drop)"
    ]


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda f: f, {"csv": Path("absent.csv")}, r"no such file: absent\.csv"),
        (lambda f: f, {"target": "knd"}, r'no column "knd" in .*; nearest: "kind"'),
        (lambda f: f.assign(kind="cup"), {}, '"kind" has one class only'),
        (
            lambda f: f.assign(kind=["mug", *f["kind"][1:]]),
            {},
            r'class "mug" has one row \(row 1\)',
        ),
        (lambda f: f[:0], {}, "a header but no rows"),
        (
            lambda f: f[:6],
            {"test_fraction": 0.5},
            "3 training rows of 3 classes leave none for validation",
        ),
        (
            lambda f: f.assign(width="wide"),
            {"numeric": ["width"]},
            '"width" is declared numeric but row 1 holds "wide"',
        ),
        (
            lambda f: f.assign(photo=f["photo"].str.replace("png", "jpg")),
            {},
            "the extension differs",
        ),
        (lambda f: f[["code", "kind"]], {"images": None}, "no usable column besides the target"),
        (lambda f: f.drop(columns=["photo", "code"]), {}, "no column names the images"),
        (lambda f: f, {"images": Path("absent")}, r"--data\.images: no such folder: absent"),
        (lambda f: f, {"group_column": "colour"}, r'group column "colour"'),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    make_config: MakeConfig,
    tmp_path: Path,
    change: Callable[[pd.DataFrame], pd.DataFrame],
    options: dict[str, object],
    message: str,
) -> None:
    make_config(catalogue())
    (tmp_path / "table.csv").unlink()
    config = make_config(
        change(catalogue()), with_images=False, **{"images": tmp_path / "images", **options}
    )
    if options.get("group_column"):
        config.test_fraction = 0.9
    before = snapshot(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        load_data(config, progress=False)
    assert "\n" not in str(caught.value)
    assert snapshot(tmp_path) == before


def test_images_that_are_all_broken_are_an_error(make_config: MakeConfig) -> None:
    config = make_config(catalogue())
    for path in config.images.iterdir():
        path.write_bytes(b"broken")
    with pytest.raises(
        UserError,
        match=r'no image of column "photo" can be read \(first: .*000\.png: cannot be decoded',
    ):
        load_data(config, progress=False)


def test_a_resumed_epoch_sees_the_same_images_whatever_the_cache(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    streams = []
    for cache, workers, stops in (("ram", 0, (0,)), ("disk", 2, (0,)), ("none", 0, (0, 2))):
        config = make_config(
            catalogue(), augment="paper", cache=cache, cache_dir=tmp_path / "cache"
        )
        data = load_data(config, seed=1, progress=False)
        sampler = EpochSampler(len(data.train), 10, seed=1)
        stream: list[torch.Tensor] = []
        for stop in stops:
            sampler.set_epoch(4, stop)
            del stream[stop:]
            stream += [
                batch.views["image"].values
                for batch in make_loader(data.train, sampler=sampler, workers=workers)
            ]
        streams.append(stream)
    assert [len(stream) for stream in streams] == [5, 5, 5]
    assert all(
        torch.equal(a, b) for other in streams[1:] for a, b in zip(streams[0], other, strict=True)
    )


def test_cells_that_name_two_images_or_a_file_of_several_frames_are_said(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    frame = catalogue()
    frame.loc[3, "photo"] = "003.png;004.png"
    config = make_config(catalogue())
    frame.to_csv(config.csv, index=False)
    red, lime = (Image.new("RGB", (8, 8), color) for color in ("red", "lime"))
    red.save(config.images / "005.png", save_all=True, append_images=[lime])
    data = load_data(config, progress=False)
    assert [issue.row for issue in data.issues] == [3]
    assert data.images.get(5)[0][:, 0, 0].tolist() == [255, 0, 0]
    assert data.warnings == [
        (
            'column "photo": 1 cell holds several images in one cell: one image per row is read;'
            " give each its own row, or keep one name"
        ),
        (
            "1 image file has several frames, of which the first is used"
            f' ("{config.images / "005.png"}")'
        ),
        "1 of 60 rows have no usable image and train on their table alone",
    ]


def test_what_is_declared_of_numbers_is_kept_and_changes_the_fingerprint(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    frame = catalogue().assign(
        area=[f"1.{306 + row}" for row in range(60)], colour=["-999"] * 20 + ["red"] * 40
    )
    config = make_config(frame, decimal=",", missing_values=["-999"])
    data = load_data(config, progress=False)
    assert data.reading.table.missing_values == ("-999",)
    assert data.reading.table.numbers["area"].thousands == "."
    assert data.preprocessor.feature_names[-2:] == ["colour=(missing)", "colour=red"]
    prints = {
        data_fingerprint(make_config(frame, **change))
        for change in (
            {},
            {"decimal": ","},
            {"thousands": "."},
            {"encoding": "cp1252"},
            {"delimiter": ";"},
            {"missing_values": ["x"]},
        )
    }
    assert len(prints) == 6


def test_the_report_says_how_the_table_was_read(make_config: MakeConfig) -> None:
    data = load_data(make_config(catalogue()), progress=False)
    assert "read as: UTF-8, comma-separated, decimal point, no thousands mark" in data.describe()


@pytest.mark.slow
def test_a_wide_table_is_read_in_seconds(make_config: MakeConfig) -> None:
    rng = np.random.default_rng(0)
    wide = {
        f"f{i}": rng.normal(size=60).round(4) if i % 4 else rng.choice(["red", "blue"], 60)
        for i in range(6000)
    }
    config = make_config(pd.concat([catalogue(), pd.DataFrame(wide)], axis=1))
    start = time.process_time()
    assert len(load_data(config, progress=False).schema.numeric) == 4501
    assert time.process_time() - start < 15
