"""The rows that the model was most wrong about, with their cells and images."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np

from gaal_fast.data import FusionData
from gaal_fast.data.sides import ImageSide
from gaal_fast.engine.analysis.measures import Measures
from gaal_fast.engine.analysis.passes import PartPass
from gaal_fast.tasks import FUSED, Classification, Predictions, Regression

MOST = 12  # rows of the user's data that a run folder may hold
_CELLS, _TEXT = 12, 80  # cells of a row, letters of a cell
_IMAGES, _SIDE = 3, 96  # images of a row, pixels of their longer side


def mistakes(
    part: PartPass,
    predictions: Predictions,
    measures: Measures,
    data: FusionData,
    columns: list[str],
    count: int = MOST,
) -> list[dict[str, Any]]:
    """Wrong predictions of highest confidence, or the largest errors of a regression.

    Args:
        part: Which rows they are.
        predictions: Of the part, calibrated.
        measures: Of the task.
        data: What the rows hold.
        columns: Feature columns of the main table, the most important ones first.
        count: At most so many.
    """
    known = np.flatnonzero(measures.known(predictions.target))
    output, target = predictions.outputs[FUSED][known], predictions.target[known]
    outcome, task = measures.outcome(output, target), measures.task
    used = predictions.used_modalities()
    if isinstance(task, Classification):
        shifted = np.exp(output - output.max(axis=1, keepdims=True))
        confidence = 1 / shifted.sum(axis=1)
        wrong = np.flatnonzero(outcome == 0)
        order = wrong[np.argsort(-confidence[wrong], kind="stable")]
    else:
        order = np.argsort(-outcome, kind="stable")
    found = []
    for place in order[: min(count, MOST)].tolist():
        row = int(part.rows[known[place]])
        if isinstance(task, Classification):
            guess = task.classes[int(output[place].argmax())]
            words: dict[str, Any] = {
                "true": str(task.classes[int(target[place])]),
                "predicted": str(guess),
                "confidence": float(confidence[place]),
            }
        else:
            assert isinstance(task, Regression)
            words = {
                "true": [float(value) for value in target[place]],
                "predicted": [float(value) for value in task.values(output[place : place + 1])[0]],
                "error": float(outcome[place]),
            }
        cells = _cells(data, row, columns)
        images = _images(data, row)
        used_here = used[int(known[place])]
        found.append({"row": row + 1, **words, "used": used_here, "cells": cells, "images": images})
    return found


def _cells(data: FusionData, row: int, columns: list[str]) -> list[tuple[str, str]]:
    """Column and text of each, as a list: a name of the user's is never a key."""
    found = []
    for column in [name for name in columns if name in data.frame.columns][:_CELLS]:
        cell = data.frame[column].iloc[row]
        text = "" if cell is None or cell != cell else str(cell)
        found.append((str(column), text if len(text) <= _TEXT else text[: _TEXT - 1] + "…"))
    return found


def _images(data: FusionData, row: int) -> dict[str, str]:
    """Small JPEG images of a row by modality, as base64."""
    from PIL import Image

    found = {}
    sides = [side for side in data.modalities.values() if isinstance(side, ImageSide)]
    for side in sides[:_IMAGES]:
        pixels, _ = side.store.get(row)
        if pixels is None:
            continue
        image = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
        image.thumbnail((_SIDE, _SIDE))
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=85)
        found[side.name] = base64.b64encode(stream.getvalue()).decode("ascii")
    return found
