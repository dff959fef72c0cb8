from __future__ import annotations

import hypothesis.strategies as st
import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from nibabel.affines import apply_affine
from nibabel.orientations import axcodes2ornt, inv_ornt_aff
from nibabel.processing import resample_from_to
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

from midiff_monai.io import affines as geometry
from midiff_monai.io.affines import GridError, check_affine, same_grid, voxel_volume_ml
from midiff_monai.transforms.resampling import resample_to_grid, restore_to_grid

Shape = tuple[int, ...]
Affine = NDArray[np.float64]
Grid = tuple[Shape, Affine]


def random_affine(shape: Shape, rng: np.random.Generator, jitter: float) -> Affine:
    """Any orientation, oblique, anisotropic, perhaps a mirror image; the centre within `jitter` mm of the origin."""
    axes = Rotation.random(random_state=int(rng.integers(2**31))).as_matrix() * rng.uniform(0.7, 3, 3)
    affine = np.eye(4)
    affine[:3, :3] = axes[:, rng.permutation(3)] * rng.choice([-1, 1], 3)
    affine[:3, 3] = rng.uniform(-jitter, jitter, 3) - affine[:3, :3] @ (np.array(shape) - 1) / 2
    return affine


@st.composite
def grids(draw: st.DrawFn, smallest: int = 1) -> Grid:
    shape = tuple(draw(st.lists(st.integers(smallest, 9), min_size=3, max_size=3)))
    return shape, random_affine(shape, np.random.default_rng(draw(st.integers(0, 2**31))), jitter=3)


def voxel_indices(shape: Shape) -> NDArray[np.int64]:
    return np.moveaxis(np.indices(shape), 0, -1)


def indices_in(source: Grid, target: Grid) -> NDArray[np.float64]:
    """Where the voxels of the target lie in the source, by way of world coordinates."""
    return apply_affine(np.linalg.inv(source[1]), apply_affine(target[1], voxel_indices(target[0])))


def inside_and_certain(indices: NDArray[np.float64], shape: Shape) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """The field of view ends half a voxel beyond the outer centres; rounding may decide just there."""
    beyond = (np.abs(indices - (np.array(shape) - 1) / 2) - np.array(shape) / 2).max(axis=-1)
    return beyond <= 0, np.abs(beyond) > 1e-3


@given(source=grids(), target=grids(), coefficients=st.tuples(*[st.floats(-2, 2)] * 4))
def test_resampling_reproduces_a_linear_function_of_the_world(
    source: Grid, target: Grid, coefficients: tuple[float, ...]
) -> None:
    def linear(world: NDArray[np.float64]) -> NDArray[np.float64]:
        return world @ np.array(coefficients[:3]) + coefficients[3]

    volume = torch.from_numpy(linear(apply_affine(source[1], voxel_indices(source[0]))))
    resampled = resample_to_grid(volume, source[1], *target, fill=77.0)

    indices = indices_in(source, target)
    nearest_in_source = np.clip(indices, 0, np.array(source[0]) - 1)  # in the outer half voxels the border goes on
    inside, certain = inside_and_certain(indices, source[0])
    expected = np.where(inside, linear(apply_affine(source[1], nearest_in_source)), 77.0)
    assert resampled.shape == target[0] and resampled.dtype == torch.float32
    np.testing.assert_allclose(resampled.numpy()[certain], expected[certain], atol=1e-4)


@given(source=grids(2), target=grids(), seed=st.integers(0, 2**31))
def test_resampling_agrees_with_scipy(source: Grid, target: Grid, seed: int) -> None:
    volume = np.random.default_rng(seed).normal(size=source[0]).astype(np.float32)
    indices = indices_in(source, target)
    inside, certain = inside_and_certain(indices, source[0])

    linear = resample_to_grid(torch.from_numpy(volume), source[1], *target, fill=-5)
    expected = np.where(inside, map_coordinates(volume, np.moveaxis(indices, -1, 0), order=1, mode="nearest"), -5)
    np.testing.assert_allclose(linear.numpy()[certain], expected[certain], atol=1e-4)

    nearest = resample_to_grid(torch.from_numpy(volume), source[1], *target, fill=-5, mode="nearest")
    expected = np.where(inside, map_coordinates(volume, np.moveaxis(indices, -1, 0), order=0, mode="nearest"), -5)
    certain &= (np.abs(indices % 1 - 0.5) > 1e-3).all(axis=-1)  # half-way between two voxels either is nearest
    np.testing.assert_array_equal(nearest.numpy()[certain], expected[certain])


def test_resampling_agrees_with_nibabel() -> None:
    rng = np.random.default_rng(0)
    volume = rng.normal(size=(14, 12, 10)).astype(np.float32)
    source, target = random_affine((14, 12, 10), rng, jitter=1), random_affine((6, 7, 5), rng, jitter=1)
    expected = resample_from_to(nib.Nifti1Image(volume, source), ((6, 7, 5), target), order=1, cval=np.nan).get_fdata()
    resampled = resample_to_grid(torch.from_numpy(volume), source, (6, 7, 5), target, fill=0).numpy()
    both = np.isfinite(expected)  # nibabel ends the field of view at the outer voxel centres
    assert both.sum() > 20
    np.testing.assert_allclose(resampled[both], expected[both], atol=1e-4)


@given(source=grids(2), target=grids(), seed=st.integers(0, 2**31), outside=st.integers(0, 3))
def test_restored_labels_are_the_argmax_of_interpolated_classes(
    source: Grid, target: Grid, seed: int, outside: int
) -> None:
    rng = np.random.default_rng(seed)
    posteriors = rng.dirichlet(np.full(4, 0.3), size=source[0]).astype(np.float32).transpose(3, 0, 1, 2)
    emptied = rng.random(source[0]) < 0.7  # enough background that whole neighbourhoods of it occur
    posteriors[:, emptied] = np.eye(4, dtype=np.float32)[outside][:, None]
    restored = restore_to_grid(torch.from_numpy(posteriors), source[1], *target, outside=outside)

    indices = indices_in(source, target)
    inside, certain = inside_and_certain(indices, source[0])
    interpolated = np.stack(
        [map_coordinates(channel, np.moveaxis(indices, -1, 0), order=1, mode="nearest") for channel in posteriors]
    )
    lead = np.diff(np.sort(interpolated, axis=0)[-2:], axis=0)[0]
    certain &= ~inside | (lead > 1e-4)
    assert restored.shape == target[0] and restored.dtype == torch.int16
    expected = np.where(inside, interpolated.argmax(axis=0), outside)
    np.testing.assert_array_equal(restored.numpy()[certain], expected[certain])


@given(grid=grids(), seed=st.integers(0, 2**31))
def test_identity_grid_gives_the_argmax(grid: Grid, seed: int) -> None:
    ranks = np.random.default_rng(seed).random((5, *grid[0])).argsort(axis=0)
    restored = restore_to_grid(torch.from_numpy(ranks).float(), grid[1], *grid)
    np.testing.assert_array_equal(restored.numpy(), ranks.argmax(axis=0))


def oriented(codes: str, shape: Shape, spacing: tuple[float, float, float], degrees: float = 0) -> Affine:
    """An affine of the given orientation, centred at the origin, turned by `degrees` about an oblique axis."""
    to_ras = inv_ornt_aff(axcodes2ornt(codes), shape)
    affine = to_ras @ np.diag([*spacing, 1.0])
    affine[:3, :3] = Rotation.from_rotvec(np.deg2rad(degrees) * np.array([0.6, 0.0, 0.8])).as_matrix() @ affine[:3, :3]
    affine[:3, 3] = -affine[:3, :3] @ (np.array(shape) - 1) / 2
    return affine


@pytest.mark.parametrize("degrees", [0, 18])
@pytest.mark.parametrize("codes", ["RAS", "LAS", "LPS", "PSR", "LIA"])
def test_a_labelled_box_keeps_its_place_in_the_world(codes: str, degrees: float) -> None:
    shape, native_shape = (40, 44, 36), (50, 46, 40)
    affine = oriented("RAS", shape, (1.5, 1.5, 1.5))
    centre, half_side = np.array([14.0, -8.0, 5.0]), 7.0  # on the right, behind, above
    box = (np.abs(apply_affine(affine, voxel_indices(shape)) - centre) < half_side).all(axis=-1)
    posteriors = torch.from_numpy(np.stack([~box, box]).astype(np.float32))

    native = oriented(codes, native_shape, (1.0, 1.2, 1.6), degrees)
    restored = restore_to_grid(posteriors, affine, native_shape, native).numpy()
    box_in_world = apply_affine(native, np.argwhere(restored == 1))
    np.testing.assert_allclose(box_in_world.mean(axis=0), centre, atol=0.8)  # half a voxel
    volume = len(box_in_world) * voxel_volume_ml(native)
    assert volume == pytest.approx(box.sum() * voxel_volume_ml(affine), rel=0.15)


def test_beyond_the_field_of_view_is_outside() -> None:
    far = np.eye(4)
    far[:3, 3] = 100
    posteriors = torch.eye(3)[2].reshape(3, 1, 1, 1).expand(3, 4, 4, 4)
    assert (restore_to_grid(posteriors, np.eye(4), (3, 3, 3), far, outside=1) == 1).all()
    assert (resample_to_grid(posteriors[2], np.eye(4), (3, 3, 3), far, fill=-1) == -1).all()


@settings(max_examples=20)
@given(source=grids(2), target=grids(3), seed=st.integers(0, 2**31))
def test_size_of_slabs_changes_nothing(source: Grid, target: Grid, seed: int) -> None:
    posteriors = torch.rand((3, *source[0]), generator=torch.Generator().manual_seed(seed))
    at_once = restore_to_grid(posteriors, source[1], *target)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(geometry, "SLAB_VALUES", 1)
        assert torch.equal(restore_to_grid(posteriors, source[1], *target), at_once)


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
def test_unusable_affine_is_refused(affine: Affine, fault: str) -> None:
    with pytest.raises(GridError, match=fault):
        check_affine(affine)


def test_shear_within_tolerance_is_accepted() -> None:
    check_affine(sheared(0.0005))


@given(grids())
def test_voxel_volume_is_the_product_of_the_voxel_sides(grid: Grid) -> None:
    assert voxel_volume_ml(grid[1]) == pytest.approx(np.prod(nib.affines.voxel_sizes(grid[1])) / 1000)


def test_same_grid_sees_shape_shift_and_turn_but_not_rounding() -> None:
    shape, affine = (256, 256, 46), oriented("LPS", (256, 256, 46), (0.94, 0.94, 3.0), degrees=10)
    shifted, turned = affine.copy(), oriented("LPS", (256, 256, 46), (0.94, 0.94, 3.0), degrees=10.02)
    shifted[0, 3] += 0.02
    assert same_grid(shape, affine, shape, affine.astype(np.float32))
    assert not same_grid(shape, affine, (256, 256, 45), affine)
    assert not same_grid(shape, affine, shape, shifted)
    assert not same_grid(shape, affine, shape, turned)
