"""A run folder from before each method had options of its own still predicts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import yaml

from gaal_fast.runs import folder as run_folder
from tests.commands.conftest import Answer, flags

Run = Callable[..., Answer]
# What its configuration held for every method, and what it did not know yet.
OPTIONS = {"rule": "paper", "epsilon": 0.1, "lambda-image": 0.5, "order": ["image", "table"]}
LATER = ("task", "plugin")


def test_it_is_opened_and_says_what_it_does_not_use(
    trees: Path, tmp_path: Path, run_command: Run
) -> None:
    run, former = tmp_path / "run", tmp_path / "former"
    own = [*flags(trees, run), "--method.name", "concat", "--train.epochs", 1]
    assert run_command("train", *own).code == 0
    shutil.copytree(run, former)
    config = yaml.safe_load((run / run_folder.CONFIG).read_text())
    config = {name: values for name, values in config.items() if name not in LATER}
    config["method"] |= OPTIONS
    (former / run_folder.CONFIG).write_text(yaml.safe_dump(config))
    facts = json.loads((run / run_folder.DATA).read_text())
    del facts["inputs"]
    (former / run_folder.DATA).write_text(json.dumps(facts))
    answers = [
        run_command("predict", "--run", folder, "--csv", trees, "--out", tmp_path / f"{number}.csv")
        for number, folder in enumerate((run, former))
    ]
    assert [answer.code for answer in answers] == [0, 0], answers[1].err
    assert (tmp_path / "0.csv").read_bytes() == (tmp_path / "1.csv").read_bytes()
    said = "method.epsilon is an option of gaal, not of concat, and not used"
    assert [line for line in answers[1].err.splitlines() if said in line]
    assert said not in answers[0].err
    assert "method.rule" not in answers[1].err, "a default says nothing"
