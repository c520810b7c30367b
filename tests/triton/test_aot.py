"""Every kernel compiled for GPUs that are not here, in the configurations the host functions pick:
what it needs, and what its code shows.

The interpreter runs programs one after another, so no test that runs there can miss a fence; here
the fences are read in the PTX. float16 is left to ``python -m gaal_fast.kernels.aot``, which
compiles everything: its code differs from bfloat16's in the type alone.
"""

from __future__ import annotations

import csv
import re
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

from gaal_fast.kernels import _launch, aot
from gaal_fast.kernels.linear_ce_grad import linear_ce_grad
from gaal_fast.kernels.softmax_stats import softmax_stats
from tests.triton.steps import project

LAUNCHES = [(case, launch) for case, launch in aot.distinct(aot.cases()) if " float16 " not in case]
TENSOR_CORES = re.compile(r"\b(mma\.sync|wgmma\.mma_async|tcgen05\.mma)")


def fences(ptx: str) -> None:
    """Stores of all threads, barrier, one acquire-release ticket, barrier, and only then what the
    last program reads.
    """
    tickets = [match.start() for match in re.finditer(r"\batom\.", ptx)]
    assert len(tickets) == 1 and re.match(
        r"atom\.(global\.gpu|gpu\.global)\.acq_rel\.add\.[us]32", ptx[tickets[0] :]
    )
    before, after = ptx[: tickets[0]], ptx[tickets[0] :]
    assert 0 < before.rindex("st.global") < before.rindex("bar.sync")
    assert after.index("bar.sync") < after.index("ld.global")


def check_spills(row: aot.Resources, versions: tuple[str, str]) -> None:
    """No spills from a compiler that was measured; from another one a warning, for what it does is
    not known here.
    """
    if (row.spill_stores, row.spill_loads) == (0, 0):
        return
    if versions in aot.MEASURED:
        raise AssertionError(row)
    spilled = (
        f"{row.spill_stores} + {row.spill_loads} bytes spilled by {row.kernel} ({row.case}) on"
        f" sm_{row.architecture}"
    )
    warnings.warn(
        f"{spilled} with Triton {versions[0]} and ptxas {versions[1]}, which nobody has measured",
        stacklevel=2,
    )


def test_spills_fail_where_they_were_measured_and_are_reported_elsewhere() -> None:
    numbers = dict.fromkeys(
        ("num_warps", "registers", "shared", "stack", "spill_stores", "spill_loads"), 0
    )
    clean = aot.Resources("a case", "a_kernel", 100, "fp32", "", **numbers)
    spilled = replace(clean, spill_stores=8, spill_loads=12)
    measured, unknown = ("3.8.0", "13.3"), ("99.0", "13.3")
    assert measured in aot.MEASURED and unknown not in aot.MEASURED
    with pytest.raises(AssertionError, match="a_kernel"):
        check_spills(spilled, measured)
    message = (
        r"8 \+ 12 bytes spilled by a_kernel \(a case\) on sm_100 with Triton 99.0 and ptxas 13.3,"
        r" which nobody has measured"
    )
    with pytest.warns(UserWarning, match=message):
        check_spills(spilled, unknown)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for versions in (measured, unknown):
            check_spills(clean, versions)


def test_the_compiler_says_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for architecture in aot.ARCHITECTURES:
        version, ptxas = aot.compiler(architecture)
        assert re.match(r"\d+\.\d+", version) and re.fullmatch(r"\d+\.\d+", ptxas)
    monkeypatch.delattr("triton.backends.nvidia.compiler.get_ptxas")
    assert aot.compiler(90) == (version, "unknown")


@pytest.mark.parametrize(
    ("case", "launch"), [pytest.param(*x, id=f"{x[1].kernel.__name__}-{x[0]}") for x in LAUNCHES]
)
def test_compiles_without_spilling(
    case: str, launch: _launch.Launch, record_property: pytest.RecordProperty
) -> None:
    for architecture in aot.ARCHITECTURES:
        row, ptx = aot.compile_launch(case, launch, architecture)
        record_property(
            f"sm_{architecture}", f"{row.registers} registers, {row.shared} bytes shared"
        )
        check_spills(row, aot.compiler(architecture))
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
            assert bool(TENSOR_CORES.search(ptx)) != full, (
                "float32 must not be rounded to fit the tensor cores, the others must use them"
            )


def test_every_kernel_is_covered() -> None:
    """A kernel that is added has to be added to `aot.cases`."""
    written = set()
    for file in Path(aot.__file__).parent.rglob("*.py"):
        written |= set(re.findall(r"^def (\w+_kernel)\(", file.read_text(), re.MULTILINE))
    assert written - {"_count_kernel"} == {launch.kernel.__name__ for _, launch in LAUNCHES}


def test_equal_rows_are_added_in_one_order() -> None:
    """Kernels that read a caller's logits compile to one code for every alignment and stride: what
    Triton knows of an address decides which lanes add which columns, and an entropy that differs in
    its last bit changes the selection.
    """
    memory = torch.empty(2**16)
    target = torch.zeros(32, dtype=torch.int64)
    layouts = [
        memory[: 32 * 256].view(32, 256),
        memory[1 : 1 + 32 * 256].view(32, 256),
        memory[: 32 * 257].view(32, 257)[:, :256],
        memory[: 64 * 256].view(64, 256)[::2],
        memory[:256].expand(32, 256),
    ]
    calls = {
        "softmax_stats": lambda z: softmax_stats(z, target),
        "entropy_topk": lambda z: aot.entropy_topk(z, 3),
        "linear_ce_grad": lambda z: linear_ce_grad(memory[:32].view(32, 1), z, target),
    }
    for name, call in calls.items():
        codes = [
            [aot.source(launch).hash() for launch in aot.record(lambda z=z, call=call: call(z))]
            for z in layouts
        ]
        assert all(code == codes[0] for code in codes), name


def test_no_value_of_an_option_is_compiled_in() -> None:
    """A schedule of epsilon runs one code, as numbers and as a tensor; numbers reach the kernel as
    float64.
    """
    pair = [torch.empty(8)], [torch.empty(8)]

    def source(**options: object) -> str:
        sums = aot.record(lambda: project(*pair, **options))[0]
        return aot.source(sums).hash()

    numbers = {
        source(epsilon=e, margin=m)
        for e, m in ((0.0, 0.75), (1.0, 0.0), (0.3, 1e-40), (-1e300, 16.0))
    }
    tensors = {source(epsilon=torch.tensor(e, dtype=torch.float64)) for e in (0.0, 1.0, 0.3)}
    assert len(numbers) == 1 and len(tensors) == 1 and numbers != tensors
    launch = aot.record(lambda: project(*pair))[0]
    signature = aot.source(launch).signature
    assert [signature[name] for name in ("epsilon", "margin", "ridge", "max_correction")] == [
        "fp64"
    ] * 4


def test_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command writes one line per kernel and architecture, and fails where registers are
    spilled.
    """
    update = next(x for x in LAUNCHES if x[1].kernel.__name__ == "update_kernel")
    monkeypatch.setattr(aot, "cases", lambda: {update[0]: [update[1]]})
    assert aot.main(["--out", str(tmp_path / "table.csv"), "--arch", "80", "90"]) == 0
    with open(tmp_path / "table.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["architecture"] for row in table] == ["80", "90"] and {
        row["kernel"] for row in table
    } == {"update_kernel"}
    assert all(int(row["registers"]) > 0 and row["spill_stores"] == "0" for row in table)
    assert capsys.readouterr().out.count("no spills") == 2

    # The control: four registers fewer than the most frugal kernel needs would be too few, so a cap
    # of 16 makes a larger one spill.
    head = next(x[1] for x in LAUNCHES if x[1].kernel.__name__ == "linear_ce_grad_kernel")
    monkeypatch.setattr(aot, "cases", lambda: {"capped": [replace(head, max_registers=32)]})
    assert aot.main(["--arch", "80"]) == 1
    assert "bytes spilled" in capsys.readouterr().out
