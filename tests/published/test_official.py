"""The exported files, read in the way the authors' loaders read theirs."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image

from gaal_fast.data.__main__ import main
from gaal_fast.published import export_official
from tests.published.conftest import Done, read_csv

DVM_FILES = {
    f"DVM/features/{name}"
    for part in ("train", "val", "test")
    for name in (
        f"{part}_paths_all_views.pt",
        f"labels_model_all_{part}_all_views.pt",
        f"dvm_features_{part}_noOH_all_views_physical_jittered_50.csv",
    )
} | {"DVM/features/tabular_lengths_all_views_physical.pt"}


def export(done: Done, out: Path) -> Path:
    assert main(["export-official", "--csv", str(done.table), "--out", str(out)]) == 0
    return out


def test_dvm_lists_and_tables_belong_together(dvm: Done, tmp_path: Path) -> None:
    out = export(dvm, tmp_path / "out")
    assert {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()} == DVM_FILES
    folder = out / "DVM" / "features"
    lengths = torch.load(folder / "tabular_lengths_all_views_physical.pt")
    assert lengths == [1] * 13 + [3, 2, 2, 2]
    rows = read_csv(dvm.table)
    missing = 0
    for part in ("train", "val", "test"):
        own = [row for row in rows if row["split"] == part]
        paths = torch.load(folder / f"{part}_paths_all_views.pt")
        labels = torch.load(folder / f"labels_model_all_{part}_all_views.pt")
        table = folder / f"dvm_features_{part}_noOH_all_views_physical_jittered_50.csv"
        with table.open() as stream:
            cells = [[float(cell) for cell in row] for row in csv.reader(stream)]
        assert len(paths) == len(labels) == len(cells) == len(own)
        assert labels == [int(row["label"]) for row in own]
        assert cells == [
            [float(row[name]) for name in list(row)[2:19]] for row in own
        ]  # from Wheelbase to Fuel_type
        for path, row in zip(paths, own, strict=True):
            assert path == f"{dvm.out / 'images'}/{row['image_path']}"
            missing += not Path(path).is_file()
        # What the loader turns into one-hot inputs must be a code below the length.
        for column, length in enumerate(lengths):
            if length > 1:
                assert all(row[column] in range(length) for row in cells)
    assert missing == 1


@pytest.mark.parametrize(
    ("name", "folder", "images", "index", "label", "attributes"),
    [
        ("sun", "SUNAttribute", "SUN/images", "image_path", "open area", 101),
        ("celeba", "CelebA", "CelebA/img_align_celeba", "img_index", "Attractive", 39),
    ],
)
def test_attribute_tables_have_the_columns_that_the_loaders_take_away(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    name: str,
    folder: str,
    images: str,
    index: str,
    label: str,
    attributes: int,
) -> None:
    done: Done = request.getfixturevalue(name)
    out = export(done, tmp_path / "out")
    rows = read_csv(done.table)
    for part, file in (("train", "train"), ("val", "valid"), ("test", "test")):
        data = pd.read_csv(out / folder / f"dataset_{file}.csv")
        own = [row for row in rows if row["split"] == part]
        assert data[index].tolist() == [row["image_path"] for row in own]
        assert data[label].tolist() == [int(row[label]) for row in own]
        left = data.drop(columns=[label, index])
        assert left.shape == (len(own), attributes)
        assert left.to_numpy().tolist() == [
            [int(row[column]) for column in left.columns] for row in own
        ]
        assert set(left.to_numpy().ravel().tolist()) == {0, 1}
        with Image.open(out / images / data[index][0]) as image:
            assert image.size == (16, 20)
    if name == "celeba":  # the released configuration looks here for the test images
        assert (out / "img_align_celeba" / "000001.jpg").is_file()


def test_the_split_of_a_run_is_followed_and_rows_outside_of_it_are_left_out(
    celeba: Done, tmp_path: Path
) -> None:
    parts = {3: "test", 0: "train", 5: "val", 7: "train"}
    counts, warnings = export_official(celeba.table, tmp_path / "out", parts)
    assert counts == {"train": 2, "val": 1, "test": 1} and warnings == []
    found = {
        file: pd.read_csv(tmp_path / "out" / "CelebA" / f"dataset_{file}.csv")["img_index"].tolist()
        for file in ("train", "valid", "test")
    }
    assert found == {
        "train": ["000001.jpg", "000008.jpg"],
        "valid": ["000006.jpg"],
        "test": ["000004.jpg"],
    }
    _, warnings = export_official(celeba.table, tmp_path / "other", {0: "train"})
    assert warnings == ['no row is in the part "val", "test"']


def test_a_killed_export_begins_again(dvm: Done, tmp_path: Path) -> None:
    program = (
        "import os, pathlib, sys, torch\n"
        "from gaal_fast.published import export_official\n"
        "torch.save = lambda *_: os._exit(9)\n"
        "export_official(*map(pathlib.Path, sys.argv[1:]))\n"
    )
    command = [sys.executable, "-c", program, str(dvm.table), str(tmp_path / "out")]
    assert subprocess.run(command, cwd=Path(__file__).parents[2], timeout=120).returncode == 9
    assert [path.name for path in tmp_path.iterdir()] == [".out.partial"]
    export(dvm, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    found = {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.*")}
    assert found == DVM_FILES


def refused(capsys: pytest.CaptureFixture[str], *flags: object) -> str:
    capsys.readouterr()
    assert main(["export-official", *map(str, flags)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    return line


def test_what_cannot_be_exported_is_one_line(
    sun: Done, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert "no such file" in refused(capsys, "--csv", tmp_path / "no.csv", "--out", out)
    assert "no such run folder" in refused(capsys, "--run", tmp_path / "no", "--out", out)
    assert "--csv" in refused(capsys, "--out", out)
    other = tmp_path / "other.csv"
    other.write_text("a,b\n1,2\n")
    line = refused(capsys, "--csv", other, "--out", out)
    assert "no prepared.json beside it" in line
    assert "exists and is not overwritten" in refused(capsys, "--csv", sun.table, "--out", sun.out)
    short = tmp_path / "short"
    flags = ["--raw", str(sun.raw), "--out", str(short), "--without-complements"]
    assert main(["prepare", "sun", *flags]) == 0
    line = refused(capsys, "--csv", short / "sun.csv", "--out", out)
    assert "--without-complements" in line and "102" in line
    assert {path.name for path in tmp_path.iterdir()} == {"other.csv", "short"}


def test_a_changed_table_is_said_and_one_without_a_column_refused(
    celeba: Done, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(celeba.out, tmp_path / "copy")
    table = tmp_path / "copy" / "celeba.csv"
    header, *rows = table.read_text().splitlines()
    table.write_text("\n".join([header, *rows[:-1]]) + "\n")
    assert main(["export-official", "--csv", str(table), "--out", str(tmp_path / "out")]) == 0
    captured = capsys.readouterr()
    assert f"warning: {table} was changed after it was prepared" in captured.err
    assert "test 9" in captured.out
    table.write_text("\n".join([header.replace("Attractive", "Pretty"), *rows]))
    line = refused(capsys, "--csv", table, "--out", tmp_path / "again")
    assert 'no column "Attractive"' in line
    table.write_text("\n".join([header, rows[0][: -len("train")] + "practice"]))
    line = refused(capsys, "--csv", table, "--out", tmp_path / "again")
    assert "row 1 of" in line and '"practice"' in line
    (tmp_path / "copy" / "prepared.json").write_text(json.dumps({"prepared": "other"}))
    line = refused(capsys, "--csv", table, "--out", tmp_path / "again")
    assert "describes none of dvm, sun, celeba" in line
    assert not (tmp_path / "again").exists()
