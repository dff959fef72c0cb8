"""Volumes with random mixtures of faults, and how far their results are from those of clean copies.

    python evaluation/faults.py write DATA FOLDER --count 40
    midiff batch FOLDER/volumes/*.nii.gz -o FOLDER/results --fast
    python evaluation/faults.py compare FOLDER --table evaluation/results/faults.csv

DATA is the folder of the development data. Every volume is written twice: clean, and with a fault of its intensities,
and perhaps one of its header or of its coverage too. A result is wrong if the volume of the brain, the cortex or the
white matter differs by more than 5 % from that of the clean copy. Every wrong result must have a flag of a kind, or a
warning, that the clean copy does not have.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

from midiff_monai.pipeline.reading import BACKGROUND_CLEARED

PATTERNS = ("multicontrast/*_PD.nii.gz", "multicontrast/*_T2.nii.gz", "multicontrast/*_FLAIR.nii.gz", "open-ms/*_T2*")
"""Volumes that get faults, as patterns below the folder of the data."""

MAX_DIFFERENCE = 0.05
"""Largest relative difference of a volume from that of the clean copy."""

GROUPS = {"brain": None, "cortex": (3, 42), "white matter": (2, 41)}

Voxels = NDArray[np.float32]


def dust(voxels: Voxels, random: np.random.Generator) -> NDArray:
    """Values far below those of tissue."""
    return np.where(voxels == 0, 10.0 ** random.uniform(-7, -4) * random.random(voxels.shape) * voxels.max(), voxels)


def offset(voxels: Voxels, random: np.random.Generator) -> NDArray:
    """A constant added to all voxels."""
    return voxels + np.float32(random.choice([-100, 1, 100, 1000]))


def padding(voxels: Voxels, random: np.random.Generator) -> NDArray:
    """A constant other than 0 around the brain."""
    return np.where(voxels == 0, random.choice([-1, 4095]), voxels)


def noise(voxels: Voxels, random: np.random.Generator) -> NDArray:
    """Noise of 1 % around the brain and in it."""
    return voxels + random.normal(scale=0.01 * np.percentile(voxels[voxels > 0], 99), size=voxels.shape)


def ripples(voxels: Voxels, random: np.random.Generator) -> NDArray:
    """A cubic interpolation."""
    return ndimage.shift(voxels, random.uniform(0.1, 0.4, 3), order=3)


def min_max(voxels: Voxels, random: np.random.Generator) -> NDArray:
    """Intensities in [0.1, 1]."""
    return (voxels - voxels.min()) / np.ptp(voxels) * 0.9 + 0.1


def standardised(voxels: Voxels, random: np.random.Generator) -> NDArray:
    """A mean of 0 and a standard deviation of 1 over the whole volume."""
    return (voxels - voxels.mean()) / voxels.std()


def identity(image: nib.Nifti1Image) -> nib.Nifti1Image:
    """No voxel size and no orientation."""
    return nib.Nifti1Image(np.asarray(image.dataobj), np.eye(4))


def upside_down(image: nib.Nifti1Image) -> nib.Nifti1Image:
    """The vertical axis has the wrong sign."""
    return nib.Nifti1Image(np.asarray(image.dataobj), np.diag([1, 1, -1, 1]) @ image.affine)


def too_large(image: nib.Nifti1Image) -> nib.Nifti1Image:
    """Voxels 1.3 times too large."""
    return nib.Nifti1Image(np.asarray(image.dataobj), np.diag([1.3, 1.3, 1.3, 1]) @ image.affine)


def axial_slab(image: nib.Nifti1Image) -> nib.Nifti1Image:
    """A third of the slices."""
    third = image.shape[2] // 3
    return image.slicer[:, :, third : 2 * third]


def coronal_slab(image: nib.Nifti1Image) -> nib.Nifti1Image:
    """A fifth of the rows, from the middle on."""
    return image.slicer[:, image.shape[1] // 2 : image.shape[1] * 7 // 10]


INTENSITY: tuple[Callable[[Voxels, np.random.Generator], NDArray], ...] = (
    *(dust, offset, padding, noise, ripples, min_max, standardised),
)
GEOMETRY: tuple[Callable[[nib.Nifti1Image], nib.Nifti1Image], ...] = (
    *(identity, upside_down, too_large, axial_slab, coronal_slab),
)
GEOMETRY_SHARE = 0.4
"""Share of the volumes that have a fault of their header or of their coverage too."""


def write(data: Path, folder: Path, count: int, seed: int) -> None:
    """Write `count` volumes with faults and the clean copies of their sources, and `faults.csv` with the names."""
    random = np.random.default_rng(seed)
    sources = sorted(path for pattern in PATTERNS for path in data.glob(pattern))
    (folder / "volumes").mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(count):
        source = sources[random.integers(len(sources))]
        image = read(source)
        nib.save(image, folder / "volumes" / f"clean_{source.name}")
        faults = [INTENSITY[random.integers(len(INTENSITY))].__name__]
        changed = globals()[faults[0]](np.asarray(image.dataobj), random).astype(np.float32)
        image = nib.Nifti1Image(changed, image.affine)
        if random.random() < GEOMETRY_SHARE:
            geometry = GEOMETRY[random.integers(len(GEOMETRY))]
            faults.append(geometry.__name__)
            image = geometry(image)
        name = f"fault{number:02d}_{source.name}"
        nib.save(image, folder / "volumes" / name)
        rows.append({"volume": name, "clean": f"clean_{source.name}", "faults": " ".join(faults)})
    with (folder / "faults.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def read(path: Path) -> nib.Nifti1Image:
    """Read a volume as float32 without axes of one frame."""
    image = nib.Nifti1Image.from_filename(path)
    return nib.Nifti1Image(np.squeeze(np.asarray(image.dataobj)).astype(np.float32), image.affine)


def compare(folder: Path, table: Path | None) -> None:
    """Print, and write to a table, how far every result is from that of the clean copy, and what tells so."""
    rows = []
    for row in csv.DictReader((folder / "faults.csv").open()):
        stem, clean = (row[key].removesuffix(".nii.gz") for key in ("volume", "clean"))
        if not all((folder / "results" / f"{name}_report.json").is_file() for name in (stem, clean)):
            rows.append({"volume": stem, "faults": row["faults"], "verdict": "not processed"})
            continue
        found = differences(folder / "results", stem, clean)
        new = sorted(reasons(folder / "results", stem) - reasons(folder / "results", clean))
        wrong = max(map(abs, found.values())) > MAX_DIFFERENCE
        verdict = "right" if not wrong else "wrong, told" if new else "WRONG AND NOT TOLD"
        shares = {group: f"{found[group]:+.3f}" for group in GROUPS}
        rows.append({"volume": stem, "faults": row["faults"], "verdict": verdict, **shares, "told by": "; ".join(new)})
    result = pd.DataFrame(rows)
    print(result.to_string(), result["verdict"].value_counts().to_string(), sep="\n")
    if table:
        result.to_csv(table, index=False)


def differences(results: Path, stem: str, clean: str) -> dict[str, float]:
    """The relative differences of volumes from those of the clean copy."""
    tables = [pd.read_csv(results / f"{name}_volumes.csv") for name in (stem, clean)]
    found = {}
    for group, labels in GROUPS.items():
        own, reference = (
            table.loc[table["id"].isin(labels) if labels else table["id"] > 0, "volume_ml"].sum() for table in tables
        )
        found[group] = own / reference - 1
    return found


def reasons(results: Path, stem: str) -> set[str]:
    """The kinds of the flags of a volume, and its other warnings without the one that its background was cleared."""
    report = json.loads((results / f"{stem}_report.json").read_text(encoding="utf-8"))
    texts = {flag["text"] for flag in report["flags"]} | {BACKGROUND_CLEARED}
    return {flag["kind"] for flag in report["flags"]} | {text for text in report["warnings"] if text not in texts}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    writing = commands.add_parser("write")
    writing.add_argument("data", type=Path)
    comparing = commands.add_parser("compare")
    for command in (writing, comparing):
        command.add_argument("folder", type=Path)
    comparing.add_argument("--table", type=Path, help="CSV file to write")
    writing.add_argument("--count", type=int, default=40)
    writing.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.command == "write":
        write(arguments.data, arguments.folder, arguments.count, arguments.seed)
    else:
        compare(arguments.folder, arguments.table)
