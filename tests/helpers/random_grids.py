"""Random and oriented grids: shapes and affines."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
from nibabel.orientations import axcodes2ornt, inv_ornt_aff
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

Shape = tuple[int, ...]
Affine = NDArray[np.float64]
Grid = tuple[Shape, Affine]


def random_affine(shape: Shape, rng: np.random.Generator, jitter: float) -> Affine:
    """A random affine: oblique, anisotropic, of either handedness, its centre within `jitter` mm of the origin."""
    axes = Rotation.random(random_state=int(rng.integers(2**31))).as_matrix() * rng.uniform(0.7, 3, 3)
    affine = np.eye(4)
    affine[:3, :3] = axes[:, rng.permutation(3)] * rng.choice([-1, 1], 3)
    affine[:3, 3] = rng.uniform(-jitter, jitter, 3) - affine[:3, :3] @ (np.array(shape) - 1) / 2
    return affine


@st.composite
def grids(draw: st.DrawFn, smallest: int = 1) -> Grid:
    shape = tuple(draw(st.lists(st.integers(smallest, 9), min_size=3, max_size=3)))
    return shape, random_affine(shape, np.random.default_rng(draw(st.integers(0, 2**31))), jitter=3)


def oriented(codes: str, shape: Shape, spacing: tuple[float, float, float], degrees: float = 0) -> Affine:
    """An affine of the given orientation, centred at the origin, rotated by `degrees` about an oblique axis."""
    to_ras = inv_ornt_aff(axcodes2ornt(codes), shape)
    affine = to_ras @ np.diag([*spacing, 1.0])
    affine[:3, :3] = Rotation.from_rotvec(np.deg2rad(degrees) * np.array([0.6, 0.0, 0.8])).as_matrix() @ affine[:3, :3]
    affine[:3, 3] = -affine[:3, :3] @ (np.array(shape) - 1) / 2
    return affine
