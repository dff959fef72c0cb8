"""Checks of affines, voxel volumes and comparisons of grids."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from random_grids import Affine, Grid, grids, oriented

from midiff_monai.io.affines import GridError, check_affine, same_grid, voxel_volume_ml


def sheared(cosine: float) -> Affine:
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:2, 1] = 2 * cosine, 2 * np.sqrt(1 - cosine**2)
    return affine


@given(grids())
def test_any_grid_without_shear_is_accepted(grid: Grid) -> None:
    check_affine(grid[1])
    check_affine(grid[1].astype(np.float32))


@pytest.mark.parametrize(
    ("affine", "fault"),
    [
        (np.diag([1.0, 0.0, 1.0, 1.0]), "singular"),
        (np.ones((4, 4)), "singular"),
        (np.full((4, 4), np.nan), "non-finite"),
        (sheared(0.25), "axes 0 and 1 meet at 75.52 degrees"),
        (sheared(-0.002), "axes 0 and 1 meet at 90.11 degrees"),
    ],
)
def test_unusable_affine_raises(affine: Affine, fault: str) -> None:
    with pytest.raises(GridError, match=fault):
        check_affine(affine)


def test_shear_within_tolerance_is_accepted() -> None:
    check_affine(sheared(0.0005))


@given(grids())
def test_voxel_volume_is_the_product_of_the_voxel_sides(grid: Grid) -> None:
    assert voxel_volume_ml(grid[1]) == pytest.approx(np.prod(nib.affines.voxel_sizes(grid[1])) / 1000)


def test_same_grid_detects_shape_shift_and_rotation_but_not_rounding() -> None:
    shape, affine = (256, 256, 46), oriented("LPS", (256, 256, 46), (0.94, 0.94, 3.0), degrees=10)
    shifted, turned = affine.copy(), oriented("LPS", (256, 256, 46), (0.94, 0.94, 3.0), degrees=10.02)
    shifted[0, 3] += 0.02
    assert same_grid(shape, affine, shape, affine.astype(np.float32))
    assert not same_grid(shape, affine, (256, 256, 45), affine)
    assert not same_grid(shape, affine, shape, shifted)
    assert not same_grid(shape, affine, shape, turned)
