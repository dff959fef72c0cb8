"""Check that memory, time and results of a long batch with faulty volumes stay constant.

    python -m benchmarks.long_batch                                       # small volumes
    python -m benchmarks.long_batch --volumes 50 --spacing 0.94 0.94 3    # of clinical size

The batch consists of phantoms of three contrasts. Every tenth volume is faulty, in one of several ways. The benchmark
fails unless each intact volume gives the voxels of a single run, and each faulty one is reported.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from benchmarks.measure import publish, status

from midiff_monai.evaluation.phantom import make_phantom
from midiff_monai.io.inputs import find_jobs
from midiff_monai.pipeline.batch import run_batch
from midiff_monai.pipeline.batch_report import Outcome
from midiff_monai.pipeline.options import Task
from midiff_monai.pipeline.run import segment

CONTRASTS = ("PD", "T2", "FLAIR")
Spacing = tuple[float, float, float]
SMALL: Spacing = (3.0, 3.0, 6.0)
EVERY = 10
"""The last of every so many volumes is faulty."""


def good(number: int, spacing: Spacing) -> nib.Nifti1Image:
    """Return an intact volume. There are few distinct ones, so that few single runs are needed."""
    return phantom(CONTRASTS[number % len(CONTRASTS)], spacing)


@cache
def phantom(contrast: str, spacing: Spacing) -> nib.Nifti1Image:
    """Make the template phantom with a voxel size in mm."""
    return make_phantom(contrast, spacing=spacing).image


def write_faulty(number: int, spacing: Spacing, path: Path) -> None:
    """Write a faulty volume: truncated, with two frames, constant, all NaN, or not an image."""
    image = good(number, spacing)
    voxels = np.asarray(image.dataobj, dtype=np.float32)
    match number // EVERY % 5:
        case 0:
            nib.save(image, path)
            path.write_bytes(path.read_bytes()[:-1000])
        case 1:
            nib.save(nib.Nifti1Image(np.stack([voxels, voxels], axis=-1), image.affine), path)
        case 2:
            nib.save(nib.Nifti1Image(np.ones_like(voxels), image.affine), path)
        case 3:
            nib.save(nib.Nifti1Image(np.full_like(voxels, np.nan), image.affine), path)
        case _:
            path.write_text("not an image")


def is_faulty(number: int) -> bool:
    """Return whether the volume with this number is faulty."""
    return number % EVERY == EVERY - 1


def write_study(volumes: int, spacing: Spacing, folder: Path) -> None:
    """Write volumes into a folder, with names in the order of their numbers."""
    for number in range(volumes):
        path = folder / f"{number:04d}.nii.gz"
        if is_faulty(number):
            write_faulty(number, spacing, path)
        else:
            nib.save(good(number, spacing), path)


def check(outcomes: list[Outcome], output: Path, alone: Path) -> None:
    """Compare statuses and segmentations of the batch with single runs, and raise AssertionError if they differ."""
    distinct = [outcome.input for outcome in outcomes[: len(CONTRASTS)]]
    expected = [result.segmentation for result in segment(distinct, alone)]
    for number, outcome in enumerate(outcomes):
        assert outcome.status == ("failed" if is_faulty(number) else "done"), outcome
        if outcome.status == "done":
            made = nib.Nifti1Image.from_filename(output / f"{number:04d}_dseg.nii.gz").dataobj
            np.testing.assert_array_equal(made, expected[number % len(CONTRASTS)])


def rows(volumes: int, spacing: Spacing) -> Iterator[dict[str, Any]]:
    """Yield memory and time after every tenth volume."""
    found: list[dict[str, Any]] = []
    shape = "x".join(map(str, good(0, spacing).shape))
    start = time.perf_counter()

    def watch(outcomes: Iterable[Outcome]) -> Iterator[Outcome]:
        for number, outcome in enumerate(outcomes, start=1):
            if number % EVERY == 0:
                facts = {"resident MB": status("VmRSS") / 1024, "peak MB": status("VmHWM") / 1024}
                found.append({"shape": shape, "volumes": number, "seconds": time.perf_counter() - start} | facts)
            yield outcome

    with tempfile.TemporaryDirectory() as folder:
        study, output, alone = (Path(folder) / name for name in ("study", "output", "alone"))
        study.mkdir()
        write_study(volumes, spacing, study)
        outcomes = run_batch(find_jobs([study], output), Task(), output, progress=watch)
        check(outcomes, output, alone)
    yield from found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--volumes", type=int, default=200, help=f"{EVERY} or more")
    parser.add_argument("--spacing", type=float, nargs=3, default=SMALL, help="voxel size in mm")
    arguments = parser.parse_args()
    table = list(rows(arguments.volumes, tuple(arguments.spacing)))
    publish(f"long_batch_{table[0]['shape']}", table)
