"""The folder of the demo set: the same contents every time, and never half there."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from gaal_fast.demo import catalogue, drawing, folder, posterior
from gaal_fast.errors import UserError

ROWS = 120
MEASURES = ["height_cm", "weight_g", "price_eur", "wall_mm"]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sets of ROWS rows in place of the full ones."""
    monkeypatch.setattr(folder, "DEMO_ROWS", ROWS)


def contents(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


def read(paths: folder.DemoPaths) -> pd.DataFrame:
    return pd.read_csv(paths.csv)


def test_same_seed_same_bytes_and_other_seed_other_rows(small, tmp_path):
    first, again, other = (
        folder.ensure_demo(tmp_path / name, seed) for name, seed in (("a", 7), ("b", 7), ("c", 8))
    )
    one, two = contents(tmp_path / "a"), contents(tmp_path / "b")
    assert one == two
    assert len(one) == ROWS + 4
    assert first[2:] == again[2:] == other[2:] == (catalogue.IMAGE_COLUMN, catalogue.TARGET)
    three = contents(tmp_path / "c")
    assert not any(one[name] == three[name] for name in one if name.endswith(".png"))
    assert one["catalogue.csv"] != three["catalogue.csv"]


def test_table_and_pixels_of_version_1_are_pinned():
    """Whoever changes these has made another data set and must raise DEMO_VERSION."""
    assert catalogue.DEMO_VERSION == 1
    items = catalogue.sample_items(64, seed=0)
    table = "\n".join(",".join(row) for row in folder._csv_rows(items))
    pixels = b"".join(drawing.render_image(items, row).tobytes() for row in range(64))
    digests = (
        hashlib.sha256(table.encode()).hexdigest()[:16],
        hashlib.sha256(pixels).hexdigest()[:16],
    )
    assert digests == ("828ba82114e67c2b", "eaaced7f246e8470")


def test_a_row_does_not_depend_on_the_number_of_rows():
    short, long = catalogue.sample_items(5, seed=2), catalogue.sample_items(50, seed=2)
    assert list(folder._csv_rows(short)) == list(folder._csv_rows(long))[:5]
    assert np.array_equal(drawing.render_image(short, 4, 2), drawing.render_image(long, 4, 2))


def test_table_and_images_have_the_promised_form(small, tmp_path):
    paths = folder.ensure_demo(tmp_path / "set", seed=1)
    table, items = read(paths), catalogue.sample_items(ROWS, seed=1)
    assert tuple(table.columns) == catalogue.COLUMNS
    assert len(table) == ROWS
    assert table["item_id"].is_unique and table["currency"].unique().tolist() == ["EUR"]
    assert all(
        pd.api.types.is_numeric_dtype(table[name])
        for name in [*MEASURES, "catalogue_page", "stock_count"]
    )
    assert (table[MEASURES].min() > 0).all()
    for name, levels in (
        ("material", catalogue.MATERIALS),
        ("maker", catalogue.MAKERS),
        ("glaze", catalogue.GLAZES),
    ):
        assert set(table[name].dropna()) <= set(levels)
    holes = table.columns[table.isna().any()]
    assert set(holes) <= {*MEASURES, "material", "maker", "glaze"}
    assert table[catalogue.TARGET].tolist() == [catalogue.KINDS[kind] for kind in items.kind]
    assert sorted(table[catalogue.IMAGE_COLUMN]) == sorted(
        path.name for path in paths.images.iterdir()
    )
    for row in (0, 1, ROWS - 1):
        with Image.open(paths.images / table[catalogue.IMAGE_COLUMN][row]) as image:
            assert (image.mode, image.size) == ("RGB", (catalogue.IMAGE_SIZE, catalogue.IMAGE_SIZE))
            assert np.array_equal(np.asarray(image), drawing.render_image(items, row, seed=1))
    readme = (tmp_path / "set" / "README.txt").read_text(encoding="utf-8")
    assert all(f"{value:.4f}" in readme for value in posterior.best_possible().values())
    assert max(map(len, readme.splitlines())) <= 120
    with Image.open(tmp_path / "set" / "contact_sheet.png") as sheet:
        assert min(sheet.size) > 500


def test_a_whole_set_is_not_rendered_again(small, tmp_path, monkeypatch):
    first = folder.ensure_demo(tmp_path / "set")
    monkeypatch.setattr(folder, "_render", lambda *_: pytest.fail("rendered again"))
    assert folder.ensure_demo(tmp_path / "set") == first


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interrupted_rendering_leaves_nothing(small, tmp_path, monkeypatch, error):
    draw = drawing.render_image

    def stop(items, row, *rest):
        if row == 20:
            raise error
        return draw(items, row, *rest)

    with monkeypatch.context() as patch, pytest.raises(error):
        patch.setattr(folder, "render_image", stop)
        folder.ensure_demo(tmp_path / "set")
    assert list(tmp_path.iterdir()) == []
    assert len(read(folder.ensure_demo(tmp_path / "set"))) == ROWS


def test_a_killed_rendering_is_never_taken_for_a_whole_one(small, tmp_path):
    program = (
        "import os, pathlib, sys\n"
        "from gaal_fast.demo import folder\n"
        f"folder.DEMO_ROWS = {ROWS}\n"
        "draw = folder.render_image\n"
        "folder.render_image = lambda items, row, *rest: (\n"
        "    os._exit(9) if row == 20 else draw(items, row, *rest))\n"
        "folder.ensure_demo(pathlib.Path(sys.argv[1]))\n"
    )
    root = tmp_path / "set"
    command = [sys.executable, "-c", program, str(root)]
    done = subprocess.run(command, cwd=Path(folder.__file__).parents[2], timeout=300)
    assert done.returncode == 9
    assert not root.exists()
    (partial,) = tmp_path.iterdir()
    assert len(list((partial / "images").iterdir())) == 20
    assert len(read(folder.ensure_demo(root))) == ROWS
    assert partial.exists()  # it might belong to a run still at work
    os.utime(partial, (time.time() - 2 * folder._STALE_SECONDS,) * 2)
    folder._remove_stale(root)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_two_at_once_share_one_set(small, tmp_path):
    found: list[folder.DemoPaths] = []
    threads = [
        threading.Thread(target=lambda: found.append(folder.ensure_demo(tmp_path / "set")))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2 and found[0] == found[1]
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    assert folder._is_whole(tmp_path / "set", 0, ROWS)


def _lose_image(folder: Path) -> None:
    (folder / "images" / "00003.png").unlink()


def _cut_image(folder: Path) -> None:
    image = folder / "images" / "00003.png"
    image.write_bytes(image.read_bytes()[:-7])


def _cut_table(folder: Path) -> None:
    table = folder / "catalogue.csv"
    table.write_bytes(table.read_bytes()[:-100])


def _other_count(folder: Path) -> None:
    marker = json.loads((folder / "demo.json").read_text())
    (folder / "demo.json").write_text(json.dumps({**marker, "rows": ROWS - 1}))


@pytest.mark.parametrize("damage", [_lose_image, _cut_image, _cut_table, _other_count])
def test_a_damaged_set_is_made_anew_and_kept_aside(small, tmp_path, damage):
    root = tmp_path / "set"
    folder.ensure_demo(root)
    good = contents(root)
    damage(root)
    (root / "notes.txt").write_text("mine")
    bad = contents(root)
    with pytest.warns(UserWarning, match=r"set\.replaced-1"):
        folder.ensure_demo(root)
    assert contents(root) == good
    assert contents(tmp_path / "set.replaced-1") == bad


def _as_an_earlier_version_wrote_it(pixels: np.ndarray) -> bytes:
    """A PNG of unfiltered lines in one stored block, as versions before this one wrote it."""
    lines = b"".join(b"\0" + line.tobytes() for line in pixels)
    stored = struct.pack("<BHH", 1, len(lines), len(lines) ^ 0xFFFF) + lines
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", *pixels.shape[1::-1], 8, 2, 0, 0, 0)),
        (b"IDAT", b"\x78\x01" + stored + struct.pack(">I", zlib.adler32(lines))),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content))
        + tag
        + content
        + struct.pack(">I", zlib.crc32(tag + content))
        for tag, content in chunks
    )


def test_a_set_of_an_earlier_version_is_used_as_it_is_or_not_at_all(small, tmp_path, monkeypatch):
    root = tmp_path / "set"
    paths = folder.ensure_demo(root)
    for path in paths.images.iterdir():
        with Image.open(path) as image:
            pixels = np.asarray(image)
        path.write_bytes(_as_an_earlier_version_wrote_it(pixels))
        with Image.open(path) as image:
            assert np.array_equal(np.asarray(image), pixels)
    before = contents(root)
    with monkeypatch.context() as patch:
        patch.setattr(folder, "_render", lambda *_: pytest.fail("rendered again"))
        assert folder.ensure_demo(root) == paths
    assert contents(root) == before
    _cut_image(root)
    with pytest.warns(UserWarning, match=r"set\.replaced-1"):
        folder.ensure_demo(root)
    assert not set(contents(root).values()) & {
        content for name, content in before.items() if name.endswith("00003.png")
    }
    assert folder._is_whole(root, 0, ROWS)


def test_a_folder_that_holds_something_else_is_left_alone(small, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="mine holds other files"):
        folder.ensure_demo(mine)
    assert contents(mine) == {"notes.txt": b"mine"}
    with pytest.raises(UserError, match=r"notes\.txt is a file"):
        folder.ensure_demo(mine / "notes.txt")
    folder.ensure_demo(tmp_path / "set", seed=1)
    with pytest.raises(UserError, match="version 1, seed 1, not version 1, seed 2"):
        folder.ensure_demo(tmp_path / "set", seed=2)
    assert folder._is_whole(tmp_path / "set", 1, ROWS)
    (tmp_path / "empty").mkdir()
    assert len(read(folder.ensure_demo(tmp_path / "empty"))) == ROWS


@pytest.mark.parametrize("seed", [-1, 1.5, True, "0"])
def test_a_bad_seed_is_refused(seed, tmp_path):
    with pytest.raises(UserError, match="seed"):
        folder.ensure_demo(tmp_path / "set", seed)


def test_default_place_is_the_user_cache_then_the_temporary_files(small, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    place = tmp_path / "cache" / "gaal_fast" / "demo-v1.1-seed4"
    assert folder.ensure_demo(seed=4).csv == place / "catalogue.csv"
    (place / "demo.json").unlink()
    with pytest.warns(UserWarning, match="replaced-1"):
        folder.ensure_demo(seed=4)
    assert folder._is_whole(place, 4, ROWS)

    (tmp_path / "file").write_text("")
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    assert (tmp_path / "tmp") in folder.ensure_demo(seed=4).csv.parents
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "file"))
    with pytest.raises(UserError, match="cannot write the demo set"):
        folder.ensure_demo(seed=4)
