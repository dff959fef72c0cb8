"""Simulated pairs with known truth: PD, T2, FLAIR and T1 of label maps, skull-stripped or whole heads, and CT of heads.

Each structure has the relaxation times of its tissue, see `phantom`. There is thus no contrast within a tissue: the
thalamus, for example, has the intensity of cortex.
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
from midiff_monai.labels import FREESURFER_IDS, MERGED
from midiff_monai.labels import TISSUES as STRUCTURES_OF

Spacing = tuple[float, float, float]
"""Sides of a voxel in mm, to the right, forwards and upwards."""

SPACING: Spacing = (1.0, 1.0, 3.0)
"""Usual sides of the voxels, those of a clinical scan."""

NOISE, BIAS = 0.02, 0.2
NECK = 30

BRAIN_STEM = 16

FAT, MUSCLE = 4, 5

HEAD_TISSUES = {**TISSUES, FAT: Tissue(350, 70, 1.0), MUSCLE: Tissue(900, 47, 1.0)}
"""Label → properties, from the table of BrainWeb."""

TISSUES_OUTSIDE_BRAIN = {FAT: (511,), MUSCLE: (507,), WHITE: (512, 516), GREY: (502, 508, 509, 530), CSF: (506,)}
"""Tissue → labels outside the brain: scalp; soft tissue; spinal cord and marrow; mucosa and glands; eyes."""

HOUNSFIELD = {CSF: 8.0, GREY: 38.0, WHITE: 29.0}
"""Brain tissue → intensity in HU."""

HOUNSFIELD_OUTSIDE_BRAIN = {
    50.0: (502, 507, 508, 509, 512, 530),
    60.0: (514,),
    -20.0: (511,),
    10.0: (506,),
    300.0: (516,),
    900.0: (515,),
}
"""Intensity in HU → labels: soft tissue and spinal cord; venous sinuses; scalp (half fat); eyes; marrow; bone."""

AIR_HOUNSFIELD = -1000.0

CT_NOISE = 4.0
"""Standard deviation of the noise in HU."""


class Anatomy(NamedTuple):
    """A label map, cropped to a field of view.

    Attributes:
        structures: FreeSurfer ids of the brain (X, Y, Z) at 1 mm.
        everything: labels of the brain and, for a head, of all other tissues.
        affine: affine of the simulated images, with voxels of `spacing`.
        spacing: sides of the voxels of the simulated images, at least 1 mm.
    """

    structures: NDArray[np.int16]
    everything: NDArray
    affine: NDArray[np.float64]
    spacing: Spacing = SPACING


def simulate_pairs(label_maps: Path | None, count: int, out: Path, heads: bool = False) -> None:
    """Write SUBJECT_CONTRAST.nii.gz and SUBJECT_dseg.nii.gz of the first `count` label maps of a folder."""
    maps = sorted(label_maps.glob("*.nii.gz"))[:count] if label_maps else []
    for number, path in enumerate(maps):
        simulate(path, out, number, heads)


def simulate(label_map: Path, out: Path, seed: int, heads: bool = False, spacing: Spacing = SPACING) -> None:
    """Write four contrasts and the true labels of a label map, and a CT if it is a head, with voxels of `spacing`."""
    anatomy = read_anatomy(label_map, heads, spacing)
    fractions = tissue_fractions(anatomy)
    images = {}
    for number, (contrast, sequence) in enumerate(CONTRASTS.items()):
        image_seed = len(CONTRASTS) * seed + number
        image = acquire(fractions, sequence, noise=NOISE, bias=BIAS, seed=image_seed, tissues=HEAD_TISSUES)
        if not heads:
            image[fractions.argmax(axis=0) == BACKGROUND] = 0
        images[contrast] = image
    if heads:
        images["CT"] = simulate_ct(anatomy, seed)
    save_pair(out, volume_stem(label_map).replace("_", "-"), images, true_labels(anatomy, fractions), anatomy.affine)


def save_pair(out: Path, subject: str, images: Mapping[str, NDArray], labels: NDArray, affine: NDArray) -> None:
    """Write each image as SUBJECT_CONTRAST.nii.gz and the labels as SUBJECT_dseg.nii.gz."""
    out.mkdir(parents=True, exist_ok=True)
    for contrast, image in {**images, "dseg": labels}.items():
        nib.save(nib.Nifti1Image(image, affine), out / f"{subject}_{contrast}.nii.gz")


def read_anatomy(label_map: Path, heads: bool = False, spacing: Spacing = SPACING) -> Anatomy:
    """Read a label map with FreeSurfer ids at 1 mm in any orientation, and crop it to `field_of_view`."""
    stored = nib.as_closest_canonical(nib.load(label_map))
    box = field_of_view(brain_structures(np.asarray(stored.dataobj)) > 0, heads)
    everything = np.asarray(stored.dataobj)[box]
    structures = brain_structures(everything)
    affine = _coarse_affine(stored.slicer[box].affine, spacing)
    return Anatomy(structures, everything if heads else structures, affine, spacing)


def simulate_ct(anatomy: Anatomy, seed: int) -> NDArray[np.float32]:
    """Simulate a CT (X, Y, Z) of a head in HU with white noise. It has no artefacts of bone and no table."""
    hounsfield = np.full(anatomy.everything.shape, AIR_HOUNSFIELD, dtype=np.float32)
    for value, labels in HOUNSFIELD_OUTSIDE_BRAIN.items():
        hounsfield[np.isin(anatomy.everything, labels)] = value
    tissue = brain_tissue(anatomy.structures)
    for label, value in HOUNSFIELD.items():
        hounsfield[tissue == label] = value
    image = average_over_voxels(hounsfield[None], anatomy.spacing)[0]
    return image + np.random.default_rng(seed).normal(scale=CT_NOISE, size=image.shape).astype(np.float32)


def brain_structures(labels: NDArray) -> NDArray[np.int16]:
    """Return the ids of the brain structures. Ids unknown to the segmenter are merged or set to 0."""
    structures = labels.astype(np.int16)
    for label, into in MERGED.items():
        structures[structures == label] = into
    return np.where(np.isin(structures, FREESURFER_IDS), structures, 0).astype(np.int16)


def field_of_view(brain: NDArray[np.bool_], heads: bool) -> tuple[slice, ...]:
    """Return the box around a skull-stripped brain, or the part of a head above `NECK` mm below the brain."""
    if heads:
        return slice(None), slice(None), slice(max(int(brain.nonzero()[2].min()) - NECK, 0), None)
    return brain_box(brain, margin=9)


def brain_tissue(structures: NDArray[np.int16]) -> NDArray[np.uint8]:
    """Return the tissue of each structure, 0 outside the brain."""
    tissue = np.zeros(structures.shape, dtype=np.uint8)
    for value, ids in STRUCTURES_OF.values():
        tissue[np.isin(structures, ids)] = value
    tissue[structures == BRAIN_STEM] = WHITE
    return tissue


def tissue_fractions(anatomy: Anatomy) -> NDArray[np.float32]:
    """Compute the fractions (6, X, Y, Z) of background and `HEAD_TISSUES` in the voxels of the simulated images."""
    tissue = brain_tissue(anatomy.structures)
    for value, ids in TISSUES_OUTSIDE_BRAIN.items():
        tissue[np.isin(anatomy.everything, ids) & (tissue == BACKGROUND)] = value
    of_tissues = ((tissue == value)[None].astype(np.float32) for value in range(6))
    return np.concatenate([average_over_voxels(fraction, anatomy.spacing) for fraction in of_tissues])


def true_labels(anatomy: Anatomy, fractions: NDArray[np.float32]) -> NDArray[np.int16]:
    """Return the structure with the largest fraction of each voxel, 0 where the background prevails."""
    labels = majority(anatomy.structures, anatomy.spacing)
    labels[fractions.argmax(axis=0) == BACKGROUND] = 0
    return labels


def majority(structures: NDArray[np.int16], spacing: Spacing = SPACING) -> NDArray[np.int16]:
    """Return the structure with the largest fraction of each voxel of `spacing`."""
    shape = average_over_voxels(np.zeros((1, *structures.shape), dtype=np.float32), spacing).shape[1:]
    winner, largest = np.zeros(shape, dtype=np.int16), np.zeros(shape, dtype=np.float32)
    for label in np.unique(structures):
        fraction = average_over_voxels((structures == label)[None].astype(np.float32), spacing)[0]
        winner[fraction > largest] = label
        largest = np.maximum(fraction, largest)
    return winner


def _coarse_affine(affine: NDArray[np.float64], spacing: Spacing) -> NDArray[np.float64]:
    """Compute the affine of the grid of `spacing` that starts at the same corner."""
    scale = np.diag([*spacing, 1.0])
    scale[:3, 3] = (np.asarray(spacing) - 1) / 2
    return affine @ scale
