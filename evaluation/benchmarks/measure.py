"""Measurements that the benchmarks share, and a description of the machine."""

from __future__ import annotations

import ctypes
import platform
import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from midiff_monai.machine import usable_processors
from midiff_monai.provenance import environment

RESULTS = Path(__file__).parent / "results"


def milliseconds(call: Callable[[], object], repeats: int = 5) -> float:
    """Return the shortest time of several calls after a warm-up. Other processes can only add time."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1000 * min(times)


def peak_megabytes(call: Callable[[], object]) -> float:
    """Return the peak memory of a call beyond the memory in use before it (Linux)."""
    call()
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # the call could reuse freed memory that the process still holds
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    before = status("VmRSS")
    call()
    return (status("VmHWM") - before) / 1024


def machine() -> dict[str, Any]:
    """Describe processor, cores, versions and commit."""
    facts = environment()
    cpuinfo = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.exists() else None
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    packages = {name: version for name, version in facts["packages"].items() if name in ("torch", "monai")}
    name = model[1] if model else platform.processor()
    return {
        "cpu": name,
        "cores": usable_processors(),
        "gpu": gpu,
        "python": facts["python"],
        **packages,
        "commit": facts["git_commit"],
    }


def publish(name: str, rows: Iterable[dict[str, Any]]) -> None:
    """Print a table, and write it to `results/<name>.csv` with the machine in every row."""
    table = pd.DataFrame(rows)
    print(table.round(3).to_string(index=False))
    RESULTS.mkdir(exist_ok=True)
    table.assign(**machine()).to_csv(RESULTS / f"{name}.csv", index=False, float_format="%.4g")


def status(field: str) -> int:
    """Read a field of this process's status in kB, such as VmRSS (current) and VmHWM (peak memory) (Linux)."""
    line = re.search(rf"{field}:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert line is not None
    return int(line[1])
