"""What is cut away, and the geometry of slabs against SciPy."""

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

from midiff_monai.augmentation import RandRemoveStructuresd, RandStripd, RandWarpSlabd

seeds = st.integers(0, 2**31)

Data = dict[Hashable, Any]

# --- RandStripd ---


@pytest.mark.parametrize("prob", [0.0, 1.0])
def test_stripping_always_or_never(prob: float) -> None:
    image, mask = torch.rand(1, 4, 5, 6) + 0.1, (torch.rand(1, 4, 5, 6) < 0.5).float()
    strip = RandStripd("image", "mask", prob=prob)
    for _ in range(20):
        result = strip({"image": image, "mask": mask})
        assert torch.equal(result["image"], image * mask if prob else image)
        assert torch.equal(result["mask"], mask)


def test_stripping_at_random_repeats_with_the_seed() -> None:
    data: Data = {"image": torch.ones(1, 1, 1, 1), "mask": torch.zeros(1, 1, 1, 1)}

    def draws() -> list[float]:
        strip = RandStripd("image", "mask", prob=0.3)
        strip.set_random_state(0)
        return [float(strip(data)["image"]) for _ in range(400)]

    assert draws() == draws()
    assert 0.6 < np.mean(draws()) < 0.8


# --- RandRemoveStructuresd ---


@pytest.mark.parametrize("prob", [0.0, 1.0])
def test_structures_are_cut_out_with_a_margin_of_one_voxel_always_or_never(prob: float) -> None:
    labels = torch.full((1, 9, 9, 9), 3, dtype=torch.uint8)
    labels[0, 4, 4, 1], labels[0, 4, 4, 6] = 7, 8
    image = torch.ones(1, 9, 9, 9)
    result = RandRemoveStructuresd(["image", "label"], "label", [7, 8], prob)({"image": image, "label": labels})
    places = torch.cartesian_prod(*[torch.arange(9)] * 3).reshape(9, 9, 9, 3)
    near = [(places - torch.tensor([4, 4, z])).abs().amax(-1) <= 1 for z in (1, 6)]
    kept = (~(near[0] | near[1]) | (prob == 0))[None]
    assert torch.equal(result["image"], image * kept)
    assert torch.equal(result["label"], labels * kept) and result["label"].dtype == torch.uint8


# --- RandWarpSlabd ---

STILL: dict[str, Any] = {"rotate": 0.0, "scale": 0.0, "displacement": 0.0}
MIDDLE = [[0.5, 0.5]] * 3


def coordinates(shape: tuple[int, int, int]) -> torch.Tensor:
    """A volume (3, *shape) that holds the indices of its voxels: a slab of it tells where it comes from."""
    return torch.from_numpy(np.indices(shape)).float()


def slab_of(volume: Any, seed: int = 0, mode: str = "bilinear", **kwargs: Any) -> torch.Tensor:
    warp = RandWarpSlabd("image", [mode], **{"size": (9, 9, 5), "centre_range": MIDDLE, **kwargs})
    warp.set_random_state(seed)
    return warp({"image": torch.as_tensor(volume)})["image"]


def fitted_affine(positions: torch.Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Matrix and centre of the map from a slab, origin in its middle, to positions (3, X, Y, Z); the residual."""
    shape = positions.shape[1:]
    offsets = np.moveaxis(np.indices(shape), 0, -1).reshape(-1, 3) - (np.array(shape) - 1) / 2
    design = np.column_stack([offsets, np.ones(len(offsets))])
    wanted = positions.flatten(1).T.double().numpy()
    solution = np.linalg.lstsq(design, wanted, rcond=None)[0]
    return solution[:3].T, solution[3], float(np.abs(design @ solution - wanted).max())


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_without_deformation_a_slab_is_a_piece_of_the_volume(mode: str) -> None:
    volume = torch.rand(2, 13, 11, 9)
    result = slab_of(volume, size=(5, 7, 3), mode=mode, centre_range=[[0.5, 0.5], [0.4, 0.4], [0.75, 0.75]], **STILL)
    torch.testing.assert_close(result, volume[:, 4:9, 1:8, 5:8], atol=1e-5, rtol=0)


def test_flip_mirrors_the_first_axis_of_the_slab() -> None:
    volume = torch.rand(1, 11, 9, 7)
    geometry: dict[str, Any] = {"rotate": 0.3, "scale": 0.1, "displacement": 0.0}
    plain, mirrored = (slab_of(volume, flip_prob=flip_prob, **geometry) for flip_prob in (0.0, 1.0))
    torch.testing.assert_close(mirrored, plain.flip(1), atol=1e-5, rtol=0)


def test_beyond_the_volume_is_nothing() -> None:
    result = slab_of(torch.ones(1, 5, 5, 5), **STILL)
    assert torch.equal(result, torch.nn.functional.pad(torch.ones(1, 5, 5, 5), (0, 0, 2, 2, 2, 2)))


@given(seed=seeds, flip_prob=st.sampled_from([0.0, 1.0]))
def test_rotation_agrees_with_scipy(seed: int, flip_prob: float) -> None:
    shape = (23, 24, 25)
    geometry: dict[str, Any] = {"rotate": 0.5, "scale": 0.0, "displacement": 0.0, "flip_prob": flip_prob}
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
    result = slab_of(ball, seed, size=(25, 25, 25), rotate=1.0, scale=0.0, displacement=0.0)
    assert float(result.sum()) == pytest.approx(float(ball.sum()), rel=5e-3)


def test_rotation_scale_displacement_and_flip_are_spread_as_stated() -> None:
    shape, size, middle = (15, 15, 15), (3, 4, 5), 7.0

    def draws(**kwargs: float) -> list[torch.Tensor]:
        warp = RandWarpSlabd("image", ["bilinear"], size, MIDDLE, **{**STILL, **kwargs})
        warp.set_random_state(0)
        return [warp({"image": coordinates(shape)})["image"] for _ in range(400)]

    def matrices(**kwargs: float) -> NDArray[np.float64]:
        return np.stack([fitted_affine(positions)[0] for positions in draws(**kwargs)])

    # of small rotations the matrix is 1 plus the antisymmetric one of the angles
    rotations = matrices(rotate=0.05)
    angles = np.stack([rotations[:, 2, 1], rotations[:, 0, 2], rotations[:, 1, 0]])
    np.testing.assert_allclose(angles.std(axis=1), 0.05, rtol=0.12)
    np.testing.assert_allclose(angles.mean(axis=1), 0, atol=0.01)
    scales = np.log(np.linalg.norm(matrices(scale=0.1), axis=1))
    np.testing.assert_allclose(scales.std(axis=0), 0.1, rtol=0.12)
    assert 0.4 < (np.linalg.det(matrices(flip_prob=0.5)) < 0).mean() < 0.6
    # the corners of the slab are knots
    corners = torch.stack(draws(displacement=0.5))[:, :, [0, -1], [0, -1], [0, -1]].numpy()
    undeformed = middle + np.array([[-1, 1], [-1.5, 1.5], [-2, 2]])
    np.testing.assert_allclose((corners - undeformed).std(axis=0), 0.5, rtol=0.15)


def test_centres_fill_their_range() -> None:
    warp = RandWarpSlabd("image", ["bilinear"], (1, 1, 1), [[0.2, 0.8], [0.5, 0.5], [0.0, 0.1]], **STILL)
    warp.set_random_state(0)
    centres = torch.stack([warp({"image": coordinates((11, 21, 31))})["image"].flatten() for _ in range(300)])
    assert (centres.amin(0) >= torch.tensor([2.0, 10.0, 0.0]) - 1e-4).all()
    assert (centres.amax(0) <= torch.tensor([8.0, 10.0, 3.0]) + 1e-4).all()
    np.testing.assert_allclose(centres.std(0), np.array([6, 0, 3]) / np.sqrt(12), rtol=0.1, atol=1e-4)


@given(seed=seeds)
@settings(max_examples=20)
def test_image_and_label_are_warped_alike(seed: int) -> None:
    image = smooth_pattern((24, 24, 24))
    threshold = float(np.median(image))
    data: Data = {
        "image": torch.from_numpy(image)[None],
        "label": torch.from_numpy(image > threshold)[None].to(torch.uint8),
    }
    warp = RandWarpSlabd(["image", "label"], ["bilinear", "nearest"], (12, 12, 8), MIDDLE)
    warp.set_random_state(seed)
    result = warp(data)
    assert result["label"].dtype == torch.uint8
    assert set(result["label"].unique().tolist()) == {0, 1}
    # they can only differ where the boundary is nearer than the nearest voxel: within half a voxel along each axis
    steepest = sum(np.abs(np.diff(image, axis=axis)).max() for axis in range(3))
    differ = (result["image"] > threshold) != (result["label"] > 0)
    assert ((result["image"] - threshold).abs()[differ] <= steepest / 2 + 1e-5).all()
    assert differ.float().mean() < 0.1


def test_the_seed_determines_the_slab() -> None:
    volume = smooth_pattern((23, 24, 25))[None]
    assert torch.equal(slab_of(volume, seed=3), slab_of(volume, seed=3))
    assert not torch.allclose(slab_of(volume, seed=3), slab_of(volume, seed=4), atol=1e-2)


def test_a_cached_volume_gives_a_new_slab_each_time() -> None:
    """MONAI's caches stop at the first random transform, which they must recognise as such."""
    volumes = [{"image": torch.from_numpy(smooth_pattern((15, 15, 15))[None])}]
    warp = RandWarpSlabd("image", ["bilinear"], (5, 5, 3), MIDDLE)
    dataset = CacheDataset(volumes, Compose([warp]), progress=False)
    assert not torch.allclose(dataset[0]["image"], dataset[0]["image"], atol=1e-3)
