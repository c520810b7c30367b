"""What a run leaves on disk, and the only code that knows the file names."""

from __future__ import annotations

import csv
import json
import os
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

import gaal_fast
from gaal_fast.config import Config, build, load_yaml, to_yaml
from gaal_fast.data import FusionData, TablePreprocessor
from gaal_fast.errors import UserError

CONFIG = "config.yaml"
ENVIRONMENT = "environment.json"
DATA = "data.json"
SPLIT = "split.csv"
DATA_ISSUES = "data_issues.csv"
METRICS = "metrics.csv"
STEPS = "steps.csv"
SUMMARY = "summary.json"
WEIGHTS = "best.safetensors"
CHECKPOINT = "checkpoint.pt"
CURVES = "learning_curves.png"
CONFLICT = "conflict.png"


class RunFolder:
    """One training run on disk. Files are replaced whole, so that a crash leaves the former one."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: Path) -> RunFolder:
        """A new folder; raises ``UserError`` when something is there, which is then left as it was."""
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            raise exists_error(path) from None
        except OSError as error:
            raise UserError(f"--run.dir: cannot create {path}: {error.strerror}") from None
        return cls(path)

    @classmethod
    def open(cls, path: Path, flag: str = "--run") -> RunFolder:
        """An existing run; raises ``UserError`` when ``path`` is not one."""
        if not path.is_dir():
            raise UserError(f"{flag}: no such run folder: {path}")
        if not (path / CONFIG).is_file():
            raise UserError(f"{flag}: {path} is not a run folder: it has no {CONFIG}")
        return cls(path)

    def file(self, name: str) -> Path:
        return self.path / name

    def seeds(self) -> list[RunFolder]:
        """The runs of a folder that holds several seeds, in order; empty for a single run."""
        found = [p for p in self.path.glob("seed-*") if (p / CONFIG).is_file() and p.name[5:].isdigit()]
        return [RunFolder(p) for p in sorted(found, key=lambda p: int(p.name[5:]))]

    def seed(self, seed: int) -> Path:
        return self.path / f"seed-{seed}"

    # -- writing ---------------------------------------------------------------------------------------------------

    def write_text(self, name: str, text: str) -> None:
        temporary = self.file(f".{name}.part")
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, self.file(name))

    def write_json(self, name: str, content: Any) -> None:
        self.write_text(name, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")

    def write_config(self, config: Config) -> None:
        self.write_text(CONFIG, to_yaml(config))

    def write_rows(self, name: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
        """A CSV file from dictionaries; None becomes an empty cell."""
        temporary = self.file(f".{name}.part")
        with temporary.open("w", newline="", encoding="utf-8") as stream:
            self._rows(stream, rows, columns, header=True)
        os.replace(temporary, self.file(name))

    def append_rows(self, name: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
        """Add to a CSV file, with its header when it is new."""
        new = not self.file(name).exists()
        with self.file(name).open("a", newline="", encoding="utf-8") as stream:
            self._rows(stream, rows, columns, header=new)

    @staticmethod
    def _rows(stream: Any, rows: Iterable[Mapping[str, Any]], columns: Sequence[str], *, header: bool) -> None:
        writer = csv.DictWriter(stream, columns)
        if header:
            writer.writeheader()
        writer.writerows(rows)

    def keep_rows(self, name: str, column: str, largest: int) -> None:
        """Drop the rows of a CSV file whose whole number in ``column`` is above ``largest``."""
        if not self.file(name).exists():
            return
        with self.file(name).open(newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            rows, columns = [row for row in reader if int(row[column]) <= largest], reader.fieldnames or []
        self.write_rows(name, rows, columns)

    def save_weights(self, state: Mapping[str, torch.Tensor]) -> None:
        temporary = self.file(f".{WEIGHTS}.part")
        save_file({name: value.detach().cpu().contiguous() for name, value in state.items()}, temporary)
        os.replace(temporary, self.file(WEIGHTS))

    def save_checkpoint(self, state: Mapping[str, Any]) -> None:
        temporary = self.file(f".{CHECKPOINT}.part")
        torch.save(dict(state), temporary)
        os.replace(temporary, self.file(CHECKPOINT))

    def write_data(self, data: FusionData) -> None:
        """What predicting needs to know of the data, and what says that it is the same data: preprocessor, classes, split."""
        data.preprocessor.save(self.path)
        data.reading.save(self.path)
        data.split.to_frame().to_csv(self.file(SPLIT), index=False)
        facts = {
            "fingerprint": data.fingerprint,
            "split": data.split.hash,
            "class_counts": data.class_counts.tolist(),
            "warnings": data.warnings,
        }
        self.write_json(DATA, facts)

    # -- reading ---------------------------------------------------------------------------------------------------

    def config(self) -> Config:
        return build([(str(self.file(CONFIG)), load_yaml(self.file(CONFIG)))])

    def read_json(self, name: str) -> Any:
        try:
            return json.loads(self.file(name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(f"{self.path} has no {name}: the run has not finished") from None
        except json.JSONDecodeError as error:
            raise UserError(f"{self.file(name)} is damaged: {error}") from None

    def weights(self) -> dict[str, torch.Tensor]:
        if not self.file(WEIGHTS).is_file():
            raise UserError(f"{self.path} has no {WEIGHTS}: the run has not finished an epoch")
        return load_file(self.file(WEIGHTS))

    def checkpoint(self) -> dict[str, Any]:
        if not self.file(CHECKPOINT).is_file():
            raise UserError(f"--resume: {self.path} has no {CHECKPOINT}: there is nothing to go on from")
        # `weights_only` unpickles tensors and plain containers and runs no code.
        return torch.load(self.file(CHECKPOINT), map_location="cpu", weights_only=True)

    def preprocessor(self) -> TablePreprocessor:
        return TablePreprocessor.load(self.path)


def exists_error(path: Path) -> UserError:
    return UserError(f"--run.dir: {path} exists and is not overwritten; name another folder, or go on with --resume {path}")


def default_path(name: str, method: str) -> Path:
    """``runs/NAME-METHOD-TIME``, made unique when two runs start in one second."""
    stem = Path("runs") / f"{name}-{method}-{datetime.now():%Y%m%d-%H%M%S}"
    path, count = stem, 1
    while path.exists():
        count += 1
        path = stem.with_name(f"{stem.name}-{count}")
    return path


def environment() -> dict[str, Any]:
    """Versions and hardware a number depends on."""
    from importlib.metadata import PackageNotFoundError, version

    packages = {}
    for package in ("torch", "torchvision", "triton", "numpy", "pandas", "scikit-learn", "pillow", "skops", "timm"):
        try:
            packages[package] = version(package)
        except PackageNotFoundError:
            packages[package] = None
    return {
        "gaal_fast": gaal_fast.__version__,
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "packages": packages,
        "cpu": _cpu_name(),
        "cpu_threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "cuda": torch.version.cuda,
    }


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
