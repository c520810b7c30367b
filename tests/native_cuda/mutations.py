"""Take away each mask, guard, barrier and fence of the CUDA kernels, and see a check fail.

``python -m tests.native_cuda.mutations`` applies every change of ``changes.py`` to a copy of
``csrc/``, one at a time, compiles the kernels for the emulated device, runs the check beside it,
and prints which change was caught by which check. It takes some minutes and exits with 1 if a
change survives. ``test_mutations.py`` keeps the list in step with the sources, and sees that the
checks pass on the kernels as they are.

Not listed, because nothing changes without them one by one: that groups past the last column are
skipped (they would store nothing), and seven barriers that have a neighbor which orders the same
accesses (the first one of a block's sum, the first and last ones of a block's maximum, the last one
of a product and the first and last ones of its column sums, the one between the statistics and the
sort).
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from gaal_fast.ops.backends.native import cuda as glue
from gaal_fast.ops.backends.native import cuda_composed as composed
from gaal_fast.ops.backends.native import cuda_host as host
from tests.native_cuda import build
from tests.native_cuda.changes import MUTATIONS
from tests.native_cuda.test_checked import run_checked

ROOT = Path(__file__).parents[2]


def poisoned(
    *sizes: object, dtype: torch.dtype | None = None, device: torch.device | None = None
) -> torch.Tensor:
    """In the place of torch.empty: NaN, and -1 for integers."""
    made = torch.zeros(*sizes, dtype=dtype, device=device)
    made.view(-1).view(torch.uint8).fill_(0xFF)
    return made


def fails(check: Callable[[], None], csrc: str, folder: str) -> bool:
    """Whether a check notices what was done to the kernels. Only once in a process, since it keeps
    the first module of a name.
    """
    broken = build.emulated_module(Path(folder), Path(csrc), "-O0")
    host.load = lambda: broken.module
    host.stream = lambda device: 0
    composed.gram = lambda x: x.float() @ x.float().t()
    torch_empty, glue.torch.empty = glue.torch.empty, poisoned
    try:
        check()
    except (AssertionError, RuntimeError):
        return True
    finally:
        glue.torch.empty = torch_empty
    return False


def caught(name: str) -> bool:
    """Break the kernels, and run the check."""
    mutation = MUTATIONS[name]
    with tempfile.TemporaryDirectory() as folder:
        csrc, out = Path(folder) / "csrc", Path(folder) / "out"
        shutil.copytree(build.CSRC, csrc)
        file = csrc / mutation.file
        file.write_text(mutation.applied(file.read_text()))
        if isinstance(mutation.check, tuple):
            checker, part = mutation.check
            return (
                run_checked(
                    build.checked_program(out, checker, part, csrc, "-O0"), schedules=2, types=2
                ).returncode
                != 0
            )
        call = f"m.fails(m.MUTATIONS[{name!r}].check, {str(csrc)!r}, {str(out)!r})"
        script = f"import sys; from tests.native_cuda import mutations as m; sys.exit(10 + {call})"
        environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(
            [sys.executable, "-c", script],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
        )
        if done.returncode >= 0 and done.returncode not in (10, 11):
            raise RuntimeError(f"the check did not run: {done.stderr[-3000:]}")
        return done.returncode != 10  # a crash is noticed too


def main(arguments: list[str] | None = None) -> int:
    """Print a table of all changes; returns 1 if one survived."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.native_cuda.mutations", description=__doc__.partition("\n")[0]
    )
    parser.add_argument(
        "--only", default="", help="changes whose file or description contains this"
    )
    options = parser.parse_args(arguments)
    survivors = 0
    for number, (name, mutation) in enumerate(MUTATIONS.items()):
        if options.only not in f"{mutation.file} {name}":
            continue
        noticed = caught(name)
        survivors += not noticed
        print(
            f"{number:>3}  {mutation.file:<20} {name:<48} {mutation.by if noticed else 'SURVIVED'}",
            flush=True,
        )
    return min(survivors, 1)


if __name__ == "__main__":
    raise SystemExit(main())
