"""Measure how many volumes a minute processes compute side by side.

    python -m benchmarks.side_by_side
    python -m benchmarks.side_by_side --spin 300000 10000 0 --volumes 8

The first rows are whole `midiff segment` processes, alone and two at once, for each number of turns in which threads
wait for each other before they sleep (`GOMP_SPINCOUNT`; 300000 is the default of GNU libgomp, 0 sleeps at once). The
other rows are `midiff batch` with some workers and threads. All of them segment the same phantom; `identical` says
whether the voxels are those of the first row.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from benchmarks.measure import publish

from midiff_monai.environment import SPIN_COUNT, THREAD_VARIABLES
from midiff_monai.evaluation.phantom import make_phantom
from midiff_monai.machine import usable_processors

SPACING = (0.94, 0.94, 3.0)
OUTPUTS = ("dseg", "synthT1w")
Command = list[str | Path]


def started(arguments: Command, spin: int | None = None) -> subprocess.Popen[bytes]:
    """Start `midiff` without settings of threads, but with a number of turns of waiting, if one is given."""
    settings = {*THREAD_VARIABLES, "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}
    variables = {name: value for name, value in os.environ.items() if name not in settings}
    variables |= {} if spin is None else {"GOMP_SPINCOUNT": str(spin)}
    line = [sys.executable, "-m", "midiff_monai", *map(str, arguments)]
    return subprocess.Popen(line, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def seconds(commands: Sequence[Command], spin: int | None = None) -> float:
    """Wall-clock time of commands that run at once."""
    start = time.perf_counter()
    processes = [started(command, spin) for command in commands]
    if any([process.wait() for process in processes]):
        raise SystemExit(f"failed: {commands}")
    return time.perf_counter() - start


def voxels(folder: Path) -> list[np.ndarray]:
    """The voxels of the first results in a folder."""
    return [np.asarray(nib.load(min(folder.glob(f"*_{output}.nii.gz"))).dataobj) for output in OUTPUTS]


def write_scans(volumes: int, folder: Path) -> list[Path]:
    """Write the same phantom several times."""
    folder.mkdir()
    scans = [folder / f"{number}.nii.gz" for number in range(volumes)]
    nib.save(make_phantom("PD", spacing=SPACING).image, scans[0])
    for scan in scans[1:]:
        shutil.copy(scans[0], scan)
    return scans


def cases(spins: Sequence[int], scans: Sequence[Path], folder: Path) -> Iterator[tuple[dict[str, Any], list[Command]]]:
    """Yield what is varied, and the commands that run at once."""
    cores = usable_processors()
    for spin, at_once in itertools.product(spins, (1, 2)):
        commands: list[Command] = [
            ["segment", scans[0], "-o", folder / f"{spin}-{at_once}-{n}"] for n in range(at_once)
        ]
        yield {"command": "segment", "spin": spin, "processes": at_once, "threads": cores, "volumes": at_once}, commands
    divisions = {(0, cores), (2, max(1, cores // 2)), (cores, 1)} if len(scans) > 1 else set()
    for workers, threads in sorted(divisions):
        options = ["-o", folder / f"batch-{workers}-{threads}", "--workers", str(workers), "--threads", str(threads)]
        facts = {"processes": workers, "threads": threads, "volumes": len(scans)}
        yield {"command": "batch", "spin": SPIN_COUNT} | facts, [["batch", scans[0].parent, *options]]


def rows(spins: Sequence[int], volumes: int, folder: Path) -> Iterator[dict[str, Any]]:
    """Yield one row per case."""
    first = None
    for facts, commands in cases(spins, write_scans(volumes, folder / "scans"), folder):
        wall = seconds(commands, facts["spin"])
        found = voxels(Path(commands[0][commands[0].index("-o") + 1]))
        first = first or found
        same = all(np.array_equal(one, other) for one, other in zip(found, first, strict=True))
        row = facts | {"wall": wall, "volumes a minute": 60 * facts["volumes"] / wall, "identical": same}
        print(row, flush=True)  # each row as soon as it is known
        yield row


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spin", type=int, nargs="*", default=[300_000, SPIN_COUNT, 0], help="turns of waiting")
    parser.add_argument("--volumes", type=int, default=8, help="of the batches; 1 leaves the batches out")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        publish("side_by_side", rows(arguments.spin, arguments.volumes, Path(temporary)))
