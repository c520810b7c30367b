"""Every file of ``examples/`` runs as a user would run it, where its package is installed."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
NEEDS = {"surgery_lightning.py": "lightning", "surgery_accelerate.py": "accelerate"}
SHARED = "toy.py"
SERVED = "serve.py"  # needs an exported run: tests/commands/test_export.py
SURGERY = sorted(path.name for path in EXAMPLES.glob("surgery_*.py"))


def run(name: str, folder: Path) -> str:
    package = NEEDS.get(name)
    if package and importlib.util.find_spec(package) is None:
        pytest.skip(f"needs {package}, which is not installed; `make examples` installs it")
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name)],
        cwd=folder,
        # One process on one device, whatever starts these tests.
        env={k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("name", SURGERY)
def test_surgery_repairs_some_steps_and_both_modalities_learn(name: str, tmp_path: Path) -> None:
    found = re.search(
        r"repaired (\d+) of (\d+) steps, accuracy fused (\S+) image (\S+) table (\S+)",
        run(name, tmp_path),
    )
    assert found is not None
    repaired, steps = int(found[1]), int(found[2])
    assert 0 < repaired < steps
    fused, image, table = (float(found[i]) for i in (3, 4, 5))
    # One of four classes is right by chance.
    assert min(image, table) > 0.5 and fused > max(image, table)
    assert not list(tmp_path.iterdir()), "an example leaves nothing behind"


def test_the_ops_choose_rows_and_the_repaired_gradient_agrees_with_them(tmp_path: Path) -> None:
    out = run("uncertain_rows.py", tmp_path)
    found = re.search(r"agreement before (\S+), v (\S+), agreement after (\S+)", out)
    assert found is not None
    before, v, after = map(float, found.groups())
    assert before < 0.5 and v > 0 and after == 0.5


def test_every_example_is_run_here_and_is_short() -> None:
    files = {path.name for path in EXAMPLES.glob("*.py")}
    assert files == {*SURGERY, "uncertain_rows.py", SERVED, SHARED}
    for name in files:
        assert len((EXAMPLES / name).read_text(encoding="utf-8").splitlines()) <= 80, name
