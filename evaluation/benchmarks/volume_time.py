"""Measure time and memory of the command for a whole volume.

    python -m benchmarks.volume_time VOLUME [VOLUME …]

Each row is a separate process. Its start is the wall-clock time minus the time of the steps in the report: imports and
loading of the models. A further volume of the same command takes the time of its steps only.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
from benchmarks.measure import publish

COMMANDS = (["segment"], ["segment", "--no-translate"], ["translate"])


def measured(command: Sequence[str], volume: Path) -> dict[str, Any]:
    """Run `midiff` on a volume, and measure wall-clock time, peak memory and the seconds of each step."""
    with tempfile.TemporaryDirectory() as folder:
        line = [sys.executable, "-m", "midiff_monai", *command, str(volume), "-o", folder]
        start = time.perf_counter()
        process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        if status:
            raise SystemExit(f"failed: {' '.join(line)}")
        (report,) = Path(folder).glob("*_report.json")
        steps = json.loads(report.read_text())["timings_seconds"]
    facts = {"wall": wall, "peak MB": usage.ru_maxrss / 1024, "start": wall - sum(steps.values())}
    return facts | steps


def rows(volumes: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """Yield one row per volume and command."""
    for volume in volumes:
        shape = "x".join(map(str, nib.load(volume).shape))
        for command in COMMANDS:
            yield {"shape": shape, "command": " ".join(command)} | measured(command, volume)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("volumes", nargs="+", type=Path)
    publish("volume_time", rows(parser.parse_args().volumes))
