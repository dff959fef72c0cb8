"""Does an image show the skull? Whole heads and skull-stripped brains are told apart by their intensity profiles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from midiff_monai.transforms.foreground import above_air, close_gaps, fill_holes

RESOLUTION_MM = 2.5
"""Voxel size to which a volume is averaged before it is measured."""

STEP_MM, DEPTH_MM = 2.5, 40.0
"""Thickness of a layer of a profile, and depth of the deepest layer below the surface."""

CLOSING_MM = 15.0
"""Half the width of the widest gap that belongs to an object, such as the skull under a scalp that is not closed."""

MIN_COMPONENT = 0.01
"""Least size of a component of an object, as a share of the largest one."""

PATCH_MM = 30.0
"""Side of a patch of the surface that gets a profile of its own."""

SKULL_LAYERS = slice(1, 7)
"""Layers that may be the skull: 2.5 to 17.5 mm below the surface."""

OUTER_LAYERS, INNER_LAYERS = slice(2, 4), slice(6, 14)
"""Layers 5 to 10 mm and 15 to 35 mm below the surface. In a skull-stripped brain both lie in the brain."""

MIN_VOXELS, MIN_PATCH_VOXELS, MIN_LAYERS, MIN_PATCHES = 5, 60, 8, 4
"""Fewest voxels of a layer, fewest voxels and layers of a patch, and fewest patches of a surface."""

MIN_SKULL_DIP = 0.19
"""Least dip of a head. See "Skull or no skull" in evaluation/ABLATIONS.md for this and the following limit."""

MIN_OUTER_RATIO = 0.55
"""Least intensity of the outer layers of a skull-stripped brain, in units of that of its inner layers."""

QUANTILE = 0.6
"""Quantile of the dips over the surface. The face and the neck of a head have no skull that encloses a brain."""


class SurfaceProfile(NamedTuple):
    """Intensity as a function of depth, over all patches of the surface of an object.

    Attributes:
        dip: relative depth of the valley of intensity below the surface, 0 to 1, a quantile over the patches. The skull
            is darker than the scalp outside it and the brain inside it in every MR contrast.
        outer_ratio: intensity of the outer layers by that of the inner layers, the median over the patches. It is small
            in a head whose scalp is as dark as its skull, as with fat suppression.
    """

    dip: float
    outer_ratio: float

    @property
    def shows_skull(self) -> bool:
        """Whether the object is a head. False where nothing could be measured."""
        return self.dip > MIN_SKULL_DIP or self.outer_ratio < MIN_OUTER_RATIO


def shows_skull(volume: NDArray, spacing: Sequence[float]) -> bool:
    """Whether a volume shows a head with its skull, as opposed to a skull-stripped brain.

    Args:
        volume: (X, Y, Z), any MR contrast, or a CT scaled to a window of soft tissue. Air is near 0.
        spacing: voxel size in mm.

    Returns:
        False also for a volume without a surface, such as one that lies within the brain.
    """
    return surface_profile(volume, spacing).shows_skull


def surface_profile(volume: NDArray, spacing: Sequence[float]) -> SurfaceProfile:
    """Measure how intensity depends on the depth below the surface of an object. Faces of the volume are no surface.

    Args:
        volume: (X, Y, Z), any scale; air is near 0.
        spacing: voxel size in mm.

    Returns:
        NaN where too few patches could be measured.
    """
    reduced, sides = _average_blocks(np.asarray(volume, dtype=np.float32), spacing)
    mask = _outline(reduced, sides)
    if mask.all() or not mask.any():
        return SurfaceProfile(np.nan, np.nan)
    profiles, weights = _profiles(reduced, mask, sides)
    if len(profiles) < MIN_PATCHES:
        return SurfaceProfile(np.nan, np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        dips = np.array([_dip(profile) for profile in profiles])
        inner = np.nanmedian(profiles[:, INNER_LAYERS], axis=1)
        ratios = _mean(profiles[:, OUTER_LAYERS]) / inner
    return SurfaceProfile(_quantile(dips, weights, QUANTILE), _quantile(ratios, weights, 0.5))


def solid_object(volume: NDArray, smallest: float = 1.0) -> NDArray[np.bool_]:
    """Largest component above `air_level` of a volume (X, Y, Z), with the holes of each of its slices filled.

    Args:
        volume: (X, Y, Z).
        smallest: least size of a further component that belongs to the object, as a share of the largest one.
    """
    above = above_air(volume)
    mask = ndimage.binary_opening(above.squeeze()).reshape(above.shape)  # a single slice has no voxels beside it
    components, count = ndimage.label(mask)
    if count > 1:
        sizes = np.bincount(components.ravel())
        sizes[0] = 0
        mask = (sizes >= smallest * sizes.max())[components]
    for axis in range(3):
        for index in range(mask.shape[axis]):
            plane = (slice(None),) * axis + (index,)
            if mask[plane].any():
                mask[plane] = fill_holes(mask[plane])
    return mask


def _outline(volume: NDArray, sides: NDArray[np.float64]) -> NDArray[np.bool_]:
    """What a ball of `CLOSING_MM` cannot reach from outside: the object with its gaps, such as a dark skull."""
    mask = above_air(volume)
    if not mask.any():
        return mask
    components, _ = ndimage.label(mask)
    sizes = np.bincount(components.ravel())
    sizes[0] = 0
    mask = (sizes >= MIN_COMPONENT * sizes.max())[components]
    return close_gaps(mask, sides, CLOSING_MM)


def _average_blocks(volume: NDArray, spacing: Sequence[float]) -> tuple[NDArray, NDArray[np.float64]]:
    """Average blocks of voxels to about `RESOLUTION_MM`; returns the volume and its voxel size in mm."""
    sides = np.asarray(spacing, dtype=float)
    factors = np.clip(np.round(RESOLUTION_MM / sides), 1, volume.shape).astype(int)
    for axis, factor in enumerate(factors):
        kept = volume.shape[axis] // factor * factor
        split = volume.take(range(kept), axis) if kept < volume.shape[axis] else volume
        shape = (*split.shape[:axis], kept // factor, factor, *split.shape[axis + 1 :])
        volume = split.reshape(shape).mean(axis=axis + 1)
    return volume, sides * factors


def _profiles(volume: NDArray, mask: NDArray[np.bool_], sides: NDArray[np.float64]) -> tuple[NDArray, NDArray]:
    """Median intensity of each layer (P, L) of each patch, NaN in layers of few voxels; number of voxels (P,)."""
    # the object goes on beyond the faces of the volume
    padded = np.pad(mask, 1, mode="edge")
    depth, nearest = ndimage.distance_transform_edt(padded, sampling=sides, return_indices=True)
    inner = (slice(1, -1),) * 3
    inside = (depth[inner] > 0) & (depth[inner] <= DEPTH_MM)
    surface = np.floor(nearest[(slice(None), *inner)][:, inside] * sides[:, None] / PATCH_MM).astype(int)
    patches = np.ravel_multi_index(tuple(surface), tuple(surface.max(axis=1) + 1)) if surface.size else surface[0]
    count = int(DEPTH_MM / STEP_MM)
    layers = np.minimum((depth[inner][inside] / STEP_MM).astype(int), count - 1)
    return _grouped_medians(volume[inside], patches, layers, count)


def _grouped_medians(values: NDArray, patches: NDArray, layers: NDArray, count: int) -> tuple[NDArray, NDArray]:
    order = np.lexsort((layers, patches))
    values, patches, layers = values[order], patches[order], layers[order]
    profiles, weights = [], []
    for patch in np.unique(patches):
        start, stop = np.searchsorted(patches, [patch, patch + 1])
        bounds = start + np.searchsorted(layers[start:stop], range(count + 1))
        profile = [
            np.median(values[a:b]) if b - a >= MIN_VOXELS else np.nan
            for a, b in zip(bounds[:-1], bounds[1:], strict=True)
        ]
        if stop - start >= MIN_PATCH_VOXELS and np.isfinite(profile).sum() >= MIN_LAYERS:
            profiles.append(profile)
            weights.append(stop - start)
    return np.array(profiles), np.array(weights)


def _dip(profile: NDArray) -> float:
    """Relative depth of the deepest valley of a profile among the layers of the skull."""
    filled = np.where(np.isnan(profile), -np.inf, profile)
    dip = 0.0
    for layer in range(SKULL_LAYERS.start, SKULL_LAYERS.stop):
        rim = min(filled[:layer].max(), filled[layer + 1 : layer + 7].max())
        if rim > 0 and np.isfinite(profile[layer]):
            dip = max(dip, 1 - profile[layer] / rim)
    return dip


def _mean(values: NDArray) -> NDArray:
    """Mean of the rows (P, L) without NaN; NaN where a row has no value."""
    known = np.isfinite(values)
    return np.where(known, values, 0).sum(axis=1) / known.sum(axis=1)


def _quantile(values: NDArray, weights: NDArray, share: float) -> float:
    """Weighted quantile of the values that are not NaN."""
    known = np.isfinite(values)
    if not known.any():
        return np.nan
    order = np.argsort(values[known])
    cumulative = np.cumsum(weights[known][order])
    return float(values[known][order][np.searchsorted(cumulative, share * cumulative[-1])])
