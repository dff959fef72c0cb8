"""Skull stripping, and the geometry of slabs compared with SciPy."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from monai.data import CacheDataset
from monai.transforms import Compose
from numpy.typing import NDArray
from scipy import ndimage
from synthetic_images import distance_to, smooth_pattern

from midiff_monai.training.augmentation import RandDeformCropd, RandSkullStripd, sample_at

seeds = st.integers(0, 2**31)

Data = dict[Hashable, Any]

# --- RandSkullStripd ---


def layered() -> Data:
    """Signed distances −4 to 5 along the first axis. Those of the cerebrum are smaller by 3."""
    distance = torch.arange(-4.0, 6.0).reshape(1, 10, 1, 1)
    return {
        "image": torch.ones(1, 10, 1, 1),
        "label": torch.full((1, 10, 1, 1), 9),
        "signed_distance": torch.cat([distance, distance - 3]),
    }


@pytest.mark.parametrize("cerebrum_only_prob, shift", [(0.0, 0), (1.0, 3)])
@pytest.mark.parametrize("cut", [-2.5, 0.5])
def test_voxels_outside_the_margin_are_set_to_zero(cerebrum_only_prob: float, shift: int, cut: float) -> None:
    strip = RandSkullStripd(["image", "label"], "signed_distance", 1.0, (cut, cut), cerebrum_only_prob)
    result, data = strip(layered()), layered()
    kept = data["signed_distance"][:1] - shift > cut
    assert torch.equal(result["image"], kept.float())
    assert torch.equal(result["label"], 9 * kept) and result["label"].dtype == torch.int64
    assert torch.equal(result["signed_distance"], data["signed_distance"])


def test_a_probability_of_0_changes_nothing() -> None:
    strip = RandSkullStripd("image", "signed_distance", prob=0.0)
    assert all(strip(layered())["image"].all() for _ in range(20))


def test_random_stripping_is_reproducible_with_the_seed() -> None:
    def draws() -> list[float]:
        strip = RandSkullStripd("image", "signed_distance", prob=0.3)
        strip.set_random_state(0)
        return [float(strip(layered())["image"].sum()) for _ in range(400)]

    assert draws() == draws()
    assert 0.6 < np.mean(np.array(draws()) == 10) < 0.8
    assert len(set(draws())) > 4  # margins differ


# --- RandDeformCropd ---

STILL: dict[str, Any] = {"rotate_std": 0.0, "scale_std": 0.0, "displacement_std": 0.0}
MIDDLE = [[0.5, 0.5]] * 3


def coordinates(shape: tuple[int, int, int]) -> torch.Tensor:
    """A volume (3, *shape) of voxel indices. A slab of it holds the sampled positions."""
    return torch.from_numpy(np.indices(shape)).float()


def slab_of(volume: Any, seed: int = 0, mode: str = "bilinear", **kwargs: Any) -> torch.Tensor:
    warp = RandDeformCropd("image", [mode], **{"spatial_size": (9, 9, 5), "centre_range": MIDDLE, **kwargs})
    warp.set_random_state(seed)
    return warp({"image": torch.as_tensor(volume)})["image"]


def fitted_affine(positions: torch.Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Fit matrix and centre of the map from a centred slab to positions (3, X, Y, Z); returns the residual too."""
    shape = positions.shape[1:]
    offsets = np.moveaxis(np.indices(shape), 0, -1).reshape(-1, 3) - (np.array(shape) - 1) / 2
    design = np.column_stack([offsets, np.ones(len(offsets))])
    wanted = positions.flatten(1).T.double().numpy()
    solution = np.linalg.lstsq(design, wanted, rcond=None)[0]
    return solution[:3].T, solution[3], float(np.abs(design @ solution - wanted).max())


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_without_deformation_a_slab_is_a_piece_of_the_volume(mode: str) -> None:
    volume = torch.rand(2, 13, 11, 9)
    result = slab_of(
        volume, spatial_size=(5, 7, 3), mode=mode, centre_range=[[0.5, 0.5], [0.4, 0.4], [0.75, 0.75]], **STILL
    )
    torch.testing.assert_close(result, volume[:, 4:9, 1:8, 5:8], atol=1e-5, rtol=0)


def test_flip_mirrors_the_first_axis_of_the_slab() -> None:
    volume = torch.rand(1, 11, 9, 7)
    geometry: dict[str, Any] = {"rotate_std": 0.3, "scale_std": 0.1, "displacement_std": 0.0}
    straight, mirrored = (slab_of(volume, flip_prob=flip_prob, **geometry) for flip_prob in (0.0, 1.0))
    torch.testing.assert_close(mirrored, straight.flip(1), atol=1e-5, rtol=0)


def test_labels_of_a_mirrored_volume_exchange_sides() -> None:
    image = torch.rand(1, 6, 5, 4, generator=torch.Generator().manual_seed(0))
    label = (image * 3).to(torch.uint8)  # 0, 1 left, 2 right
    sizes: dict[str, Any] = {"spatial_size": (6, 5, 4), "centre_range": MIDDLE, "flip_prob": 0.5, **STILL}
    warp = RandDeformCropd(["image", "label"], ["nearest"] * 2, mirrored_labels={"label": [0, 2, 1]}, **sizes)
    flipped = 0
    warp.set_random_state(0)
    for _ in range(200):
        result = warp({"image": image, "label": label})
        mirrored = not torch.equal(result["image"], image)
        assert torch.equal(result["image"], image.flip(1) if mirrored else image)
        values = (result["image"] * 3).to(torch.uint8)
        assert result["label"].dtype == torch.uint8
        assert torch.equal(result["label"], torch.where(values > 0, 3 - values, 0) if mirrored else values)
        flipped += mirrored
    assert 70 < flipped < 130


def test_outside_the_volume_the_slab_is_0() -> None:
    result = slab_of(torch.ones(1, 5, 5, 5), **STILL)
    assert torch.equal(result, torch.nn.functional.pad(torch.ones(1, 5, 5, 5), (0, 0, 2, 2, 2, 2)))


@given(seed=seeds, flip_prob=st.sampled_from([0.0, 1.0]))
def test_rotation_agrees_with_scipy(seed: int, flip_prob: float) -> None:
    shape = (23, 24, 25)
    geometry: dict[str, Any] = {"rotate_std": 0.5, "scale_std": 0.0, "displacement_std": 0.0, "flip_prob": flip_prob}
    matrix, centre, residual = fitted_affine(slab_of(coordinates(shape), seed, **geometry))
    assert residual < 1e-4
    np.testing.assert_allclose(centre, (np.array(shape) - 1) / 2, atol=1e-4)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-4)
    assert np.linalg.det(matrix) == pytest.approx(-1 if flip_prob else 1, abs=1e-4)

    volume = smooth_pattern(shape)
    offset = centre - matrix @ np.array([4, 4, 2])
    expected = ndimage.affine_transform(
        volume, matrix, offset, output_shape=(9, 9, 5), order=1, mode="grid-constant", prefilter=False
    )
    np.testing.assert_allclose(slab_of(volume[None], seed, **geometry)[0], expected, atol=1e-4)


@given(seed=seeds)
def test_deformation_agrees_with_scipy(seed: int) -> None:
    shape = (23, 24, 25)
    positions, volume = slab_of(coordinates(shape), seed), smooth_pattern(shape)
    expected = ndimage.map_coordinates(volume, positions.numpy(), order=1, mode="grid-constant", prefilter=False)
    np.testing.assert_allclose(slab_of(volume[None], seed)[0], expected, atol=1e-4)


@given(seed=seeds)
@settings(max_examples=20)
def test_rotation_preserves_the_volume_of_a_ball(seed: int) -> None:
    ball = torch.from_numpy(np.clip(8.5 - distance_to(12, (25, 25, 25)), 0, 1)).float()[None]
    result = slab_of(ball, seed, spatial_size=(25, 25, 25), rotate_std=1.0, scale_std=0.0, displacement_std=0.0)
    assert float(result.sum()) == pytest.approx(float(ball.sum()), rel=5e-3)


def test_rotation_scale_and_displacement_have_the_stated_standard_deviations() -> None:
    shape, size, middle = (15, 15, 15), (3, 4, 5), 7.0

    def draws(**kwargs: float) -> list[torch.Tensor]:
        warp = RandDeformCropd("image", ["bilinear"], size, MIDDLE, **{**STILL, **kwargs})
        warp.set_random_state(0)
        return [warp({"image": coordinates(shape)})["image"] for _ in range(400)]

    def matrices(**kwargs: float) -> NDArray[np.float64]:
        return np.stack([fitted_affine(positions)[0] for positions in draws(**kwargs)])

    # the matrix of a small rotation is the identity plus the antisymmetric matrix of the angles
    rotations = matrices(rotate_std=0.05)
    angles = np.stack([rotations[:, 2, 1], rotations[:, 0, 2], rotations[:, 1, 0]])
    np.testing.assert_allclose(angles.std(axis=1), 0.05, rtol=0.12)
    np.testing.assert_allclose(angles.mean(axis=1), 0, atol=0.01)
    scales = np.log(np.linalg.norm(matrices(scale_std=0.1), axis=1))
    np.testing.assert_allclose(scales.std(axis=0), 0.1, rtol=0.12)
    assert 0.4 < (np.linalg.det(matrices(flip_prob=0.5)) < 0).mean() < 0.6
    # the corners of the slab are control points
    corners = torch.stack(draws(displacement_std=0.5))[:, :, [0, -1], [0, -1], [0, -1]].numpy()
    undeformed = middle + np.array([[-1, 1], [-1.5, 1.5], [-2, 2]])
    np.testing.assert_allclose((corners - undeformed).std(axis=0), 0.5, rtol=0.15)


def test_centres_fill_their_range() -> None:
    warp = RandDeformCropd("image", ["bilinear"], (1, 1, 1), [[0.2, 0.8], [0.5, 0.5], [0.0, 0.1]], **STILL)
    warp.set_random_state(0)
    centres = torch.stack([warp({"image": coordinates((11, 21, 31))})["image"].flatten() for _ in range(300)])
    assert (centres.amin(0) >= torch.tensor([2.0, 10.0, 0.0]) - 1e-4).all()
    assert (centres.amax(0) <= torch.tensor([8.0, 10.0, 3.0]) + 1e-4).all()
    np.testing.assert_allclose(centres.std(0), np.array([6, 0, 3]) / np.sqrt(12), rtol=0.1, atol=1e-4)


@given(seed=seeds)
@settings(max_examples=20)
def test_image_and_label_have_the_same_deformation(seed: int) -> None:
    image = smooth_pattern((24, 24, 24))
    threshold = float(np.median(image))
    data: Data = {
        "image": torch.from_numpy(image)[None],
        "label": torch.from_numpy(image > threshold)[None].to(torch.uint8),
    }
    warp = RandDeformCropd(["image", "label"], ["bilinear", "nearest"], (12, 12, 8), MIDDLE)
    warp.set_random_state(seed)
    result = warp(data)
    assert result["label"].dtype == torch.uint8
    assert set(result["label"].unique().tolist()) == {0, 1}
    # they can differ only within half a voxel of the boundary along each axis
    steepest = sum(np.abs(np.diff(image, axis=axis)).max() for axis in range(3))
    differ = (result["image"] > threshold) != (result["label"] > 0)
    assert ((result["image"] - threshold).abs()[differ] <= steepest / 2 + 1e-5).all()
    assert differ.float().mean() < 0.1


def test_the_seed_determines_the_slab() -> None:
    volume = smooth_pattern((23, 24, 25))[None]
    assert torch.equal(slab_of(volume, seed=3), slab_of(volume, seed=3))
    assert not torch.allclose(slab_of(volume, seed=3), slab_of(volume, seed=4), atol=1e-2)


def test_a_cached_volume_gives_a_new_slab_each_time() -> None:
    """MONAI's caches stop at the first transform that they recognise as random."""
    volumes = [{"image": torch.from_numpy(smooth_pattern((15, 15, 15))[None])}]
    warp = RandDeformCropd("image", ["bilinear"], (5, 5, 3), MIDDLE)
    dataset = CacheDataset(volumes, Compose([warp]), progress=False)
    assert not torch.allclose(dataset[0]["image"], dataset[0]["image"], atol=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_a_single_slice_is_deformed_within_its_plane(seed: int) -> None:
    """The slice goes on along its normal, so a displacement across it samples the same slice."""
    rng = np.random.default_rng(seed)
    image = rng.random((1, 20, 24, 1)).astype(np.float32)
    positions = rng.uniform(0, 19, (8, 9, 1, 3))
    sampled = sample_at(torch.from_numpy(image), torch.from_numpy(positions).float())
    expected = ndimage.map_coordinates(image[0, ..., 0], positions[..., 0, :2].transpose(2, 0, 1), order=1)
    np.testing.assert_allclose(sampled[0, ..., 0], expected, atol=1e-5)
