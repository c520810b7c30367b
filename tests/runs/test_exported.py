"""The two files of an export are written whole, and together or not at all."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from gaal_fast.errors import UserError
from gaal_fast.files import WriteError
from gaal_fast.runs import exported
from gaal_fast.runs.exported import files_of, write_export


@pytest.mark.parametrize(
    ("out", "graph"),
    [
        (None, "run/model.onnx"),
        ("cars.onnx", "cars.onnx"),
        ("cars.v2.ONNX", "cars.v2.ONNX"),
        ("folder", "folder/model.onnx"),
        ("v1.2", "v1.2/model.onnx"),
    ],
)
def test_a_name_without_the_suffix_is_a_folder(out: str | None, graph: str) -> None:
    found, beside = files_of(None if out is None else Path(out), "onnx", Path("run"))
    assert found == Path(graph)
    assert beside == Path(f"{graph}.json")


def test_the_suffix_of_another_format_is_refused() -> None:
    with pytest.raises(UserError, match=r"--out: cars\.pt2 must end in \.onnx"):
        files_of(Path("cars.pt2"), "onnx", Path("run"))


@pytest.mark.parametrize("folder", ["there", "new"])
def test_without_room_for_the_second_file_there_is_no_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    (tmp_path / "there").mkdir()
    graph, beside = tmp_path / folder / "model.pt2", tmp_path / folder / "model.pt2.json"

    def full(path: Path, text: str) -> None:
        assert graph.read_bytes() == b"graph"
        raise WriteError(errno.ENOSPC, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(exported, "write_text", full)
        with pytest.raises(WriteError):
            write_export(graph, beside, b"graph", {})
    assert [path.name for path in tmp_path.rglob("*")] == ["there"]
    write_export(graph, beside, b"graph", {"target": "größe"})
    assert graph.read_bytes() == b"graph"
    assert json.loads(beside.read_text(encoding="utf-8")) == {"target": "größe"}
