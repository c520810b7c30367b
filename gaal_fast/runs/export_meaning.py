"""What the inputs and outputs of an exported run mean, as the JSON file beside it says it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from gaal_fast import __version__
from gaal_fast.data.reading import Reading, TableReading
from gaal_fast.data.sides import TABLE, EmbeddingScale, image_names_of
from gaal_fast.data.tables.cells import LARGEST_NUMBER, MISSING_TOKENS, MISSING_WORDS
from gaal_fast.data.tables.date_cells import ISO, TIME_OF_DAY
from gaal_fast.data.tables.dates import FIRST_YEAR, LAST_YEAR
from gaal_fast.data.tables.fitted import MISSING_CODE, FittedTable
from gaal_fast.data.tables.number_cells import PLAIN
from gaal_fast.data.tables.schema import TableSchema
from gaal_fast.data.tables.truth import FALSE, TRUE, spellings
from gaal_fast.runs.environment import PACKAGES, versions
from gaal_fast.runs.exported import BATCH, Format, Input, Output

# Raised with every change that a reader of the file has to know of.
FORMAT_VERSION = 1
_PACKAGES = (*PACKAGES, "onnx", "onnxscript", "onnxruntime")


def meaning_of(
    form: Format,
    inputs: Sequence[Input],
    output: Output,
    task: str,
    schema: TableSchema,
    reading: Reading,
    tables: Mapping[str, tuple[TableSchema, FittedTable]],
    scales: Mapping[str, EmbeddingScale],
    resampling: str,
) -> dict[str, Any]:
    """All that is needed to feed the graph and to read its answer, as JSON.

    Args:
        form: The format of the graph.
        inputs: Of the graph, in order.
        output: Of the graph.
        task: What is predicted.
        schema: Of the main table.
        reading: How the files of the training were read.
        tables: By modality, the schema of each table and what was learned of it.
        scales: By modality, what was learned of each embedding.
        resampling: How images are resized, as Pillow calls it.
    """
    images = image_names_of(schema.image_columns)
    names = dict.fromkeys(one.modality for one in inputs if one.modality)
    own: dict[str, dict[str, Input]] = {
        name: {i.kind: i for i in inputs if i.modality == name} for name in names
    }
    return {
        "format_version": FORMAT_VERSION,
        "format": form,
        "task": task,
        "target": schema.target,
        "classes": list(schema.classes),
        "inputs": [{"name": i.name, "dtype": i.dtype, "shape": [BATCH, *i.shape]} for i in inputs],
        "output": {
            "name": output.name,
            "dtype": output.dtype,
            "shape": [BATCH, len(output.columns)],
            "columns": list(output.columns),
        },
        "present": "whether a row has each of the modalities, in their order; what it lacks may"
        " hold any values. A table counts as lacking where all its cells are missing.",
        "modalities": [
            {"name": name, **_image(kinds["image"], images[name], reading, resampling)}
            if "image" in kinds
            else {"name": name, **_embedding(kinds["embedding"], scales[name])}
            if "embedding" in kinds
            else {"name": name, **_table(name, kinds, *tables[name], reading)}
            for name, kinds in own.items()
        ],
        "versions": {"gaal_fast": __version__, **versions(_PACKAGES)},
    }


def _image(one: Input, column: str, reading: Reading, resampling: str) -> dict[str, Any]:
    return {
        "kind": "image",
        "column": column,
        "input": one.name,
        "size": one.shape[1],
        "channels": "RGB",
        "values": "uint8, 0 to 255, not normalized",
        "layout": [BATCH, "channel", "row", "column"],
        "orientation": "as EXIF says",
        "transparency": "laid on white",
        "resize": "to a square without cropping, antialiased, as Pillow's resize does",
        "resampling": resampling,
        "frame": "the first one",
        "ranges": {
            kind: list(ends) for kind, ends in reading.of_images(one.modality).ranges.items()
        },
        "ranges_mean": "which values become 0 and 255 in images of more than 8 bits",
    }


def _embedding(one: Input, scale: EmbeddingScale) -> dict[str, Any]:
    return {
        "kind": "embedding",
        "input": one.name,
        "values": "as they are in the file, not standardized; a row with NaN lacks them",
        "size": one.shape[0],
        "key": scale.key,
    }


def _table(
    name: str,
    kinds: Mapping[str, Input],
    schema: TableSchema,
    fitted: FittedTable,
    reading: Reading,
) -> dict[str, Any]:
    read = reading.table if name == TABLE else reading.tables[name]
    found: dict[str, Any] = {"kind": "table"}
    if schema.key is not None:
        found["key"] = schema.key
    if "numbers" in kinds:
        found["numbers"] = {
            "input": kinds["numbers"].name,
            "missing": "NaN",
            "columns": [
                _date(column, schema) if column in schema.dates else _number(column, schema, read)
                for column in fitted.quantities
            ],
        }
    if "codes" in kinds:
        found["codes"] = {
            "input": kinds["codes"].name,
            "missing": MISSING_CODE,
            "unknown": "any code that no level has",
            "text": "without blanks around it; a whole number such as 3.0 is the text 3",
            "columns": [_category(column, schema, fitted) for column in fitted.levels],
        }
    if schema.booleans:
        found["truth"] = {"spellings": spellings(), "case": "does not matter"}
    found["missing_cells"] = sorted({*MISSING_TOKENS, *read.missing_values})
    found["missing_cells_of_numbers"] = sorted(MISSING_WORDS)
    return found


def _number(column: str, schema: TableSchema, read: TableReading) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": column,
        "kind": "number",
        "written": asdict(read.numbers.get(column, PLAIN)),
        "counts_up_to": LARGEST_NUMBER,
    }
    if column in schema.missing_texts:
        found["missing_cells"] = list(schema.missing_texts[column])
    if column in schema.booleans:
        found["truth"] = {TRUE: 1, FALSE: 0}
    return found


def _date(column: str, schema: TableSchema) -> dict[str, Any]:
    form = schema.date_formats.get(column, ISO)
    return {
        "name": column,
        "kind": "time of day" if form == TIME_OF_DAY else "date",
        "written": form,
        "value": "fraction of a day"
        if form == TIME_OF_DAY
        else "days since 1970-01-01 UTC, the time of day as a fraction",
        "years": [FIRST_YEAR, LAST_YEAR],
        "parts": "day of the month, time of the year, weekday and time of day are computed in the"
        " graph",
    }


def _category(column: str, schema: TableSchema, fitted: FittedTable) -> dict[str, Any]:
    codes = {level: code for code, level in enumerate(fitted.levels[column])}
    return {"name": column, "boolean": column in schema.booleans, "levels": codes}
