"""An exported run is one file that says what ``predict`` says, and is not written where it would
not.
"""

from __future__ import annotations

import base64
import importlib.metadata
import importlib.util
import json
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.special import softmax

from gaal_fast import export
from gaal_fast.data import TablePreprocessor
from gaal_fast.data.tables.fitted import FittedTable
from gaal_fast.engine import export_check
from gaal_fast.engine.export import CALIBRATION, Exportable
from gaal_fast.engine.export import export as exported
from gaal_fast.engine.export_check import largest_difference, runner
from gaal_fast.engine.inference import TrainedRun
from gaal_fast.runs import folder as run_folder
from gaal_fast.tasks import FUSED
from tests.commands.conftest import CLASSES, SIDE, Answer, flags
from tests.commands.test_bad_input import assert_one_line, snapshot
from tests.commands.test_predict import PROBABILITIES, TABLE

Run = Callable[..., Answer]
Feed = dict[str, np.ndarray]
SERVE = Path(__file__).parents[2] / "examples" / "serve.py"
CLOSE = 1e-5
needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="needs onnx, onnxscript and onnxruntime; pip install -e '.[export]'",
)


@pytest.fixture(scope="session")
def pt2(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small run as a graph of torch. Tests only read it."""
    out = tmp_path_factory.mktemp("exported") / "trees.pt2"
    assert export.main(["--run", str(trained), "--format", "pt2", "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="session")
def onnx(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in ONNX."""
    out = tmp_path_factory.mktemp("exported") / "trees.onnx"
    assert export.main(["--run", str(trained), "--format", "onnx", "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="session")
def rows(trees: Path) -> pd.DataFrame:
    """Rows as they were, and rows that lack cells, a known level, the image, the table or all."""
    frame = pd.read_csv(trees, dtype=str, keep_default_na=False)
    frame.loc[1, "bark"] = "plastic"
    frame.loc[2, "height"] = ""
    frame.loc[3, ["age", "bark"]] = ""
    frame.loc[4, "photo"] = "gone.png"
    frame.loc[5, TABLE] = ""
    frame.loc[6, ["photo", *TABLE]] = ""
    return frame


@pytest.fixture
def predicted(
    trees: Path, trained: Path, rows: pd.DataFrame, tmp_path: Path, run_command: Run
) -> pd.DataFrame:
    """What ``predict`` says of ``rows``."""
    rows.to_csv(tmp_path / "rows.csv", index=False)
    table, images = ("--csv", tmp_path / "rows.csv"), ("--images", trees.parent / "images")
    out = tmp_path / "predicted.csv"
    answer = run_command("predict", "--run", trained, *table, *images, "--out", out)
    assert answer.code == 0, answer.err
    found = pd.read_csv(out)
    used = list(found["used_modalities"][:7])
    assert used == [*["image+table"] * 4, "table", "image", "none"]
    return found


def meaning_of(graph: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(graph.with_name(graph.name + ".json").read_text())
    return found


def feed(meaning: dict[str, Any], rows: pd.DataFrame, images: Path) -> Feed:
    """The inputs of a graph, by what its JSON file says alone."""
    image, table = meaning["modalities"]
    size = image["size"]
    files = [images / name for name in rows[image["column"]]]
    there = np.array([file.is_file() for file in files])
    pixels = np.random.default_rng(0).integers(0, 256, (len(rows), 3, size, size), dtype=np.uint8)
    for place in np.flatnonzero(there):
        pixels[place] = np.array(Image.open(files[place]).convert("RGB")).transpose(2, 0, 1)
    names = [column["name"] for column in table["numbers"]["columns"]]
    numbers = rows[names].replace("", "nan").astype(float).to_numpy()
    codes = [
        [
            table["codes"]["missing"] if not text else column["levels"].get(text, 99)
            for text in rows[column["name"]]
        ]
        for column in table["codes"]["columns"]
    ]
    return {
        "present": np.stack([there, np.ones_like(there)], axis=1),
        image["input"]: pixels,
        table["numbers"]["input"]: numbers,
        table["codes"]["input"]: np.array(codes, dtype=np.int64).T,
    }


def assert_it_says_what_predict_says(
    run: Callable[[Feed], np.ndarray], inputs: Feed, predicted: pd.DataFrame
) -> None:
    expected = predicted[PROBABILITIES].to_numpy()
    for start, stop in [(0, 72), (0, 7), *((row, row + 1) for row in range(7)), (3, 5), (5, 7)]:
        found = run({name: values[start:stop] for name, values in inputs.items()})
        np.testing.assert_allclose(found, expected[start:stop], rtol=0, atol=CLOSE)
        assert found.dtype == np.float32


def test_a_graph_of_torch_says_what_predict_says(
    pt2: Path, trees: Path, rows: pd.DataFrame, predicted: pd.DataFrame
) -> None:
    module = torch.export.load(pt2).module()

    def run(inputs: Feed) -> np.ndarray:
        found: torch.Tensor = module(**{k: torch.from_numpy(v) for k, v in inputs.items()})
        return found.numpy()

    inputs = feed(meaning_of(pt2), rows, trees.parent / "images")
    assert_it_says_what_predict_says(run, inputs, predicted)


@needs_onnx
def test_an_onnx_file_says_what_predict_says(
    onnx: Path, trees: Path, rows: pd.DataFrame, predicted: pd.DataFrame
) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(onnx)
    meaning = meaning_of(onnx)
    shapes = {one.name: one.shape for one in session.get_inputs()}
    assert shapes == {one["name"]: one["shape"] for one in meaning["inputs"]}

    def run(inputs: Feed) -> np.ndarray:
        (found,) = session.run([meaning["output"]["name"]], inputs)
        return found

    inputs = feed(meaning, rows, trees.parent / "images")
    assert_it_says_what_predict_says(run, inputs, predicted)


def test_the_json_file_says_how_to_feed_the_graph(pt2: Path) -> None:
    meaning = meaning_of(pt2)
    assert meaning["format"] == "pt2" and meaning["format_version"] == 1
    assert meaning["classes"] == list(CLASSES) and meaning["target"] == "species"
    assert meaning["output"] == {
        "name": "predictions",
        "dtype": "float32",
        "shape": ["batch", len(CLASSES)],
        "columns": PROBABILITIES,
    }
    image, table = meaning["modalities"]
    assert (image["name"], image["column"], image["size"]) == ("image", "photo", SIDE)
    assert [column["name"] for column in table["numbers"]["columns"]] == ["height", "age"]
    (bark,) = table["codes"]["columns"]
    assert set(bark["levels"]) == {"brown", "grey", "rough", "white"}
    assert meaning["versions"]["torch"] == importlib.metadata.version("torch")
    graph = torch.export.load(pt2)
    assert list(graph.graph_signature.user_inputs) == [one["name"] for one in meaning["inputs"]]


@pytest.mark.slow
def test_a_graph_is_run_where_this_package_is_not(pt2: Path) -> None:
    program = (
        "import sys, torch\n"
        "sys.modules['gaal_fast'] = None\n"
        "import json\n"
        "meaning = json.load(open(sys.argv[1] + '.json'))\n"
        "inputs = {one['name']: torch.zeros(3, *one['shape'][1:], dtype=getattr(torch,"
        " one['dtype'])) for one in meaning['inputs']}\n"
        "print(torch.export.load(sys.argv[1]).module()(**inputs).sum(dim=1).round().tolist())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(pt2)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[1.0, 1.0, 1.0]"


def test_no_folder_of_this_machine_is_in_a_graph(pt2: Path) -> None:
    content = pt2.read_bytes()
    for place in (str(Path.home()), str(Path(__file__).parents[2]), str(pt2.parent)):
        assert place.encode() not in content


@needs_onnx
def test_the_example_serves_an_exported_run(
    onnx: Path, trees: Path, rows: pd.DataFrame, predicted: pd.DataFrame
) -> None:
    def cells(row: int) -> dict[str, object]:
        found: dict[str, object] = {
            k: float(rows.loc[row, k]) for k in ("height", "age") if rows.loc[row, k]
        }
        found |= {"bark": rows.loc[row, "bark"]} if rows.loc[row, "bark"] else {}
        file = trees.parent / "images" / rows.loc[row, "photo"]
        if file.is_file():
            found["photo"] = base64.b64encode(file.read_bytes()).decode()
        return found

    server = subprocess.Popen(
        [sys.executable, str(SERVE), str(onnx), "0"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        address = server.stdout.readline().strip()
        for some in (range(9), [4], [6]):
            body = json.dumps([cells(row) for row in some]).encode()
            with urllib.request.urlopen(address, body, timeout=30) as answer:
                found = pd.DataFrame(json.load(answer))
            expected = predicted.loc[list(some), PROBABILITIES]
            np.testing.assert_allclose(found[PROBABILITIES], expected, rtol=0, atol=CLOSE)
    finally:
        server.terminate()
        server.communicate()


def test_temperatures_of_a_run_are_those_of_its_graph(
    trained: Path, trees: Path, rows: pd.DataFrame, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(trained, tmp_path / "run"))
    temperatures = {"image+table": 2.0, "image": 0.5}
    (folder / CALIBRATION).write_text(json.dumps({"temperature": temperatures}))
    run = TrainedRun.load(folder, device=torch.device("cpu"))
    rows.to_csv(tmp_path / "rows.csv", index=False)
    images = trees.parent / "images"
    found = run.predict(run.read(tmp_path / "rows.csv", images))
    # A set without a temperature has that of all; the prior stays.
    each = [
        1.0 if used == "none" else temperatures.get(used, 2.0) for used in found.used_modalities()
    ]
    assert each[:7] == [2.0, 2.0, 2.0, 2.0, 2.0, 0.5, 1.0]
    expected = softmax(found.outputs[FUSED] / np.array(each)[:, None], axis=1)
    exportable = Exportable.of(run)
    graph = runner(exported(exportable, "pt2"), "pt2")
    inputs = feed(exportable.meaning("pt2"), rows, images)
    answer = graph({name: torch.from_numpy(values) for name, values in inputs.items()})
    np.testing.assert_allclose(answer, expected, rtol=0, atol=CLOSE)
    assert largest_difference(exportable, graph) < CLOSE


# -- other runs


@pytest.mark.slow
def test_quantities_dates_and_further_inputs_are_exported(
    trees: Path, tmp_path: Path, run_command: Run
) -> None:
    frame = pd.read_csv(trees)
    day = pd.Timestamp("2020-01-01") + pd.to_timedelta(np.arange(72) * 23.7, unit="D")
    frame["seen"] = day.strftime("%d.%m.%Y %H:%M")
    frame["other side"] = frame["photo"][::-1].to_numpy()
    frame["value"] = 1e6 + 1e3 * frame["height"].fillna(0) + np.arange(72)
    csv = tmp_path / "data" / "values.csv"
    csv.parent.mkdir()
    frame.drop(columns="species").to_csv(csv, index=False)
    visits = pd.DataFrame({"id": frame["id"][:50], "visits": np.arange(50) % 7 + 0.5})
    visits.to_csv(tmp_path / "data" / "visits.csv", index=False)
    (tmp_path / "data" / "images").symlink_to(trees.parent / "images")
    changed = {
        "data.target": "value",
        "data.image-column": "photo,other side",
        "data.tables": tmp_path / "data" / "visits.csv",
        "data.key": "id",
        "data.embeddings": tmp_path / "data" / "clip.npy",
        "train.epochs": 1,
        "train.precision": "bf16",
    }
    vectors = np.random.default_rng(0).normal(3.0, 2.0, (len(frame), 5))
    np.save(tmp_path / "data" / "clip.npy", vectors)
    more = [part for key, value in changed.items() for part in (f"--{key}", str(value))]
    answer = run_command("train", *flags(csv, tmp_path / "run"), *more)
    assert answer.code == 0, answer.err
    surer = {"temperature": {"photo+other_side+table+visits+clip": 1.7, "table": 0.6}}
    (tmp_path / "run" / CALIBRATION).write_text(json.dumps(surer))
    answer = run_command("export", "--run", tmp_path / "run", "--format", "pt2")
    assert answer.code == 0, answer.err
    assert "computes in bf16" in answer.err
    meaning = meaning_of(tmp_path / "run" / "model.pt2")
    assert meaning["task"] == "regression"
    assert meaning["output"]["columns"] == ["prediction", "prediction_std"]
    assert meaning["output"]["dtype"] == "float64", "a million has no tenths in float32"
    names = [one["name"] for one in meaning["modalities"]]
    assert names == ["photo", "other_side", "table", "visits", "clip"]
    assert meaning["modalities"][4]["kind"] == "embedding"
    dates = [c for c in meaning["modalities"][2]["numbers"]["columns"] if c["kind"] == "date"]
    assert [(one["name"], one["written"]) for one in dates] == [("seen", "%d.%m.%Y")]
    module = torch.export.load(tmp_path / "run" / "model.pt2").module()
    run = TrainedRun.load(tmp_path / "run", device=torch.device("cpu"))
    difference = largest_difference(Exportable.of(run), lambda inputs: module(**inputs))
    assert difference < CLOSE


@pytest.mark.parametrize("method", ["image", "table", "concat"])
def test_every_method_is_exported(
    trees: Path, tmp_path: Path, run_command: Run, method: str
) -> None:
    run = tmp_path / "run"
    more = ["--method.name", method, "--train.epochs", 1]
    answer = run_command("train", *flags(trees, run), *more)
    assert answer.code == 0, answer.err
    exportable = Exportable.of(TrainedRun.load(run, device=torch.device("cpu")))
    assert largest_difference(exportable, runner(exported(exportable, "pt2"), "pt2")) < CLOSE
    kinds = [one.kind for one in exportable.inputs]
    assert (
        kinds
        == {
            "image": ["present", "image"],
            "table": ["present", "numbers", "codes"],
            "concat": ["present", "image", "numbers", "codes"],
        }[method]
    )


PLUGIN = '''
from gaal_fast import ops
from gaal_fast.methods import SharedHead, method
from gaal_fast.methods.alternating import Alternating

@method("mine", paper="nowhere")
class Mine(Alternating):
    """Alternating learning of one's own."""

    def forward(self, batch):
        found = super().forward(batch)
        {body}
'''


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return found if len(batch) else {}", None),
        (
            "return {} if found['fused'].sum() > 1e9 else found",
            r"--run: the forward pass of the method mine cannot be exported: .*mine\.py, line 12\)",
        ),
        (
            "unsure = ops.softmax_stats(found['fused'])[0][:, None]\n"
            "        return {**found, 'fused': unsure.expand(-1, 3)}",
            r"--run: the forward pass uses gaal_fast\.softmax_stats\S*, which a graph cannot hold",
        ),
    ],
    ids=["plain", "looks at values", "own op"],
)
def test_a_method_of_the_users_own_is_exported_or_named(
    trees: Path, tmp_path: Path, run_command: Run, body: str, message: str | None
) -> None:
    plugin, run = tmp_path / "mine.py", tmp_path / "run"
    plugin.write_text(PLUGIN.replace("{body}", body))
    own = ["--plugin", plugin, "--method.name", "mine", "--train.epochs", 1]
    assert run_command("train", *flags(trees, run), *own).code == 0
    before = snapshot(run)
    answer = run_command("export", "--run", run, "--format", "pt2", "--plugin", plugin)
    if message is None:
        assert answer.code == 0, answer.err
        assert (run / "model.pt2").is_file()
        return
    assert_one_line(answer, message)
    assert snapshot(run) == before


# -- refused


def test_a_graph_that_says_something_else_is_not_written(
    trained: Path, tmp_path: Path, run_command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = TablePreprocessor.fitted

    def shifted(self: TablePreprocessor) -> FittedTable:
        found = honest(self)
        return replace(found, mean=found.mean + 0.01 * found.scale)

    monkeypatch.setattr(TablePreprocessor, "fitted", shifted)
    out = tmp_path / "new"
    answer = run_command("export", "--run", trained, "--format", "pt2", "--out", out)
    assert answer.code == 1
    assert answer.err.startswith("error: largest difference") and answer.err.count("\n") == 1
    assert not out.exists()
    answer = run_command("export", "--run", trained, "--format", "pt2", "--out", out, "--no-verify")
    assert answer.code == 0, answer.err
    assert sorted(file.name for file in out.iterdir()) == ["model.pt2", "model.pt2.json"]


def test_a_result_that_is_no_number_is_a_difference(trained: Path) -> None:
    exportable = Exportable.of(TrainedRun.load(trained, device=torch.device("cpu")))

    def half(inputs: export_check.Arrays) -> torch.Tensor:
        found = export_check.answers(exportable, inputs)
        found[-1:] = torch.nan
        return found

    assert np.isnan(largest_difference(exportable, half))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--format", "tflite"], r"--format.*pt2.*onnx"),
        (["--format", "pt2", "--out", "x.onnx"], r"--out: x\.onnx must end in \.pt2"),
        (["--format", "pt2", "--out", "absent/x.pt2"], r"--out: no such folder"),
        (["--format", "pt2", "--out", "there.pt2"], r"--out: there\.pt2 exists"),
        (["--format", "pt2", "--out", "beside.pt2"], r"--out: beside\.pt2\.json exists"),
        (["--format", "pt2", "--out", "folder"], r"--out: folder exists"),
        (["--format", "pt2", "--run", "nowhere"], r"--run: no such run folder: nowhere"),
        (["--format", "pt2", "--fromat", "pt2"], r"--fromat; did you mean --format"),
    ],
)
def test_bad_input_is_one_line(
    trained: Path,
    tmp_path: Path,
    run_command: Run,
    monkeypatch: pytest.MonkeyPatch,
    more: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("there.pt2", "beside.pt2.json"):
        (tmp_path / name).write_text("mine")
    (tmp_path / "folder").mkdir()
    before = snapshot(tmp_path)
    assert_one_line(run_command("export", "--run", trained, *more), message)
    assert snapshot(tmp_path) == before


def test_a_run_that_has_not_finished_is_doubted_and_one_without_weights_refused(
    trained: Path, tmp_path: Path, run_command: Run
) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    (run / run_folder.SUMMARY).unlink()
    answer = run_command("export", "--run", run, "--format", "pt2", "--no-verify")
    assert answer.code == 0 and (run / "model.pt2").is_file()
    assert "has not finished; its best weights so far are used" in answer.err
    (run / run_folder.WEIGHTS).unlink()
    answer = run_command("export", "--run", run, "--format", "pt2", "--out", tmp_path / "x.pt2")
    assert_one_line(answer, r"has not finished an epoch; go on with")


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named_with_the_extra(
    trained: Path, tmp_path: Path, run_command: Run, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    def find(name: str) -> object | None:
        return None if name == package else object()

    monkeypatch.setattr("gaal_fast.engine.export.find_spec", find)
    answer = run_command(
        "export", "--run", trained, "--format", "onnx", "--out", tmp_path / "x.onnx"
    )
    assert_one_line(answer, rf"--format onnx needs {package}: pip install 'gaal-fast\[export\]'")
    assert not list(tmp_path.iterdir())
