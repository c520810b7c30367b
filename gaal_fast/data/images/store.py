"""The decoded images of a data set, by row: decoded when asked for, or once and kept in memory or
in a file.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from tqdm import tqdm

from gaal_fast.data.images.archive import stamp
from gaal_fast.data.images.decode import ImageError, Ranges, Resampling, decode
from gaal_fast.data.issues import DataIssue
from gaal_fast.errors import UserError
from gaal_fast.files import replacing, write_text

CacheMode = Literal["auto", "none", "ram", "disk"]
AUTO_RAM_BYTES = 2**30
_FORMAT = 2  # raise when the decoding changes, so that an old cache file is not read


def available_cpus() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_cache_dir() -> Path:
    """Where decoded images are kept if no folder is given ($XDG_CACHE_HOME, else ~/.cache)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gaal_fast" / "images"


class ImageStore:
    """Square uint8 images by row number.

    A cache file's name is a hash of the paths, times and lengths of the image files, of the size
    and of the ranges, so it is never stale and can be shared; it is written whole or not at all.

    Args:
        paths: One per row, None for a row without an image. Rows may share a file, which is then
            decoded and kept once.
        size: Side of the square, in pixels.
        column: The image column, for issues.
        mode: "none" decodes at each use; "ram" and "disk" decode everything in ``fill``; "auto" is
            "ram" up to ``AUTO_RAM_BYTES`` of pixels, else "none".
        cache_dir: Folder of the cache files; None: that of the user.
        ranges: Kind of image to the values that become 0 and 255, as ``decode`` takes them.
        resampling: How images are resized.
    """

    def __init__(
        self,
        paths: Sequence[str | None],
        size: int,
        column: str,
        mode: CacheMode = "auto",
        cache_dir: Path | None = None,
        ranges: Ranges | None = None,
        resampling: Resampling = "bilinear",
    ):
        self.size, self.column, self.ranges = size, column, dict(ranges or {})
        self.resampling = resampling
        self.files = list(dict.fromkeys(path for path in paths if path is not None))
        slot_of = {path: slot for slot, path in enumerate(self.files)}
        self.slots = np.fromiter(
            (-1 if path is None else slot_of[path] for path in paths), np.int64, len(paths)
        )
        if mode == "auto":
            mode = "ram" if len(self.files) * self._image_bytes <= AUTO_RAM_BYTES else "none"
        self.mode = mode
        self.cache_dir = cache_dir
        self._broken: dict[int, str] = {}
        self._memory: torch.Tensor | None = None
        self._file: Path | None = None
        self._mapped: np.memmap | None = None

    @property
    def _image_bytes(self) -> int:
        return 3 * self.size * self.size

    @property
    def cached(self) -> bool:
        """Whether ``get`` needs no decoding."""
        return self._memory is not None or self._file is not None

    @property
    def present(self) -> np.ndarray:
        """bool [N]: rows that have an image, less those known to be broken (all of them once
        ``fill`` has cached).
        """
        return (self.slots >= 0) & ~np.isin(self.slots, list(self._broken))

    def issues(self) -> list[DataIssue]:
        """One for each row whose image is known to be broken."""
        rows = np.flatnonzero(np.isin(self.slots, list(self._broken)))
        return [self._issue(int(row)) for row in rows]

    def get(self, row: int) -> tuple[torch.Tensor | None, DataIssue | None]:
        """uint8 [3, size, size] of a row, not to be changed in place; None without one, with an
        issue if it is broken.
        """
        slot = int(self.slots[row])
        if slot < 0:
            return None, None
        if slot in self._broken:
            return None, self._issue(row)
        if self._memory is not None:
            return self._memory[slot], None
        if self._file is not None:
            if self._mapped is None:
                self._mapped = np.memmap(self._file, np.uint8, "r", shape=self._shape)
            return torch.from_numpy(np.array(self._mapped[slot])), None
        try:
            return self._decode(slot), None
        except ImageError as error:
            self._broken[slot] = str(error)
            return None, self._issue(row)

    def fill(self, progress: bool = True) -> None:
        """Decodes every image once, on all processors, if the mode keeps them.

        Raises:
            UserError: The disk is full.
        """
        if self.cached or not self.files or self.mode == "none":
            return
        if self.mode == "ram":
            memory = torch.zeros(self._shape, dtype=torch.uint8)
            for slot, image in self._decode_all(progress):
                memory[slot] = image
            self._memory = memory
            return
        folder = self.cache_dir or default_cache_dir()
        try:
            self._fill_disk(Path(folder).expanduser(), progress)
        except OSError as error:
            message = f": cannot write {folder}: {error.strerror or error}"
            raise UserError(message, key="data.cache-dir") from error

    @property
    def _shape(self) -> tuple[int, int, int, int]:
        return (len(self.files), 3, self.size, self.size)

    def _issue(self, row: int) -> DataIssue:
        slot = int(self.slots[row])
        return DataIssue(row, self.column, self.files[slot], self._broken[slot])

    def _decode(self, slot: int) -> torch.Tensor:
        options: dict[str, Any] = {"ranges": self.ranges} if self.ranges else {}
        if self.resampling != "bilinear":
            options["resampling"] = self.resampling
        return decode(self.files[slot], self.size, **options)

    def _decode_all(self, progress: bool) -> Iterator[tuple[int, torch.Tensor]]:
        """(slot, image) in the order of the files; broken ones are noted and skipped."""

        def attempt(slot: int) -> torch.Tensor | str:
            try:
                return self._decode(slot)
            except ImageError as error:
                return str(error)

        threads = min(16, available_cpus())
        bar = tqdm(
            total=len(self.files),
            desc="decoding images",
            unit="img",
            leave=False,
            disable=None if progress else True,
        )
        pool = ThreadPoolExecutor(threads)
        try:
            # In blocks, so that no more than a block of decoded images waits for its consumer.
            for start in range(0, len(self.files), 1024):
                block = range(start, min(start + 1024, len(self.files)))
                for slot, result in zip(block, pool.map(attempt, block), strict=True):
                    bar.update()
                    if isinstance(result, str):
                        self._broken[slot] = result
                    else:
                        yield slot, result
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            bar.close()

    def _fill_disk(self, folder: Path, progress: bool) -> None:
        key = self._key()
        pixels, notes = folder / f"{key}.u8", folder / f"{key}.json"
        if not self._reuse(pixels, notes):
            folder.mkdir(parents=True, exist_ok=True)
            with replacing(pixels) as file:
                for slot, image in self._decode_all(progress):
                    file.seek(slot * self._image_bytes)
                    file.write(image.numpy().tobytes())
                file.truncate(len(self.files) * self._image_bytes)
            text = json.dumps(
                {"images": len(self.files), "size": self.size, "broken": self._broken},
                ensure_ascii=False,
            )
            write_text(notes, text)
        self._file = pixels

    def _reuse(self, pixels: Path, notes: Path) -> bool:
        # The notes are written last: where they are whole, so are the pixels.
        try:
            if pixels.stat().st_size != len(self.files) * self._image_bytes:
                return False
            broken = json.loads(notes.read_text(encoding="utf-8"))["broken"]
            self._broken = {int(slot): str(reason) for slot, reason in broken.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return False
        return True

    def _key(self) -> str:
        digest = hashlib.sha256(f"{_FORMAT}\n{self.size}\n{sorted(self.ranges.items())}\n".encode())
        if self.resampling != "bilinear":  # which files of before there was a choice were made by
            digest.update(f"{self.resampling}\n".encode())
        for path in self.files:
            try:
                changed, size = stamp(path)
                words = f"{changed} {size}"
            except OSError:
                words = "none"
            digest.update(f"{os.path.abspath(path)}\n{words}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def __getstate__(self) -> dict:
        # A memory map would be pickled as its whole contents; a worker process opens its own.
        return {**self.__dict__, "_mapped": None}
