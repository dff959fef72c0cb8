"""Measure how changes of the acquisition affect the results. Each row has one change.

    python evaluation/acquisitions.py --subject ../shared/data/multicontrast/301D00293 \
        --label-map ../shared/data/label-maps/training_seg_01.nii.gz --out evaluation/results/acquisitions

A simulated head (`midiff_monai.evaluation.simulation`) gets other timings, noise and bias fields, and is compared with
the truth. The volumes of a real subject are resampled to other grids together with their T1w, or get other intensities.
The column `subject` names the change. "as-it-is" means no change. Use a new folder for another subject or label map.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from math import radians
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import SimpleITK as sitk
from markdown_table import markdown_table
from methods import contrast_of
from numpy.typing import NDArray
from run import CONTRASTS as ORDER
from run import fill, jobs
from table import Table

from midiff_monai.evaluation.phantom import CONTRASTS, CSF, PulseSequence, Tissue, acquire
from midiff_monai.evaluation.scores import STRUCTURES
from midiff_monai.evaluation.simulation import (
    BIAS,
    FAT,
    HEAD_TISSUES,
    NOISE,
    read_anatomy,
    save_pair,
    simulate_ct,
    tissue_fractions,
    true_labels,
)
from midiff_monai.io.volumes import read_volume, write_like

AS_IT_IS = "as-it-is"

BRIGHT_FAT = HEAD_TISSUES | {FAT: Tissue(350, 200, 1.0)}
"""Tissues of a fast spin echo, in which fat stays bright, as with a long T2."""

LONG_T1_CSF = HEAD_TISSUES | {CSF: Tissue(4000, 329, 1.0)}
"""Tissues with the T1 of CSF at 3 T and body temperature, which is longer than in the table of BrainWeb."""


class Scan(NamedTuple):
    """A simulated scan: the change, the contrast, and all parameters of the image."""

    change: str
    contrast: str
    sequence: PulseSequence
    noise: float = NOISE
    bias: float = BIAS
    tissues: dict[int, Tissue] = HEAD_TISSUES


CHANGES: dict[str, dict[str, Any]] = {
    AS_IT_IS: {},
    "noise-5": {"noise": 0.05},
    "noise-10": {"noise": 0.1},
    "field-50": {"bias": 0.5},
    "bright-fat": {"tissues": BRIGHT_FAT},
}
"""Change → parameters of `Scan` that it replaces, for all contrasts."""

SCANS = (
    *(
        Scan(change, contrast, CONTRASTS[contrast], **settings)
        for change, settings in CHANGES.items()
        for contrast in ("PD", "T2", "FLAIR")
    ),
    Scan("TR-8000-TE-8", "PD", PulseSequence(8000, 8)),
    Scan("TR-5700-TE-8-slow-fluid", "PD", PulseSequence(5700, 8), tissues=LONG_T1_CSF),
    Scan("TR-2000-TE-30", "PD", PulseSequence(2000, 30)),
    Scan("TR-5000-TE-120", "T2", PulseSequence(5000, 120)),
)


def simulate_scans(label_map: Path, out: Path) -> None:
    """Write the pairs of `SCANS` and a CT of one head, with the seeds of `simulation.simulate`."""
    anatomy = read_anatomy(label_map, heads=True)
    fractions = tissue_fractions(anatomy)
    labels, seeds = true_labels(anatomy, fractions), list(CONTRASTS)
    t1 = acquire(fractions, CONTRASTS["T1"], noise=NOISE, bias=BIAS, seed=seeds.index("T1"), tissues=HEAD_TISSUES)
    save_pair(out, AS_IT_IS, {"T1": t1, "CT": simulate_ct(anatomy, seed=0)}, labels, anatomy.affine)
    for change, contrast, sequence, noise, bias, tissues in SCANS:
        seed = seeds.index(contrast)
        scan = acquire(fractions, sequence, noise=noise, bias=bias, seed=seed, tissues=tissues)
        save_pair(out, change, {"T1": t1, contrast: scan}, labels, anatomy.affine)


class Grid(NamedTuple):
    """A grid: voxel sides in mm (right, anterior, superior), and the rotation of the head in degrees."""

    change: str
    spacing: tuple[float, float, float]
    nodded: float = 0.0
    tilted: float = 0.0


GRIDS = (
    Grid("nodded-25", (1.2, 1.2, 1.2), nodded=25.0),
    Grid("tilted-20", (1.2, 1.2, 1.2), tilted=20.0),
    Grid("axial-6-mm", (1.0, 1.0, 6.0)),
    Grid("coronal-5-mm", (1.0, 5.0, 1.0)),
    Grid("sagittal-5-mm", (5.0, 1.0, 1.0)),
)


def regrid(image: sitk.Image, grid: Grid) -> sitk.Image:
    """Resample a skull-stripped volume to a grid along the world axes, with the head rotated about its centre.

    Thick voxels are means of thin ones. The background does not contribute to a voxel, so the surface of the brain
    keeps its intensity. A voxel with more than half background becomes 0.
    """
    side = max(size * spacing for size, spacing in zip(image.GetSize(), image.GetSpacing(), strict=True))
    per_voxel = [max(1, round(spacing)) for spacing in grid.spacing]
    fine = np.array(grid.spacing) / per_voxel
    size = [int(side / spacing) * count for spacing, count in zip(grid.spacing, per_voxel, strict=True)]
    centre = image.TransformContinuousIndexToPhysicalPoint([(length - 1) / 2 for length in image.GetSize()])
    turn = sitk.Euler3DTransform(centre, radians(grid.nodded), radians(grid.tilted), 0.0)
    place = size, turn, sitk.sitkLinear, centre - fine * (np.array(size) - 1) / 2, fine
    parts = image, sitk.Cast(image != 0, sitk.sitkFloat32)
    total, weight = (sitk.BinShrink(sitk.Resample(part, *place), per_voxel) for part in parts)
    return sitk.Mask(sitk.Divide(total, sitk.Maximum(weight, 0.5)), weight > 0.5)


def regrid_subject(subject: str, out: Path) -> None:
    """Write the pairs of a subject on `GRIDS` and unchanged. `subject` is the path of a volume without _PD.nii.gz."""
    for volume in sorted(Path(subject).parent.glob(f"{Path(subject).name}_*.nii.gz")):
        contrast = contrast_of(volume)
        if contrast in CONTRASTS:
            image = sitk.ReadImage(str(volume), sitk.sitkFloat32)
            sitk.WriteImage(image, str(out / f"{AS_IT_IS}_{contrast}.nii.gz"))
            for grid in GRIDS:
                sitk.WriteImage(regrid(image, grid), str(out / f"{grid.change}_{contrast}.nii.gz"))


def _spikes(voxels: NDArray) -> NDArray:
    every = np.arange(voxels.size).reshape(voxels.shape) % 5000 == 0
    return np.where(every, 8 * voxels.max(), voxels)


def _noise(voxels: NDArray) -> NDArray:
    deviation = 0.1 * np.median(voxels[voxels > 0])
    real, imaginary = (deviation * np.random.default_rng(seed).standard_normal(voxels.shape) for seed in (0, 1))
    return np.hypot(voxels + real, imaginary)


INTENSITIES: dict[str, Callable[[NDArray], NDArray]] = {
    "squared": np.square,
    "square-root": np.sqrt,
    "cut-off-at-97-percent": lambda voxels: voxels.clip(max=np.percentile(voxels[voxels > 0], 97)),
    "spikes": _spikes,
    "noise-10-of-median": _noise,
    "field-0.45-to-2.2": lambda voxels: voxels * np.geomspace(0.45, 2.2, voxels.shape[1])[:, None],
}
"""Change → function of the intensities (X, Y, Z) of a skull-stripped volume."""


def change_intensities(subject: str, out: Path, contrast: str = "PD") -> None:
    """Write the pairs of one contrast of a subject with changed intensities. The background stays 0."""
    source, t1 = (read_volume(Path(f"{subject}_{name}.nii.gz")) for name in (contrast, "T1"))
    voxels = np.asarray(source.dataobj, dtype=np.float64)
    for change, function in INTENSITIES.items():
        changed = function(voxels) * (voxels != 0)
        write_like(changed, source, out / f"{change}_{contrast}.nii.gz", np.float32)
        write_like(np.asarray(t1.dataobj), t1, out / f"{change}_T1.nii.gz", np.float32)


def markdown(rows: pd.DataFrame) -> str:
    """Format Dice of white matter / grey matter / ventricles: a line per data set and change, a column per contrast."""
    dice = rows[[f"{structure} dice" for structure in STRUCTURES]]
    cells = dice.map(lambda value: f"{value:.3f}".removeprefix("0")).agg("/".join, axis=1)
    table = rows.assign(cell=cells).pivot(index=["dataset", "subject"], columns="contrast", values="cell")
    order = rows[["dataset", "subject"]].drop_duplicates()
    table = table.loc[list(order.itertuples(index=False, name=None)), [name for name in ORDER if name in table]]
    lines = [[*place, *line] for place, line in table.fillna("").iterrows()]  # type: ignore[misc]
    return markdown_table(["data", "change", *table], lines) + "\n"


def main() -> None:
    """Fill the table and write the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subject", required=True, help="path of skull-stripped volumes, without _PD.nii.gz")
    parser.add_argument("--label-map", type=Path, required=True, help="label map of a whole head")
    parser.add_argument("--out", type=Path, required=True, help="folder for scores.csv and summary.md")
    arguments = parser.parse_args()
    table = Table(arguments.out / "scores.csv", key=("dataset", "subject", "contrast", "method"))
    with tempfile.TemporaryDirectory() as folder:
        simulated, real = Path(folder) / "simulated-head", Path(folder) / "real-brain"
        real.mkdir()
        simulate_scans(arguments.label_map, simulated)
        regrid_subject(arguments.subject, real)
        change_intensities(arguments.subject, real)
        fill(table, [job for pairs in (simulated, real) for job in jobs(pairs, ["midiff"])])
    (arguments.out / "summary.md").write_text(markdown(table.rows()), encoding="utf-8")


if __name__ == "__main__":
    main()
