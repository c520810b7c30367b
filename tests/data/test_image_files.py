"""From names in a column to files, and what is said when there are none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gaal_fast.data.image_files import ImageFolder, resolve_images
from gaal_fast.errors import UserError
from tests.data.conftest import write_pictures


def resolve(folder: Path, names: list[str | None], **options: bool) -> tuple[list[str | None], dict[int, str]]:
    paths, issues = resolve_images(names, ImageFolder(folder), "photo", **options)
    assert all(issue.column == "photo" for issue in issues)
    return [None if path is None else os.path.relpath(path, folder) for path in paths], {issue.row: issue.reason for issue in issues}


def test_names_sub_folders_absolute_paths_and_missing_suffixes_are_found(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["a.png", "sub/b.png", "sub/deep/c.png", "1.png", "v1.0.png"])
    (tmp_path / "notes.txt").write_text("no picture")
    names = ["a.png", "sub/b.png", "sub\\deep\\c.png", str(tmp_path / "a.png"), "1", "sub/b", "v1.0", None, "z.png", "sub", "a.png"]
    paths, reasons = resolve(tmp_path, names)
    assert paths == ["a.png", "sub/b.png", "sub/deep/c.png", "a.png", "1.png", "sub/b.png", "v1.0.png", None, None, None, "a.png"]
    assert reasons == {7: "no picture named", 8: "no such file", 9: "no such file"}


def test_directories_are_listed_once_and_files_not_asked_for_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pictures(tmp_path, [f"{d}/{i}.png" for d in "ab" for i in range(20)])
    listed: list[str] = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(str(path)) or scandir(path))
    folder = ImageFolder(tmp_path)
    monkeypatch.setattr(os, "stat", lambda *_, **__: pytest.fail("a stat for a file"))
    resolve_images([f"{d}/{i}.png" for i in range(25) for d in "ab"], folder, "photo")
    assert sorted(listed) == [str(tmp_path / "a"), str(tmp_path / "b")]


@pytest.mark.parametrize(
    ("files", "base", "names", "message"),
    [
        (["a.png", "b.png"], ".", ["a.jpg", "b.jpg"], r'the extension differs: the folder has "a\.png"'),
        (["A.PNG"], ".", ["a.png"], r'upper and lower case differ: the folder has "A\.PNG"'),
        (["pics/a.png"], ".", ["a.png"], r"the folder differs: they are under .*pics \(--data\.images\)"),
        (["pics/a.png", "wrong/x.png"], "wrong", ["a.png"], r"the folder differs: they are under .*pics \("),
        (["pics/a.png"], "pics", ["pics/a.png"], r"the folder differs: they are under .*/base \("),
        (["pics/s/a.png", "wrong/x.png"], "wrong", ["s/a.png"], r"the folder differs: they are under .*pics \("),
        ([], ".", ["a.png"], r"the folder holds no pictures"),
        (["x.png"], ".", ["a.png"], r'exists in .* \(first: "a\.png"\)$'),
    ],
)
def test_all_missing_is_an_error_with_a_hint(tmp_path: Path, files: list[str], base: str, names: list[str], message: str) -> None:
    root = tmp_path / "base"
    root.mkdir()
    write_pictures(root, files)
    with pytest.raises(UserError, match=message) as caught:
        resolve(root / base, [*names, None])
    assert f'none of the {len(names)} pictures named in column "photo"' in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_empty_column_is_an_error_only_where_pictures_are_needed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='the picture column "photo" is empty'):
        resolve(tmp_path, [None, None])
    assert resolve(tmp_path, [None, None], empty_ok=True) == ([None, None], {0: "no picture named", 1: "no picture named"})


def test_the_folder_must_be_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--data\.images: no such folder: .*absent"):
        ImageFolder(tmp_path / "absent")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--images: not a folder: .*file"):
        ImageFolder(tmp_path / "file", "--images")
