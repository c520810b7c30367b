"""How the files of a data set are read: decided once in training, said, kept in the run folder, and
applied again at prediction.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from gaal_fast.data.issues import some
from gaal_fast.data.tables.number_cells import NumberStyle
from gaal_fast.errors import UserError
from gaal_fast.files import write_text

READING_FILE = "reading.json"

ENCODING_NAMES = {"utf-8": "UTF-8", "utf-16": "UTF-16", "utf-32": "UTF-32"}
_MARK_NAMES = {
    ".": "point",
    ",": "comma",
    ";": "semicolon",
    "\t": "tab",
    "|": "pipe",
    " ": "blank",
    "'": "apostrophe",
}


def mark_name(mark: str) -> str:
    """A mark in words: "comma", "tab"; an unusual one in quotes."""
    return _MARK_NAMES.get(mark, f'"{mark}"')


@dataclass(frozen=True)
class TableReading:
    """What was decided about the text of a table.

    Attributes:
        encoding: Of the file, "" if it is no text (Parquet).
        delimiter: Of the file, "" likewise.
        decimal: The mark in its numbers.
        thousands: The mark between thousands, "" for none.
        missing_values: Cells declared to hold no value.
        numbers: Column to how its numbers are written, where that is not 1234.5 throughout.
    """

    encoding: str = ""
    delimiter: str = ""
    decimal: str = "."
    thousands: str = ""
    missing_values: tuple[str, ...] = ()
    numbers: dict[str, NumberStyle] = field(default_factory=dict)

    def __post_init__(self) -> None:
        styles = {
            name: style if isinstance(style, NumberStyle) else NumberStyle(**style)
            for name, style in self.numbers.items()
        }
        object.__setattr__(self, "numbers", styles)

    def describe(self) -> list[str]:
        """What was decided: one line on the file, one on each kind of number that is unlike the
        rest.
        """
        text = [
            ENCODING_NAMES.get(self.encoding, self.encoding),
            f"{mark_name(self.delimiter)}-separated",
        ]
        marks = [f"decimal {mark_name(self.decimal)}"]
        marks.append(
            f"thousands {mark_name(self.thousands)}" if self.thousands else "no thousands mark"
        )
        lines = [f"read as: {', '.join([*(text if self.encoding else ['Parquet']), *marks])}"]
        if self.missing_values:
            lines[0] += f", missing: {some(self.missing_values)}"
        unlike: dict[str, list[str]] = {}
        for name, style in self.numbers.items():
            kind = self._unlike(style)
            if kind:
                unlike.setdefault(kind, []).append(name)
        return lines + [f"numbers with {kind}: {some(names)}" for kind, names in unlike.items()]

    def _unlike(self, style: NumberStyle) -> str:
        """In what a style differs from the file's."""
        parts = []
        if style.decimal not in ("", self.decimal):
            parts.append(f"decimal {mark_name(style.decimal)}")
        if style.thousands not in ("", self.thousands):
            parts.append(f"thousands {mark_name(style.thousands)}")
        affixes = [f'"{affix}"' for affix in (style.prefix, style.suffix) if affix]
        return ", ".join(parts + affixes)


@dataclass(frozen=True)
class ImageReading:
    """Which values become 0 and 255 in images of more than 8 bits.

    Attributes:
        bits16: Of 16-bit grays and colors; None, here as below, where the training images had no
            such file.
        integer: Of signed or wider grays.
        floating: Of grays of floats.
        given: Whether the user gave the range, and so the same for all kinds.
    """

    bits16: tuple[float, float] | None = None
    integer: tuple[float, float] | None = None
    floating: tuple[float, float] | None = None
    given: bool = False

    def __post_init__(self) -> None:
        for low, high in self.ranges.values():
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise ValueError(f"{low:g} to {high:g} is no range of pixel values")

    @classmethod
    def of(cls, ranges: Mapping[str, tuple[float, float]], *, given: bool = False) -> ImageReading:
        """From a range for each kind of image, as ``ranges`` returns them."""
        return cls(ranges.get("16-bit"), ranges.get("integer"), ranges.get("float"), given)

    @property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """Kind of image, as ``images.decode`` calls it -> the values that become 0 and 255."""
        found = {"16-bit": self.bits16, "integer": self.integer, "float": self.floating}
        return {kind: limits for kind, limits in found.items() if limits is not None}

    def describe(self) -> list[str]:
        """What was decided, one line each, for the console; nothing where it is what everybody
        expects.
        """
        if self.given and self.bits16 is not None:
            low, high = self.bits16
            return [
                f"images of more than 8 bits: values {low:g} to {high:g} become 0 to 255 "
                "(--data.image-range)"
            ]
        return [
            f"{kind} images: values {low:g} to {high:g} become 0 to 255 "
            "(found in the training images; --data.image-range changes it)"
            for kind, (low, high) in self.ranges.items()
        ]


@dataclass(frozen=True)
class Reading:
    """Everything that was decided about how files are read.

    Attributes:
        table: About the main table.
        images: About the images of the first image column.
        tables: About further tables, by modality.
        more_images: About further image columns, by modality.
    """

    table: TableReading = field(default_factory=TableReading)
    images: ImageReading = field(default_factory=ImageReading)
    tables: dict[str, TableReading] = field(default_factory=dict)
    more_images: dict[str, ImageReading] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        table: TableReading,
        images: Mapping[str, ImageReading],
        tables: Mapping[str, TableReading],
    ) -> Reading:
        """From the readings of all modalities, in order."""
        names = list(images)
        first = images[names[0]] if names else ImageReading()
        return cls(table, first, dict(tables), {name: images[name] for name in names[1:]})

    def of_images(self, modality: str) -> ImageReading:
        """What was decided about the images of a modality."""
        return self.more_images.get(modality, self.images)

    def describe(self) -> list[str]:
        """What was decided about the main table and images, one line each."""
        lines = self.table.describe() + self.images.describe()
        for name, reading in self.more_images.items():
            lines += [f"{name}: {line}" for line in reading.describe()]
        return lines

    def save(self, folder: Path) -> None:
        """Write ``reading.json`` into a folder that exists."""
        content = asdict(self)
        for later in ("tables", "more_images"):
            if not content[later]:
                del content[later]
        write_text(
            Path(folder) / READING_FILE, json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        )

    @classmethod
    def load(cls, folder: Path) -> Reading:
        """Read what ``save`` wrote.

        Raises:
            UserError: The file is absent or is not such a file.
        """
        path = Path(folder) / READING_FILE
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            more = content.get("more_images", {})
            return cls(
                _from_dict(TableReading, content["table"]),
                _from_dict(ImageReading, content["images"]),
                {k: _from_dict(TableReading, v) for k, v in content.get("tables", {}).items()},
                {k: _from_dict(ImageReading, v) for k, v in more.items()},
            )
        except FileNotFoundError:
            raise UserError(
                f"{folder} does not say how its files were read (no {READING_FILE})"
            ) from None
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(f"{path} is damaged: {' '.join(str(error).split())}") from None


def _from_dict(kind: type, content: dict[str, Any]) -> Any:
    """A dataclass from its JSON form: lists become the tuples they were."""
    if set(content) != {item.name for item in fields(kind)}:
        raise ValueError(f"the fields of {kind.__name__} differ")
    return kind(
        **{
            name: tuple(value) if isinstance(value, list) else value
            for name, value in content.items()
        }
    )
