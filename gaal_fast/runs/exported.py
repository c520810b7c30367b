"""An exported run on disk: the graph, and beside it in JSON what its inputs and outputs mean."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from json import dumps
from pathlib import Path
from typing import Any, Literal, NamedTuple

from gaal_fast.errors import UserError
from gaal_fast.files import write_bytes, write_text

Format = Literal["pt2", "onnx"]
FORMATS: tuple[Format, ...] = ("pt2", "onnx")
BATCH = "batch"  # what the number of rows is called
STEM = "model"  # of a graph in a folder


class Input(NamedTuple):
    """An input of the graph.

    Attributes:
        name: An identifier.
        kind: What it holds.
        modality: Of which input of the model, "" for ``present``.
        dtype: As torch and NumPy call it.
        shape: Of a row.
    """

    name: str
    kind: Literal["present", "image", "numbers", "codes", "embedding"]
    modality: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Output:
    """The output of the graph.

    Attributes:
        name: An identifier.
        dtype: As torch and NumPy call it.
        columns: What each number of a row is called in the table that ``predict`` writes.
    """

    name: str
    dtype: str
    columns: Sequence[str]


def files_of(out: Path | None, form: Format, run: Path) -> tuple[Path, Path]:
    """The files of the graph and of its JSON.

    Args:
        out: What was asked for: a file with the suffix of the format, or else a folder. None: in
            the run folder.
        form: The format of the graph.
        run: The run folder.

    Raises:
        UserError: With the key ``out``, for the suffix of another format.
    """
    out = run / f"{STEM}.{form}" if out is None else out
    suffix = out.suffix[1:].lower()
    if suffix != form and suffix in FORMATS:
        raise UserError(f": {out} must end in .{form}, as --format says", key="out")
    graph = out if suffix == form else out / f"{STEM}.{form}"
    return graph, graph.with_name(f"{graph.name}.json")


def write_export(graph: Path, facts: Path, content: bytes, meaning: Mapping[str, Any]) -> None:
    """Write both files, or neither; their folder is made if it is not there."""
    made = not graph.parent.exists()
    try:
        graph.parent.mkdir(exist_ok=True)
        write_bytes(graph, content)
        write_text(facts, dumps(meaning, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    except BaseException:
        graph.unlink(missing_ok=True)
        if made and graph.parent.exists():
            os.rmdir(graph.parent)
        raise
