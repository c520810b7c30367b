"""An image column of a table: from its cells to a store of decoded images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from gaal_fast.data.images.find import TABLE_ALONE, resolve_images
from gaal_fast.data.images.folder import ImageFolder
from gaal_fast.data.images.names import image_names
from gaal_fast.data.images.range import decide_ranges, extend_ranges, survey, warn_of_frames
from gaal_fast.data.images.store import ImageStore
from gaal_fast.data.issues import DataIssue, warn
from gaal_fast.data.reading import ImageReading
from gaal_fast.errors import UserError

Paths = list[str | None]


def image_paths(
    series: pd.Series,
    column: str,
    folder: ImageFolder,
    warnings: list[str],
    *,
    empty_ok: bool = False,
) -> tuple[Paths, list[DataIssue]]:
    """The file of each row, as ``resolve_images`` finds it.

    Args:
        series: The cells.
        column: What the column is called in messages.
        folder: Where the files are.
        warnings: Gets what had to be changed in names.
        empty_ok: Whether a column without one image is a warning, and no error.
    """
    names = image_names(series).tolist()
    return resolve_images(names, folder, column, empty_ok=empty_ok, warnings=warnings)


def paths_for_prediction(
    series: pd.Series | None,
    column: str,
    csv: Path | str,
    images: Path | str | None,
    others_usable: bool,
    warnings: list[str],
) -> tuple[Paths | None, list[DataIssue]]:
    """As ``image_paths`` for a trained model; without any image the rest is used, if it can be.

    Args:
        series: The cells, None where the table lacks the column.
        column: The column of the training.
        csv: The table, for messages and as the place where images lie without a folder.
        images: The folder of the images, if one is named.
        others_usable: Whether there is another input to predict from.
        warnings: Gets what is said of the images.

    Returns:
        The paths, None where no image is used, and the rows that have none.

    Raises:
        UserError: There is nothing to predict from.
    """
    if series is None and (images is not None or not others_usable):
        raise UserError(f'{csv} lacks the image column the model was trained on: "{column}"')
    if images is not None:
        folder = ImageFolder(images, "--images")
        return image_paths(series, column, folder, warnings, empty_ok=others_usable)
    if series is not None:
        # As in training: neither an absolute path nor what lies beside the table needs a folder.
        folder = ImageFolder(Path(csv).expanduser().absolute().parent, "--images")
        said: list[str] = []
        paths, missing = image_paths(series, column, folder, said, empty_ok=True)
        if any(path is not None for path in paths):
            warnings += said
            return paths, missing
        if not others_usable:
            reason = said[0].removesuffix(TABLE_ALONE) if said else "no image is named"
            raise UserError(f"--images: {reason}")
    line = "no folder of images is given: predicting from the table alone"
    if line not in warnings:  # said of another column
        warn(warnings, line)
    return None, []


def read_heads(
    paths: Sequence[str | None],
    train: np.ndarray,
    given: tuple[float, float] | None,
    warnings: list[str],
) -> ImageReading:
    """What is decided about the pixels, by the images of the training rows (int64)."""
    found = survey(list(dict.fromkeys(path for path in paths if path is not None)))
    warn_of_frames(found, warnings)
    return decide_ranges(found, {paths[row] for row in train} - {None}, given, warnings)


def read_heads_again(
    paths: Sequence[str | None], trained: ImageReading, warnings: list[str]
) -> ImageReading:
    """What a former training decided about the pixels, for these images."""
    found = survey(list(dict.fromkeys(path for path in paths if path is not None)))
    warn_of_frames(found, warnings)
    return extend_ranges(found, trained, warnings)


def check_images(images: ImageStore, others: str, warnings: list[str]) -> None:
    """Count the rows without a usable image.

    others: What such a row can be trained on, "" for nothing.

    Raises:
        UserError: Not one image can be read.
    """
    unusable = int((~images.present).sum())
    if unusable == len(images.present):
        first = images.issues()[0]
        raise UserError(
            f'no image of column "{images.column}" can be read (first: {first.path}:'
            f" {first.reason})"
        )
    if unusable:
        use = f"train on their {others} alone" if others else "are not used"
        warn(warnings, f"{unusable} of {len(images.present)} rows have no usable image and {use}")
