"""SUN Attribute: cell arrays, votes in thirds, a split by category."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from gaal_fast.data.__main__ import main
from tests.published.conftest import Done, read_csv
from tests.published.raw import SUN_CATEGORIES, write_sun

THIRDS = {0: 0, 1: 1 / 3, 2: 2 / 3, 3: 1}


def raw_votes(raw: Path) -> tuple[list[str], list[str], np.ndarray]:
    folder = raw / "SUNAttributeDB"
    names = [cell[0][0] for cell in loadmat(folder / "attributes.mat")["attributes"]]
    paths = [cell[0][0] for cell in loadmat(folder / "images.mat")["images"]]
    return names, paths, loadmat(folder / "attributeLabels_continuous.mat")["labels_cv"]


def prepared_rows(done: Done, out: Path, *options: str) -> list[dict[str, str]]:
    assert main(["prepare", "sun", "--raw", str(done.raw), "--out", str(out), *options]) == 0
    return read_csv(out / "sun.csv")


def check_cells(rows: list[dict[str, str]], raw: Path, fewest: int) -> None:
    """``fewest``: the number of annotators out of three that makes an attribute 1."""
    names, paths, votes = raw_votes(raw)
    assert [row["image_path"] for row in rows] == paths
    annotators = np.rint(votes * 3).astype(int)
    assert set(annotators.ravel().tolist()) == {0, 1, 2, 3}
    for name, given in zip(names, annotators.T.tolist(), strict=True):
        if name in rows[0]:
            assert [row[name] for row in rows] == ["1" if g >= fewest else "0" for g in given]


def test_two_of_three_votes_count_and_the_target_comes_first(sun: Done) -> None:
    rows = read_csv(sun.table)
    names, _, _ = raw_votes(sun.raw)
    others = [name for name in names if name != "open area"]
    assert list(rows[0]) == ["image_path", "open area", *others, "split"]
    assert len(others) == 101 and "trees, shrubs" in others and "sailing/ boating" in others
    check_cells(rows, sun.raw, fewest=2)


def test_with_unanimous_votes_only_three_of_three_count(sun: Done, tmp_path: Path) -> None:
    rows = prepared_rows(sun, tmp_path / "out", "--votes", "unanimous")
    check_cells(rows, sun.raw, fewest=3)
    assert json.loads((tmp_path / "out" / "prepared.json").read_text())["options"] == {
        "votes": "unanimous",
        "complements": True,
    }


def test_the_complements_of_the_label_can_be_left_out(sun: Done, tmp_path: Path) -> None:
    rows = prepared_rows(sun, tmp_path / "out", "--without-complements")
    full = read_csv(sun.table)
    assert set(full[0]) - set(rows[0]) == {"semi-enclosed area", "enclosed area"}
    assert [{name: row[name] for name in rows[0]} for row in full] == rows


def test_each_category_gives_14_2_and_4_of_its_20_images(sun: Done) -> None:
    counts = Counter(
        (row["image_path"].rpartition("/")[0], row["split"]) for row in read_csv(sun.table)
    )
    assert counts == {
        (category, part): count
        for category in SUN_CATEGORIES
        for part, count in (("train", 14), ("val", 2), ("test", 4))
    }


def test_what_is_not_published_is_said(sun: Done) -> None:
    said = json.loads((sun.out / "prepared.json").read_text())
    for note in said["notes"]:
        assert f"{note['kind']}: {note['text']}" in sun.printed.splitlines()
    choices = [note["text"] for note in said["notes"] if note["kind"] == "choice"]
    for words in ("published a split", "rule for the votes", "enclosed area"):
        assert any(words in text for text in choices)
    open_areas = sum(row["open area"] == "1" for row in read_csv(sun.table))
    assert said["counts"] == {
        "images": 80,
        "categories": 4,
        "attributes": 101,
        "open areas": open_areas,
    }


@pytest.mark.parametrize(
    ("name", "archive"),
    [
        ("SUNAttributeDB/attributes.mat", "SUNAttributeDB.tar.gz"),
        ("SUNAttributeDB/images.mat", "SUNAttributeDB.tar.gz"),
        ("SUNAttributeDB/attributeLabels_continuous.mat", "SUNAttributeDB.tar.gz"),
        ("images", "SUNAttributeDB_Images.tar.gz"),
    ],
)
def test_a_missing_file_is_named_with_its_archive(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, archive: str
) -> None:
    raw = write_sun(tmp_path / "raw")
    (raw / name).rename(tmp_path / "elsewhere")
    assert main(["prepare", "sun", "--raw", str(raw), "--out", str(tmp_path / "out")]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: --raw: ") and archive in line
    assert f'"{Path(name).name}"' in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "raw"]


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("attributes.mat", {"names": np.zeros(3)}, 'no variable "attributes"'),
        ("attributes.mat", {"attributes": np.zeros((102, 1))}, "no list of texts"),
        (
            "attributes.mat",
            {"attributes": np.array([[f"a{n}"] for n in range(102)], dtype=object)},
            'no attribute "enclosed area", "open area", "semi-enclosed area"',
        ),
        ("attributeLabels_continuous.mat", {"labels_cv": np.zeros((3, 102))}, "(3, 102)"),
        ("attributeLabels_continuous.mat", {"labels_cv": np.full((80, 102), 2.0)}, "0 to 1"),
        ("images.mat", None, "is no MATLAB file"),
    ],
)
def test_a_damaged_file_is_one_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    file: str,
    content: dict[str, np.ndarray] | None,
    words: str,
) -> None:
    raw = write_sun(tmp_path / "raw")
    path = raw / "SUNAttributeDB" / file
    path.write_bytes(b"<html>moved</html>" * 20) if content is None else savemat(path, content)
    assert main(["prepare", "sun", "--raw", str(raw), "--out", str(tmp_path / "out")]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert words in line
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_a_path_that_leaves_the_folder_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = write_sun(tmp_path / "raw")
    _, paths, _ = raw_votes(raw)
    cells = np.empty((len(paths), 1), dtype=object)
    cells[:, 0] = [f"../{path}" for path in paths]
    savemat(raw / "SUNAttributeDB" / "images.mat", {"images": cells})
    assert main(["prepare", "sun", "--raw", str(raw), "--out", str(tmp_path / "out")]) == 2
    assert "leaves the folder of the images" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_options_of_sun_are_refused_for_the_others(
    celeba: Done, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = ["--raw", str(celeba.raw), "--out", str(tmp_path / "out")]
    for flags in (["--votes", "majority"], ["--without-complements"]):
        assert main(["prepare", "celeba", *place, *flags]) == 2
        assert capsys.readouterr().err == (
            f"error: {flags[0]} is an option of sun, not of celeba\n"
        )
