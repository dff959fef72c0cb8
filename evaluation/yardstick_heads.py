"""Whole heads of elderly people in the yardstick: FLAIR, T1w, and what lies between the two results."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from acquisitions import Grid, regrid
from nibabel.affines import apply_affine
from numpy.typing import NDArray
from register import as_itk, distance, move_labels, mutual_information, register
from yardstick_case import Case, Scan, subject_of

from midiff_monai.io.volumes import read_volume
from midiff_monai.training.muse import freesurfer_from_muse

BRAIN_STEP = 500
"""Every which voxel of the brain is a point where registrations are compared."""

SLICE_MM = 5.0
"""Thickness of the slices that the FLAIR were acquired in."""

BETWEEN = {
    "FLAIR, brain given": lambda moved: (moved.brain_of_flair, True),
    "T1 on the grid of the FLAIR": lambda moved: (moved.t1, False),
    "T1 of thick slices": lambda moved: (moved.thick_t1, False),
    "T1, translated": lambda moved: (moved.t1, True),
}
"""What lies between the results of FLAIR and T1w → the function that gives it, and whether it is translated."""


def heads_flair(data: Path) -> list[Case]:
    """List the whole heads: FLAIR, T1w, and the steps of `BETWEEN`, with DLMUSE of the T1w."""
    return [case for flair in sorted((data / "heads-flair").glob("*_FLAIR.nii.gz")) for case in _cases_of(flair)]


def _cases_of(flair: Path) -> list[Case]:
    t1 = flair.with_name(f"{subject_of(flair)}_T1.nii.gz")
    reads = {"FLAIR": partial(_flair, flair, t1), "T1": partial(_t1, t1)}
    reads |= {name: partial(_between, step, flair, t1) for name, step in BETWEEN.items()}
    return [Case("heads-flair", subject_of(flair), contrast, read) for contrast, read in reads.items()]


class MovedHead:
    """The T1w of a person and its labels, moved to the FLAIR by a rigid registration of the two scans.

    Attributes:
        flair: the FLAIR (X, Y, Z).
        truth: FreeSurfer ids on the grid of the FLAIR.
        scans: FLAIR and T1w as ITK images, each on its own grid.
        transform: maps points of the FLAIR to points of the T1w, in LPS mm.
    """

    def __init__(self, flair: Path, t1: Path) -> None:
        self.flair = read_volume(flair)
        self.scans = as_itk(self.flair), as_itk(read_volume(t1))
        self.transform = register(*self.scans)
        labels = move_labels(muse_labels(t1), self.flair, self.transform)
        self.truth = nib.Nifti1Image(labels, self.flair.affine)

    @property
    def brain_of_flair(self) -> sitk.Image:
        """The FLAIR in the mask of the labels, holes included."""
        mask = sitk.BinaryFillhole(as_itk(self.truth) > 0)
        return sitk.Mask(self.scans[0], mask)

    @property
    def t1(self) -> sitk.Image:
        """The T1w on the grid of the FLAIR."""
        return self._on_grid(self.scans[1], self.transform)

    @property
    def t1_voxels(self) -> NDArray:
        """The voxels (X, Y, Z) of the T1w on the grid of the FLAIR."""
        return sitk.GetArrayFromImage(self.t1).transpose()

    @property
    def thick_t1(self) -> sitk.Image:
        """The T1w on the grid of the FLAIR, averaged over the slices that the FLAIR was acquired in."""
        spacing = self.scans[0].GetSpacing()[:2]
        return self._on_grid(regrid(self.t1, Grid("thick", (*spacing, SLICE_MM))), sitk.Transform())

    def _on_grid(self, image: sitk.Image, transform: sitk.Transform) -> sitk.Image:
        return sitk.Resample(image, self.scans[0], transform, sitk.sitkLinear, 0.0)


def _between(step: Callable[[MovedHead], tuple[sitk.Image, bool]], flair: Path, t1: Path, folder: Path) -> Scan:
    moved = MovedHead(flair, t1)
    image, translated = step(moved)
    sitk.WriteImage(image, str(folder / flair.name))
    return Scan(folder / flair.name, moved.truth, translated)


def _t1(t1: Path, folder: Path) -> Scan:
    return Scan(t1, muse_labels(t1), translated=False)


def _flair(flair: Path, t1: Path, folder: Path) -> Scan:
    moved = MovedHead(flair, t1)
    lesions = nib.Nifti1Image.from_filename(flair.with_name(f"{subject_of(flair)}_FLAIR_WMH.nii.gz"))
    measures = registration_measures(*moved.scans, moved.transform, moved.truth)
    known = {("registration", name): value for name, value in measures.items()}
    return Scan(flair, moved.truth, lesions=lesions, known=known)


def muse_labels(t1: Path) -> nib.Nifti1Image:
    """Read the DLMUSE parcellation of a T1w as FreeSurfer ids (X, Y, Z)."""
    stored = nib.Nifti1Image.from_filename(t1.with_name(f"{subject_of(t1)}_T1_DLMUSE.nii.gz"))
    return nib.Nifti1Image(freesurfer_from_muse(np.asarray(stored.dataobj)), stored.affine)


def registration_measures(
    fixed: sitk.Image, moving: sitk.Image, transform: sitk.Transform, truth: nib.Nifti1Image
) -> dict[str, float]:
    """Measure a registration in the brain, and compare it with one from another random part of the voxels."""
    brain = np.argwhere(np.asarray(truth.dataobj) > 0)[::BRAIN_STEP]
    points = apply_affine(np.diag([-1.0, -1.0, 1.0, 1.0]) @ truth.affine, brain)
    return {
        "mutual information by the headers": mutual_information(fixed, moving, sitk.Euler3DTransform()),
        "mutual information": mutual_information(fixed, moving, transform),
        "mm moved": distance(transform, sitk.Euler3DTransform(), points),
        "mm to a second registration": distance(transform, register(fixed, moving, seed=2), points),
    }
