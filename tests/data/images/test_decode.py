"""Decoding: every kind of image to the same square RGB, and a reason for those that cannot be
read.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, ImageOps

from gaal_fast.data.images.decode import ImageError, choose_range, decode, read_values
from tests.data.images.image_bytes import png_chunk, write_png16, write_tiff


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
def test_every_mode_becomes_rgb(
    tmp_path: Path, name: str, mode: str, colour: object, expected: tuple[int, int, int]
) -> None:
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
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.png", {}),
        ("a.tif", {}),
        ("a.tif", {"compression": "tiff_lzw"}),
        ("a.webp", {"lossless": True}),
    ],
)
def test_exif_rotation_is_undone_once(
    tmp_path: Path, orientation: int, name: str, options: dict[str, object]
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / name, exif=exif, **options)
    stored = Image.fromarray(pixels)
    stored.getexif()[0x0112] = orientation
    upright = np.asarray(ImageOps.exif_transpose(stored))
    assert (orientation == 1) == np.array_equal(upright, pixels)
    np.testing.assert_array_equal(decode(tmp_path / name, 16).permute(1, 2, 0).numpy(), upright)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_16_bit_tiff_is_turned_as_an_8_bit_png(tmp_path: Path, orientation: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    for name, samples, photometric in (("g.tif", pixels, 1), ("c.tif", np.dstack([pixels] * 3), 2)):
        write_tiff(
            tmp_path / name,
            samples.astype(np.uint16) * 257,
            orientation=orientation,
            photometric=photometric,
        )
        assert torch.equal(
            decode(tmp_path / name, 8, {"16-bit": (0, 65535)}), decode(tmp_path / "a.png", 8)
        )


@pytest.mark.parametrize(
    ("orientation", "white_edge"), [(1, "top"), (3, "bottom"), (6, "right"), (8, "left")]
)
def test_a_jpeg_that_is_decoded_small_is_turned_once(
    tmp_path: Path, orientation: int, white_edge: str
) -> None:
    pixels = np.zeros((512, 768, 3), np.uint8)
    pixels[:100] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=exif)
    image = decode(tmp_path / "a.jpg", 16).float().mean(0)
    edges = {"top": image[0], "bottom": image[-1], "left": image[:, 0], "right": image[:, -1]}
    assert [name for name, edge in edges.items() if edge.mean() > 200] == [white_edge]


RAMP = np.array([[0, 1000], [2000, 4095]])


@pytest.mark.parametrize(
    ("kind", "samples", "limits", "expected"),
    [
        ("16-bit", RAMP.astype(np.uint16), (0, 4095), [0, 62, 125, 255]),
        ("16-bit", RAMP.astype(np.uint16), (1000, 2000), [0, 0, 255, 255]),
        ("integer", (RAMP - 1024).astype(np.int16), (-1024, 3071), [0, 62, 125, 255]),
        ("integer", (RAMP - 1024).astype(np.int32), (-1024, 3071), [0, 62, 125, 255]),
        (
            "integer",
            np.array([[0, 2**31], [2**32 - 1, 1]], np.uint32),
            (0, 2.0**32 - 1),
            [0, 128, 255, 0],
        ),
        ("integer", np.array([[-128, 0], [127, -1]], np.int8), (-128, 127), [0, 128, 255, 127]),
        ("float", (RAMP / 4095).astype(np.float32), (0, 1), [0, 62, 125, 255]),
        (
            "float",
            np.array([[np.nan, np.inf], [-np.inf, 0.4]], np.float32),
            (0, 1),
            [0, 255, 0, 102],
        ),
    ],
)
@pytest.mark.parametrize("big_endian", [False, True])
def test_values_are_scaled_by_the_range_given(
    tmp_path: Path,
    kind: str,
    samples: np.ndarray,
    limits: tuple[float, float],
    expected: list[int],
    big_endian: bool,
) -> None:
    # Pillow reads unsigned 32 bits in one byte order only.
    write_tiff(tmp_path / "a.tif", samples, big_endian=big_endian and samples.dtype != np.uint32)
    image = decode(tmp_path / "a.tif", 2, {kind: limits})
    assert image.flatten(1).tolist() == [expected] * 3
    found, values = read_values(tmp_path / "a.tif")
    assert found == kind
    assert sorted(values) == sorted(samples[np.isfinite(samples)].astype(np.float64))


def test_16_bit_colors_keep_both_their_bytes(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).integers(0, 4096, (6, 6, 4)).astype(np.uint16)
    samples[:, :, 3] = 65535
    expected = np.rint(samples[:, :, :3] / 4095 * 255).astype(np.uint8)
    write_png16(tmp_path / "rgb.png", samples[:, :, :3])
    write_png16(tmp_path / "rgba.png", samples)
    for big_endian in (False, True):
        for deflate in (False, True):
            name = f"{big_endian}{deflate}"
            write_tiff(
                tmp_path / f"rgb{name}.tif",
                samples[:, :, :3],
                photometric=2,
                big_endian=big_endian,
                deflate=deflate,
            )
            write_tiff(
                tmp_path / f"rgba{name}.tif",
                samples,
                photometric=2,
                big_endian=big_endian,
                deflate=deflate,
            )
    files = sorted(tmp_path.iterdir())
    assert len(files) == 10
    for file in files:
        np.testing.assert_array_equal(
            decode(file, 6, {"16-bit": (0, 4095)}).permute(1, 2, 0).numpy(), expected, file.name
        )
    write_png16(tmp_path / "la.png", samples[:, :, [0, 3]])
    grey = decode(tmp_path / "la.png", 6, {"16-bit": (0, 4095)}).permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(grey, expected[:, :, [0, 0, 0]])


def test_transparent_16_bit_values_lie_on_white(tmp_path: Path) -> None:
    samples = np.array([[100, 4095], [100, 0]], np.uint16)
    write_png16(tmp_path / "a.png", samples, png_chunk(b"tRNS", struct.pack(">H", 100)))
    assert decode(tmp_path / "a.png", 2, {"16-bit": (0, 4095)})[0].flatten().tolist() == [
        255,
        255,
        255,
        0,
    ]
    write_png16(
        tmp_path / "la.png", np.dstack([samples, np.array([[0, 65535], [65535, 13107]], np.uint16)])
    )
    assert decode(tmp_path / "la.png", 2, {"16-bit": (0, 4095)})[0].flatten().tolist() == [
        255,
        255,
        6,
        204,
    ]


def test_a_tiff_whose_zero_is_white_is_dark_where_its_values_are_high(tmp_path: Path) -> None:
    samples = np.array([[0, 65535], [13107, 52428]], np.uint16)
    write_tiff(tmp_path / "deep.tif", samples, photometric=0)
    write_tiff(tmp_path / "bytes.tif", (samples // 257).astype(np.uint8), photometric=0)
    assert decode(tmp_path / "bytes.tif", 2)[0].flatten().tolist() == [255, 0, 204, 51]
    assert torch.equal(
        decode(tmp_path / "deep.tif", 2, {"16-bit": (0, 65535)}), decode(tmp_path / "bytes.tif", 2)
    )


def test_8_bit_images_do_not_depend_on_a_range(tmp_path: Path) -> None:
    for name, mode, color in (
        ("a.png", "L", 77),
        ("b.png", "RGB", (10, 20, 30)),
        ("c.tif", "L", 3),
        ("d.jpg", "L", 128),
    ):
        Image.new(mode, (4, 4), color).save(tmp_path / name)
        ranges = dict.fromkeys(("16-bit", "integer", "float"), (0.0, 1.0))
        assert torch.equal(decode(tmp_path / name, 4, ranges), decode(tmp_path / name, 4))
        assert read_values(tmp_path / name)[0] is None


@pytest.mark.parametrize(
    ("kind", "values", "expected"),
    [
        ("16-bit", [0, 255], (0, 255)),
        ("16-bit", [0, 256], (0, 1023)),
        ("16-bit", [899, 1147], (0, 4095)),
        ("16-bit", [0, 4095], (0, 4095)),
        ("16-bit", [0, 4096], (0, 16383)),
        ("16-bit", [0, 65535], (0, 65535)),
        ("16-bit", [30000, 30310], (30000, 30310)),
        ("16-bit", [7, 7], (0, 255)),
        ("integer", [-1024, 3071], (-1024, 3071)),
        ("integer", [-5, -5], (-5, 0)),
        ("integer", [0, 70000], (0, 70000)),  # less than a twentieth of 24 bits
        ("integer", [0, 2**28], (0, 2**31 - 1)),
        ("float", [0, 0.7], (0, 1)),
        ("float", [0.2, 200], (0, 255)),
        ("float", [-1, 1], (-1, 1)),
        ("float", [0, 3e-7], (0, 3e-7)),
        ("float", [0, 1e6], (0, 1e6)),
    ],
)
def test_a_range_is_a_usual_scale_or_else_the_values(
    kind: str, values: list[float], expected: tuple[float, float]
) -> None:
    assert choose_range(np.array(values, dtype=np.float64), kind) == expected


def test_a_few_hot_pixels_do_not_take_the_contrast() -> None:
    values = np.tile(np.arange(1000.0, 2000.0), 100)
    assert choose_range(np.concatenate([values, [65535.0] * 20]), "16-bit") == (1001.0, 1999.0)
    assert choose_range(np.concatenate([values, [-32768.0] * 20]), "integer") == (1000.0, 1998.0)


def test_lab_and_ycbcr_become_rgb(tmp_path: Path) -> None:
    rgb = Image.new("RGB", (4, 4), (200, 100, 50))
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    ImageCms.profileToProfile(rgb, srgb, lab, outputMode="LAB").save(tmp_path / "lab.tif")
    rgb.convert("YCbCr").save(tmp_path / "ycbcr.tif")
    for name in ("lab.tif", "ycbcr.tif"):
        assert (
            decode(tmp_path / name, 4)[:, 0, 0].int() - torch.tensor([200, 100, 50])
        ).abs().max() <= 1, name


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


def test_images_are_resized_as_pillow_does_by_the_name_given(tmp_path: Path) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (37, 50, 3), dtype=np.uint8))
    image.save(tmp_path / "x.png")
    for name in ("bilinear", "bicubic"):
        expected = np.asarray(image.resize((16, 16), Image.Resampling[name.upper()]))
        found = decode(tmp_path / "x.png", 16, resampling=name)
        assert np.array_equal(found.permute(1, 2, 0).numpy(), expected)
    assert torch.equal(
        decode(tmp_path / "x.png", 16), decode(tmp_path / "x.png", 16, resampling="bilinear")
    )


def test_a_large_jpeg_is_decoded_small_with_the_same_contents(tmp_path: Path) -> None:
    ramp = np.linspace(0, 255, 1024).astype(np.uint8)
    Image.fromarray(
        np.stack(
            [
                np.tile(ramp, (768, 1)),
                np.full((768, 1024), 90, np.uint8),
                np.tile(ramp[::-1], (768, 1)),
            ],
            -1,
        )
    ).save(tmp_path / "a.jpg", quality=95)
    with Image.open(tmp_path / "a.jpg") as image:
        whole = np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR), dtype=float)
    assert np.abs(decode(tmp_path / "a.jpg", 32).permute(1, 2, 0).numpy() - whole).max() <= 4


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_what_cannot_be_read_gives_a_reason_of_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
