"""Padding of a constant intensity around a volume, and offsets of all its intensities: both become 0."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

TOLERANCE = 2e-4
"""Half width of a constant background; the noise of air varies more. This and the limits below, unless they are counts
of voxels, are shares of the range of intensities."""

MIN_SHELL_SHARE = 0.4
"""Least share of the outermost voxels of a volume that a constant background occupies."""

MIN_FRAME_SHARE = 0.01
"""Least share of the outermost voxels that negative padding occupies, such as a frame that a resampling added."""

MAX_SHARE_BELOW = 0.02
"""Largest share of the other voxels that may be darker than a background for it to be an offset of all intensities."""

MIN_PADDING = 0.05
"""Least value of padding that is brighter than parts of the object. A lower one may be the air noise of a head."""

MIN_EDGE_SHARE = 0.9
"""Least share of an edge of the volume that bright padding occupies if it lies on one side or in the corners only."""

MIN_AIR_OFFSET, MAX_AIR_RANGE = 0.05, 0.15
"""An offset of a head is at least so large, and the darkest third of its air varies at most so much."""


def without_padding(voxels: NDArray) -> NDArray:
    """Subtract the offset of all intensities of a volume (X, Y, Z), or set its constant padding to 0."""
    lowest, shell = voxels.min(), outermost(voxels)
    if lowest < 0 and (shell == lowest).mean() > MIN_FRAME_SHARE and not ((voxels < 0) & (voxels > lowest)).any():
        return np.where(voxels == lowest, np.float32(0), voxels)
    scale = float(np.percentile(voxels, 99.5) - np.percentile(voxels, 0.5))
    level, share = _constant_level(shell, TOLERANCE * scale)
    if share < MIN_SHELL_SHARE or abs(level) <= TOLERANCE * scale:
        voxels = _without_padded_edges(voxels, scale)
        return voxels if share >= MIN_SHELL_SHARE else _without_air_offset(voxels, scale)
    padding = np.abs(voxels - level) <= TOLERANCE * scale
    darker = (voxels < level - TOLERANCE * scale).sum() / max(1, (~padding).sum())
    if darker <= MAX_SHARE_BELOW:
        return voxels - np.float32(level)
    if abs(level) < MIN_PADDING * scale:
        return voxels
    return np.where(connected_to_border(padding), np.float32(0), voxels)


def _without_padded_edges(voxels: NDArray, scale: float) -> NDArray:
    """Set bright constant padding of one side, or of the corners as a rotation leaves them, to 0."""
    for edge in _edges(voxels):
        level, share = _constant_level(edge, TOLERANCE * scale)
        if share >= MIN_EDGE_SHARE and level > MIN_PADDING * scale:
            padding = connected_to_border(np.abs(voxels - level) <= TOLERANCE * scale)
            voxels = np.where(padding, np.float32(0), voxels)
    return voxels


def _edges(voxels: NDArray) -> Iterator[NDArray]:
    """The voxels along each of the twelve edges of a volume."""
    for axis in range(3):
        for ends in product((0, -1), repeat=2):
            yield np.moveaxis(voxels, axis, -1)[ends]


def _without_air_offset(voxels: NDArray, scale: float) -> NDArray:
    """Subtract an offset of all intensities of a head, if its air lies far from 0 and varies little."""
    shell = outermost(voxels)
    air, lowest = np.percentile(shell, [30, 0.1])
    if min(abs(lowest), abs(air)) < MIN_AIR_OFFSET * scale or lowest * air < 0:
        return voxels
    if air - lowest > MAX_AIR_RANGE * scale:
        return voxels
    darker = (voxels < lowest).mean()
    return voxels - np.float32(lowest) if darker < MAX_SHARE_BELOW else voxels


def outermost(voxels: NDArray) -> NDArray:
    """The voxels (N,) on the six faces of a volume (X, Y, Z)."""
    return np.concatenate([face.ravel() for face in faces(voxels)])


def faces(voxels: NDArray) -> list[NDArray]:
    """The six faces of a volume (X, Y, Z), each (M, N)."""
    return [np.moveaxis(voxels, axis, 0)[end] for axis in range(3) for end in (0, -1)]


def _constant_level(values: NDArray, tolerance: float) -> tuple[float, float]:
    """The value with the most values within a tolerance, and their share."""
    ordered = np.sort(values)
    last = np.searchsorted(ordered, ordered + 2 * tolerance, side="right")
    counts = last - np.arange(ordered.size)
    first = int(counts.argmax())
    return float(ordered[first + counts[first] // 2]), float(counts[first] / ordered.size)


def connected_to_border(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The components of a mask that reach a face of the volume."""
    components, count = ndimage.label(mask)
    at_border = np.zeros(count + 1, dtype=bool)
    at_border[outermost(components)] = True
    at_border[0] = False
    return at_border[components]
