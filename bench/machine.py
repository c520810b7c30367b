"""What a number was measured on: names, versions, commit, and the measured ceilings that times are
set against.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from functools import cache
from pathlib import Path

import torch

from gaal_fast.runs.environment import cpu_name, versions

ROOT = Path(__file__).resolve().parent.parent
COMMIT_VARIABLE = "BENCH_COMMIT"  # names the commit where the source tree is no git checkout

# Columns of every result file that say where its numbers come from.
FACTS = ("device", "driver", "threads", "python", "torch", "triton", "cuda", "commit", "date")

_UNKNOWN_CACHE = 32 << 20


def pick_device(name: str | None) -> torch.device:
    """The device asked for, else the GPU if torch sees one, else the CPU."""
    return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))


def label(device: torch.device) -> str:
    """Short name for file names: ``cpu``, or the GPU's model such as ``h200``."""
    if device.type == "cpu":
        return "cpu"
    words = (
        torch.cuda.get_device_name(device)
        .lower()
        .replace("nvidia", "")
        .replace("geforce", "")
        .split()
    )
    return "-".join(words)


def facts(device: torch.device) -> dict[str, str]:
    """The values of ``FACTS``."""
    found = {
        "device": cpu_name() if device.type == "cpu" else torch.cuda.get_device_name(device),
        "driver": ""
        if device.type == "cpu"
        else _first_line("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "threads": str(torch.get_num_threads()),
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "triton": versions(["triton"])["triton"] or "",
        "cuda": "" if device.type == "cpu" else str(torch.version.cuda),
        "commit": commit(),
        "date": date.today().isoformat(),
    }
    return {name: found[name] for name in FACTS}


def commit() -> str:
    """The commit of the source tree, with ``+`` where files differ from it; "unknown" where nobody
    can tell.
    """
    given = os.environ.get(COMMIT_VARIABLE)
    if given:
        return given
    head = _first_line("git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD")
    changed = _first_line(
        "git", "-C", str(ROOT), "status", "--porcelain", "--", ".", ":!bench/results"
    )
    return head + ("+" if changed else "") if head else "unknown"


def clocks() -> str:
    """Present clocks, power and temperature of the GPU in one line, empty without one."""
    return _first_line(
        "nvidia-smi",
        "--query-gpu=clocks.sm,clocks.mem,power.draw,temperature.gpu",
        "--format=csv,noheader",
    )


def last_level_cache(device: torch.device) -> int:
    """Bytes of the GPU's L2 cache, or of the CPU's largest cache."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).L2_cache_size
    sizes = []
    for file in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = file.read_text().strip()
        sizes.append(
            int(text[:-1]) << {"K": 10, "M": 20, "G": 30}[text[-1]]
            if text[-1] in "KMG"
            else int(text)
        )
    return max(sizes, default=_UNKNOWN_CACHE)


def memory(device: torch.device) -> int:
    """Bytes that a benchmark may use by default: a quarter of the machine's memory, on a GPU half
    of what is free there.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] // 2
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4


@cache
def copy_bandwidth(device: torch.device) -> float:
    """Bytes per second of a copy between two large buffers, counting each byte once read and once
    written.
    """
    size = max(4 * last_level_cache(device), 64 << 20)
    source, sink = (torch.ones(size // 4, dtype=torch.float32, device=device) for _ in range(2))
    return 2 * size / _median_seconds(lambda: sink.copy_(source), device)


@cache
def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Multiply-adds per second, times two, of a large square matrix product."""
    n = 4096 if device.type == "cuda" else 1024
    a, b, out = (torch.randn(n, n, device=device).to(dtype) for _ in range(3))
    return 2.0 * n**3 / _median_seconds(lambda: torch.mm(a, b, out=out), device)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _median_seconds(call: Callable[[], object], device: torch.device, rounds: int = 9) -> float:
    """Median of calls long enough for a clock on the host."""
    for _ in range(2):
        call()
    times = []
    for _ in range(rounds):
        synchronize(device)
        started = time.perf_counter()
        call()
        synchronize(device)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def _first_line(*command: str) -> str:
    try:
        found = subprocess.run(
            command, capture_output=True, text=True, timeout=20, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
    return found.strip().splitlines()[0].strip() if found.strip() else ""
