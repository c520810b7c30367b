"""How commands answer: at once where a flag is wrong, in one line where the disk is full, quietly
where nobody looks.
"""

from __future__ import annotations

import gzip
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest

from gaal_fast.data.__main__ import main as data_main
from gaal_fast.runs import folder as run_folder
from tests.commands.conftest import Answer, flags
from tests.commands.test_bad_input import assert_one_line, snapshot

Run = Callable[..., Answer]
COMMANDS = ("train", "predict", "evaluate", "compare", "data", "doctor")
HEAVY = ("torch", "pandas", "sklearn", "numpy")


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("argv", [["--help"], ["--hlp", "3"]])
def test_help_and_a_wrong_flag_wait_for_nothing_heavy(command: str, argv: list[str]) -> None:
    module = "gaal_fast.data.__main__" if command == "data" else f"gaal_fast.{command}"
    program = (
        f"import sys\nfrom {module} import main\n"
        f"try:\n    code = main({argv!r})\nexcept SystemExit as stopped:\n    code = stopped.code\n"
        f"print(code, [name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == f"{0 if argv == ['--help'] else 2} []"
    assert argv == ["--help"] or len(done.stderr.splitlines()) == 1


@contextmanager
def no_file_above(size: int) -> Iterator[None]:
    """A disk with so much room for each file: writing more is refused as it is where nothing is
    left.
    """
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, former[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)


def test_a_full_disk_in_training_leaves_no_new_folder(
    trees: Path, tmp_path: Path, run_command: Run
) -> None:
    with no_file_above(4096):
        assert_one_line(
            run_command("train", *flags(trees, tmp_path / "run")),
            rf"cannot write {tmp_path}/run/.*: File too large$",
        )
        assert_one_line(
            run_command("compare", *flags(trees, tmp_path / "run"), "--methods", "table"),
            rf"cannot write {tmp_path}/run/table/.*: File too large$",
        )
    with no_file_above(100):
        assert_one_line(
            run_command("train", *flags(trees, tmp_path / "run")),
            rf"--run\.dir: cannot create {tmp_path}/run: File too large$",
        )
    assert snapshot(tmp_path) == {}
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_after_a_checkpoint_keeps_it_and_says_how_to_go_on(
    trees: Path, tmp_path: Path, run_command: Run
) -> None:
    run = tmp_path / "run"
    assert run_command("train", *flags(trees, run), "--train.epochs", 1).code == 0
    before = snapshot(run)
    with no_file_above((run / run_folder.CHECKPOINT).stat().st_size // 2):
        assert_one_line(
            run_command("train", "--resume", run, "--train.epochs", 2),
            rf"cannot write {run}/.*: File too large; go on with: python -m gaal_fast\.train"
            rf" --resume {run}$",
        )
    assert snapshot(run)[run_folder.CHECKPOINT] == before[run_folder.CHECKPOINT]
    assert set(snapshot(run)) == set(before)
    assert run_command("train", "--resume", run, "--train.epochs", 2).code == 0


@pytest.mark.parametrize("name", ["p.csv", "p.parquet", "p.tsv.gz"])
def test_a_full_disk_in_prediction_leaves_no_file(
    trees: Path, trained: Path, tmp_path: Path, run_command: Run, name: str
) -> None:
    with no_file_above(1000):
        answer = run_command("predict", "--run", trained, "--csv", trees, "--out", tmp_path / name)
    assert_one_line(answer, rf"^error: cannot write {tmp_path}/{name}: File too large$")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_in_evaluation_and_in_the_report_leaves_no_file(
    trees: Path, trained: Path, tmp_path: Path, run_command: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    with no_file_above(100):
        for flag, name in (("--out", "s.json"), ("--picture", "m.png")):
            answer = run_command("evaluate", "--run", trained, flag, tmp_path / name)
            assert_one_line(answer, rf"^error: cannot write {tmp_path}/{name}: File too large$")
        assert data_main(["--demo", str(tmp_path / "demo")]) == 2
        assert capsys.readouterr().err.startswith("error: cannot write the demo set to ")
    with no_file_above(10):
        options = [*flags(trees, tmp_path / "run")[:8], "--issues", str(tmp_path / "i.csv")]
        assert data_main(options) == 2
        assert (
            capsys.readouterr().err.splitlines()[-1]
            == f"error: cannot write {tmp_path}/i.csv: File too large"
        )
    assert list(tmp_path.iterdir()) == []


def test_a_run_folder_that_cannot_be_made_is_refused_before_the_data_is_read(
    trees: Path, tmp_path: Path, run_command: Run
) -> None:
    (tmp_path / "file").write_text("precious")
    answer = run_command("train", *flags(trees, tmp_path / "file" / "run"))
    assert_one_line(
        answer,
        rf"--run\.dir: cannot create {tmp_path}/file/run: cannot write into {tmp_path}/file$",
    )
    assert answer.out == ""
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_an_output_that_cannot_be_written_is_one_line() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "gaal_fast.train", "--print-config"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert (done.returncode, done.stderr) == (2, "error: cannot write: No space left on device\n")


@pytest.mark.parametrize(
    ("flag", "name", "message"),
    [
        ("--out", "absent/p.csv", r"--out: no such folder: .*absent$"),
        (
            "--out",
            "p.xlsx",
            r"--out: .*p\.xlsx must end in one of \.csv, \.tsv, \.parquet, \.csv\.gz, \.tsv\.gz$",
        ),
        ("--out", "p", r"--out: .*/p must end in one of"),
        ("--device", "gpu", r"^error: --device must be auto, cpu, cuda or cuda:N, got gpu$"),
        ("--device", "mps", r"^error: --device must be auto, cpu, cuda or cuda:N, got mps$"),
        (
            "--device",
            "cuda:01",
            r"^error: --device must be auto, cpu, cuda or cuda:N, got cuda:01$",
        ),
        ("--device", "cuda:99", r"^error: --device cuda:99: "),
        ("--device", "cuda:99999999999999999999", r"^error: --device cuda:9+: "),
        (
            "--workers",
            "-1",
            (
                r"^error: --workers: expected one argument$|^error: --workers must be a whole"
                r" number, 0 or more, got -1$"
            ),
        ),
        ("--workers", "two", r"^error: --workers must be a whole number, 0 or more, got two$"),
    ],
)
def test_predict_names_its_own_flag(
    trees: Path, trained: Path, tmp_path: Path, run_command: Run, flag: str, name: str, message: str
) -> None:
    out = tmp_path / name if flag == "--out" else tmp_path / "p.csv"
    more = [] if flag == "--out" else [flag, name]
    assert_one_line(
        run_command("predict", "--run", trained, "--csv", trees, "--out", out, *more), message
    )
    assert not out.exists()


def test_train_and_evaluate_name_theirs(
    trees: Path, trained: Path, tmp_path: Path, run_command: Run
) -> None:
    assert_one_line(
        run_command("train", *flags(trees, tmp_path / "run"), "--train.device", "gpu"),
        r"^error: --train\.device must be auto, cpu, cuda or cuda:N, got gpu$",
    )
    assert_one_line(
        run_command("evaluate", "--run", trained, "--device", "xyz"),
        r"^error: --device must be .*, got xyz$",
    )
    assert_one_line(
        run_command("evaluate", "--run", trained, "--picture", tmp_path / "m.docx"),
        r"--picture: .*m\.docx must end in \.png",
    )


def test_predictions_are_written_as_their_name_says(
    trees: Path, trained: Path, tmp_path: Path, run_command: Run
) -> None:
    names = ["p.csv", "p.tsv", "p.parquet", "p.csv.gz", "P2.CSV"]
    for name in names:
        assert (
            run_command("predict", "--run", trained, "--csv", trees, "--out", tmp_path / name).code
            == 0
        )
    plain = (tmp_path / "p.csv").read_bytes()
    assert (
        gzip.decompress((tmp_path / "p.csv.gz").read_bytes())
        == plain
        == (tmp_path / "P2.CSV").read_bytes()
    )
    assert (tmp_path / "p.tsv").read_bytes() == plain.replace(b",", b"\t")
    parquet, csv = (
        pd.read_parquet(tmp_path / "p.parquet"),
        pd.read_csv(tmp_path / "p.csv", dtype=str, keep_default_na=False),
    )
    assert list(parquet) == list(csv)
    assert list(parquet["prediction"]) == list(csv["prediction"])
    assert parquet["probability_oak"].dtype == float
    assert sorted(os.listdir(tmp_path)) == sorted(names)


def test_what_was_found_before_an_error_is_said_first(
    trees: Path, tmp_path: Path, run_command: Run
) -> None:
    frame = pd.read_csv(trees)
    frame["species"] = ["", *["ash"] * (len(frame) - 1)]
    frame["notes"] = [
        f"a text of its own number {row} that goes on" if row % 9 else "twice"
        for row in range(len(frame))
    ]
    frame.to_csv(tmp_path / "trees.csv", index=False)
    own = flags(trees, tmp_path / "run")
    own[own.index(str(trees))] = str(tmp_path / "trees.csv")
    answer = run_command("train", *own)
    assert answer.code == 2
    lines = answer.err.splitlines()
    assert lines[0].startswith('warning: column "notes"')
    assert lines[-1].startswith("error: ") and "one class" in lines[-1]


def test_bars_are_for_a_terminal_and_lines_for_all(
    trees: Path, tmp_path: Path, run_command: Run
) -> None:
    answer = run_command(
        "train", *flags(trees, tmp_path / "run"), "--train.progress", "true", "--train.epochs", 2
    )
    assert answer.code == 0
    assert "\r" not in answer.err and "batch" not in answer.err
    assert [line.split()[:2] for line in answer.out.splitlines() if line.startswith("epoch ")] == [
        ["epoch", "1"],
        ["epoch", "2"],
    ]


def test_columns_dropped_for_one_reason_are_one_line(
    trees: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = pd.read_csv(trees)
    for number in range(12):
        frame[f"m{number}"] = range(len(frame))
    frame["a,b"] = 3.5
    frame.to_csv(tmp_path / "trees.csv", index=False)
    base = [
        "--data.csv",
        str(tmp_path / "trees.csv"),
        "--data.target",
        "species",
        "--data.images",
        str(trees.parent / "images"),
    ]
    assert data_main([*base, "--data.drop", 'm*,"a,b"']) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("not used: ")]
    assert lines == [
        'not used: "id": an identifier (every value is different)',
        'not used: 13 columns ("m0", "m1", "m2", "m3", "m4" and 8 more): dropped on request',
    ]
