"""The new folder: whole or not there, restartable, movable, with checksums that hold."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gaal_fast.data.__main__ import main
from gaal_fast.errors import UserError
from gaal_fast.published import folder, prepare, writing
from tests.published.conftest import Done, read_csv
from tests.published.raw import write_celeba

ROOT = Path(__file__).parents[2]


def contents(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


def test_every_file_has_its_checksum(dvm: Done) -> None:
    said = json.loads((dvm.out / "prepared.json").read_text())
    lines = (dvm.out / "SHA256SUMS").read_text().splitlines()
    sums = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    files = contents(dvm.out)
    assert set(files) - set(sums) == {"SHA256SUMS", "prepared.json"}
    assert all(hashlib.sha256(files[name]).hexdigest() == digest for name, digest in sums.items())
    assert said["sha256"] == {
        name: hashlib.sha256(files[name]).hexdigest() for name in ("dvm.csv", "SHA256SUMS")
    }
    named = {f"images/{row['image_path']}" for row in read_csv(dvm.table)}
    missing = named - set(files)
    assert len(missing) == said["missing_images"] == 1
    assert {name for name in files if name.startswith("images/")} == named - missing


def test_images_are_links_that_survive_the_download_and_a_move(tmp_path: Path) -> None:
    raw = write_celeba(tmp_path / "raw")
    prepare("celeba", raw, tmp_path / "out")
    image = "images/000001.jpg"
    source = raw / "Img" / "img_align_celeba" / "000001.jpg"
    assert (tmp_path / "out" / image).samefile(source)
    content = source.read_bytes()
    shutil.rmtree(raw)
    (tmp_path / "out").rename(tmp_path / "moved")
    assert (tmp_path / "moved" / image).read_bytes() == content


def test_images_are_copied_where_there_are_no_links_and_links_are_followed(
    celeba: Done, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = tmp_path / "raw"
    shutil.copytree(celeba.raw / "Anno", raw / "Anno")
    shutil.copytree(celeba.raw / "Eval", raw / "Eval")
    (raw / "img_align_celeba").mkdir()
    for path in (celeba.raw / "Img" / "img_align_celeba").iterdir():
        (raw / "img_align_celeba" / path.name).symlink_to(path)

    def no_link(source: Path, target: Path) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", no_link)
    prepare("celeba", raw, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(celeba.out)
    first = tmp_path / "out" / "images" / "000001.jpg"
    assert not first.is_symlink()
    assert not first.samefile(celeba.raw / "Img" / "img_align_celeba" / "000001.jpg")


def test_a_killed_call_goes_on_and_ends_with_the_same_bytes(celeba: Done, tmp_path: Path) -> None:
    program = (
        "import os, pathlib, sys\n"
        "from gaal_fast.published import prepare, writing\n"
        "calls, bring = [], writing.bring\n"
        "writing.bring = lambda *places: (\n"
        "    os._exit(9) if len(calls) == 20 else calls.append(bring(*places)) or True)\n"
        "prepare('celeba', *map(pathlib.Path, sys.argv[1:]))\n"
    )
    out = tmp_path / "out"
    command = [sys.executable, "-c", program, str(celeba.raw), str(out)]
    assert subprocess.run(command, cwd=ROOT, timeout=120).returncode == 9
    assert not out.exists()
    [partial] = tmp_path.iterdir()
    linked = sorted(path.name for path in (partial / "images").iterdir())
    assert len(linked) == 20
    kept = (partial / "images" / linked[0]).stat().st_ino
    prepare("celeba", celeba.raw, out)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert contents(out) == contents(celeba.out)
    assert (out / "images" / linked[0]).stat().st_ino == kept


def test_a_call_killed_at_its_very_end_goes_on(
    celeba: Done, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(source: Path, target: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(folder.os, "rename", stop)
        prepare("celeba", celeba.raw, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == [".out.partial"]
    prepare("celeba", celeba.raw, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(celeba.out)


def test_an_interrupted_call_is_not_taken_up_by_another_data_set(
    celeba: Done, sun: Done, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(path: Path) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(writing, "sha256", stop)
        prepare("celeba", celeba.raw, tmp_path / "out")
    [partial] = tmp_path.iterdir()
    assert (partial / "images" / "000001.jpg").exists()
    prepare("sun", sun.raw, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(sun.out)


def test_a_link_in_the_download_is_brought_as_the_file_that_it_means(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "a.jpg").write_bytes(b"pixels")
    (tmp_path / "raw.jpg").symlink_to(Path("disk") / "a.jpg")
    assert folder.bring(tmp_path / "raw.jpg", tmp_path / "out" / "a.jpg")
    assert not (tmp_path / "out" / "a.jpg").is_symlink()
    assert (tmp_path / "out" / "a.jpg").read_bytes() == b"pixels"


def test_another_size_of_a_copy_is_brought_again(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "deep" / "target"
    source.write_bytes(b"whole")
    target.parent.mkdir()
    target.write_bytes(b"who")
    assert folder.bring(source, target)
    assert target.read_bytes() == b"whole"
    assert not folder.bring(tmp_path / "gone", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_what_is_there_is_not_overwritten(
    celeba: Done, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(celeba.out)
    flags = ["prepare", "celeba", "--raw", str(celeba.raw), "--out"]
    assert main([*flags, str(celeba.out)]) == 2
    assert capsys.readouterr().err == (
        f"error: --out: {celeba.out} exists and is not overwritten\n"
    )
    assert contents(celeba.out) == before
    (tmp_path / "empty").mkdir()
    assert main([*flags, str(tmp_path / "empty")]) == 0
    assert contents(tmp_path / "empty") == before


def test_a_foreign_folder_in_the_way_is_left_alone(celeba: Done, tmp_path: Path) -> None:
    foreign = tmp_path / ".out.partial"
    foreign.mkdir()
    (foreign / "mine.txt").write_text("keep")
    with pytest.raises(UserError, match="in the way"):
        prepare("celeba", celeba.raw, tmp_path / "out")
    assert contents(tmp_path) == {".out.partial/mine.txt": b"keep"}


def test_two_at_once_do_not_write_one_folder(celeba: Done, tmp_path: Path) -> None:
    pytest.importorskip("fcntl", reason="no locks on this system")
    with (
        folder.appearing(tmp_path / "out", {}) as work,
        pytest.raises(UserError, match="another process is writing"),
    ):
        prepare("celeba", celeba.raw, tmp_path / "out")
    assert not work.exists() and (tmp_path / "out").is_dir()


def test_a_download_without_any_of_its_images_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = write_celeba(tmp_path / "raw")
    images = raw / "Img" / "img_align_celeba"
    shutil.rmtree(images)
    images.mkdir()
    assert main(["prepare", "celeba", "--raw", str(raw), "--out", str(tmp_path / "out")]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "none of the 48 images is in" in line
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_a_raw_folder_that_is_not_there_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--raw", str(tmp_path / "no"), "--out", str(tmp_path / "out")]
    assert main(["prepare", "dvm", *flags]) == 2
    assert capsys.readouterr().err == f"error: --raw: no such folder: {tmp_path / 'no'}\n"
