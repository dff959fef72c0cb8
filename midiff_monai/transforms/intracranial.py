"""Intracranial volume: what the inner skull encloses, estimated from the segmentation of a whole head."""

from __future__ import annotations

from collections.abc import Sequence

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes
from numpy.typing import NDArray
from scipy import ndimage

from midiff_monai.transforms.foreground import close_gaps, fill_holes

CLOSING_MM = 4.0
"""Half the width of the widest gap that is closed. See "Intracranial volume" in evaluation/PROTOCOL.md."""

RESOLUTION_MM = 2.0
"""Voxel size, about, on which gaps are closed."""

CSF = 24


def intracranial_ml(segmentation: NDArray[np.integer], affine: NDArray[np.float64]) -> float:
    """Estimate the intracranial volume of a whole head.

    The structures include all CSF up to the dura. The venous sinuses and the meninges are missing: they are gaps that a
    morphological closing fills. The CSF of the spinal canal, below all of the brain, does not count.

    Args:
        segmentation: FreeSurfer ids (X, Y, Z), 0 outside brain and CSF; with a structure at least.
        affine: voxel to RAS mm, any orientation.

    Returns:
        Millilitres.
    """
    image = nib.as_closest_canonical(nib.Nifti1Image(segmentation.astype(np.int16), affine))
    inside, spacing = _above_spinal_canal(np.asarray(image.dataobj)), voxel_sizes(image.affine)
    steps = [max(1, round(RESOLUTION_MM / side)) for side in spacing]
    sides = spacing * steps
    reduced = inside[_sampled_box(inside, steps)]
    gaps = fill_holes(close_gaps(reduced, sides, CLOSING_MM)) & ~reduced
    return float(inside.sum() * spacing.prod() + gaps.sum() * sides.prod()) / 1000


def _above_spinal_canal(labels: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Mask of the structures (X, Y, Z), in RAS, without CSF that lies below all of the brain."""
    inside = labels > 0
    slices_with_brain = (inside & (labels != CSF)).any(axis=(0, 1))
    inside[:, :, : slices_with_brain.argmax()] = False
    return inside


def _sampled_box(mask: NDArray[np.bool_], steps: Sequence[int]) -> tuple[slice, ...]:
    """Every which voxel of the box around a mask, with one further voxel on each side that is no face of the volume."""
    (box,) = ndimage.find_objects(mask.astype(np.uint8))
    sides = zip(box, steps, strict=True)
    return tuple(slice(max(side.start - step, 0), side.stop + step, step) for side, step in sides)
