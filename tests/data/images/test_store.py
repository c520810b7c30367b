"""The decoded images: the same whether decoded on demand, kept in memory or on disk."""

from __future__ import annotations

import os
import pickle
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gaal_fast.data.images import store as image_store
from gaal_fast.data.images.store import ImageStore
from gaal_fast.errors import UserError
from tests.data.conftest import write_images


@pytest.fixture
def paths(tmp_path: Path) -> list[str | None]:
    """Rows 0..4: an image, none, another, a broken one, the first again."""
    write_images(tmp_path / "images", ["a.png", "b.png"])
    (tmp_path / "images" / "bad.png").write_bytes(b"broken")
    a, b, bad = (str(tmp_path / "images" / name) for name in ("a.png", "b.png", "bad.png"))
    return [a, None, b, bad, a]


def read(store: ImageStore) -> list[torch.Tensor | None]:
    return [store.get(row)[0] for row in range(5)]


def same(one: list[torch.Tensor | None], two: list[torch.Tensor | None]) -> bool:
    return all(
        (a is None and b is None) or (a is not None and b is not None and torch.equal(a, b))
        for a, b in zip(one, two, strict=True)
    )


def test_every_mode_gives_the_same_images_and_issues(
    tmp_path: Path, paths: list[str | None]
) -> None:
    lazy = ImageStore(paths, 6, "photo", "none")
    lazy.fill()
    assert not lazy.cached
    assert lazy.present.tolist() == [True, False, True, True, True]  # not yet known to be broken
    images = read(lazy)
    assert [image is not None for image in images] == [True, False, True, False, True]
    assert images[2][:, 0, 0].tolist() == [1, 2, 254]
    for mode in ("ram", "disk"):
        kept = ImageStore(paths, 6, "photo", mode, tmp_path / "cache")
        kept.fill(progress=False)
        assert kept.cached
        assert same(read(kept), images)
        assert same(read(pickle.loads(pickle.dumps(kept))), images)
    for store in (lazy, kept):
        assert store.present.tolist() == [True, False, True, False, True]
        [issue] = store.issues()
        assert (issue.row, issue.column, issue.path) == (3, "photo", paths[3])
        assert "cannot be decoded" in issue.reason
        assert store.get(3) == (None, issue)
        assert store.get(1) == (None, None)


def test_a_file_is_decoded_once_however_many_rows_use_it(
    paths: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[str] = []
    decode = image_store.decode
    monkeypatch.setattr(
        image_store, "decode", lambda path, size: decoded.append(path) or decode(path, size)
    )
    ImageStore(paths, 6, "photo", "ram").fill(progress=False)
    assert sorted(decoded) == sorted({path for path in paths if path})


def test_auto_keeps_what_fits_in_memory(
    paths: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_store, "AUTO_RAM_BYTES", 3 * 3 * 6 * 6)
    assert ImageStore(paths, 6, "photo").mode == "ram"
    assert ImageStore(paths, 7, "photo").mode == "none"


def test_the_disk_cache_is_reused_until_a_image_or_the_size_changes(
    tmp_path: Path, paths: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(size: int = 6) -> tuple[ImageStore, list[str]]:
        decoded: list[str] = []
        with monkeypatch.context() as patch:
            decode = image_store.decode
            patch.setattr(
                image_store, "decode", lambda path, size: decoded.append(path) or decode(path, size)
            )
            store = ImageStore(paths, size, "photo", "disk", tmp_path / "cache")
            store.fill(progress=False)
        return store, decoded

    first, decoded = fill()
    assert len(decoded) == 3
    second, decoded = fill()
    assert decoded == []
    assert same(read(first), read(second))
    assert second.issues() == first.issues()
    assert len(fill(7)[1]) == 3
    later = time.time() + 10
    os.utime(paths[2], (later, later))
    assert len(fill()[1]) == 3
    assert (
        sorted(path.suffix for path in (tmp_path / "cache").iterdir())
        == [".json"] * 3 + [".u8"] * 3
    )


def test_the_disk_cache_of_another_range_is_not_used(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 1000, np.uint16)).save(tmp_path / "a.png")
    for ranges, value in (
        ({"16-bit": (0, 4095)}, 62),
        ({"16-bit": (0, 2000)}, 128),
        ({"16-bit": (0, 4095)}, 62),
    ):
        for mode in ("none", "ram", "disk"):
            store = ImageStore(
                [str(tmp_path / "a.png")], 4, "photo", mode, tmp_path / "cache", ranges
            )
            store.fill(progress=False)
            assert store.get(0)[0].unique().tolist() == [value]
            assert pickle.loads(pickle.dumps(store)).get(0)[0].unique().tolist() == [value]
    assert len(list((tmp_path / "cache").glob("*.u8"))) == 2


def test_the_disk_cache_of_another_resampling_is_not_used(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    found = []
    for resampling in ("bilinear", "bicubic"):
        store = ImageStore(
            [str(tmp_path / "x.png")], 9, "photo", "disk", tmp_path / "cache", None, resampling
        )
        store.fill(progress=False)
        found.append(store.get(0)[0])
    assert not torch.equal(*found)


def test_a_cache_that_was_cut_off_is_made_anew(tmp_path: Path, paths: list[str | None]) -> None:
    def fill() -> ImageStore:
        store = ImageStore(paths, 6, "photo", "disk", tmp_path / "cache")
        store.fill(progress=False)
        return store

    expected = read(fill())
    [pixels] = (tmp_path / "cache").glob("*.u8")
    [notes] = (tmp_path / "cache").glob("*.json")
    for spoil in (
        lambda: pixels.write_bytes(pixels.read_bytes()[:-1]),
        lambda: notes.write_text("{"),
        notes.unlink,
        pixels.unlink,
    ):
        spoil()
        assert same(read(fill()), expected)


def test_a_failed_or_interrupted_decode_leaves_no_cache_behind(
    tmp_path: Path, paths: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(path: str, size: int) -> torch.Tensor:
        raise KeyboardInterrupt

    monkeypatch.setattr(image_store, "decode", interrupt)
    with pytest.raises(KeyboardInterrupt):
        ImageStore(paths, 6, "photo", "disk", tmp_path / "cache").fill(progress=False)
    assert list((tmp_path / "cache").iterdir()) == []
    monkeypatch.undo()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--data\.cache-dir: cannot write .*file"):
        ImageStore(paths, 6, "photo", "disk", tmp_path / "file").fill(progress=False)
