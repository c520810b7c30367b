"""What a file is that is no image, by its first bytes."""

from __future__ import annotations

import gzip
import io
import pickle
from pathlib import Path

import numpy as np
import pytest

from gaal_fast.data import ImageError, decode


def array_file() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((4, 4)))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"", "the file is empty"),
        (b"\0" * 5000, "the file holds zero bytes only (a download or copy that was cut off?)"),
        (
            b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\1" * 90,
            "HEIC/HEIF, which Pillow does not read; convert it to PNG or JPEG",
        ),
        (
            b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + b"\1" * 90,
            "HEIC/HEIF, which Pillow does not read; convert it to PNG or JPEG",
        ),
        (
            b"\0\0\0\x18ftypisom\0\0\2\0isomiso2" + b"\0" * 50,
            "a video (MP4 or QuickTime); save a frame of it as PNG or JPEG",
        ),
        (b"\x1aE\xdf\xa3\1\0\0\0", "a video (Matroska or WebM); save a frame of it as PNG or JPEG"),
        (b"RIFF\0\0\0\0AVI LIST", "a video (AVI); save a frame of it as PNG or JPEG"),
        (
            b"\0" * 128 + b"DICM\2\0\0\0UL\4\0" + b"\0" * 60,
            "DICOM, which Pillow does not read; save it as PNG or TIFF",
        ),
        (
            b"\x08\0\5\0CS\n\0ISO_IR 100" + b"\1" * 50,
            "DICOM, which Pillow does not read; save it as PNG or TIFF",
        ),
        (array_file(), "a NumPy array (.npy); save it as PNG or TIFF"),
        (pickle.dumps(np.zeros(3)), "a Python pickle; save its images as PNG or TIFF"),
        (b"\x89HDF\r\n\x1a\n" + b"\0" * 50, "an HDF5 file; save its images as PNG or TIFF"),
        (
            b"\x5c\1\0\0" + b"\0" * 340 + b"n+1\0" + b"\0" * 10,
            "a NIfTI volume; save its slices as PNG or TIFF",
        ),
        (b"%PDF-1.4\n", "a PDF; convert it to PNG or JPEG"),
        (b"PK\3\4" + b"\0" * 30, "a zip archive (or a document or .npz that is one); unpack it"),
        (gzip.compress(b"x", mtime=0), "gzip-compressed; unpack it"),
        (b"<svg xmlns='x'></svg>", "SVG, a vector drawing; convert it to PNG or JPEG"),
        (
            b"<?xml version='1.0'?>\n<!DOCTYPE svg PUBLIC 'x'>\n<svg>",
            "SVG, a vector drawing; convert it to PNG or JPEG",
        ),
        (
            b"\n<!DOCTYPE html>\n<html>",
            "HTML (an error or log-in page?), not an image; download it again",
        ),
        (b"<html lang=en>", "HTML (an error or log-in page?), not an image; download it again"),
        (b"<?xml version='1.0'?><Error>", "XML or HTML, not an image"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 12\n",
            "a git-LFS pointer; fetch the file itself with: git lfs pull",
        ),
        (b'{"error": "not found"}', "JSON, not an image"),
        (
            b"https://example.org/x.jpg\n",
            "a text file with a web address; download what it points to",
        ),
        ("Bäume und Wälder".encode(), 'a text file (it begins "Bäume und Wälder")'),
        ("hello".encode("utf-16"), 'a text file (it begins "hello")'),
        (
            b"data:image/png;base64,iVBOR",
            "a data URI in a text file; write the bytes that it encodes",
        ),
        (
            b"\0\5\x16\7\0\2\0\0",
            "the side file that macOS writes (AppleDouble, ._name); the image is beside it",
        ),
        (b"\xff\x0a" + b"\x80" * 30, "JPEG XL; convert it to PNG or JPEG"),
    ],
)
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_what_is_no_image_is_named(tmp_path: Path, content: bytes, name: str, suffix: str) -> None:
    file = tmp_path / f"no image{suffix}"
    file.write_bytes(content)
    with pytest.raises(ImageError) as caught:
        decode(file, 8)
    assert str(caught.value) == f"cannot be decoded: {name}"


def test_bytes_of_no_known_kind_are_not_given_a_name(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(bytes(range(128, 256)) * 4)
    with pytest.raises(
        ImageError,
        match=r"^cannot be decoded: not an image of a kind that Pillow reads, or one that is cut",
    ):
        decode(tmp_path / "a.png", 8)
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(ImageError, match=r"^cannot be read: Is a directory$"):
        decode(tmp_path / "folder.png", 8)
