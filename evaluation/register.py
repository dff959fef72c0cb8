"""Make pairs from scans of the same head on different grids: register the T1w to each other scan.

    python evaluation/register.py --scans ../shared/data/open-ms --subject raw-patient01 --out heads
    python evaluation/run.py --pairs heads --methods midiff direct --out evaluation/results

A person moves between scans, which the headers do not record. The files are SUBJECT-CONTRAST_CONTRAST.nii.gz, a copy of
the scan, and SUBJECT-CONTRAST_T1.nii.gz, the T1w on its grid. The other scans are copied beside them under the same
name, on their own grids, for `together.py`. PROTOCOL.md has the details.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterable
from math import dist
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from run import CONTRASTS

from midiff_monai.io.affines import same_grid
from midiff_monai.transforms.registration import as_itk, mutual_information, register

__all__ = ["as_itk", "distance", "labels_on_grid", "move_labels", "mutual_information", "register"]

TIE_BREAK_MM = (1e-3, 2e-3, 4e-3)
"""Shift of the points that labels are taken from, in LPS mm."""


def distance(first: sitk.Transform, second: sitk.Transform, points: NDArray) -> float:
    """Compute the mean distance in mm between the images of points (N, 3), in LPS mm, under two transforms."""
    pairs = ((first.TransformPoint(point), second.TransformPoint(point)) for point in points.tolist())
    return float(np.mean([dist(*pair) for pair in pairs]))


def move_labels(
    labels: nib.Nifti1Image, grid: nib.Nifti1Image, transform: sitk.Transform | None = None
) -> NDArray[np.int16]:
    """Return labels on another grid: at each voxel the label with the largest trilinear weight, 0 outside.

    The points are moved by `TIE_BREAK_MM`. Halfway between voxels, two labels often have the same weight, and ITK would
    choose the lower id: white matter instead of cortex.

    Args:
        labels: (X, Y, Z), whole numbers.
        grid: a volume (X', Y', Z') on the grid.
        transform: maps points of the grid to points of the labels, in LPS mm. None leaves them where they are.
    """
    moving = sitk.Cast(as_itk(labels), sitk.sitkInt16)
    transforms = [sitk.TranslationTransform(3, TIE_BREAK_MM), *([transform] if transform else [])]
    place = as_itk(grid), sitk.CompositeTransform(transforms), sitk.sitkLabelLinear, 0.0
    return sitk.GetArrayFromImage(sitk.Resample(moving, *place)).transpose()


def labels_on_grid(labels: nib.Nifti1Image, grid: nib.Nifti1Image) -> NDArray[np.integer]:
    """Return labels (X, Y, Z) on a grid: as they are if it is their own, else moved by `move_labels`."""
    on_grid = same_grid(labels.shape, labels.affine, grid.shape, grid.affine)
    return np.asarray(labels.dataobj) if on_grid else move_labels(labels, grid)


def write_pair(scan: Path, t1: Path, name: str, out: Path, others: Iterable[Path] = ()) -> None:
    """Write a scan and the T1w on its grid as a pair with the subject name `name`, and copies of other scans."""
    fixed, moving = (sitk.ReadImage(str(path), sitk.sitkFloat32) for path in (scan, t1))
    moved = sitk.Resample(moving, fixed, register(fixed, moving), sitk.sitkLinear, 0.0)
    out.mkdir(parents=True, exist_ok=True)
    for each in (scan, *others):
        shutil.copyfile(each, out / f"{name}_{each.name.rpartition('_')[2]}")
    sitk.WriteImage(moved, str(out / f"{name}_T1.nii.gz"))


def main() -> None:
    """Write a pair for each contrast of a subject."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", type=Path, required=True, help="folder of SUBJECT_T1.nii.gz and SUBJECT_PD.nii.gz …")
    parser.add_argument("--subject", required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder for the pairs")
    arguments = parser.parse_args()
    t1 = arguments.scans / f"{arguments.subject}_T1.nii.gz"
    files = {contrast: arguments.scans / f"{arguments.subject}_{contrast}.nii.gz" for contrast in CONTRASTS}
    scans = {contrast: file for contrast, file in files.items() if file.exists()}
    for contrast, scan in scans.items():
        others = [other for other in scans.values() if other != scan]
        write_pair(scan, t1, f"{arguments.subject}-{contrast}", arguments.out, others)


if __name__ == "__main__":
    main()
