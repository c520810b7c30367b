"""What the columns of a table mean, as it is kept with a run."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields

import numpy as np

from gaal_fast.data.issues import some
from gaal_fast.data.tables.date_cells import example
from gaal_fast.errors import UserError

# Attributes that older files lack; without a value they are not written.
_LATER = frozenset({"more_image_columns", "key", "scale"})


@dataclass(frozen=True)
class TargetScale:
    """Mean and standard deviation of a quantity over the training rows."""

    mean: float
    scale: float

    @classmethod
    def of(cls, values: np.ndarray, name: str) -> TargetScale:
        """The scale of the values (float64 [n]) of a target column called ``name``.

        Raises:
            UserError: They are all alike.
        """
        mean, scale = float(np.mean(values)), float(np.std(values))
        # A constant such as 0.1 has a standard deviation of rounding errors.
        if not scale > 1e-12 * abs(mean):
            raise UserError(
                f'target column "{name}" has one value only in the training rows: {mean:g}'
            )
        return cls(mean, scale)


@dataclass(frozen=True)
class TableSchema:
    """The meaning of a table's columns, as found by ``infer_columns`` and saved with a run.

    Attributes:
        target: The column to predict.
        classes: Its labels, naturally sorted; filled in once the target has been read.
        image_column: The images' file names, or None; the first such column where there are more.
        split_column: Only steers the split, as ``group_column`` does.
        group_column: See there.
        numeric: Numbers. Integer columns with few values stay numeric unless declared categorical.
        categorical: Levels; true/false columns are among them.
        dates: Dates, which become days since 1970-01-01 and what repeats in them.
        date_formats: Date column to how it is read.
        booleans: Columns in which every spelling of true and false is one value.
        dropped: Column to why it is no feature.
        missing_texts: Numeric column to the further texts that mean "missing" in it.
        more_image_columns: Further columns of images.
        key: Joins further tables to this one, or None.
        scale: Mean and standard deviation of a target that is a quantity; None for classes.
    """

    target: str
    classes: tuple[str | int, ...] = ()
    image_column: str | None = None
    split_column: str | None = None
    group_column: str | None = None
    numeric: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    dates: tuple[str, ...] = ()
    date_formats: dict[str, str] = field(default_factory=dict)
    booleans: tuple[str, ...] = ()
    dropped: dict[str, str] = field(default_factory=dict)
    missing_texts: dict[str, tuple[str, ...]] = field(default_factory=dict)
    more_image_columns: tuple[str, ...] = ()
    key: str | None = None
    scale: TargetScale | None = None

    @property
    def image_columns(self) -> tuple[str, ...]:
        """The columns of images, in order."""
        return () if self.image_column is None else (self.image_column, *self.more_image_columns)

    @property
    def features(self) -> tuple[str, ...]:
        """The columns that a network gets."""
        return self.numeric + self.dates + self.categorical

    def without_features(self) -> str:
        """Why there is no feature column, for a message."""
        dropped = [f'"{name}" {reason}' for name, reason in self.dropped.items()]
        why = f" ({'; '.join(dropped[:3])}{'; ...' if len(dropped) > 3 else ''})" if dropped else ""
        besides = "target" if self.target else "key"
        return f"the table has no usable column besides the {besides}{why}"

    def to_json(self) -> str:
        """The schema as ``from_json`` reads it."""
        values = asdict(self)
        for name in _LATER:
            if not values[name]:
                del values[name]
        return json.dumps(values, indent=2, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> TableSchema:
        """A saved schema.

        Raises:
            ValueError: The text is no such schema.
        """
        values = json.loads(text)
        known = {item.name for item in fields(cls)}
        if not isinstance(values, dict) or not known - _LATER <= set(values) <= known:
            raise ValueError("not a table schema")
        for name in ("classes", "numeric", "categorical", "dates", "booleans"):
            values[name] = tuple(values[name])
        values["more_image_columns"] = tuple(values.get("more_image_columns", ()))
        if values.get("scale") is not None:
            values["scale"] = TargetScale(**values["scale"])
        values["missing_texts"] = {
            name: tuple(texts) for name, texts in values["missing_texts"].items()
        }
        return cls(**values)

    def describe(self) -> list[str]:
        """What was found, one line each, for the console."""
        lines = []
        if self.target:
            lines.append(f"target: {self.target}{self._kind_of_target()}")
            lines.append(f"images: {', '.join(self.image_columns) or 'none'}")
        for kind in ("numeric", "dates", "categorical"):
            names = getattr(self, kind)
            if names:
                lines.append(f"{kind}: {len(names)} ({some(names, 12)})")
        written = [f'"{name}" as {example(form)}' for name, form in self.date_formats.items()]
        lines.extend([f"dates are read: {', '.join(written)}"] if written else [])
        for reason in dict.fromkeys(self.dropped.values()):
            names = [name for name, found in self.dropped.items() if found == reason]
            which = f'"{names[0]}"' if len(names) == 1 else f"{len(names)} columns ({some(names)})"
            lines.append(f"not used: {which}: {reason}")
        return lines

    def _kind_of_target(self) -> str:
        if self.scale is not None:
            return f" (mean {self.scale.mean:.4g}, standard deviation {self.scale.scale:.4g})"
        return f" ({len(self.classes)} classes)" if self.classes else ""
