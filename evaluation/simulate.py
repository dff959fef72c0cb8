"""Pairs whose truth is known exactly: PD, T2, FLAIR and T1 images of label maps, skull-stripped or whole heads.

Each structure gets the relaxation times of its tissue (`midiff_monai.phantom`): within a tissue there is no contrast,
and the thalamus is as grey as the cortex.
"""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scores import brain_box

from midiff_monai.demo import TISSUES as STRUCTURES_OF
from midiff_monai.labels import FREESURFER_IDS
from midiff_monai.paths import volume_stem
from midiff_monai.phantom import (
    BACKGROUND,
    CONTRASTS,
    CSF,
    GREY,
    TISSUES,
    WHITE,
    Tissue,
    acquire,
    average_over_voxels,
)

SPACING = (1.0, 1.0, 3.0)
NOISE, BIAS = 0.02, 0.2
NECK = 30

MERGED = {25: 2, 57: 41, 30: 2, 62: 41, 72: 14, 85: 24, 136: 4, 137: 5, 163: 43, 164: 44}
"""Lesions, vessels, fifth ventricle, chiasm and choroid plexus → the FreeSurfer id of what is around them."""

BRAIN_STEM = 16

FAT, MUSCLE = 4, 5

HEAD_TISSUES = {**TISSUES, FAT: Tissue(350, 70, 1.0), MUSCLE: Tissue(900, 47, 1.0)}
"""Label → properties, those outside the brain from the table of BrainWeb too."""

SURROUNDINGS = {FAT: (511,), MUSCLE: (507,), WHITE: (512, 516), GREY: (502, 508, 509, 530), CSF: (506,)}
"""Tissue → what the maps have of it outside the brain: scalp; soft tissue; cord and marrow; mucosa and glands; eyes."""


def simulate_pairs(label_maps: Path | None, count: int, out: Path, heads: bool = False) -> None:
    """Write SUBJECT_CONTRAST.nii.gz and SUBJECT_dseg.nii.gz of the first `count` label maps of a folder."""
    maps = sorted(label_maps.glob("*.nii.gz"))[:count] if label_maps else []
    for number, path in enumerate(maps):
        simulate(path, out, number, heads)


def simulate(label_map: Path, out: Path, seed: int, heads: bool = False) -> None:
    """Write four contrasts and the true labels of one label map: FreeSurfer ids at 1 mm, any orientation.

    Of a head, all is shown from `NECK` mm below the brain on, noise in the air around it too.
    """
    stored = nib.as_closest_canonical(nib.load(label_map))
    box = field_of_view(brain_structures(np.asarray(stored.dataobj)) > 0, heads)
    everything, affine = np.asarray(stored.dataobj)[box], _coarse_affine(stored.slicer[box].affine)
    structures = brain_structures(everything)
    fractions = tissue_fractions(structures, everything if heads else structures)
    out.mkdir(parents=True, exist_ok=True)
    subject = volume_stem(label_map).replace("_", "-")
    for number, contrast in enumerate(CONTRASTS):
        seed_of_image = len(CONTRASTS) * seed + number
        image = acquire(fractions, contrast, noise=NOISE, bias=BIAS, seed=seed_of_image, tissues=HEAD_TISSUES)
        if not heads:
            image[fractions.argmax(axis=0) == BACKGROUND] = 0
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


def field_of_view(brain: NDArray[np.bool_], heads: bool) -> tuple[slice, ...]:
    """The box of a skull-stripped brain, or of a head from `NECK` mm below the brain on."""
    if heads:
        return slice(None), slice(None), slice(max(int(brain.nonzero()[2].min()) - NECK, 0), None)
    return brain_box(brain, margin=9)


def tissue_fractions(structures: NDArray[np.int16], everything: NDArray) -> NDArray[np.float32]:
    """Shares (6, X, Y, Z') of background and of `HEAD_TISSUES` in voxels of `SPACING`.

    Args:
        structures: those of the brain, (X, Y, Z).
        everything: the labels of all that is to be seen.
    """
    tissue = np.zeros(structures.shape, dtype=np.uint8)
    for value, ids in SURROUNDINGS.items():
        tissue[np.isin(everything, ids)] = value
    for value, ids in STRUCTURES_OF.values():
        tissue[np.isin(structures, ids)] = value
    tissue[structures == BRAIN_STEM] = WHITE
    shares = [average_over_voxels((tissue == value)[None].astype(np.float32), SPACING) for value in range(6)]
    return np.concatenate(shares)


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
