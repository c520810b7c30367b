"""What a run leaves on disk, and the only code that knows the file names.

torch is imported where it is used: a command that only looks for a run folder answers at once.
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from gaal_fast.config import Config, build, load_yaml, to_yaml
from gaal_fast.errors import UserError
from gaal_fast.files import WriteError, remove_partial, replacing, write_bytes, write_text
from gaal_fast.runs.environment import environment
from gaal_fast.runs.facts import data_facts
from gaal_fast.runs.naming import loaded, with_names
from gaal_fast.runs.paths import path_from
from gaal_fast.runs.plugins import check_plugins, digests

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from gaal_fast.data import FusionData, TablePreprocessor

CONFIG = "config.yaml"
ENVIRONMENT = "environment.json"
DATA = "data.json"
SPLIT = "split.csv"
DATA_ISSUES = "data_issues.csv"
METRICS = "metrics.csv"
STEPS = "steps.csv"
SUMMARY = "summary.json"
CEILINGS = "ceilings.csv"
WEIGHTS = "best.safetensors"
CHECKPOINT = "checkpoint.pt"
CURVES = "learning_curves.png"
CONFLICT = "conflict.png"
COMPARISON = "comparison.json"  # only where the folder holds one run for each of several methods
# What a checkpoint holds and how it is named. Raised with every change; the ones before the number
# have none.
CHECKPOINT_FORMAT = 3
_READ_FORMATS = (2, 3)  # in 2 the tensors of image encoders had other names, which those still read

# Paths of a configuration. Relative ones are about the folder that training was started in.
_PATHS = (("data", "csv"), ("data", "images"), ("data", "cache_dir"), ("model", "weights"))


class RunFolder:
    """One training run on disk. Files are replaced whole, so that a crash leaves the former one."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(
        cls, path: Path, config: Config, contents: Mapping[str, object] | None = None
    ) -> RunFolder:
        """A new folder with its configuration, so that a run killed at any later moment can go on.

        It appears with these files at once or not at all.

        Args:
            path: Where nothing is yet.
            config: What will be trained.
            contents: Further files and what they hold, as JSON.

        Raises:
            UserError: With the key ``run.dir``, where something is there, which is then left as it
                was, or where nothing can be written.
        """
        if os.path.lexists(path):
            raise exists_error(path)
        new = cls(path.with_name(f".{os.getpid()}-{os.urandom(6).hex()}.part"))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            new.path.mkdir()
            new.write_config(config)
            start = {"directory": cls(path)._relative(Path.cwd())}
            new.write_environment({**start, **digests(config.plugin)})
            for name, content in (contents or {}).items():
                new.write_json(name, content)
            os.rename(new.path, path)
        except BaseException as error:
            shutil.rmtree(new.path, ignore_errors=True)
            if isinstance(error, OSError) and path.exists() and any(path.iterdir()):
                raise exists_error(path) from None  # another run was first
            if isinstance(error, OSError):
                message = f": cannot create {path}: {error.strerror}"
                raise UserError(message, key="run.dir") from None
            raise
        return cls(path)

    @classmethod
    def open(cls, path: Path, key: str = "run") -> RunFolder:
        """An existing run.

        Args:
            path: Its folder.
            key: What named it, for the message of an error.

        Raises:
            UserError: Where ``path`` is not a run folder.
        """
        if not path.is_dir():
            raise UserError(f": no such run folder: {path}", key=key)
        if not (path / CONFIG).is_file():
            raise UserError(f": {path} is not a run folder: it has no {CONFIG}", key=key)
        return cls(path)

    def file(self, name: str) -> Path:
        """Where the file called ``name`` lies, whether it is there or not."""
        return self.path / name

    @property
    def finished(self) -> bool:
        """Whether the run came to its end, at least once if it was made to go on."""
        return self.file(SUMMARY).is_file()

    def seeds(self) -> list[RunFolder]:
        """The runs of a folder that holds several seeds, in order; empty for a single run."""
        found = {
            int(number): RunFolder(path)
            for path in self.path.glob("seed-*")
            if (number := path.name.removeprefix("seed-")).isdecimal() and (path / CONFIG).is_file()
        }
        return [found[number] for number in sorted(found)]

    def seed(self, seed: int) -> Path:
        """Where the run of one of several seeds lies."""
        return self.path / f"seed-{seed}"

    def compared(self) -> list[RunFolder]:
        """The runs of a folder that ``compare`` wrote, one a method and in its order; empty for any
        other.
        """
        if not self.file(COMPARISON).is_file():
            return []
        return [RunFolder(self.path / name) for name in self.read_json(COMPARISON)["methods"]]

    # -- where the data lies

    def located(self, config: Config) -> Config:
        """The configuration of this run with paths that are found from any directory.

        The run folder notes, relative to itself, where training was started. A path that is not
        there from that place stays as it is: so a run folder moved alone works beside its data.
        """
        if (start := self._start()) is None:
            return config
        update: dict[str, dict[str, Path | list[Path]]] = {}
        for section, name in _PATHS:
            path = getattr(getattr(config, section), name)
            if isinstance(path, Path):  # weights may be a word
                update.setdefault(section, {})[name] = path_from(start, path)
        for name in ("tables", "embeddings"):
            files = [path_from(start, file) for file in getattr(config.data, name)]
            update.setdefault("data", {})[name] = files
        sections = {s: getattr(config, s).model_copy(update=paths) for s, paths in update.items()}
        plugin = [start / file.expanduser() for file in config.plugin]
        return config.model_copy(update={**sections, "plugin": plugin})

    def _start(self) -> Path | None:
        """The directory that training was started in; None where the folder does not say."""
        if not self.file(ENVIRONMENT).is_file():
            return None
        start = self.read_json(ENVIRONMENT).get("directory")
        if start is None:
            return None
        return Path(os.path.normpath(Path(os.path.realpath(self.path)) / start))

    def _relative(self, place: Path) -> str:
        """``place`` seen from this folder: a tree moved as a whole keeps its links, and no home
        folder is written down.
        """
        try:
            return os.path.relpath(os.path.realpath(place), os.path.realpath(self.path))
        except ValueError:  # another drive, on Windows
            return os.path.realpath(place)

    # -- writing

    def remove_partial(self) -> None:
        """Remove the unfinished files of a killed process."""
        remove_partial(self.path)

    def write_text(self, name: str, text: str) -> None:
        """Give the file called ``name`` new contents."""
        write_text(self.file(name), text)

    def write_json(self, name: str, content: object) -> None:
        """Give the file called ``name`` what JSON can hold; no NaN."""
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
        self.write_text(name, text + "\n")

    def write_config(self, config: Config) -> None:
        """Write the resolved configuration, which ``config`` reads back."""
        self.write_text(CONFIG, to_yaml(config))

    def write_environment(self, more: Mapping[str, object]) -> None:
        """Versions and hardware, with ``more`` entries; those of an earlier call that are not given
        again stay.
        """
        former = self.read_json(ENVIRONMENT) if self.file(ENVIRONMENT).exists() else {}
        self.write_json(ENVIRONMENT, {**former, **environment(), **more})

    def write_rows(
        self, name: str, rows: Sequence[Mapping[str, object]], columns: Sequence[str]
    ) -> None:
        """A CSV file from dictionaries; None becomes an empty cell."""
        stream = io.StringIO(newline="")
        self._rows(stream, rows, columns, header=True)
        self.write_text(name, stream.getvalue())

    def append_rows(
        self, name: str, rows: Sequence[Mapping[str, object]], columns: Sequence[str]
    ) -> None:
        """Add to a CSV file, with its header when it is new."""
        new = not self.file(name).exists()
        try:
            with self.file(name).open("a", newline="", encoding="utf-8") as stream:
                self._rows(stream, rows, columns, header=new)
        except OSError as error:
            raise WriteError(error.errno, error.strerror, str(self.file(name))) from error

    @staticmethod
    def _rows(
        stream: TextIO,
        rows: Iterable[Mapping[str, object]],
        columns: Sequence[str],
        *,
        header: bool,
    ) -> None:
        writer = csv.DictWriter(stream, list(columns))
        if header:
            writer.writeheader()
        writer.writerows(rows)

    def keep_rows(self, name: str, column: str, largest: int) -> None:
        """Drop the rows of a CSV file whose whole number in ``column`` is above ``largest``, and
        one that was not written to its end. A file with no row left is removed.
        """
        if not self.file(name).exists():
            return
        with self.file(name).open(newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            whole = [row for row in reader if None not in row.values()]
            rows = [row for row in whole if int(row[column]) <= largest]
            columns = reader.fieldnames or []
        if rows:
            self.write_rows(name, rows, columns)
        else:
            self.file(name).unlink()

    def save_weights(self, state: Mapping[str, torch.Tensor]) -> None:
        """Write the best weights, from any device, as safetensors."""
        from safetensors.torch import save

        content = save({name: value.detach().cpu().contiguous() for name, value in state.items()})
        write_bytes(self.file(WEIGHTS), content)

    def save_checkpoint(self, state: Mapping[str, object]) -> None:
        """Write all that a run needs to go on: tensors and plain containers."""
        import torch

        # Through memory: what torch says of a full disk is no OSError.
        content = io.BytesIO()
        torch.save({"format": CHECKPOINT_FORMAT, **state}, content)
        with replacing(self.file(CHECKPOINT)) as stream:
            stream.write(content.getbuffer())

    def write_data(self, data: FusionData) -> None:
        """What predicting needs to know of the data, and what says that it is the same data:
        preprocessor, classes, split.
        """
        data.save(self.path)
        self.write_text(SPLIT, data.split.to_frame().to_csv(index=False))
        self.write_json(DATA, data_facts(data))

    # -- reading

    def config(self, plugins: Sequence[Path] = ()) -> Config:
        """The configuration of the run, with its paths as they were given.

        A run folder never makes code run by itself. The files of its user's own methods are not
        looked for: who opens the run names them.

        Args:
            plugins: The plug-in files that may run.

        Raises:
            UserError: With the key ``plugin``, where these are not the files that the run was
                trained with.
        """
        values = load_yaml(self.file(CONFIG), flag=None)
        former = self.read_json(ENVIRONMENT).get("plugins", {}) if plugins else {}
        check_plugins(self.path, values.get("plugin"), plugins, set(former.values()))
        values["plugin"] = [str(file.expanduser().absolute()) for file in plugins]
        return self.build([(str(self.file(CONFIG)), values)], stored=True)

    def build(
        self, layers: Sequence[tuple[str, dict[str, Any]]], *, stored: bool = False
    ) -> Config:
        """A configuration whose relative plug-in files are about the run's own start."""
        return build(layers, base=self._start(), stored=stored)

    def read_json(self, name: str) -> Any:
        """What ``write_json`` wrote. Raises ``UserError`` for a file that is absent or damaged."""
        try:
            return with_names(json.loads(self.file(name).read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise UserError(
                f"{self.path} has no {name}: the run has not finished; {self.how_to_go_on()}"
            ) from None
        except ValueError as error:
            raise UserError(f"{self.file(name)} is damaged: {error}") from None

    def read_rows(self, name: str) -> pd.DataFrame:
        """A CSV file that ``write_rows`` or ``append_rows`` wrote."""
        import pandas as pd

        frame = pd.read_csv(self.file(name)).rename(columns=loaded)
        if "modality" in frame:
            frame["modality"] = frame["modality"].map(loaded)
        return frame

    def how_to_go_on(self, module: str = "train") -> str:
        """The command that goes on with this run."""
        return f"go on with: python -m gaal_fast.{module} --resume {self.path}"

    def weights(self) -> dict[str, torch.Tensor]:
        """The best weights. Raises ``UserError`` where there are none yet, or damaged ones."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        if not self.file(WEIGHTS).is_file():
            raise UserError(
                f"{self.path} has no {WEIGHTS}: the run has not finished an epoch;"
                f" {self.how_to_go_on()}"
            )
        try:
            return load_file(self.file(WEIGHTS))
        except SafetensorError as error:
            raise UserError(f"{self.file(WEIGHTS)} is damaged: {error}") from None

    def checkpoint(self) -> dict[str, Any]:
        """What ``save_checkpoint`` was given.

        Raises:
            UserError: With the key ``resume``, where it is damaged or of another format.
        """
        import torch

        file = self.file(CHECKPOINT)
        # `weights_only` unpickles tensors and plain containers and runs no code.
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
        except OSError:
            raise
        except Exception as error:  # a damaged archive fails in zip, in pickle or in torch
            reason = str(error).splitlines()[0]
            raise UserError(f": {file} is damaged: {reason}", key="resume") from error
        found = state.pop("format", None) if isinstance(state, dict) else None
        if found not in _READ_FORMATS:
            older = not isinstance(found, int) or found < CHECKPOINT_FORMAT
            raise UserError(
                f": {file} has {'no format number' if found is None else f'format {found}'}, this"
                f" version reads format {CHECKPOINT_FORMAT}; go on with the"
                f" {'older' if older else 'newer'} version that wrote it, or train anew",
                key="resume",
            )
        return state

    def preprocessor(self) -> TablePreprocessor:
        """The fitted preprocessor of the table."""
        from gaal_fast.data import TablePreprocessor

        return TablePreprocessor.load(self.path)


def exists_error(path: Path) -> UserError:
    """What is said of a new folder's ``path`` where something is already."""
    return UserError(
        f": {path} exists and is not overwritten; name another folder, or go on with"
        f" --resume {path}",
        key="run.dir",
    )
