"""Pairs whose truth is known exactly: PD, T2, FLAIR and T1 images of label maps.

Each structure gets the relaxation times of its tissue (`midiff_monai.phantom`): within a tissue there is no contrast,
and the thalamus is as grey as the cortex.
"""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scores import brain_box

from midiff_monai.demo import TISSUES
from midiff_monai.labels import FREESURFER_IDS
from midiff_monai.phantom import BACKGROUND, CONTRASTS, acquire, average_over_voxels

SPACING = (1.0, 1.0, 3.0)
NOISE, BIAS = 0.02, 0.2

MERGED = {25: 2, 57: 41, 30: 2, 62: 41, 72: 14, 85: 24, 136: 4, 137: 5, 163: 43, 164: 44}
"""Lesions, vessels, fifth ventricle, chiasm and choroid plexus → the FreeSurfer id of what is around them."""

BRAIN_STEM, WHITE = 16, 3


def simulate_pairs(label_maps: Path | None, count: int, out: Path) -> None:
    """Write SUBJECT_CONTRAST.nii.gz and SUBJECT_dseg.nii.gz of the first `count` label maps of a folder."""
    maps = sorted(label_maps.glob("*.nii.gz"))[:count] if label_maps else []
    for number, path in enumerate(maps):
        simulate(path, out, seed=number)


def simulate(label_map: Path, out: Path, seed: int) -> None:
    """Write four contrasts and the true labels of one label map: FreeSurfer ids at 1 mm, any orientation."""
    stored = nib.as_closest_canonical(nib.load(label_map))
    structures = brain_structures(np.asarray(stored.dataobj))
    box = brain_box(structures > 0, margin=9)
    structures, affine = structures[box], _coarse_affine(stored.slicer[box].affine)
    fractions = tissue_fractions(structures)
    out.mkdir(parents=True, exist_ok=True)
    subject = label_map.name.split(".")[0].replace("_", "-")
    for number, contrast in enumerate(CONTRASTS):
        image = acquire(fractions, contrast, noise=NOISE, bias=BIAS, seed=len(CONTRASTS) * seed + number)
        nib.save(nib.Nifti1Image(image, affine), out / f"{subject}_{contrast}.nii.gz")
    labels = majority(structures)
    labels[fractions.argmax(axis=0) == BACKGROUND] = 0
    nib.save(nib.Nifti1Image(labels, affine), out / f"{subject}_dseg.nii.gz")


def brain_structures(labels: NDArray) -> NDArray[np.int16]:
    """The ids of the brain's structures, what the segmenter does not know merged or set to 0."""
    structures = labels.astype(np.int16)
    for label, into in MERGED.items():
        structures[structures == label] = into
    return np.where(np.isin(structures, FREESURFER_IDS), structures, 0).astype(np.int16)


def tissue_fractions(structures: NDArray[np.int16]) -> NDArray[np.float32]:
    """Shares (4, X, Y, Z') of background, CSF, grey and white matter in voxels of `SPACING`."""
    tissue = np.zeros(structures.shape, dtype=np.uint8)
    for value, ids in TISSUES.values():
        tissue[np.isin(structures, ids)] = value
    tissue[structures == BRAIN_STEM] = WHITE
    return average_over_voxels(np.stack([tissue == value for value in range(4)]).astype(np.float32), SPACING)


def majority(structures: NDArray[np.int16]) -> NDArray[np.int16]:
    """The structure with the largest share of each voxel of `SPACING`."""
    shape = average_over_voxels(np.zeros((1, *structures.shape), dtype=np.float32), SPACING).shape[1:]
    winner, largest = np.zeros(shape, dtype=np.int16), np.zeros(shape, dtype=np.float32)
    for label in np.unique(structures):
        share = average_over_voxels((structures == label)[None].astype(np.float32), SPACING)[0]
        winner[share > largest] = label
        largest = np.maximum(share, largest)
    return winner


def _coarse_affine(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of the grid of `SPACING` whose first voxel begins at the same corner."""
    scale = np.diag([*SPACING, 1.0])
    scale[:3, 3] = (np.asarray(SPACING) - 1) / 2
    return affine @ scale
