"""Grids in space: checks of affines, and the way back from the conformed grid to the grid of the input.

A grid is a shape (X, Y, Z) and a 4x4 affine from voxel indices to world millimetres. Axes may be flipped, permuted,
oblique or anisotropic, never sheared.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, product
from math import acos, degrees

import numpy as np
from numpy.typing import ArrayLike

SHEAR_TOLERANCE = 1e-3
"""Largest |cosine| between two voxel axes that still counts as a right angle (0.06 degrees off)."""

GRID_TOLERANCE = 0.01
"""Grids are the same when no corner moves by more than this part of the smallest voxel side."""


class GridError(ValueError):
    """An affine that places no usable grid; the message is a noun phrase ("singular affine: ...")."""


def check_affine(affine: ArrayLike) -> None:
    """Check that an affine (4, 4) is finite, invertible and free of shear; rotation is fine.

    Raises:
        GridError: it is not.
    """
    matrix = np.asarray(affine, dtype=np.float64)
    if not np.isfinite(matrix).all():
        raise GridError("non-finite affine")
    lengths = np.linalg.norm(matrix[:3, :3], axis=0)
    if lengths.min() == 0 or abs(np.linalg.det(matrix[:3, :3] / lengths)) < 1e-6:
        raise GridError(f"singular affine: its voxel axes {matrix[:3, :3].T.tolist()} do not span space")
    axes = matrix[:3, :3] / lengths
    first, second = max(combinations(range(3), 2), key=lambda pair: abs(axes[:, pair[0]] @ axes[:, pair[1]]))
    cosine = float(axes[:, first] @ axes[:, second])
    if abs(cosine) > SHEAR_TOLERANCE:
        angle = degrees(acos(cosine))
        raise GridError(f"sheared affine: voxel axes {first} and {second} meet at {angle:.2f} degrees instead of 90")


def voxel_volume_ml(affine: ArrayLike) -> float:
    """Return the volume of a voxel in millilitres; the affine (4, 4) is in millimetres."""
    return float(abs(np.linalg.det(np.asarray(affine, dtype=np.float64)[:3, :3]))) / 1000


def same_grid(shape_a: Sequence[int], affine_a: ArrayLike, shape_b: Sequence[int], affine_b: ArrayLike) -> bool:
    """Tell whether two grids have one shape and lie within `GRID_TOLERANCE` of each other everywhere."""
    if tuple(shape_a) != tuple(shape_b):
        return False
    difference = np.asarray(affine_a, dtype=np.float64) - np.asarray(affine_b, dtype=np.float64)
    # The displacement is linear in the voxel indices, so it is largest at a corner.
    corners = np.array([(*corner, 1) for corner in product(*((0, size - 1) for size in shape_a))])
    displacement = np.linalg.norm((corners @ difference.T)[:, :3], axis=1).max()
    voxel_sides = np.linalg.norm(np.asarray(affine_a, dtype=np.float64)[:3, :3], axis=0)
    return bool(displacement <= GRID_TOLERANCE * voxel_sides.min())
