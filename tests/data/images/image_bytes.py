"""Writes files that Pillow does not write: 16-bit color PNG, and TIFF of any kind of sample."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np

_COLOR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def write_png16(path: Path, samples: np.ndarray, extra: bytes = b"") -> None:
    """``samples``: uint16 [H, W] or [H, W, C], C of 2 (grey, alpha), 3 or 4. ``extra``: chunks
    before the data."""
    samples = samples[:, :, None] if samples.ndim == 2 else samples
    height, width, channels = samples.shape
    rows = samples.astype(">u2").tobytes()
    stride = 2 * channels * width
    # Filter "sub": each byte less that of the pixel before, so that the size of a pixel matters.
    raw = np.frombuffer(rows, np.uint8).reshape(height, width, 2 * channels)
    raw = np.concatenate([raw[:, :1], raw[:, 1:] - raw[:, :-1]], axis=1).reshape(height, stride)
    body = b"".join(b"\x01" + row.tobytes() for row in raw)
    header = struct.pack(">IIBBBBB", width, height, 16, _COLOR_TYPES[channels], 0, 0, 0)
    chunks = (
        png_chunk(b"IHDR", header)
        + extra
        + png_chunk(b"IDAT", zlib.compress(body))
        + png_chunk(b"IEND", b"")
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)


def write_tiff(
    path: Path,
    samples: np.ndarray,
    *,
    photometric: int = 1,
    big_endian: bool = False,
    orientation: int = 1,
    deflate: bool = False,
) -> None:
    """``samples``: [H, W] or [H, W, C] of the type to be written; a fourth channel is alpha.
    photometric: 0 white is zero, 1 black is zero, 2 RGB."""
    order = ">" if big_endian else "<"
    samples = samples[:, :, None] if samples.ndim == 2 else samples
    height, width, channels = samples.shape
    data = samples.astype(samples.dtype.newbyteorder(order)).tobytes()
    data = zlib.compress(data) if deflate else data
    data += b"\0" * (len(data) % 2)
    extra = b""
    entries = []

    def entry(tag: int, values: list[int], code: str = "H") -> None:
        nonlocal extra
        packed = struct.pack(f"{order}{len(values)}{code}", *values)
        if len(packed) > 4:
            offset = struct.pack(f"{order}I", 8 + len(data) + len(extra))
            extra += packed + b"\0" * (len(packed) % 2)
            packed = offset
        entries.append(
            struct.pack(f"{order}HHI", tag, {"H": 3, "I": 4}[code], len(values))
            + packed.ljust(4, b"\0")
        )

    entry(256, [width])
    entry(257, [height])
    entry(258, [8 * samples.dtype.itemsize] * channels)
    entry(259, [8 if deflate else 1])
    entry(262, [photometric])
    entry(273, [8], "I")
    entry(274, [orientation])
    entry(277, [channels])
    entry(278, [height])
    entry(279, [len(data)], "I")
    if channels == 4:
        entry(338, [2])
    entry(339, [{"u": 1, "i": 2, "f": 3}[samples.dtype.kind]] * channels)
    directory = struct.pack(f"{order}H", len(entries)) + b"".join(entries) + b"\0\0\0\0"
    start = struct.pack(f"{order}I", 8 + len(data) + len(extra))
    path.write_bytes((b"MM\0*" if big_endian else b"II*\0") + start + data + extra + directory)
