"""The scans of the yardstick, each with labels that others made: what the pipeline gets, and what is true."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from nibabel.affines import apply_affine
from register import as_itk, distance, move_labels, mutual_information, register

from midiff_monai.evaluation.parcellations import freesurfer_from_aparc, freesurfer_from_gif
from midiff_monai.evaluation.simulation import simulate
from midiff_monai.io.paths import volume_stem
from midiff_monai.io.volumes import read_volume
from midiff_monai.training.muse import freesurfer_from_muse

HELD_BACK = ("training_seg_18", "training_seg_19", "training_seg_20")
"""Label maps that no training uses. The number is that of the seed, as in `simulation.simulate_pairs`."""

BRAIN_STEP = 500
"""Every which voxel of the brain is a point where registrations are compared."""

SIMULATED = ("T1", "T2", "FLAIR", "PD", "CT")


class Scan(NamedTuple):
    """A scan and its truth.

    Attributes:
        volume: the file that the pipeline gets.
        truth: FreeSurfer ids or `parcellations.NOT_SCORED`, on the grid of the scores.
        translated: False for a T1w, which is segmented as it is.
        modality: preprocessing of the translation, such as CT.
        structures: whether the truth follows FreeSurfer's protocol, so that single structures are comparable.
        lesions: mask of white matter lesions on the grid of the truth.
        known: (structure, measure) → value that is known before the segmentation, such as that of a registration.
    """

    volume: Path
    truth: nib.Nifti1Image
    translated: bool = True
    modality: str | None = None
    structures: bool = False
    lesions: nib.Nifti1Image | None = None
    known: Mapping[tuple[str, str], float] = {}


class Case(NamedTuple):
    """A scan that is not read yet. `read` takes a folder for its files."""

    source: str
    subject: str
    contrast: str
    read: Callable[[Path], Scan]

    @property
    def key(self) -> dict[str, str]:
        """The columns that identify the case."""
        return {"source": self.source, "subject": self.subject, "contrast": self.contrast}


def cases(data: Path) -> list[Case]:
    """List all cases of a folder of data. A source whose files are absent has none."""
    return [case for source in (freesurfer, heads_flair, thick_slices, label_maps) for case in source(data)]


def freesurfer(data: Path) -> list[Case]:
    """List the real T1w of 1 mm, skull-stripped, with FreeSurfer's aparc+aseg."""
    volumes = sorted((data / "freesurfer-1mm").glob("*_T1.mgz"))
    return [Case("freesurfer-1mm", _subject(path), "T1", partial(_with_aparc, path)) for path in volumes]


def _with_aparc(volume: Path, folder: Path) -> Scan:
    parcellation = nib.MGHImage.from_filename(volume.with_name(f"{_subject(volume)}_aparc+aseg.mgz"))
    labels = freesurfer_from_aparc(np.asarray(parcellation.dataobj))
    return Scan(volume, nib.Nifti1Image(labels, parcellation.affine), translated=False, structures=True)


def heads_flair(data: Path) -> list[Case]:
    """List the whole heads of elderly people: FLAIR, and T1w as its upper bound, with DLMUSE of the T1w."""
    flairs = sorted((data / "heads-flair").glob("*_FLAIR.nii.gz"))
    pairs = [(flair, flair.with_name(f"{_subject(flair)}_T1.nii.gz")) for flair in flairs]
    return [
        case
        for flair, t1 in pairs
        for case in (
            Case("heads-flair", _subject(flair), "FLAIR", partial(_with_moved_muse, flair, t1)),
            Case("heads-flair", _subject(flair), "T1", partial(_with_muse, t1)),
        )
    ]


def _with_muse(t1: Path, folder: Path) -> Scan:
    return Scan(t1, muse_labels(t1), translated=False)


def _with_moved_muse(flair: Path, t1: Path, folder: Path) -> Scan:
    """Move the labels of the T1w to the FLAIR by a rigid registration of the two scans."""
    grid, labels = read_volume(flair), muse_labels(t1)
    fixed, moving = as_itk(grid), as_itk(read_volume(t1))
    transform = register(fixed, moving)
    truth = nib.Nifti1Image(move_labels(labels, grid, transform), grid.affine)
    lesions = nib.Nifti1Image.from_filename(flair.with_name(f"{_subject(flair)}_FLAIR_WMH.nii.gz"))
    measures = registration_measures(fixed, moving, transform, truth)
    known = {("registration", name): value for name, value in measures.items()}
    return Scan(flair, truth, lesions=lesions, known=known)


def muse_labels(t1: Path) -> nib.Nifti1Image:
    """Read the DLMUSE parcellation of a T1w as FreeSurfer ids (X, Y, Z)."""
    stored = nib.Nifti1Image.from_filename(t1.with_name(f"{_subject(t1)}_T1_DLMUSE.nii.gz"))
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


def thick_slices(data: Path) -> list[Case]:
    """List the FLAIR of thick slices with the GIF parcellation of a T1w of the same session, aligned by the headers."""
    volumes = sorted((data / "odd").glob("thick*_FLAIR.nii.gz"))
    return [Case("thick-slices", _subject(path), "FLAIR", partial(_with_gif, path)) for path in volumes]


def _with_gif(flair: Path, folder: Path) -> Scan:
    stored = nib.Nifti1Image.from_filename(flair.with_name(f"{_subject(flair)}_labels_gif.nii.gz"))
    labels = nib.Nifti1Image(freesurfer_from_gif(np.asarray(stored.dataobj)), stored.affine)
    grid = read_volume(flair)
    return Scan(flair, nib.Nifti1Image(move_labels(labels, grid), grid.affine))


def label_maps(data: Path) -> list[Case]:
    """List the simulated whole heads of 1 mm of the label maps that no training uses."""
    maps = [data / "label-maps" / f"{name}.nii.gz" for name in HELD_BACK]
    return [
        Case("label-maps", path.name.partition(".")[0], contrast, partial(_simulated, path, contrast))
        for path in maps
        if path.exists()
        for contrast in SIMULATED
    ]


def _simulated(label_map: Path, contrast: str, folder: Path) -> Scan:
    """Simulate all contrasts of a head at its first use."""
    prefix = volume_stem(label_map).replace("_", "-")
    if not (folder / f"{prefix}_dseg.nii.gz").exists():
        simulate(label_map, folder, seed=int(prefix[-2:]) - 1, heads=True, spacing=(1.0, 1.0, 1.0))
    truth = nib.Nifti1Image.from_filename(folder / f"{prefix}_dseg.nii.gz")
    modality = contrast if contrast == "CT" else None
    volume = folder / f"{prefix}_{contrast}.nii.gz"
    return Scan(volume, truth, translated=contrast != "T1", modality=modality, structures=True)


def _subject(volume: Path) -> str:
    return volume.name.partition("_")[0]
