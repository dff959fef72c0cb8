"""Air whose noise is as bright as tissue, as in the UNI image of an MP2RAGE: it becomes background.

The UNI image is a ratio of two images (Marques et al., NeuroImage 49:1271, 2010). Where both are noise, as in air and
in bone, it has any value of its range with the same probability.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from midiff_monai.transforms.foreground import largest_component
from midiff_monai.transforms.padding import connected_to_border, faces

MIN_ROUGHNESS = 0.2
"""Least roughness of noise. Two uniform random values differ by a third of their range on average. Faces of other scans
have 0.05 at most, and 99.9 % of a brain in such noise less than 0.18."""

WINDOW = 5
"""Side in voxels of the window in which the roughness is measured. Folds of the cortex are as rough in smaller ones."""

MIN_OBJECT_SHARE = 0.05
"""Least share of the voxels that a head occupies. Less means that the volume is nothing but noise."""


def without_bright_noise(voxels: NDArray) -> NDArray:
    """Set all but the largest object in such air to 0, and subtract the lowest intensity from it.

    Args:
        voxels: (X, Y, Z).

    Returns:
        (X, Y, Z), the same array if most of its faces do not show such noise, or if there is nothing else.
    """
    lowest = voxels.min()
    scale = np.percentile(voxels, 99) - lowest
    if not scale or _roughness_of_faces(voxels) < MIN_ROUGHNESS * scale:
        return voxels
    air = connected_to_border(_roughness(voxels) > MIN_ROUGHNESS * scale)
    head = largest_component(~air)
    return np.where(head, voxels - lowest, np.float32(0)) if head.mean() > MIN_OBJECT_SHARE else voxels


def _roughness(voxels: NDArray) -> NDArray[np.float32]:
    """The mean difference of neighbours along the three axes, in a window around each voxel (X, Y, Z)."""
    total = np.zeros(voxels.shape, dtype=np.float32)
    for axis, size in enumerate(voxels.shape):
        differences = np.abs(np.diff(voxels, axis=axis))
        for first in (0, 1):  # the neighbour before, and the one behind; at a face, there is one
            ends = np.clip(np.arange(size) - first, 0, size - 2)
            total += differences.take(ends, axis=axis)
    return ndimage.uniform_filter(total / 6, WINDOW)


def _roughness_of_faces(voxels: NDArray) -> float:
    """The median over the six faces of a volume of the mean difference of neighbours."""
    differences = [[np.abs(np.diff(face, axis=axis)).mean() for axis in (0, 1)] for face in faces(voxels)]
    return float(np.median(np.mean(differences, axis=1)))
