"""Pairs whose truth is known exactly: PD, T2, FLAIR and T1 of label maps, skull-stripped or heads, these as CT too.

Each structure gets the relaxation times of its tissue (see `phantom`): within a tissue there is no contrast,
and the thalamus is as grey as the cortex.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from midiff_monai.evaluation.phantom import (
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
from midiff_monai.evaluation.scores import brain_box
from midiff_monai.io.paths import volume_stem
from midiff_monai.labels import FREESURFER_IDS
from midiff_monai.labels import TISSUES as STRUCTURES_OF

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

HOUNSFIELD = {CSF: 8.0, GREY: 38.0, WHITE: 29.0}
"""Of the brain's tissues, in HU."""

HOUNSFIELD_AROUND = {
    50.0: (502, 507, 508, 509, 512, 530),
    60.0: (514,),
    -20.0: (511,),
    10.0: (506,),
    300.0: (516,),
    900.0: (515,),
}
"""HU → what the maps have of it: soft tissue and cord; venous sinuses; scalp, half of it fat; eyes; marrow; bone."""

AIR_HU = -1000.0

CT_NOISE = 4.0
"""Standard deviation in HU."""


class Anatomy(NamedTuple):
    """What a label map has in a field of view.

    Attributes:
        structures: (X, Y, Z) at 1 mm, FreeSurfer ids of the brain.
        everything: the labels of all that is to be seen there.
        affine: of the images to come, in voxels of `SPACING`.
    """

    structures: NDArray[np.int16]
    everything: NDArray
    affine: NDArray[np.float64]


def simulate_pairs(label_maps: Path | None, count: int, out: Path, heads: bool = False) -> None:
    """Write SUBJECT_CONTRAST.nii.gz and SUBJECT_dseg.nii.gz of the first `count` label maps of a folder."""
    maps = sorted(label_maps.glob("*.nii.gz"))[:count] if label_maps else []
    for number, path in enumerate(maps):
        simulate(path, out, number, heads)


def simulate(label_map: Path, out: Path, seed: int, heads: bool = False) -> None:
    """Write four contrasts, of a head a CT too, and the true labels of one label map."""
    anatomy = read_anatomy(label_map, heads)
    fractions = tissue_fractions(anatomy)
    images = {}
    for number, (contrast, sequence) in enumerate(CONTRASTS.items()):
        seed_of_image = len(CONTRASTS) * seed + number
        image = acquire(fractions, sequence, noise=NOISE, bias=BIAS, seed=seed_of_image, tissues=HEAD_TISSUES)
        if not heads:
            image[fractions.argmax(axis=0) == BACKGROUND] = 0
        images[contrast] = image
    if heads:
        images["CT"] = tomography(anatomy, seed)
    save_pair(out, volume_stem(label_map).replace("_", "-"), images, true_labels(anatomy, fractions), anatomy.affine)


def save_pair(out: Path, subject: str, images: Mapping[str, NDArray], labels: NDArray, affine: NDArray) -> None:
    """Write SUBJECT_CONTRAST.nii.gz of each image, and SUBJECT_dseg.nii.gz."""
    out.mkdir(parents=True, exist_ok=True)
    for contrast, image in {**images, "dseg": labels}.items():
        nib.save(nib.Nifti1Image(image, affine), out / f"{subject}_{contrast}.nii.gz")


def read_anatomy(label_map: Path, heads: bool = False) -> Anatomy:
    """Read a label map: FreeSurfer ids at 1 mm, any orientation; of a head, all from `NECK` mm below the brain on."""
    stored = nib.as_closest_canonical(nib.load(label_map))
    box = field_of_view(brain_structures(np.asarray(stored.dataobj)) > 0, heads)
    everything = np.asarray(stored.dataobj)[box]
    structures = brain_structures(everything)
    affine = _coarse_affine(stored.slicer[box].affine)
    return Anatomy(structures, everything if heads else structures, affine)


def tomography(anatomy: Anatomy, seed: int) -> NDArray[np.float32]:
    """A CT (X, Y, Z) of a head, in HU, with white noise of `CT_NOISE`; no artefact of bone, and no table."""
    hounsfield = np.full(anatomy.everything.shape, AIR_HU, dtype=np.float32)
    for value, labels in HOUNSFIELD_AROUND.items():
        hounsfield[np.isin(anatomy.everything, labels)] = value
    tissue = brain_tissue(anatomy.structures)
    for label, value in HOUNSFIELD.items():
        hounsfield[tissue == label] = value
    image = average_over_voxels(hounsfield[None], SPACING)[0]
    return image + np.random.default_rng(seed).normal(scale=CT_NOISE, size=image.shape).astype(np.float32)


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


def brain_tissue(structures: NDArray[np.int16]) -> NDArray[np.uint8]:
    """The tissue of each structure, 0 outside the brain."""
    tissue = np.zeros(structures.shape, dtype=np.uint8)
    for value, ids in STRUCTURES_OF.values():
        tissue[np.isin(structures, ids)] = value
    tissue[structures == BRAIN_STEM] = WHITE
    return tissue


def tissue_fractions(anatomy: Anatomy) -> NDArray[np.float32]:
    """Shares (6, X, Y, Z) of background and of `HEAD_TISSUES` in voxels of `SPACING`."""
    tissue = brain_tissue(anatomy.structures)
    for value, ids in SURROUNDINGS.items():
        tissue[np.isin(anatomy.everything, ids) & (tissue == BACKGROUND)] = value
    shares = [average_over_voxels((tissue == value)[None].astype(np.float32), SPACING) for value in range(6)]
    return np.concatenate(shares)


def true_labels(anatomy: Anatomy, fractions: NDArray[np.float32]) -> NDArray[np.int16]:
    """The structure with the largest share of each voxel; 0 where most of it is background."""
    labels = majority(anatomy.structures)
    labels[fractions.argmax(axis=0) == BACKGROUND] = 0
    return labels


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
