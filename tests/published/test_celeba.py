"""CelebA: two header lines, -1 and 1, the official partition, read line by line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gaal_fast.data.__main__ import main
from gaal_fast.published import celeba as room
from gaal_fast.published import prepare, writing
from tests.published.conftest import Done, read_csv
from tests.published.raw import CELEBA_ROWS, write_celeba

PARTS = {"0": "train", "1": "val", "2": "test"}


def test_every_cell_is_0_or_1_by_its_sign_in_the_official_partition(celeba: Done) -> None:
    rows = read_csv(celeba.table)
    lines = (celeba.raw / "Anno" / "list_attr_celeba.txt").read_text().splitlines()
    partition = (celeba.raw / "Eval" / "list_eval_partition.txt").read_text().splitlines()
    names = lines[1].split()
    others = [name for name in names if name != "Attractive"]
    assert list(rows[0]) == ["image_path", "Attractive", *others, "split"]
    assert len(others) == 39 and names.index("Attractive") == 2
    assert len(rows) == int(lines[0]) == sum(CELEBA_ROWS.values())
    for row, line, part in zip(rows, lines[2:], partition, strict=True):
        image, *signs = line.split()
        assert row["image_path"] == image
        assert row["split"] == PARTS[part.split()[1]]
        assert {name: row[name] for name in names} == {
            name: "1" if sign == "1" else "0" for name, sign in zip(names, signs, strict=True)
        }
    said = json.loads((celeba.out / "prepared.json").read_text())
    assert said["rows"] == {"train": 30, "val": 8, "test": 10}


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("Anno/list_attr_celeba.txt", 'folder "Anno"'),
        ("Eval/list_eval_partition.txt", 'folder "Eval"'),
        ("Img/img_align_celeba", "img_align_celeba.zip"),
    ],
)
def test_a_missing_file_is_named_with_its_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, place: str
) -> None:
    raw = write_celeba(tmp_path / "raw")
    (raw / name).rename(tmp_path / "elsewhere")
    assert main(["prepare", "celeba", "--raw", str(raw), "--out", str(tmp_path / "out")]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: --raw: ") and place in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "raw"]


@pytest.mark.parametrize(
    ("file", "old", "new", "words"),
    [
        ("Anno/list_attr_celeba.txt", "48\n", "", "first line"),
        ("Anno/list_attr_celeba.txt", "48\n", "49\n", "announces 49 images and lists 48"),
        ("Anno/list_attr_celeba.txt", "Attractive", "Pretty", "second line"),
        ("Anno/list_attr_celeba.txt", "000003.jpg", "000003.jpg 1", "line 5"),
        ("Eval/list_eval_partition.txt", "000003.jpg 0", "000003.jpg 3", "line 3"),
        ("Eval/list_eval_partition.txt", "000003.jpg 0\n", "", 'does not list "000003.jpg"'),
    ],
)
def test_a_damaged_list_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str, old: str, new: str, words: str
) -> None:
    raw = write_celeba(tmp_path / "raw")
    text = (raw / file).read_text()
    assert old in text
    (raw / file).write_text(text.replace(old, new, 1))
    assert main(["prepare", "celeba", "--raw", str(raw), "--out", str(tmp_path / "out")]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: --raw: ") and words in line
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_a_row_is_read_when_the_one_before_it_is_written(
    celeba: Done, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the memory does not grow with the cells of the list."""
    read: list[int] = []
    at_image: list[int] = []
    rows, bring = room._Rows.__iter__, writing.bring

    def counted(self: room._Rows) -> Iterator[list[Any]]:
        read.append(0)
        for row in rows(self):
            read[-1] += 1
            yield row

    def brought(source: Path, target: Path) -> bool:
        at_image.append(read[-1])
        return bring(source, target)

    monkeypatch.setattr(room._Rows, "__iter__", counted)
    monkeypatch.setattr(writing, "bring", brought)
    prepare("celeba", celeba.raw, tmp_path / "out")
    assert at_image == list(range(1, 49))
    assert read == [48, 48]  # once to see that every line is right
