"""DVM: every cell against a recomputation without pandas, from the miniature download itself."""

from __future__ import annotations

import json
import random
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
import pytest
from sklearn.model_selection import train_test_split

from gaal_fast.data.__main__ import main
from gaal_fast.published import dvm as room
from gaal_fast.published.dvm_notes import PUBLISHED_IDS, STRATA
from tests.published.conftest import Done, read_csv
from tests.published.raw import write_dvm

CONTINUOUS = (
    *("Adv_year", "Adv_month", "Reg_year", "Runned_Miles", "Price", "Seat_num", "Door_num"),
    *("Entry_price", "Engine_size"),
)
CATEGORICAL = ("Color", "Bodytype", "Gearbox", "Fuel_type")
Row = dict[str, str]


def first_images(tables: Path) -> dict[str, str]:
    images: dict[str, str] = {}
    for row in read_csv(tables / "Image_table.csv"):
        images.setdefault("$$".join(row["Image_ID"].split("$$")[:2]), row["Image_name"])
    return images


def joined_rows(tables: Path) -> list[Row]:
    """Complete adverts with price and image, in the order of the groups of the first join."""
    prices = {
        (row["Genmodel_ID"], float(row["Year"])): row["Entry_price"]
        for row in read_csv(tables / "Price_table.csv")
    }
    images, groups = first_images(tables), dict[tuple[str, str], list[Row]]()
    for row in read_csv(tables / "Ad_table.csv"):
        groups.setdefault((row["Genmodel_ID"], row["Reg_year"]), []).append(row)
    found = []
    for (model, year), rows in groups.items():
        for row in rows:
            price = prices.get((model, float(year or "nan")))
            if price is not None and row["Adv_ID"] in images and "" not in row.values():
                found.append({**row, "Entry_price": price, "Image_name": images[row["Adv_ID"]]})
    return found


def number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def with_scores(rows: list[Row]) -> list[dict[str, object]]:
    """Standardized over all rows; then those without a number of miles or a price go."""
    values = {
        name: [number(row[name] if name != "Engine_size" else row["Engin_size"][:-1])
               for row in rows]
        for name in CONTINUOUS
    }  # fmt: skip
    levels = {name: sorted({row[name] for row in rows}) for name in CATEGORICAL}
    scored: list[dict[str, object]] = []
    known = {name: [v for v in column if v is not None] for name, column in values.items()}
    scale = {name: (fmean(column), stdev(column)) for name, column in known.items()}
    for place, row in enumerate(rows):
        cells = {name: values[name][place] for name in CONTINUOUS}
        if None not in cells.values():
            scores = {n: (v - scale[n][0]) / scale[n][1] for n, v in cells.items() if v is not None}
            codes = {name: levels[name].index(row[name]) for name in CATEGORICAL}
            ids = {name: row[name] for name in ("Adv_ID", "Genmodel_ID", "Image_name")}
            scored.append({**ids, **scores, **codes})
    return scored


def sizes(tables: Path) -> dict[str, dict[str, float]]:
    rows = read_csv(tables / "Ad_table (extra).csv")
    by_hand = {"69_36": "2612", "29_20": "2788"}
    for row in rows:
        row["Wheelbase"] = by_hand.get(row["Genmodel_ID"], row["Wheelbase"])
    filled: dict[str, dict[str, float]] = {row["Adv_ID"]: {} for row in rows}
    random.seed(2022)
    for name in ("Wheelbase", "Length", "Width", "Height"):
        for row in rows:
            value = float(row[name] or 0)
            if value == 0:
                value = next(
                    float(other[name])
                    for other in rows
                    if other["Genmodel_ID"] == row["Genmodel_ID"] and float(other[name] or 0) > 0
                )
            filled[row["Adv_ID"]][name] = value + random.randint(-50, 50)
    return filled


def expected_parts(raw: Path) -> dict[str, list[dict[str, object]]]:
    tables = raw / "tables_V2.0"
    rows = with_scores(joined_rows(tables))
    counts = {row["Genmodel_ID"]: 0 for row in rows}
    for row in rows:
        counts[row["Genmodel_ID"]] += 1
    rows = [row for row in rows if counts[row["Genmodel_ID"]] >= 100]
    order = list(dict.fromkeys(row["Genmodel_ID"] for row in rows))
    labels = [order.index(row["Genmodel_ID"]) for row in rows]
    adverts = [row["Adv_ID"] for row in rows]
    first, test = train_test_split(adverts, test_size=0.5, random_state=2022, stratify=labels)
    chosen = set(first)
    strata = [label for label, advert in zip(labels, adverts, strict=True) if advert in chosen]
    train, val = train_test_split(first, test_size=0.2, random_state=2022, stratify=strata)
    of_advert = {
        row["Adv_ID"]: {**row, "label": label} for row, label in zip(rows, labels, strict=True)
    }
    dims, parts = sizes(tables), {}
    for part, ids in (("train", train), ("val", val), ("test", test)):
        found = [{**of_advert[i], **dims[i]} for i in ids if i in dims]
        for name in ("Wheelbase", "Length", "Width", "Height"):
            column = [row[name] for row in found]
            for row, value in zip(found, column, strict=True):
                row[name] = (value - fmean(column)) / stdev(column)
        parts[part] = found
    return parts


def test_every_cell_is_what_the_official_steps_give(dvm: Done) -> None:
    expected = expected_parts(dvm.raw)
    rows = read_csv(dvm.table)
    assert list(rows[0]) == [
        *("image_path", "Adv_ID", "Wheelbase", "Height", "Width", "Length", *CONTINUOUS),
        *(*CATEGORICAL, "label", "split"),
    ]
    for part, wanted in expected.items():
        found = [row for row in rows if row["split"] == part]
        assert [row["Adv_ID"] for row in found] == [row["Adv_ID"] for row in wanted]
        for row, right in zip(found, wanted, strict=True):
            for name in (*CATEGORICAL, "label"):
                assert row[name] == str(right[name])
            for name in ("Wheelbase", "Height", "Width", "Length", *CONTINUOUS):
                assert float(row[name]) == pytest.approx(right[name], rel=1e-9, abs=1e-9)
            image = str(right["Image_name"])
            maker, model, year, color = image.split("$$")[:4]
            assert row["image_path"] == f"{maker}/{model}/{year}/{color}/{image}"
    assert sum(map(len, expected.values())) == len(rows)


def test_the_miniature_has_the_traps(dvm: Done) -> None:
    """The recomputation above would not notice a trap that is not there."""
    tables = dvm.raw / "tables_V2.0"
    assert (tables / "Ad_table.csv").read_text().startswith("Maker, Genmodel, Genmodel_ID,Adv_ID")
    joined = joined_rows(tables)
    order = [row["Adv_ID"] for row in read_csv(tables / "Ad_table.csv")]
    assert [order.index(row["Adv_ID"]) for row in joined] != sorted(
        order.index(row["Adv_ID"]) for row in joined
    )
    images = read_csv(tables / "Image_table.csv")
    assert len(images) > len(first_images(tables)) + 100
    first = [row["Image_ID"].rpartition("$$")[2] for row in images[:50]]
    assert set(first) == {"0", "1", "2"}
    volvo = [row for row in joined if row["Genmodel_ID"] == "96_9"]
    assert len(volvo) == 100
    assert len([row for row in with_scores(joined) if row["Genmodel_ID"] == "96_9"]) == 99
    extra = read_csv(tables / "Ad_table (extra).csv")
    assert any(row["Length"] == "" for row in extra) and any(row["Width"] == "0" for row in extra)
    assert " " in read_csv(dvm.table)[0]["image_path"]


def test_counts_models_and_lengths_are_said(dvm: Done) -> None:
    said = json.loads((dvm.out / "prepared.json").read_text())
    parts = expected_parts(dvm.raw)
    assert said["rows"] == {part: len(rows) for part, rows in parts.items()}
    assert said["counts"]["adverts"] == 452
    assert said["counts"]["models"] == said["classes"] == 3
    assert said["counts"]["of these with sizes"] == sum(map(len, parts.values()))
    assert [model for model, *_ in said["official"]["models"]] == ["29_20", "2_1", "69_36"]
    assert said["official"]["models"][1] == ["2_1", "Abarth", "124 Spider"]
    highest = [
        max(int(str(row[name])) for rows in parts.values() for row in rows) for name in CATEGORICAL
    ]
    assert said["official"]["lengths"] == [1] * 13 + [code + 1 for code in highest]
    assert said["official"]["categories"]["Color"] == ["Blue", "Pearl Red", "Silver"]
    assert said["missing_images"] == 1
    train = [row["label"] for row in parts["train"]]
    counts = [train.count(label) for label in set(train)]
    assert said["smallest_training_class"] == min(counts)
    assert said["largest_training_class"] == max(counts)


def test_the_order_and_size_of_chunks_do_not_matter(
    dvm: Done, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "_IMAGE_ROWS", 7)
    assert main(["prepare", "dvm", "--raw", str(dvm.raw), "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "dvm.csv").read_bytes() == dvm.table.read_bytes()


def test_validation_is_divided_by_labels_in_the_order_of_the_table() -> None:
    """As in the ids that MMCL published, where a class of 51 training rows gives 11 to validation
    and one of 65 gives 21: the shares within a class are not all a fifth.
    """
    import pandas as pd

    labels = np.repeat([0, 1, 2], [100, 140, 400])
    parts = room._split(pd.DataFrame({"label": labels, "row": np.arange(len(labels))}))
    shares = [
        (parts["val"]["label"] == label).sum() / (labels == label).sum() for label in range(3)
    ]
    test = [(parts["test"]["label"] == label).sum() for label in range(3)]
    assert test == [50, 70, 200]
    assert [len(parts[part]) for part in ("train", "val", "test")] == [256, 64, 320]
    assert len(set(shares)) > 1


def write_ids(folder: Path, lists: dict[str, list[str]]) -> Path:
    folder.mkdir(parents=True)
    for part, names in lists.items():
        (folder / f"{part}_ids_dvm_all_views.txt").write_text(",".join(names) + ",\n")
    return folder


def test_the_published_lists_decide_about_parts_and_order(
    dvm: Done, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = {row["Adv_ID"]: row for row in read_csv(dvm.table)}
    names = sorted(drawn)
    lists = {"train": names[::-2], "val": names[1:60:2], "test": [*names[61::2], "1_1$$1"]}
    left_out = set(names) - {name for part in lists.values() for name in part}
    ids = write_ids(tmp_path / "MMCL" / "data", lists).parent
    out = tmp_path / "out"
    flags = ["--raw", str(dvm.raw), "--out", str(out), "--ids", str(ids)]
    assert main(["prepare", "dvm", *flags]) == 0
    rows = read_csv(out / "dvm.csv")
    for part, wanted in lists.items():
        found = [row for row in rows if row["split"] == part]
        assert [row["Adv_ID"] for row in found] == [name for name in wanted if name in drawn]
        assert fmean(float(row["Height"]) for row in found) == pytest.approx(0, abs=1e-12)
    for row in rows:
        for name in (*CONTINUOUS, *CATEGORICAL, "label", "image_path"):
            assert row[name] == drawn[row["Adv_ID"]][name]
    said = json.loads((out / "prepared.json").read_text())
    # The advert without sizes is in no list either: the lists are of the rows drawn before.
    assert said["counts"]["of these in no published list"] == len(left_out) + 1
    assert said["counts"]["published adverts that are not here"] == 1
    same = [row for row in rows if row["split"] == drawn[row["Adv_ID"]]["split"]]
    assert said["counts"]["of these in the part that is drawn without --ids"] == len(same)
    printed = capsys.readouterr().out
    assert PUBLISHED_IDS.text in printed and STRATA.text not in printed


def test_lists_that_are_wrong_or_not_there_are_one_line(
    dvm: Done, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["prepare", "dvm", "--raw", str(dvm.raw), "--out", str(tmp_path / "out"), "--ids"]
    lists = {"train": ["29_20$$1"], "val": ["29_20$$1"], "test": ["29_20$$2"]}
    for folder, words in (
        (tmp_path, 'has no file "train_ids_dvm_all_views.txt"'),
        (write_ids(tmp_path / "a", lists), "names an advert twice"),
        (write_ids(tmp_path / "b", {**lists, "val": ["x"]}), 'no advert of the list for "val"'),
    ):
        assert main([*flags, str(folder)]) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith("error: --ids: ") and words in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tables_V2.0/Ad_table.csv", ('no file "Ad_table.csv"', "tables_V2.0")),
        ("tables_V2.0/Price_table.csv", ('no file "Price_table.csv"', "DVM-CAR")),
        ("tables_V2.0/Image_table.csv", ('no file "Image_table.csv"',)),
        (
            "tables_V2.0/Ad_table (extra).csv",
            ('no file "Ad_table (extra).csv"', "a file of its own beside the tables"),
        ),
        ("resized_DVM", ('no folder "resized_DVM"', 'the archive "resized_DVM"')),
    ],
)
def test_a_missing_file_is_named_with_where_it_comes_from(
    dvm: Done, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, words: tuple[str, ...]
) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    (raw / "tables_V2.0").mkdir(parents=True)
    for path in (*dvm.raw.glob("tables_V2.0/*.csv"), dvm.raw / "resized_DVM"):
        if str(path.relative_to(dvm.raw)) != name:
            (raw / path.relative_to(dvm.raw)).symlink_to(path)
    assert main(["prepare", "dvm", "--raw", str(raw), "--out", str(out)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: --raw: ")
    assert all(word in line for word in words), line
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def rewritten(raw: Path, name: str, change: dict[str, str]) -> None:
    path = raw / "tables_V2.0" / name
    text = path.read_text()
    for old, new in change.items():
        assert old in text
        text = text.replace(old, new, 1)
    path.write_text(text)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("Ad_table.csv", {"Engin_size": "Engine"}, 'no column "Engin_size"'),
        ("Ad_table.csv", {"Gearbox": "Box"}, 'no column "Gearbox"'),
        ("Ad_table.csv", {"29_20$$2,": "29_20$$1,"}, "stand twice in Ad_table.csv"),
        ("Price_table.csv", {",2004,": ",two,"}, 'column "Year" of Price_table.csv holds text'),
        ("Image_table.csv", {"99_1$$1$$0": "nothing"}, "names no advert"),
        ("Ad_table (extra).csv", {"29_20$$2,": "29_20$$1,"}, "stand twice in Ad_table (extra)"),
        ("Ad_table (extra).csv", {",1400,": ",high,"}, 'column "Height" of Ad_table (extra)'),
        ("Ad_table.csv", {"Maker": '"'}, "is not the table of the download"),
    ],
)
def test_a_damaged_table_is_one_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    change: dict[str, str],
    words: str,
) -> None:
    raw = write_dvm(tmp_path / "raw")
    rewritten(raw, name, change)
    assert main(["prepare", "dvm", "--raw", str(raw), "--out", str(tmp_path / "out")]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert words in line
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]
