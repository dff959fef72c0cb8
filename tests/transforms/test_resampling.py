"""Resampling against SciPy, nibabel and functions of world coordinates."""

from __future__ import annotations

import hypothesis.strategies as st
import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from nibabel.affines import apply_affine
from nibabel.processing import resample_from_to
from numpy.typing import NDArray
from random_grids import Grid, Shape, grids, oriented, random_affine
from scipy.ndimage import map_coordinates

from midiff_monai.io.affines import voxel_volume_ml
from midiff_monai.transforms import resampling
from midiff_monai.transforms.resampling import (
    interpolate,
    resample_labels,
    resample_to_grid,
    restore_foreground,
    source_indices,
)


def voxel_indices(shape: Shape) -> NDArray[np.int64]:
    return np.moveaxis(np.indices(shape), 0, -1)


def indices_in(source: Grid, target: Grid) -> NDArray[np.float64]:
    """Source indices of the target voxels, via world coordinates."""
    return apply_affine(np.linalg.inv(source[1]), apply_affine(target[1], voxel_indices(target[0])))


def inside_and_certain(indices: NDArray[np.float64], shape: Shape) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Masks: inside the field of view, and not so close to its border that rounding decides."""
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
    nearest_in_source = np.clip(indices, 0, np.array(source[0]) - 1)  # outer half voxels take the value of the border
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
    certain &= (np.abs(indices % 1 - 0.5) > 1e-3).all(axis=-1)  # half-way between two voxels, either is nearest
    np.testing.assert_array_equal(nearest.numpy()[certain], expected[certain])


def test_resampling_agrees_with_nibabel() -> None:
    rng = np.random.default_rng(0)
    volume = rng.normal(size=(14, 12, 10)).astype(np.float32)
    source, target = random_affine((14, 12, 10), rng, jitter=1), random_affine((6, 7, 5), rng, jitter=1)
    expected = resample_from_to(nib.Nifti1Image(volume, source), ((6, 7, 5), target), order=1, cval=np.nan).get_fdata()
    resampled = resample_to_grid(torch.from_numpy(volume), source, (6, 7, 5), target, fill=0).numpy()
    both = np.isfinite(expected)  # the field of view of nibabel ends at the outer voxel centres
    assert both.sum() > 20
    np.testing.assert_allclose(resampled[both], expected[both], atol=1e-4)


@given(source=grids(2), target=grids(), seed=st.integers(0, 2**31), outside=st.integers(0, 3))
def test_labels_are_the_argmax_of_interpolated_classes(source: Grid, target: Grid, seed: int, outside: int) -> None:
    rng = np.random.default_rng(seed)
    posteriors = rng.dirichlet(np.full(4, 0.3), size=source[0]).astype(np.float32).transpose(3, 0, 1, 2)
    emptied = rng.random(source[0]) < 0.7  # enough background for neighbourhoods of background alone
    posteriors[:, emptied] = np.eye(4, dtype=np.float32)[outside][:, None]
    restored = resample_labels(torch.from_numpy(posteriors), source[1], *target, outside=outside)

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
def test_on_the_same_grid_labels_are_the_argmax(grid: Grid, seed: int) -> None:
    ranks = np.random.default_rng(seed).random((5, *grid[0])).argsort(axis=0)
    restored = resample_labels(torch.from_numpy(ranks).float(), grid[1], *grid)
    np.testing.assert_array_equal(restored.numpy(), ranks.argmax(axis=0))


@pytest.mark.parametrize("degrees", [0, 18])
@pytest.mark.parametrize("codes", ["RAS", "LAS", "LPS", "PSR", "LIA"])
def test_a_labelled_box_keeps_its_world_coordinates(codes: str, degrees: float) -> None:
    shape, native_shape = (40, 44, 36), (50, 46, 40)
    affine = oriented("RAS", shape, (1.5, 1.5, 1.5))
    centre, half_side = np.array([14.0, -8.0, 5.0]), 7.0  # right, posterior, superior
    box = (np.abs(apply_affine(affine, voxel_indices(shape)) - centre) < half_side).all(axis=-1)
    posteriors = torch.from_numpy(np.stack([~box, box]).astype(np.float32))

    native = oriented(codes, native_shape, (1.0, 1.2, 1.6), degrees)
    restored = resample_labels(posteriors, affine, native_shape, native).numpy()
    box_in_world = apply_affine(native, np.argwhere(restored == 1))
    np.testing.assert_allclose(box_in_world.mean(axis=0), centre, atol=0.8)  # half a voxel
    volume = len(box_in_world) * voxel_volume_ml(native)
    assert volume == pytest.approx(box.sum() * voxel_volume_ml(affine), rel=0.15)


def test_voxels_outside_the_field_of_view_get_the_fill_value() -> None:
    far = np.eye(4)
    far[:3, 3] = 100
    posteriors = torch.eye(3)[2].reshape(3, 1, 1, 1).expand(3, 4, 4, 4)
    assert (resample_labels(posteriors, np.eye(4), (3, 3, 3), far, outside=1) == 1).all()
    assert (resample_to_grid(posteriors[2], np.eye(4), (3, 3, 3), far, fill=-1) == -1).all()


@settings(max_examples=20)
@given(source=grids(2), target=grids(3), seed=st.integers(0, 2**31))
def test_results_do_not_depend_on_the_size_of_slabs(source: Grid, target: Grid, seed: int) -> None:
    posteriors = torch.rand((3, *source[0]), generator=torch.Generator().manual_seed(seed))
    at_once = resample_labels(posteriors, source[1], *target)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resampling, "SLAB_VALUES", 1)
        assert torch.equal(resample_labels(posteriors, source[1], *target), at_once)


@given(source=grids(2), target=grids(), seed=st.integers(0, 2**31))
def test_the_foreground_is_restored_by_normalised_convolution(source: Grid, target: Grid, seed: int) -> None:
    generator = np.random.default_rng(seed)
    volumes = torch.from_numpy(generator.normal(size=(2, *source[0])).astype(np.float32))
    known, wanted = (torch.from_numpy(generator.random(shape) > 0.3) for shape in (source[0], target[0]))
    restored = restore_foreground(volumes, known, source[1], wanted, target[1])
    weight = resample_to_grid(known.float(), source[1], *target, fill=0.0)
    for volume, result in zip(volumes, restored, strict=True):
        expected = resample_to_grid(volume * known, source[1], *target, fill=0.0) / weight.clamp(min=1e-3)
        torch.testing.assert_close(result, torch.where(wanted & (weight > 1e-3), expected, 0.0))


@given(source=grids(2), target=grids(2), seed=st.integers(0, 2**31))
def test_a_box_is_interpolated_as_the_whole_grid_is(source: Grid, target: Grid, seed: int) -> None:
    volume = torch.from_numpy(np.random.default_rng(seed).normal(size=source[0]))
    box = tuple(slice(1, length) for length in target[0])
    to_source = np.linalg.inv(source[1]) @ target[1]
    indices = source_indices(to_source, box)
    np.testing.assert_allclose(indices.numpy(), indices_in(source, target)[box], atol=1e-9)
    expected = map_coordinates(volume.numpy(), indices.movedim(-1, 0).numpy(), order=1, mode="nearest")
    np.testing.assert_allclose(interpolate(volume[None], indices)[0].numpy(), expected, atol=1e-9)
