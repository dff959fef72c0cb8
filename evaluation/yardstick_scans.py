"""The scans of the yardstick, each with labels that others made: what the pipeline gets, and what is true."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
from register import move_labels
from yardstick_case import Case, Scan, subject_of
from yardstick_heads import heads_flair

from midiff_monai.evaluation.parcellations import freesurfer_from_aparc, freesurfer_from_gif
from midiff_monai.evaluation.simulation import simulate
from midiff_monai.io.paths import volume_stem
from midiff_monai.io.volumes import read_volume

HELD_BACK = ("training_seg_18", "training_seg_19", "training_seg_20")
"""Label maps that no training uses. The number is that of the seed, as in `simulation.simulate_pairs`."""

SIMULATED = ("T1", "T2", "FLAIR", "PD", "CT")


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
    """List the simulated whole heads of 1 mm of the label maps that no training uses."""
    maps = [data / "label-maps" / f"{name}.nii.gz" for name in HELD_BACK]
    return [
        Case("label-maps", path.name.partition(".")[0], contrast, partial(_simulated, path, contrast))
        for path in maps
        if path.exists()
        for contrast in SIMULATED
    ]


def simulate_head(label_map: Path, folder: Path) -> None:
    """Write all contrasts of the whole head of a label map, and its true labels, with voxels of 1 mm."""
    number = int(volume_stem(label_map)[-2:])
    simulate(label_map, folder, seed=number - 1, heads=True, spacing=(1.0, 1.0, 1.0))


def _simulated(label_map: Path, contrast: str, folder: Path) -> Scan:
    """Simulate all contrasts of a head at its first use."""
    prefix = volume_stem(label_map).replace("_", "-")
    if not (folder / f"{prefix}_dseg.nii.gz").exists():
        simulate_head(label_map, folder)
    truth = nib.Nifti1Image.from_filename(folder / f"{prefix}_dseg.nii.gz")
    modality = contrast if contrast == "CT" else None
    volume = folder / f"{prefix}_{contrast}.nii.gz"
    return Scan(volume, truth, translated=contrast != "T1", modality=modality, structures=True)
