"""Size, coverage and orientation of a segmented brain: headers that nobody can believe show in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import inf, isnan, nan
from typing import NamedTuple

import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import NDArray

from midiff_monai.transforms.hemispheres import CEREBRUM

EXTENT_PERCENTILES = (0.5, 99.5)
"""Percentiles of the coordinates of a brain between which its extent is measured; single stray voxels do not count."""

BRAIN_ML = (650, 1900)
"""Range of the volume of a segmented brain. In 25 development scans it is 1062-1565 ml, and 1854 ml in the phantom."""

EXTENTS_MM = {"left to right": (95, 160), "back to front": (115, 200), "bottom to top": (75, 165)}
"""Range of the extents of a brain. In the development scans they are 113-133, 134-168 and 96-136 mm; the lowest height
is that of brains without a cerebellum."""


class Position(NamedTuple):
    """Where structures lie relative to the centroid of the cerebrum.

    Attributes:
        name: of the structures, in a sentence.
        labels: their FreeSurfer ids.
        axis: world axis, 1 to the front or 2 to the top.
        range: mm, in which the coordinate of their centroid must be.
        place: the range in words.
    """

    name: str
    labels: tuple[int, ...]
    axis: int
    range: tuple[float, float]
    place: str


POSITIONS = (
    Position("the hippocampi", (17, 18, 53, 54), 2, (-inf, -8), "below"),
    Position("the brain stem", (16,), 2, (-inf, -10), "below"),
    Position("the cerebellum", (7, 8, 46, 47), 2, (-inf, -15), "below"),
    Position("the caudate nuclei", (11, 50), 1, (8, inf), "in front of"),
)
"""In the development scans the coordinates are at most -20, -23 and -33 mm, and at least 26 mm."""

MIN_STRUCTURE_ML = 0.5
"""Smallest volume of structures whose position is compared."""


@dataclass(frozen=True)
class Geometry:
    """Size and position of a segmented brain.

    Attributes:
        extents: mm from left to right, back to front, bottom to top; NaN without a segmentation.
        offsets: mm from the centroid of the cerebrum to that of the structures of each of `POSITIONS`, along its axis,
            by name; those that were found only.
    """

    extents: tuple[float, float, float] = (nan, nan, nan)
    offsets: Mapping[str, float] | None = None


def brain_geometry(segmentation: NDArray | None, affine: NDArray[np.float64]) -> Geometry:
    """Measure a segmentation (X, Y, Z) of FreeSurfer ids, or None, with an affine to RAS mm."""
    if segmentation is None or not segmentation.any():
        return Geometry()
    indices = np.argwhere(segmentation > 0)
    labels, points = segmentation[tuple(indices.T)], apply_affine(affine, indices)
    low, high = np.percentile(points, EXTENT_PERCENTILES, axis=0)
    voxel_ml = abs(np.linalg.det(affine[:3, :3])) / 1000
    extents = [float(extent) for extent in high - low]
    return Geometry((extents[0], extents[1], extents[2]), dict(_offsets(labels, points, voxel_ml)))


def _offsets(labels: NDArray, points: NDArray, voxel_ml: float) -> Iterator[tuple[str, float]]:
    cerebrum = points[np.isin(labels, CEREBRUM)]
    for position in POSITIONS:
        found = points[np.isin(labels, position.labels), position.axis]
        if len(cerebrum) and len(found) * voxel_ml >= MIN_STRUCTURE_ML:
            yield position.name, float(found.mean() - cerebrum[:, position.axis].mean())


def size_faults(geometry: Geometry, brain_ml: float, cut: bool) -> list[str]:
    """Name the sizes that no brain has. A brain that a face of the volume cuts may be small.

    Args:
        geometry: of the segmentation.
        brain_ml: volume of all structures.
        cut: the brain touches a face of the volume.

    Returns:
        Nothing without a segmentation.
    """
    if isnan(geometry.extents[0]):
        return []
    faults = []
    if brain_ml > BRAIN_ML[1] or (0 < brain_ml < BRAIN_ML[0] and not cut):
        faults.append(f"a volume of {brain_ml:.0f} ml")
    for (name, (low, high)), extent in zip(EXTENTS_MM.items(), geometry.extents, strict=True):
        if extent > high or (extent < low and not cut):
            faults.append(f"{extent:.0f} mm from {name}")
    return faults


def coverage_faults(geometry: Geometry, cut: bool) -> list[tuple[float, str]]:
    """Name the directions, with their extents in mm, in which the volume holds a part of the brain only."""
    directions = zip(EXTENTS_MM.items(), geometry.extents, strict=True)
    return [(extent, f"{extent:.0f} mm from {name}") for (name, (low, _)), extent in directions if cut and extent < low]


def orientation_faults(geometry: Geometry) -> list[tuple[float, str]]:
    """Name the structures, with their offsets in mm, that do not lie where they must. A thin slab is not tested."""
    faults = []
    enough = [extent >= low for extent, (low, _) in zip(geometry.extents, EXTENTS_MM.values(), strict=True)]
    for position in POSITIONS:
        offset = (geometry.offsets or {}).get(position.name)
        if offset is not None and enough[position.axis] and not position.range[0] <= offset <= position.range[1]:
            faults.append((offset, f"{position.name} not {position.place} the centre of the cerebrum"))
    return faults
