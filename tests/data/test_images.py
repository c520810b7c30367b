"""Decoding: every kind of picture to the same square RGB, and a reason for those that cannot be read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from gaal_fast.data.images import ImageError, decode


def plain(path: Path, mode: str, colour: object, **options: object) -> torch.Tensor:
    Image.new(mode, (10, 6), colour).save(path, **options)
    return decode(path, 4)


@pytest.mark.parametrize(
    ("name", "mode", "colour", "expected"),
    [
        ("a.png", "RGB", (10, 20, 30), (10, 20, 30)),
        ("a.png", "L", 77, (77, 77, 77)),
        ("a.png", "1", 1, (255, 255, 255)),
        ("a.png", "LA", (100, 255), (100, 100, 100)),
        ("a.png", "LA", (100, 0), (255, 255, 255)),
        ("a.png", "RGBA", (10, 20, 30, 255), (10, 20, 30)),
        ("a.png", "RGBA", (10, 20, 30, 0), (255, 255, 255)),
        ("a.png", "RGBA", (55, 155, 255, 51), (215, 235, 255)),
        ("a.png", "I;16", 0x8080, (128, 128, 128)),
        ("a.tif", "I;16", 65535, (255, 255, 255)),
        ("a.tif", "I", 200, (200, 200, 200)),
        ("a.tif", "I", 0x8080, (128, 128, 128)),
        ("a.tif", "F", 0.4, (102, 102, 102)),
        ("a.tif", "F", 102.0, (102, 102, 102)),
        ("a.tif", "CMYK", (0, 255, 255, 0), (255, 0, 0)),
        ("a.gif", "P", 0, (0, 0, 0)),
        ("a.bmp", "RGB", (10, 20, 30), (10, 20, 30)),
        ("a.webp", "RGB", (255, 255, 255), (255, 255, 255)),
    ],
)
def test_every_mode_becomes_rgb(tmp_path: Path, name: str, mode: str, colour: object, expected: tuple[int, int, int]) -> None:
    image = plain(tmp_path / name, mode, colour)
    assert image.dtype == torch.uint8
    assert image.shape == (3, 4, 4)
    assert image.is_contiguous()
    assert image.flatten(1).unique(dim=1).tolist() == [[value] for value in expected]


def test_a_cmyk_jpeg_keeps_its_colour(tmp_path: Path) -> None:
    image = plain(tmp_path / "a.jpg", "CMYK", (0, 255, 255, 0), quality=95)
    assert torch.allclose(image.float().mean((1, 2)), torch.tensor([255.0, 0, 0]), atol=6)


def test_a_palette_with_transparency_lies_on_white(tmp_path: Path) -> None:
    image = Image.new("P", (4, 4), 0)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((0, 0), 1)
    image.save(tmp_path / "a.png", transparency=0)
    pixels = decode(tmp_path / "a.png", 4)
    assert pixels[:, 0, 0].tolist() == [200, 100, 50]
    assert pixels[:, 3, 3].tolist() == [255, 255, 255]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_undone(tmp_path: Path, orientation: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as image:
        upright = np.asarray(ImageOps.exif_transpose(image))
    assert (orientation == 1) == np.array_equal(upright, pixels)
    np.testing.assert_array_equal(decode(tmp_path / "a.png", 16).permute(1, 2, 0).numpy(), upright)


def test_an_animation_gives_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "lime", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=100)
    assert decode(tmp_path / "a.gif", 2)[:, 0, 0].tolist() == [255, 0, 0]


def test_resizing_is_antialiased_and_fills_the_square(tmp_path: Path) -> None:
    stripes = np.zeros((64, 128), np.uint8)
    stripes[:, ::2] = 255
    Image.fromarray(stripes).save(tmp_path / "a.png")
    small = decode(tmp_path / "a.png", 8).float()
    assert small.shape == (3, 8, 8)
    assert (small - 127.5).abs().max() < 8


def test_a_large_jpeg_is_decoded_small_with_the_same_contents(tmp_path: Path) -> None:
    ramp = np.linspace(0, 255, 1024).astype(np.uint8)
    Image.fromarray(np.stack([np.tile(ramp, (768, 1)), np.full((768, 1024), 90, np.uint8), np.tile(ramp[::-1], (768, 1))], -1)).save(
        tmp_path / "a.jpg", quality=95
    )
    with Image.open(tmp_path / "a.jpg") as image:
        whole = np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR), dtype=float)
    assert np.abs(decode(tmp_path / "a.jpg", 32).permute(1, 2, 0).numpy() - whole).max() <= 4


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_what_cannot_be_read_gives_a_reason_of_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for name in ("a.png", "a.jpg", "a.gif", "a.webp", "a.tif"):
        Image.fromarray(pixels).save(tmp_path / name)
        whole = (tmp_path / name).read_bytes()
        for damaged in (whole[: len(whole) // 2], whole[:20], b"", b"<html>"):
            (tmp_path / name).write_bytes(damaged)
            with pytest.raises(ImageError, match="cannot be decoded") as caught:
                decode(tmp_path / name, 8)
            assert "\n" not in str(caught.value)
            assert str(tmp_path) not in str(caught.value)
    with pytest.raises(ImageError, match="no such file"):
        decode(tmp_path / "absent.png", 8)
    Image.fromarray(pixels).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ImageError, match="decompression bomb"):
        decode(tmp_path / "bomb.png", 8)
