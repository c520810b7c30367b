"""The demo set as a folder: written once, whole or not at all, and found again."""

from __future__ import annotations

import contextlib
import csv
import glob
import hashlib
import io
import json
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from gaal_fast.demo.catalogue import (
    BODIES,
    COLUMNS,
    CURRENCY,
    DEMO_ROWS,
    DEMO_VERSION,
    GLAZES,
    IMAGE_COLUMN,
    IMAGE_SIZE,
    KINDS,
    MAKERS,
    MATERIALS,
    MEASURES,
    SPECIFICATIONS,
    TARGET,
    Items,
    sample_items,
)
from gaal_fast.demo.drawing import render_image
from gaal_fast.demo.posterior import best_possible, best_possible_error
from gaal_fast.errors import UserError

_CSV_NAME = "catalogue.csv"
_IMAGE_FOLDER = "images"
_MARKER_NAME = "demo.json"
_LAYOUT = 1  # of the folder; raise when names in it change
_STALE_SECONDS = 3600.0


class DemoPaths(NamedTuple):
    """Where the demo set lies: what --data.csv, --data.images, --data.image-column and
    --data.target take.
    """

    csv: Path
    images: Path
    image_column: str
    target: str


def _png_bytes(pixels: np.ndarray) -> bytes:
    """A PNG of uint8 [height, width, 3], uncompressed, so that every image has the same length."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", compress_level=0)
    return stream.getvalue()


def _image_name(row: int) -> str:
    return f"{row:05d}.png"


def _csv_rows(items: Items) -> Iterator[list[str]]:
    """The table as text, row by row, in the order of COLUMNS; a missing cell is empty."""
    for row in range(len(items)):
        measures = [
            f"{tick / 10**measure.decimals:.{measure.decimals}f}" if written else ""
            for tick, written, measure in zip(
                items.ticks[row].tolist(), items.written[row], MEASURES, strict=True
            )
        ]
        yield [
            f"HW-{row:05d}",
            _image_name(row),
            *measures,
            MATERIALS[items.material[row]] if items.material[row] >= 0 else "",
            MAKERS[items.maker[row]] if items.maker[row] >= 0 else "",
            GLAZES[items.glaze[row]] if items.glaze_written[row] else "",
            str(items.catalogue_page[row]),
            str(items.stock_count[row]),
            CURRENCY,
            KINDS[items.kind[row]],
        ]


def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    try:
        return ImageFont.load_default(size)
    except ImportError:  # Pillow without FreeType: one fixed size
        return ImageFont.load_default()


def _contact_sheet(items: Items, images: np.ndarray) -> Image.Image:
    """Examples of every kind: nine as it usually looks, three that look like the other kind of its
    pair.
    """
    cell, gap, left, top, usual, rare = 80, 4, 96, 34, 9, 3
    step = cell + gap
    divide = 20
    width = left + usual * step + divide + rare * step + 96
    sheet = Image.new("RGB", (width, top + len(KINDS) * step + gap), (250, 249, 246))
    draw = ImageDraw.Draw(sheet)
    title, text, ink = _font(15), _font(13), (50, 48, 56)
    draw.text((left, 9), "as it usually looks", fill=ink, font=title)
    draw.text((left + usual * step + divide, 9), "as its look-alike does", fill=ink, font=title)
    for y, kind in enumerate(SPECIFICATIONS):
        own = 2 * BODIES.index(kind.body) + int(kind.part_shown > 0.5)
        mate = next(
            other.name for other in SPECIFICATIONS if other.body == kind.body and other is not kind
        )
        line = top + y * step
        draw.text((10, line + cell // 2 - 9), kind.name, fill=ink, font=title)
        draw.text((width - 92, line + cell // 2 - 8), f"like a {mate}", fill=ink, font=text)
        for at, count, chosen in (
            (left, usual, items.look == own),
            (left + usual * step + divide, rare, items.look == own ^ 1),
        ):
            for column, row in enumerate(np.flatnonzero((items.kind == y) & chosen)[:count]):
                image = Image.fromarray(images[row]).resize((cell, cell), Image.Resampling.BICUBIC)
                sheet.paste(image, (at + column * step, line))
    return sheet


_README = """\
gaal_fast demo set, version {version}, seed {seed}: a housewares catalogue
{rows} items of {kinds} kinds. Rendered, not photographed; made again from the seed if this folder
is deleted.

{csv:<18} the table, one row per item; an empty cell is a missing value
{images:<18} the images named in the column "{image_column}", {size} x {size} RGB
contact_sheet.png  examples of every kind

Columns
  item_id         unique
  {image_column:<15} file name in {images}
  height_cm       height in centimetres
  weight_g        weight in grams; left out more often for some kinds than for others
  price_eur       price in euros
  wall_mm         thickness of the wall in millimetres
  material        {materials}
  maker           {makers} makers, most of them rare
  glaze           the color in the image; says nothing about the kind
  catalogue_page  says nothing about the kind
  stock_count     says nothing about the kind
  currency        always {currency}
  {target:<15} the class to predict

How it is made
  The kinds come in pairs that share a body: {pairs}.
  A part (handle, spout, hoop, shade) tells the two of a pair apart, and is often turned away,
  folded down or taken off. So an image always gives the pair away and only sometimes the kind. The
  table separates the two of a pair by size, weight and price, and confuses kinds of different
  pairs.

Best possible accuracy on fresh items, from the exact posterior of the generative model (standard
error in brackets)
  image and table  {multi:.4f} ({multi_error:.4f})
  image alone      {image:.4f} (exact)
  table alone        {table:.4f} ({table_error:.4f})

Train on it as on any other data:
  python -m gaal_fast.train --data.csv {csv} --data.images {images} \\
      --data.image-column {image_column} --data.target {target}
"""


def _readme(seed: int, rows: int) -> str:
    best, error = best_possible(), best_possible_error()
    pairs = (
        " / ".join(kind.name for kind in SPECIFICATIONS if kind.body == body) for body in BODIES
    )
    return _README.format(
        version=DEMO_VERSION,
        seed=seed,
        rows=rows,
        kinds=len(KINDS),
        csv=_CSV_NAME,
        images=_IMAGE_FOLDER + "/",
        image_column=IMAGE_COLUMN,
        target=TARGET,
        size=IMAGE_SIZE,
        materials=", ".join(MATERIALS),
        makers=len(MAKERS),
        currency=CURRENCY,
        pairs=", ".join(pairs),
        multi_error=error["multi"],
        table_error=error["table"],
        **best,
    )


def _write(folder: Path, seed: int, rows: int) -> None:
    """Render the whole set into an empty folder; the marker comes last."""
    items = sample_items(rows, seed)
    (folder / _IMAGE_FOLDER).mkdir()
    images = np.empty((rows, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    for row in tqdm(
        range(rows), desc="Rendering the demo set", unit="image", leave=False, disable=None
    ):
        images[row] = render_image(items, row, seed)
        (folder / _IMAGE_FOLDER / _image_name(row)).write_bytes(_png_bytes(images[row]))
    with open(folder / _CSV_NAME, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(_csv_rows(items))
    _contact_sheet(items, images).save(folder / "contact_sheet.png")
    (folder / "README.txt").write_text(_readme(seed, rows), encoding="utf-8", newline="\n")
    marker = {
        "demo": "gaal_fast",
        "version": DEMO_VERSION,
        "seed": seed,
        "rows": rows,
        "csv_sha256": hashlib.sha256((folder / _CSV_NAME).read_bytes()).hexdigest(),
    }
    (folder / _MARKER_NAME).write_text(
        json.dumps(marker, indent=2) + "\n", encoding="utf-8", newline="\n"
    )


def _marker(folder: Path) -> dict | None:
    """What the folder says it holds, or None if it does not say that it is a demo set."""
    try:
        marker = json.loads((folder / _MARKER_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return marker if isinstance(marker, dict) and marker.get("demo") == "gaal_fast" else None


def _is_whole(folder: Path, seed: int, rows: int) -> bool:
    """True if nothing of this version and seed is missing: marker, table by its hash, images by
    name and size.
    """
    marker = _marker(folder)
    if marker is None or (marker.get("version"), marker.get("seed"), marker.get("rows")) != (
        DEMO_VERSION,
        seed,
        rows,
    ):
        return False
    expected = len(_png_bytes(np.zeros((IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)))
    try:
        digest = hashlib.sha256((folder / _CSV_NAME).read_bytes()).hexdigest()
        with os.scandir(folder / _IMAGE_FOLDER) as entries:
            sizes = {entry.name: entry.stat().st_size for entry in entries}
    except OSError:
        return False
    return digest == marker.get("csv_sha256") and all(
        sizes.get(_image_name(row)) == expected for row in range(rows)
    )


def _default_roots(seed: int) -> list[Path]:
    """The per-user cache, then a folder of this user among the temporary files.

    Each layout has a name of its own, so that runs trained on the set of an earlier version find
    their files.
    """
    name = f"demo-v{DEMO_VERSION}.{_LAYOUT}-seed{seed}"
    roots = []
    cache = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(cache):
        roots.append(Path(cache) / "gaal_fast" / name)
    else:
        with contextlib.suppress(RuntimeError):  # no home directory
            roots.append(Path.home() / ".cache" / "gaal_fast" / name)
    owner = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    roots.append(Path(tempfile.gettempdir()) / f"gaal_fast-{owner}" / name)
    return roots


def _remove_stale(root: Path) -> None:
    """Drop what killed runs left beside ``root``; a younger folder may belong to a run that is
    still at work.
    """
    for partial in root.parent.glob(f".{glob.escape(root.name)}.*.partial"):
        with contextlib.suppress(OSError):  # another process may be removing it too
            if time.time() - partial.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(partial, ignore_errors=True)


def _put_aside(root: Path) -> None:
    """Make way at ``root``: a set that is broken or was edited is kept under a new name, an empty
    folder is not.
    """
    with contextlib.suppress(OSError):
        root.rmdir()
        return
    number = 1
    while (kept := root.with_name(f"{root.name}.replaced-{number}")).exists():
        number += 1
    os.rename(root, kept)
    warnings.warn(
        f"{root} was incomplete or edited: rendered anew, the old folder is kept as {kept}",
        stacklevel=4,
    )


def _render(root: Path, seed: int, rows: int) -> None:
    """Write the set beside ``root`` and rename it into place, so that ``root`` is either whole or
    not there.
    """
    root.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(root)
    fresh = root.parent / f".{root.name}.{os.getpid()}-{os.urandom(4).hex()}.partial"
    try:
        fresh.mkdir()
        _write(fresh, seed, rows)
        if _is_whole(root, seed, rows):  # another process was first, with the same bytes
            return
        if root.exists():
            _put_aside(root)
        try:
            os.rename(fresh, root)
        except OSError:
            if not _is_whole(root, seed, rows):
                raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def ensure_demo(root: Path | None = None, seed: int = 0) -> DemoPaths:
    """Render the demo set unless it is there already, and say where it lies.

    Args:
        root: The folder of the set itself. Default: ``gaal_fast/demo-v<version>.<layout>-seed<N>``
            in the per-user cache (``XDG_CACHE_HOME``, else ``~/.cache``), or among the temporary
            files if that cannot be written.
        seed: Which set, a whole number >= 0. The same seed and version give the same table bytes
            and the same pixels.

    Returns:
        The paths and column names that the data flags take.

    Raises:
        UserError: A bad seed, a ``root`` that holds something else, or no room to write.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise UserError(f"seed of the demo set must be a whole number >= 0, not {seed!r}")
    roots = _default_roots(seed) if root is None else [Path(root)]
    place = next((folder for folder in roots if _is_whole(folder, seed, DEMO_ROWS)), None)
    reason = ""
    for folder in roots if place is None else ():
        try:
            if root is not None:
                _refuse_foreign(folder, seed)
            _render(folder, seed, DEMO_ROWS)
        except OSError as error:
            reason = reason or f"{folder}: {error.strerror or error}"
            continue
        place = folder
        break
    if place is None:
        raise UserError(f"cannot write the demo set to {reason}")
    return DemoPaths(place / _CSV_NAME, place / _IMAGE_FOLDER, IMAGE_COLUMN, TARGET)


def _refuse_foreign(folder: Path, seed: int) -> None:
    """Raise UserError if ``folder``, named by the user, holds anything but this demo set, whole or
    broken.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UserError(f"{folder} is a file; the demo set needs a folder")
    marker = _marker(folder)
    if marker is None:
        if any(folder.iterdir()):
            raise UserError(
                f"{folder} holds other files; name a new or empty folder for the demo set"
            )
    elif (marker.get("version"), marker.get("seed")) != (DEMO_VERSION, seed):
        found = f"version {marker.get('version')}, seed {marker.get('seed')}"
        raise UserError(
            f"{folder} holds the demo set of {found}, not version {DEMO_VERSION}, seed {seed}"
        )
