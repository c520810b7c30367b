"""The miniature downloads, prepared once, and commands run in this process."""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from gaal_fast.data.__main__ import main
from tests.published.raw import WRITE


class Done(NamedTuple):
    """A miniature download and what ``prepare`` made of it."""

    name: str
    raw: Path
    out: Path
    printed: str

    @property
    def table(self) -> Path:
        return self.out / f"{self.name}.csv"


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.reader(stream))
    header = [name.strip() for name in rows[0]]
    return [dict(zip(header, row, strict=True)) for row in rows[1:]]


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Done]:
    """Gives the data set of a name, made at the first call. Tests only read it."""
    base, known = tmp_path_factory.mktemp("published"), dict[str, Done]()

    def get(name: str) -> Done:
        if name not in known:
            # A blank in the path, as on many a desktop.
            raw, out = WRITE[name](base / f"{name} raw"), base / f"{name} out"
            with contextlib.redirect_stdout(io.StringIO()) as stream:
                assert main(["prepare", name, "--raw", str(raw), "--out", str(out)]) == 0
            known[name] = Done(name, raw, out, stream.getvalue())
        return known[name]

    return get


@pytest.fixture
def dvm(prepared: Callable[[str], Done]) -> Done:
    return prepared("dvm")


@pytest.fixture
def sun(prepared: Callable[[str], Done]) -> Done:
    return prepared("sun")


@pytest.fixture
def celeba(prepared: Callable[[str], Done]) -> Done:
    return prepared("celeba")
