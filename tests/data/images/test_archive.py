"""Images in archives are found and read as in a folder."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from gaal_fast.config import DataConfig
from gaal_fast.data import load_data
from gaal_fast.data.images import archive as module
from gaal_fast.data.images.archive import open_file, stamp
from gaal_fast.data.images.decode import ImageError, decode
from gaal_fast.data.images.folder import ImageFolder
from gaal_fast.data.images.store import ImageStore
from gaal_fast.errors import UserError
from tests.data.conftest import catalogue
from tests.data.images.image_bytes import write_png16

Pack = Callable[[Path, dict[str, bytes]], Path]


def png(shade: int, mode: str = "RGB") -> bytes:
    stream = io.BytesIO()
    color = (shade, 2 * shade, 255 - shade) if mode == "RGB" else 200 * shade
    Image.new(mode, (12, 12), color).save(stream, "PNG")
    return stream.getvalue()


def pack_zip(folder: Path, files: dict[str, bytes]) -> Path:
    path = folder / "photos.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def pack_tar(folder: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    path = folder / "photos.tar"
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


both = pytest.mark.parametrize("pack", [pack_zip, pack_tar])
FILES = {"oak/001.png": png(1), "oak/002.JPG.png": png(2), "ash/x.png": png(3), "top.png": png(4)}


@both
def test_names_mean_what_they_mean_in_a_folder(pack: Pack, tmp_path: Path) -> None:
    for name, content in FILES.items():
        file = tmp_path / "folder" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    plain = ImageFolder(tmp_path / "folder")
    packed = ImageFolder(pack(tmp_path, FILES))
    names = (
        "top.png",
        "top",
        "oak/001.png",
        "oak/1.png",
        "oak\\001.png",
        "./oak//001",
        "ash/X.png",
        "oak",
        "none.png",
        "/elsewhere/oak/001.png",
        "'top.png'",
        "../photos/top.png",
    )
    for name in names:
        expected, found = plain.match(name), packed.match(name)
        assert (expected.path is None) == (found.path is None), name
        assert (expected.how, expected.others) == (found.how, found.others), name
        if found.path is not None and expected.path is not None:
            with open_file(found.path) as stream:
                assert stream.read() == Path(expected.path).read_bytes()
            assert torch.equal(decode(found.path, 8), decode(expected.path, 8))


@both
def test_a_single_folder_at_the_top_may_be_left_out(pack: Pack, tmp_path: Path) -> None:
    path = pack(tmp_path, {f"photos/{name}": content for name, content in FILES.items()})
    folder = ImageFolder(path)
    for name in ("photos/oak/001.png", "oak/001.png", "top"):
        assert folder.match(name).path is not None


@both
def test_no_member_leads_out_of_the_archive(pack: Pack, tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(png(9))
    path = pack(
        tmp_path,
        {
            "../secret.png": png(1),
            "/etc/a.png": png(2),
            "a/../../b.png": png(3),
            "C:\\c.png": png(4),
            "in.png": png(5),
        },
    )
    folder = ImageFolder(path)
    assert folder.listing(str(path)).names == {"in.png"}
    assert folder.listing(str(path)).folders == frozenset()
    assert folder.match("../secret.png").path is None
    with pytest.raises(FileNotFoundError):
        open_file(f"{path}/../secret.png")
    with pytest.raises(FileNotFoundError):
        open_file(f"{path}/none.png")


def test_a_link_in_a_tar_is_no_image(tmp_path: Path) -> None:
    path = tmp_path / "links.tar"
    with tarfile.open(path, "w") as archive:
        link = tarfile.TarInfo("passwd.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        entry = tarfile.TarInfo("a.png")
        entry.size = len(png(1))
        archive.addfile(entry, io.BytesIO(png(1)))
    assert ImageFolder(path).listing(str(path)).names == {"a.png"}


@both
def test_a_damaged_a_deep_and_a_missing_member(pack: Pack, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    write_png16(tmp_path / "colors.png", rng.integers(0, 60000, (12, 12, 3), dtype=np.uint16))
    tiff = io.BytesIO()
    Image.fromarray(rng.random((12, 12)).astype(np.float32)).save(tiff, "TIFF")
    files = {
        "text.png": b"no image at all",
        "deep.png": (tmp_path / "colors.png").read_bytes(),
        "float.tif": tiff.getvalue(),
        "cut.png": png(1)[:45],
    }
    path = pack(tmp_path, files)
    for name in ("deep.png", "float.tif"):
        (tmp_path / name).write_bytes(files[name])
        assert torch.equal(decode(f"{path}/{name}", 8), decode(tmp_path / name, 8))
    with pytest.raises(ImageError, match="a text file"):
        decode(f"{path}/text.png", 8)
    with pytest.raises(ImageError, match="cannot be decoded"):
        decode(f"{path}/cut.png", 8)
    with pytest.raises(ImageError, match="no such file"):
        decode(f"{path}/none.png", 8)


def test_sizes_are_bounded_and_encryption_and_damage_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = pack_zip(tmp_path, {"a.png": png(1), "large.png": b"\0" * 100_000})
    monkeypatch.setattr(module, "LARGEST_MEMBER", 50_000)
    assert decode(f"{path}/a.png", 8).shape == (3, 8, 8)
    with pytest.raises(ImageError, match="it has 100000 bytes in the archive"):
        decode(f"{path}/large.png", 8)
    raw = bytearray(path.read_bytes())
    at = raw.index(b"PK\x01\x02")  # the flags of the first entry of the directory
    raw[at + 8] |= 1
    locked = tmp_path / "locked.zip"
    locked.write_bytes(raw)
    with pytest.raises(ImageError, match="encrypted"):
        decode(f"{locked}/a.png", 8)
    raw = bytearray(path.read_bytes())
    start = raw.index(b"a.png") + len("a.png")
    raw[start + 5 : start + 15] = b"\xff" * 10
    damaged = tmp_path / "damaged.zip"
    damaged.write_bytes(raw)
    with pytest.raises(ImageError, match="cannot be decoded"):
        decode(f"{damaged}/a.png", 8)


def test_what_is_no_archive_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "text.zip").write_text("no archive")
    with pytest.raises(UserError, match=r"--data.images: not a folder: .*text.zip, nor a .zip"):
        ImageFolder(tmp_path / "text.zip")
    packed = pack_tar(tmp_path, FILES, "w:gz").rename(tmp_path / "photos.tar.gz")
    with pytest.raises(UserError, match=r"photos.tar.gz is compressed as a whole.*unpack it"):
        ImageFolder(packed)


def test_the_disk_cache_knows_a_changed_archive(tmp_path: Path) -> None:
    path = pack_zip(tmp_path, {"a.png": png(1)})
    changed, size = stamp(f"{path}/a.png")
    assert (changed, size) == (path.stat().st_mtime_ns, len(png(1)))

    def image() -> torch.Tensor:
        store = ImageStore([f"{path}/a.png"], 8, "photo", "disk", tmp_path / "cache")
        store.fill(progress=False)
        found = store.get(0)[0]
        assert found is not None
        return found

    first = image()
    module._archive.cache_clear()
    pack_zip(tmp_path, {"a.png": png(50)})
    assert not torch.equal(first, image())


@both
def test_training_data_are_the_same_as_from_a_folder(
    pack: Pack, tmp_path: Path, make_config: Callable[..., DataConfig]
) -> None:
    frame = catalogue()
    config = make_config(frame)
    assert config.images is not None
    files = {name: (config.images / name).read_bytes() for name in frame["photo"]}
    files["006.png"] = files["005.png"]  # a copy, which is found by its content
    (config.images / "006.png").write_bytes(files["005.png"])
    plain = load_data(config, progress=False)
    packed = load_data(config.model_copy(update={"images": pack(tmp_path, files)}), progress=False)
    assert packed.schema == plain.schema
    assert packed.fingerprint == plain.fingerprint
    assert packed.warnings == plain.warnings
    keys = list(range(len(plain.train)))
    for one, other in ((plain.train, packed.train),):
        a, b = one.__getitems__(keys), other.__getitems__(keys)
        assert torch.equal(a.views["image"].values, b.views["image"].values)


def test_reader_processes_open_an_archive_of_their_own(tmp_path: Path) -> None:
    from gaal_fast.data import make_loader
    from gaal_fast.data.dataset import FusionDataset, ImageModality

    names = [f"{row}.png" for row in range(40)]
    path = pack_zip(tmp_path, {name: png(row) for row, name in enumerate(names)})
    paths = [f"{path}/{name}" for name in names]
    decode(paths[0], 8)  # the parent has it open
    store = ImageStore(paths, 8, "photo", "none")
    data = FusionDataset(np.arange(40), np.zeros(40, int), [ImageModality(store)])
    alone, many = (
        torch.cat([batch.views["image"].values for batch in make_loader(data, 5, workers=n)])
        for n in (0, 2)
    )
    assert torch.equal(alone, many)
    assert len(pd.unique(alone[:, 0, 0, 0].numpy())) == 40
