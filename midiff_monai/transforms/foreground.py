"""The foreground of a volume: all voxels that are not air."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage


def air_level(positive: NDArray) -> float:
    """Intensity below which voxels count as air: a tenth of the 99th percentile of the positive voxels.

    Air, zero-filled surroundings and the negative values of bias-field correction lie below it.
    """
    return 0.1 * np.percentile(positive, 99)


def above_air(volume: NDArray) -> NDArray[np.bool_]:
    """Mask of the voxels of a volume above its `air_level`. It is empty if no voxel is positive."""
    positive = volume[volume > 0]
    return volume > air_level(positive) if positive.size else np.zeros(volume.shape, dtype=bool)


def foreground_percentiles(volume: torch.Tensor, lower: float = 1.0, upper: float = 99.0) -> tuple[float, float]:
    """Intensities at two percentiles of the foreground, which is everything above `air_level`.

    Args:
        volume: any shape, any range.
        lower: lower percentile, 0 to 100.
        upper: upper percentile, 0 to 100.

    Returns:
        The two intensities; the second is larger than the first for any volume. 0 and 1 if no voxel is positive.

    Example:
        >>> foreground_percentiles(torch.tensor([0.0, 0.0, 100.0, 200.0, 300.0]), 0, 100)
        (100.0, 300.0)
    """
    values = np.asarray(volume.detach().cpu(), dtype=np.float32).ravel()
    positive = values[values > 0]
    if not positive.size:
        return 0.0, 1.0
    foreground = positive[positive > air_level(positive)]
    low, high = np.percentile(foreground, [lower, upper])
    return float(low), float(max(high, low * (1 + 1e-6)))


def fill_holes(mask: np.ndarray) -> np.ndarray:
    """Fill the holes of a mask, as SciPy's `binary_fill_holes`, but by one labelling instead of many dilations.

    A volume of one slice is filled as that slice: its holes are not open along the normal.
    """
    if mask.ndim == 3 and mask.shape.count(1) == 1:
        return fill_holes(mask.squeeze()).reshape(mask.shape)
    regions, _ = ndimage.label(np.pad(~mask, 1, constant_values=True))
    inner = (slice(1, -1),) * mask.ndim
    return (regions != regions.flat[0])[inner]


def largest_component(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the largest component of a mask whose voxels share faces; an empty mask as it is."""
    components, count = ndimage.label(mask)
    return components == 1 + np.bincount(components.ravel())[1:].argmax() if count else mask


def close_gaps(
    mask: NDArray[np.bool_], spacing: Sequence[float] | NDArray[np.float64], radius: float
) -> NDArray[np.bool_]:
    """Morphological closing of a mask (X, Y, Z) by a ball: all that the ball cannot reach from outside.

    The object goes on beyond the faces of the volume, and so does what surrounds it.

    Args:
        mask: (X, Y, Z).
        spacing: voxel size in mm.
        radius: radius of the ball in mm.
    """
    margin = [(int(2 * radius / side) + 1,) * 2 for side in spacing]
    padded = np.pad(mask, margin, mode="edge")
    reached = ndimage.distance_transform_edt(~padded, sampling=spacing) > radius
    if not reached.any():
        return np.ones(mask.shape, dtype=bool)
    inner = tuple(slice(width, -width) for width, _ in margin)
    return (ndimage.distance_transform_edt(~reached, sampling=spacing) > radius)[inner]
