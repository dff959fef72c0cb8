"""Checks of voxel grids.

A grid is a shape (X, Y, Z) and an affine (4, 4) from voxel indices to world coordinates in millimetres. Axes may be
flipped, permuted, oblique or anisotropic, but not sheared.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, product
from math import acos, degrees

import numpy as np
from numpy.typing import ArrayLike

SHEAR_TOLERANCE = 1e-3
"""Largest |cosine| between two voxel axes that counts as a right angle (a deviation of 0.06 degrees)."""

GRID_TOLERANCE = 0.01
"""Two grids are equal if no corner moves by more than this fraction of the smallest voxel size."""


class GridError(ValueError):
    """An affine does not define a usable grid. The message is a noun phrase ("singular affine: ...")."""


def check_affine(affine: ArrayLike) -> None:
    """Check that an affine (4, 4) is finite, invertible and without shear. Rotations are allowed.

    Raises:
        GridError: The affine is not finite, singular or sheared.
    """
    matrix = np.asarray(affine, dtype=np.float64)
    if not np.isfinite(matrix).all():
        raise GridError("non-finite affine")
    lengths = np.linalg.norm(matrix[:3, :3], axis=0)
    if lengths.min() == 0 or abs(np.linalg.det(matrix[:3, :3] / lengths)) < 1e-6:
        raise GridError(f"singular affine: its voxel axes {matrix[:3, :3].T.round(4).tolist()} do not span space")
    axes = matrix[:3, :3] / lengths
    first, second = max(combinations(range(3), 2), key=lambda pair: abs(axes[:, pair[0]] @ axes[:, pair[1]]))
    cosine = float(axes[:, first] @ axes[:, second])
    if abs(cosine) > SHEAR_TOLERANCE:
        angle = degrees(acos(cosine))
        raise GridError(f"sheared affine: voxel axes {first} and {second} meet at {angle:.2f} degrees instead of 90")


def voxel_volume_ml(affine: ArrayLike) -> float:
    """Return the volume of a voxel in millilitres. The affine (4, 4) is in millimetres."""
    return float(abs(np.linalg.det(np.asarray(affine, dtype=np.float64)[:3, :3]))) / 1000


def same_grid(shape_a: Sequence[int], affine_a: ArrayLike, shape_b: Sequence[int], affine_b: ArrayLike) -> bool:
    """Return whether two grids have the same shape and differ by at most `GRID_TOLERANCE` everywhere."""
    if tuple(shape_a) != tuple(shape_b):
        return False
    difference = np.asarray(affine_a, dtype=np.float64) - np.asarray(affine_b, dtype=np.float64)
    # The displacement is linear in the voxel indices, so it is largest at a corner.
    corners = np.array([(*corner, 1) for corner in product(*((0, size - 1) for size in shape_a))])
    displacement = np.linalg.norm((corners @ difference.T)[:, :3], axis=1).max()
    voxel_sides = np.linalg.norm(np.asarray(affine_a, dtype=np.float64)[:3, :3], axis=0)
    return bool(displacement <= GRID_TOLERANCE * voxel_sides.min())
