"""Test accuracy on real data: 990 leaves of 99 species, one split, the same encoders and budget for
every method.

``python -m bench.leaf99 --data DIR`` trains every method with every seed, once on the image with
the ``shape*`` columns (a balanced pair) and once on the image with all 192 columns (the table is
far stronger), and writes ``leaf99.csv`` and two figures; with ``--start pretrained`` from
pretrained weights. DIR holds ``leaf.csv`` and ``images/``
of the "One-hundred plant species leaves" data set (UCI machine learning repository, CC BY 4.0).
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

if TYPE_CHECKING:
    from gaal_fast.config import Config
    from gaal_fast.data import FusionData

METHODS = ("gaal", "alternating", "concat", "image", "table")
COLUMN_SETS = ("shape", "all")
RESULTS = Path(__file__).parent / "results"
COLUMNS = ("columns", "method", "modality", "accuracy", "std", "seeds", "runs", "split")

# One budget for all: 40 epochs at a cosine schedule, no early stop (99 validation rows are too few
# to stop on), best validation epoch tested.
BUDGET: dict[str, dict[str, Any]] = {
    "data": {
        "image-size": 48,
        "augment": "light",
        "val-fraction": 0.1,
        "test-fraction": 0.2,
        "target": "species",
        "image-column": "image",
    },
    "model": {"image": "small"},
    "optim": {"lr": 1e-3, "weight-decay": 1e-4, "schedule": "cosine"},
    "train": {"epochs": 40, "patience": 40, "batch-size": 64, "progress": False},
}
# From pretrained weights: an encoder whose weights an installed package brings. Its images are
# smaller than it was trained with, which is what a CPU can do five times in an hour.
STARTS: dict[str, dict[str, Any]] = {
    "scratch": {},
    "pretrained": {
        "data": {"image-size": 96},
        "model": {"image": "efficientnet-lite0", "weights": "imagenet"},
        "optim": {"encoder-lr": 3e-4},
        "train": {"epochs": 12, "patience": 12},
    },
}


@cache
def _data(root: str, columns: str, start: str) -> FusionData:
    from gaal_fast.data import load_data

    return load_data(_config(root, columns, "gaal", 0, {}, start).data)


def _config(
    root: str, columns: str, method: str, seed: int, options: dict[str, Any], start: str
) -> Config:
    from gaal_fast.config import build
    from gaal_fast.engine.experiment import with_images

    with (Path(root) / "leaf.csv").open(newline="") as stream:
        header = next(csv.reader(stream))
    unused = [
        name for name in header if columns == "shape" and name.startswith(("margin", "texture"))
    ]
    own = {
        "data": {
            "csv": str(Path(root) / "leaf.csv"),
            "images": str(Path(root) / "images"),
            "drop": ["id", *unused],
        },
        "method": {"name": method, **(options if method == "gaal" else {})},
        "train": {"seed": seed},
    }
    layers = [("the benchmark's budget", BUDGET), (start, STARTS[start]), ("this run", own)]
    return with_images(build(layers))


def _one(
    root: str, columns: str, method: str, seed: int, options: dict[str, Any], start: str
) -> dict[str, Any]:
    """Train one run in a folder that is thrown away; returns its summary."""
    import torch

    from gaal_fast.engine.experiment import run_one
    from gaal_fast.runs.folder import RunFolder

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        config = _config(root, columns, method, seed, options, start)
        summary = run_one(
            config,
            _data(root, columns, start),
            RunFolder.create(Path(folder) / "run", config),
            device=torch.device("cpu"),
        )
    return summary | {"columns": columns}


def run(
    root: Path,
    seeds: Iterable[int],
    *,
    methods: Iterable[str],
    column_sets: Iterable[str],
    options: dict[str, Any],
    jobs: int,
    start: str = "scratch",
) -> list[dict[str, Any]]:
    """Every (columns, method, seed) in ``jobs`` processes of one thread each; the summaries in a
    fixed order.
    """
    tasks = [
        (str(root), c, m, s, options, start) for c in column_sets for m in methods for s in seeds
    ]
    found: dict[int, dict[str, Any]] = {}
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(_one, *task): index for index, task in enumerate(tasks)}
        for future in tqdm(as_completed(futures), total=len(tasks), unit="run"):
            found[futures[future]] = future.result()
    return [found[index] for index in range(len(tasks))]


def ceilings(root: Path, column_sets: Iterable[str], start: str) -> list[dict[str, Any]]:
    """Rows of the cheap baselines on the same split, from the same start."""
    import torch

    from gaal_fast.engine.ceilings import fit_ceilings
    from gaal_fast.runs.ceilings import compared

    rows = []
    for columns in column_sets:
        config, data = (
            _config(str(root), columns, "gaal", 0, {}, start),
            _data(str(root), columns, start),
        )
        found = fit_ceilings(config, data, data.modality_names, device=torch.device("cpu"))
        for row in compared(found.ceilings, "test"):
            assert row.value is not None
            value = round(row.value, 4)
            rows.append(
                {
                    **{"columns": columns, "method": row.method, "modality": row.modality},
                    **{"accuracy": value, "std": None, "seeds": 1, "runs": f"{value:.4f}"},
                    "split": data.split.hash[:16],
                }
            )
    return rows


def tabulate(summaries: list[dict[str, Any]], part: str = "test") -> list[dict[str, Any]]:
    """Mean accuracy and sample standard deviation over seeds by columns, method and modality."""
    rows = []
    for columns, method in dict.fromkeys((s["columns"], s["method"]) for s in summaries):
        mine = [s for s in summaries if (s["columns"], s["method"]) == (columns, method)]
        for modality in mine[0][part]["accuracy"]:
            values = [s[part]["accuracy"][modality] for s in mine]
            rows.append(
                {
                    "columns": columns,
                    "method": method,
                    "modality": modality,
                    "accuracy": round(statistics.fmean(values), 4),
                    "std": round(statistics.stdev(values), 4) if len(values) > 1 else None,
                    "seeds": len(values),
                    "runs": " ".join(f"{v:.4f}" for v in values),
                    "split": mine[0]["split"][:16],
                }
            )
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.leaf99",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="folder with leaf.csv and images/"
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--columns", default=",".join(COLUMN_SETS))
    parser.add_argument(
        "--gaal",
        default="",
        metavar="KEY=VALUE,...",
        help="method options of gaal, such as epsilon=0.1,relative=true",
    )
    parser.add_argument(
        "--part",
        choices=["val", "test"],
        default="test",
        help="val is for choosing options without looking at the test rows",
    )
    parser.add_argument(
        "--start", choices=list(STARTS), default="scratch", help="weights of the image encoder"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR")
    arguments = parser.parse_args()
    if not (arguments.data / "leaf.csv").is_file():
        parser.error(f"--data: no leaf.csv in {arguments.data}")
    options = dict(pair.split("=", 1) for pair in arguments.gaal.split(",") if pair)
    summaries = run(
        arguments.data,
        range(arguments.seeds),
        methods=arguments.methods.split(","),
        column_sets=arguments.columns.split(","),
        options=options,
        jobs=arguments.jobs,
        start=arguments.start,
    )
    rows = tabulate(summaries, arguments.part)
    if arguments.part == "test":
        rows += ceilings(arguments.data, arguments.columns.split(","), arguments.start)

    from gaal_fast.runs import figures
    from gaal_fast.runs.comparison import Row, table
    from gaal_fast.runs.naming import stored_row

    by_columns: dict[str, list[Row]] = {}
    for row in rows:
        own = Row(row["method"], row["modality"], row["accuracy"], row["std"], row["seeds"])
        by_columns.setdefault(row["columns"], []).append(own)
    for columns, mine in by_columns.items():
        print(
            f"\nimage + {columns} columns ({arguments.part}, {arguments.seeds}"
            f" seeds)\n{table(mine)}"
        )
    if arguments.part == "test":
        arguments.out.mkdir(parents=True, exist_ok=True)
        name = "leaf99" if arguments.start == "scratch" else f"leaf99-{arguments.start}"
        with (arguments.out / f"{name}.csv").open("w", newline="") as stream:
            writer = csv.DictWriter(stream, COLUMNS)
            writer.writeheader()
            writer.writerows(stored_row(row) for row in rows)
        for columns, mine in by_columns.items():
            figures.comparison(mine, arguments.out / f"{name}-{columns}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
