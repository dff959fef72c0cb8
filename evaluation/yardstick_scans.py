"""The scans of the yardstick, each with labels that others made: what the pipeline gets, and what is true."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from acquisitions import Grid, regrid
from register import move_labels
from yardstick_case import Case, Scan, subject_of
from yardstick_heads import SLICE_MM, heads_flair

from midiff_monai.evaluation.parcellations import freesurfer_from_aparc, freesurfer_from_gif
from midiff_monai.evaluation.simulation import simulate
from midiff_monai.io.paths import volume_stem
from midiff_monai.io.volumes import read_volume

HELD_BACK = ("training_seg_18", "training_seg_19", "training_seg_20")
"""Label maps that no training uses. The number is that of the seed, as in `simulation.simulate_pairs`."""

SIMULATED = ("T1", "T2", "FLAIR", "PD", "CT")

THICK = {f"{contrast} of thick slices": contrast for contrast in ("T1", "FLAIR")}
"""Simulated contrasts that are also averaged over slices, as the FLAIR of `heads-flair` were acquired."""

GRID_MM = (2.0, 2.0, 2.0)
"""Voxels that thick slices are interpolated to, those of `heads-flair`."""


def cases(data: Path) -> list[Case]:
    """List all cases of a folder of data. A source whose files are absent has none."""
    return [case for source in (freesurfer, heads_flair, thick_slices, label_maps) for case in source(data)]


def freesurfer(data: Path) -> list[Case]:
    """List the real T1w of 1 mm, skull-stripped, with FreeSurfer's aparc+aseg."""
    volumes = sorted((data / "freesurfer-1mm").glob("*_T1.mgz"))
    return [Case("freesurfer-1mm", subject_of(path), "T1", partial(_with_aparc, path)) for path in volumes]


def _with_aparc(volume: Path, folder: Path) -> Scan:
    parcellation = nib.MGHImage.from_filename(volume.with_name(f"{subject_of(volume)}_aparc+aseg.mgz"))
    labels = freesurfer_from_aparc(np.asarray(parcellation.dataobj))
    return Scan(volume, nib.Nifti1Image(labels, parcellation.affine), translated=False, structures=True)


def thick_slices(data: Path) -> list[Case]:
    """List the FLAIR of thick slices with the GIF parcellation of a T1w of the same session, aligned by the headers."""
    volumes = sorted((data / "odd").glob("thick*_FLAIR.nii.gz"))
    return [Case("thick-slices", subject_of(path), "FLAIR", partial(_with_gif, path)) for path in volumes]


def _with_gif(flair: Path, folder: Path) -> Scan:
    stored = nib.Nifti1Image.from_filename(flair.with_name(f"{subject_of(flair)}_labels_gif.nii.gz"))
    labels = nib.Nifti1Image(freesurfer_from_gif(np.asarray(stored.dataobj)), stored.affine)
    grid = read_volume(flair)
    return Scan(flair, nib.Nifti1Image(move_labels(labels, grid), grid.affine))


def label_maps(data: Path) -> list[Case]:
    """List the simulated whole heads of 1 mm of the label maps that no training uses, and those of `THICK`."""
    maps = [path for name in HELD_BACK if (path := data / "label-maps" / f"{name}.nii.gz").exists()]
    reads = {contrast: partial(_simulated, contrast) for contrast in SIMULATED}
    reads |= {name: partial(_of_thick_slices, contrast) for name, contrast in THICK.items()}
    return [
        Case("label-maps", path.name.partition(".")[0], contrast, partial(read, path))
        for path in maps
        for contrast, read in reads.items()
    ]


def simulate_head(label_map: Path, folder: Path) -> None:
    """Write all contrasts of the whole head of a label map, and its true labels, with voxels of 1 mm."""
    number = int(volume_stem(label_map)[-2:])
    simulate(label_map, folder, seed=number - 1, heads=True, spacing=(1.0, 1.0, 1.0))


def _simulated(contrast: str, label_map: Path, folder: Path) -> Scan:
    """Simulate all contrasts of a head at its first use."""
    prefix = volume_stem(label_map).replace("_", "-")
    if not (folder / f"{prefix}_dseg.nii.gz").exists():
        simulate_head(label_map, folder)
    truth = nib.Nifti1Image.from_filename(folder / f"{prefix}_dseg.nii.gz")
    modality = contrast if contrast == "CT" else None
    volume = folder / f"{prefix}_{contrast}.nii.gz"
    return Scan(volume, truth, translated=contrast != "T1", modality=modality, structures=True)


def _of_thick_slices(contrast: str, label_map: Path, folder: Path) -> Scan:
    """Average a simulated head over axial slices of `SLICE_MM`, and interpolate them to `GRID_MM`."""
    scan = _simulated(contrast, label_map, folder)
    slices = regrid(sitk.ReadImage(str(scan.volume), sitk.sitkFloat32), Grid("thick", (1.0, 1.0, SLICE_MM)))
    size = [
        int(length * spacing / mm)
        for length, spacing, mm in zip(slices.GetSize(), slices.GetSpacing(), GRID_MM, strict=True)
    ]
    place = size, sitk.Transform(), sitk.sitkLinear, slices.GetOrigin(), GRID_MM, slices.GetDirection()
    thick = scan.volume.with_name(f"thick_{scan.volume.name}")
    sitk.WriteImage(sitk.Resample(slices, *place), str(thick))
    return scan._replace(volume=thick)
