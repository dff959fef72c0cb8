"""The scans of the yardstick, each with labels that others made: what the pipeline gets, and what is true."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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

Simulate = Callable[[Path, Path], None]
"""Writes all contrasts of a label map, and its true labels, into a folder."""

Read = Callable[[Path, Path], Scan]
"""Makes a scan of a label map in a folder."""

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
    reads = {contrast: partial(_simulated_head, contrast) for contrast in SIMULATED}
    return simulated_cases(
        "label-maps", data, reads | {name: partial(_of_thick_slices, contrast) for name, contrast in THICK.items()}
    )


def simulated_cases(source: str, data: Path, reads: Mapping[str, Read]) -> list[Case]:
    """List the scans that are simulated from the label maps that no training uses, by contrast."""
    maps = [path for name in HELD_BACK if (path := data / "label-maps" / f"{name}.nii.gz").exists()]
    return [Case(source, volume_stem(path), name, partial(read, path)) for path in maps for name, read in reads.items()]


def simulate_head(label_map: Path, folder: Path) -> None:
    """Write all contrasts of the whole head of a label map, and its true labels, with voxels of 1 mm."""
    simulate(label_map, folder, seed_of(label_map), heads=True, spacing=(1.0, 1.0, 1.0))


def seed_of(label_map: Path) -> int:
    """The seed of a label map, from the number in its name."""
    return int(volume_stem(label_map)[-2:]) - 1


def simulated(write: Simulate, contrast: str, label_map: Path, folder: Path) -> Scan:
    """Simulate all contrasts of a label map at its first use, and return the scan of one."""
    prefix = folder / volume_stem(label_map).replace("_", "-")
    if not (truth := prefix.with_name(f"{prefix.name}_dseg.nii.gz")).exists():
        write(label_map, folder)
    volume, modality = prefix.with_name(f"{prefix.name}_{contrast}.nii.gz"), contrast if contrast == "CT" else None
    labels = nib.Nifti1Image.from_filename(truth)
    return Scan(volume, labels, translated=contrast != "T1", modality=modality, structures=True)


def _simulated_head(contrast: str, label_map: Path, folder: Path) -> Scan:
    return simulated(simulate_head, contrast, label_map, folder)


def _of_thick_slices(contrast: str, label_map: Path, folder: Path) -> Scan:
    """Average a simulated head over axial slices of `SLICE_MM`, and interpolate them to `GRID_MM`."""
    scan = _simulated_head(contrast, label_map, folder)
    slices = regrid(sitk.ReadImage(str(scan.volume), sitk.sitkFloat32), Grid("thick", (1.0, 1.0, SLICE_MM)))
    size = [
        int(length * spacing / mm)
        for length, spacing, mm in zip(slices.GetSize(), slices.GetSpacing(), GRID_MM, strict=True)
    ]
    place = size, sitk.Transform(), sitk.sitkLinear, slices.GetOrigin(), GRID_MM, slices.GetDirection()
    thick = scan.volume.with_name(f"thick_{scan.volume.name}")
    sitk.WriteImage(sitk.Resample(slices, *place), str(thick))
    return scan._replace(volume=thick)
