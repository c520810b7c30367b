"""Every kernel compiled for GPUs that are not here, in the configurations the host functions pick: what it needs, and what its code shows.

The interpreter runs programs one after another, so no test that runs there can miss a fence; here the fences are read in the PTX.
float16 is left to ``python -m gaal_fast.kernels.aot``, which compiles everything: its code differs from bfloat16's in the type alone.
"""

from __future__ import annotations

import csv
import re
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("triton")

from gaal_fast.kernels import _common, aot

LAUNCHES = [(case, launch) for case, launch in aot.distinct(aot.cases()) if " float16 " not in case]
TENSOR_CORES = re.compile(r"\b(mma\.sync|wgmma\.mma_async|tcgen05\.mma)")


def fences(ptx: str) -> None:
    """Stores of all threads, barrier, one acquire-release ticket, barrier, and only then what the last program reads."""
    tickets = [match.start() for match in re.finditer(r"\batom\.", ptx)]
    assert len(tickets) == 1 and re.match(r"atom\.(global\.gpu|gpu\.global)\.acq_rel\.add\.[us]32", ptx[tickets[0] :])
    before, after = ptx[: tickets[0]], ptx[tickets[0] :]
    assert 0 < before.rindex("st.global") < before.rindex("bar.sync")
    assert after.index("bar.sync") < after.index("ld.global")


@pytest.mark.parametrize(("case", "launch"), [pytest.param(*x, id=f"{x[1].kernel.__name__}-{x[0]}") for x in LAUNCHES])
def test_compiles_without_spilling(case: str, launch: _common.Launch, record_property: pytest.RecordProperty) -> None:
    for architecture in aot.ARCHITECTURES:
        row, ptx = aot.compile_launch(case, launch, architecture)
        record_property(f"sm_{architecture}", f"{row.registers} registers, {row.shared} bytes shared")
        assert (row.spill_stores, row.spill_loads) == (0, 0), row
        assert 0 < row.registers <= 255 and row.shared <= aot.SHARED_LIMIT[architecture], row

        if launch.arguments.get("ticket_ptr") is not None:
            fences(ptx)
        else:
            assert not re.search(r"\batom\.", ptx)
        # A sum of floats by atomics would depend on who comes first.
        assert not re.search(r"\bred\.|atom\S*\.f(16|32|64)", ptx)
        if "PRECISION" in launch.constants:
            full = " float32 " in case
            assert launch.constants["PRECISION"] == ("tf32" if " tf32 " in case else "ieee")
            assert bool(TENSOR_CORES.search(ptx)) != full, "float32 must not be rounded to fit the tensor cores, the others must use them"


def test_every_kernel_is_covered() -> None:
    """A kernel that is added has to be added to `aot.cases`."""
    written = set()
    for file in Path(aot.__file__).parent.glob("*.py"):
        written |= set(re.findall(r"^def (\w+_kernel)\(", file.read_text(), re.MULTILINE))
    assert written - {"_count_kernel"} == {launch.kernel.__name__ for _, launch in LAUNCHES}


def test_rows_are_read_in_vectors() -> None:
    """128 bits per thread and load where the row stride allows it."""
    for case, launch in LAUNCHES:
        if case.startswith("softmax_stats") and case.endswith("1024x10000"):
            _, ptx = aot.compile_launch(case, launch, 90)
            assert re.search(r"ld\.global\S*\.v4\.b32", ptx), case


def test_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The command writes one line per kernel and architecture, and fails where registers are spilled."""
    update = next(x for x in LAUNCHES if x[1].kernel.__name__ == "update_kernel")
    monkeypatch.setattr(aot, "cases", lambda: {update[0]: [update[1]]})
    assert aot.main(["--out", str(tmp_path / "table.csv"), "--arch", "80", "90"]) == 0
    with open(tmp_path / "table.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["architecture"] for row in table] == ["80", "90"] and {row["kernel"] for row in table} == {"update_kernel"}
    assert all(int(row["registers"]) > 0 and row["spill_stores"] == "0" for row in table)
    assert capsys.readouterr().out.count("no spills") == 2

    # The control: four registers fewer than the most frugal kernel needs would be too few, so a cap of 16 makes a larger one spill.
    head = next(x[1] for x in LAUNCHES if x[1].kernel.__name__ == "linear_ce_grad_kernel")
    monkeypatch.setattr(aot, "cases", lambda: {"capped": [replace(head, options=head.options | {"maxnreg": 32})]})
    assert aot.main(["--arch", "80"]) == 1
    assert "bytes spilled" in capsys.readouterr().out
