"""Names in a table become files: found as written or in another reading, or told why not."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest

from gaal_fast.data.images.find import resolve_images
from gaal_fast.data.images.folder import ImageFolder
from gaal_fast.errors import UserError
from tests.data.conftest import write_images


def resolve(
    folder: Path, names: list[str | None], **options: bool
) -> tuple[list[str | None], dict[int, str]]:
    paths, issues = resolve_images(names, ImageFolder(folder), "photo", **options)
    assert all(issue.column == "photo" for issue in issues)
    return [None if path is None else os.path.relpath(path, folder) for path in paths], {
        issue.row: issue.reason for issue in issues
    }


def test_names_sub_folders_absolute_paths_and_missing_suffixes_are_found(tmp_path: Path) -> None:
    write_images(tmp_path, ["a.png", "sub/b.png", "sub/deep/c.png", "1.png", "v1.0.png"])
    (tmp_path / "notes.txt").write_text("no image")
    names = [
        "a.png",
        "sub/b.png",
        "sub\\deep\\c.png",
        str(tmp_path / "a.png"),
        "1",
        "sub/b",
        "v1.0",
        None,
        "z.png",
        "sub",
        "a.png",
    ]
    paths, reasons = resolve(tmp_path, names)
    assert paths == [
        "a.png",
        "sub/b.png",
        "sub/deep/c.png",
        "a.png",
        "1.png",
        "sub/b.png",
        "v1.0.png",
        None,
        None,
        None,
        "a.png",
    ]
    assert reasons == {7: "no image named", 8: "no such file", 9: "no such file"}


def test_directories_are_listed_once_and_files_not_asked_for_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path, [f"{d}/{i}.png" for d in "ab" for i in range(20)])
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
        (
            ["a.png", "b.png"],
            ".",
            ["a.jpg", "b.jpg"],
            r'the extension differs: the folder has "a\.png"',
        ),
        (["A.PNG"], ".", ["a.png"], r'upper and lower case differ: the folder has "A\.PNG"'),
        (
            ["pics/a.png"],
            ".",
            ["a.png"],
            r"the folder differs: they are under .*pics \(--data\.images\)",
        ),
        (
            ["pics/a.png", "wrong/x.png"],
            "wrong",
            ["a.png"],
            r"the folder differs: they are under .*pics \(",
        ),
        (["pics/a.png"], "pics", ["pics/a.png"], r"the folder differs: they are under .*/base \("),
        (
            ["pics/s/a.png", "wrong/x.png"],
            "wrong",
            ["s/a.png"],
            r"the folder differs: they are under .*pics \(",
        ),
        ([], ".", ["a.png"], r"the folder holds no images"),
        (["IMG_0001.png", "IMG_0002.png"], ".", ["2", "3"], r'; the folder has "IMG_0002\.png"$'),
        (["a/1.png"], ".", ["a", "b"], r'; "a" is a folder, and one image per row is read$'),
        (["x.png"], ".", ["a.png"], r'exists in .* \(first: "a\.png"\)$'),
    ],
)
def test_all_missing_is_an_error_with_a_hint(
    tmp_path: Path, files: list[str], base: str, names: list[str], message: str
) -> None:
    root = tmp_path / "base"
    root.mkdir()
    write_images(root, files)
    with pytest.raises(UserError, match=message) as caught:
        resolve(root / base, [*names, None])
    assert f'none of the {len(names)} images named in column "photo"' in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_empty_column_is_an_error_only_where_images_are_needed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='the image column "photo" is empty'):
        resolve(tmp_path, [None, None])
    assert resolve(tmp_path, [None, None], empty_ok=True) == (
        [None, None],
        {0: "no image named", 1: "no image named"},
    )


def test_the_folder_must_be_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--data\.images: no such folder: .*absent"):
        ImageFolder(tmp_path / "absent")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--images: not a folder: .*file"):
        ImageFolder(tmp_path / "file", "--images")


NFC, NFD = (unicodedata.normalize(form, "bücher/ä.png") for form in ("NFC", "NFD"))


@pytest.mark.parametrize(
    ("name", "file", "how"),
    [
        ("a.png", "a.PNG", "with the extension in other case"),
        ("a.JPG", "a.jpg", "with the extension in other case"),
        ("007", "007.png", "with an extension added"),
        ("1e5", "1e5.png", "with an extension added"),
        ("1.0", "1.0.png", "with an extension added"),
        ("20230101", "20230101.png", "with an extension added"),
        ("NA", "NA.png", "with an extension added"),
        ("1.0", "1.png", "as whole numbers and with an extension added"),
        ("1", "00001.png", "with an extension added and other leading zeros"),
        ("1.png", "00001.PNG", "with other leading zeros"),
        ("007.png", "7.png", "with other leading zeros"),
        (NFC, NFD, "in another Unicode form"),
        (NFD, NFC, "in another Unicode form"),
        ("C:\\Users\\me\\photos\\a.png", "a.png", "by the end of their path"),
        ("\\\\server\\share\\sub\\a.png", "sub/a.png", "by the end of their path"),
        ("/home/other/base/sub/a.png", "sub/a.png", "by the end of their path"),
        ("file:///home/other/a%20b.png", "a b.png", "by the end of their path"),
        (
            "~/photos/a.png",
            "a.PNG",
            "by the end of their path and with the extension in other case",
        ),
        ("a%20b.png", "a b.png", "percent-decoded"),
        ("  a.png ", "a.png", "without what surrounds them"),
        ("'a'", "a.png", "without what surrounds them and with an extension added"),
        ('["a.png"]', "a.png", "taken out of a list"),
        ("['a.png']", "a.png", "taken out of a list"),
        ("sub\\a.png", "sub/a.png", "with / for \\"),
    ],
)
def test_a_name_that_is_no_file_as_written_is_read_in_other_ways_and_that_is_said(
    tmp_path: Path, name: str, file: str, how: str
) -> None:
    write_images(tmp_path, ["x.png", file])
    warnings: list[str] = []
    paths, issues = resolve_images(
        ["x.png", name, name, None], ImageFolder(tmp_path), "photo", warnings=warnings
    )
    assert paths == [str(tmp_path / "x.png"), str(tmp_path / file), str(tmp_path / file), None]
    assert [issue.row for issue in issues] == [3]
    assert warnings == [
        f'column "photo": 2 of 4 names are no files as written; found 2 {how} ("{name}" is'
        f' "{os.path.basename(file)}")'
    ]


def test_a_copy_that_pillow_does_not_read_leaves_no_choice(tmp_path: Path) -> None:
    write_images(tmp_path, ["a.jpg", "b.png"])
    for name in ("a.HEIC", "b.dcm", "c.heic"):
        (tmp_path / name).write_bytes(b"x")
    assert resolve(tmp_path, ["a", "b", "c"])[0] == ["a.jpg", "b.png", "c.heic"]


@pytest.mark.parametrize(
    "name",
    ["a b.png", "a%20b.png", " a.png", "1.0", "01", "a;b.png", "C:\\a.png", "NA", '["a.png"]'],
)
def test_a_file_of_the_very_name_wins_and_nothing_is_said(tmp_path: Path, name: str) -> None:
    write_images(tmp_path, ["a.png", "b.png", "1.png"])
    (tmp_path / name).write_bytes((tmp_path / "a.png").read_bytes())
    warnings: list[str] = []
    assert resolve_images([name], ImageFolder(tmp_path), "photo", warnings=warnings)[0] == [
        str(tmp_path / name)
    ]
    assert warnings == []


@pytest.mark.parametrize(
    ("name", "files", "reason"),
    [
        ("1", ["1.jpg", "1.png"], 'ambiguous: the folder has "1.jpg", "1.png"'),
        ("1", ["01.png", "001.png"], 'ambiguous: the folder has "001.png", "01.png"'),
        ("a.png", ["a.PNG", "a.Png"], 'ambiguous: the folder has "a.PNG", "a.Png"'),
        ("A.png", ["a.png"], 'no such file: upper and lower case differ, the folder has "a.png"'),
        ("a.jpg", ["a.png"], "no such file"),
        (
            "https://x.org/a.png",
            ["a.png"],
            "a web address: images are not downloaded; save them in a folder and name the files",
        ),
        (
            "s3://bucket/a.png",
            ["a.png"],
            "a web address: images are not downloaded; save them in a folder and name the files",
        ),
        (
            "data:image/png;base64,AAAA",
            ["a.png"],
            "image data, not a file name: save the images as files and name those",
        ),
        *(
            (
                cell,
                ["a.png", "b.png"],
                (
                    "several images in one cell: one image per row is read; give each its own row,"
                    " or keep one name"
                ),
            )
            for cell in (
                "a.png;b.png",
                "a.png|b.png",
                "a.png, b.png",
                "a.png b.png",
                '["a.png", "b.png"]',
                "('a.png', 'b.png')",
            )
        ),
        *(
            (
                cell,
                ["12.png", "13.png"],
                (
                    "several images in one cell: one image per row is read; give each its own row,"
                    " or keep one name"
                ),
            )
            for cell in ("12;13", "12, 13", '["12", "13"]', "12.png\n13.png")
        ),
        ("12;14", ["12.png", "13.png"], "no such file"),
        ("NA", ["a.png"], "no image named"),
        ("  ", ["a.png"], "no image named"),
    ],
)
def test_nothing_is_guessed(tmp_path: Path, name: str, files: list[str], reason: str) -> None:
    write_images(tmp_path, ["x.png", *files])
    paths, reasons = resolve(tmp_path, ["x.png", name])
    assert paths == ["x.png", None]
    assert reasons == {1: reason}


def test_cells_that_hold_something_else_are_counted(tmp_path: Path) -> None:
    write_images(tmp_path, ["1.png", "1.jpg", "2.png"])
    warnings: list[str] = []
    names = ["2.png", "2.png;1.png", "https://x.org/a.png", "http://x.org/b.png", "1"]
    resolve_images(names, ImageFolder(tmp_path), "photo", warnings=warnings)
    assert warnings == [
        (
            'column "photo": 1 cell holds several images in one cell: one image per row is read;'
            " give each its own row, or keep one name"
        ),
        (
            'column "photo": 2 cells hold a web address: images are not downloaded; save them in a'
            " folder and name the files"
        ),
        (
            'column "photo": 1 name is not used because it is ambiguous: the folder has "1.jpg",'
            ' "1.png"'
        ),
    ]


def test_paths_that_end_alike_are_not_taken_for_one_file(tmp_path: Path) -> None:
    write_images(tmp_path, ["a.png", "b.png"])
    paths, reasons = resolve(
        tmp_path, ["/home/one/a.png", "/home/two/a.png", "/home/one/b.png", "/home/one/b.png"]
    )
    assert paths == [None, None, "b.png", "b.png"]
    assert reasons == {
        0: 'ambiguous: other paths end alike, such as "/home/two/a.png"',
        1: 'ambiguous: other paths end alike, such as "/home/one/a.png"',
    }
    write_images(tmp_path, ["one/a.png", "two/a.png"])
    assert resolve(tmp_path, ["/home/one/a.png", "/home/two/a.png"])[0] == [
        "one/a.png",
        "two/a.png",
    ]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["http://x.org/1.png", "http://x.org/2.png"],
            (
                r'^column "photo": 2 of 2 cells hold a web address: .*\(first:'
                r' "http://x\.org/1\.png"\)$'
            ),
        ),
        (
            ["a.png;b.png"],
            (
                r'^column "photo": 1 of 1 cells hold several images in one cell: .*\(first:'
                r' "a\.png;b\.png"\)$'
            ),
        ),
        (
            ["c", "c"],
            (
                r'^column "photo": 2 of 2 cells name several files \(ambiguous: the folder has'
                r' "c\.jpg", "c\.png"\) \(first: "c"\)$'
            ),
        ),
    ],
)
def test_a_column_of_something_else_is_said_to_be_so(
    tmp_path: Path, names: list[str], message: str
) -> None:
    write_images(tmp_path, ["a.png", "b.png", "c.png", "c.jpg"])
    with pytest.raises(UserError, match=message):
        resolve(tmp_path, names)
    warnings: list[str] = []
    paths, _ = resolve_images(
        names, ImageFolder(tmp_path), "photo", empty_ok=True, warnings=warnings
    )
    assert paths == [None] * len(names)
    assert len(warnings) == 1
    assert warnings[0].endswith(": predicting from the table alone")
