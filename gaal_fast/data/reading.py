"""How the files of a data set are read: decided once in training, said, kept in the run folder, and applied again at prediction."""

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from gaal_fast.errors import UserError
from gaal_fast.files import write_text

READING_FILE = "reading.json"


@dataclass(frozen=True)
class TableReading:
    """What was decided about the text of the table."""

    def describe(self) -> list[str]:
        """What was decided, one line each, for the console; nothing where it is what everybody expects."""
        return []


@dataclass(frozen=True)
class ImageReading:
    """What was decided about the pixels of the images."""

    def describe(self) -> list[str]:
        """What was decided, one line each, for the console; nothing where it is what everybody expects."""
        return []


@dataclass(frozen=True)
class Reading:
    """Everything that was decided about how files are read."""

    table: TableReading = field(default_factory=TableReading)
    images: ImageReading = field(default_factory=ImageReading)

    def describe(self) -> list[str]:
        return self.table.describe() + self.images.describe()

    def save(self, folder: Path) -> None:
        """Write ``reading.json`` into a folder that exists."""
        write_text(Path(folder) / READING_FILE, json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "Reading":
        """Read what ``save`` wrote. Raises UserError if the file is absent or is not such a file."""
        path = Path(folder) / READING_FILE
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return cls(_from_dict(TableReading, content["table"]), _from_dict(ImageReading, content["images"]))
        except FileNotFoundError:
            raise UserError(f"{folder} does not say how its files were read (no {READING_FILE})") from None
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UserError(f"{path} is damaged: {' '.join(str(error).split())}") from None


def _from_dict(kind: type, content: dict[str, Any]) -> Any:
    """A dataclass from its JSON form: lists become the tuples they were."""
    if set(content) != {item.name for item in fields(kind)}:
        raise ValueError(f"the fields of {kind.__name__} differ")
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in content.items()})
