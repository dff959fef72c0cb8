"""The dilation of CSF spaces, compared with balls and slits with a closed form."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from synthetic_images import distance_to

from midiff_monai.training.atrophy import CSFDilationFieldd, csf_dilation_field
from midiff_monai.training.augmentation import RandDeformCropd

SIDE, MIDDLE = 41, 20
RADII = distance_to(MIDDLE, (SIDE, SIDE, SIDE))


def dilated(space: NDArray[np.bool_], amount: float, reach: float = 6.0, image: Any = None) -> NDArray[np.float32]:
    """Dilate a space, and return the deformed image, or the deformed space."""
    warp = RandDeformCropd(
        "image",
        ["bilinear"],
        space.shape,
        [[0.5, 0.5]] * 3,
        rotate_std=0.0,
        scale_std=0.0,
        displacement_std=0.0,
        csf_dilation_key="field",
        csf_dilation_range=[[amount, amount]],
    )
    field = torch.from_numpy(csf_dilation_field(space, reach))
    return warp({"image": torch.from_numpy(space if image is None else image).float()[None], "field": field})["image"][
        0
    ].numpy()


@pytest.mark.parametrize("centre", [(20, 20, 20), (4, 30, 9), (37, 3, 20)])
def test_a_slab_is_a_piece_of_the_dilated_volume(centre: tuple[int, int, int]) -> None:
    """This holds at any distance from the space."""
    size, space = (7, 5, 3), RADII < 12.0
    image = np.random.default_rng(0).random(space.shape)
    warp = RandDeformCropd(
        "image",
        ["bilinear"],
        size,
        [[place / (SIDE - 1)] * 2 for place in centre],
        rotate_std=0.0,
        scale_std=0.0,
        displacement_std=0.0,
        csf_dilation_key="field",
        csf_dilation_range=[[4.0, 4.0]],
    )
    field = torch.from_numpy(csf_dilation_field(space, 6.0))
    slab = warp({"image": torch.from_numpy(image).float()[None], "field": field})["image"][0].numpy()
    piece = tuple(slice(place - side // 2, place + side // 2 + 1) for place, side in zip(centre, size, strict=True))
    np.testing.assert_allclose(slab, np.asarray(dilated(space, 4.0, image=image))[piece], atol=1e-4)


def radius(ball: NDArray[np.float32]) -> float:
    """The radius of a ball of the same volume."""
    return float((ball.sum() * 3 / (4 * np.pi)) ** (1 / 3))


@pytest.mark.parametrize("start", [4.5, 8.0])
@pytest.mark.parametrize("amount", [-1.5, 1.0, 3.0])
def test_the_surface_of_a_ball_moves_as_the_flow_predicts(start: float, amount: float) -> None:
    """Outside the ball the flow solves dr/dt = −exp(−(r − start)/reach), which has a closed form."""
    reach = 6.0
    moved = reach * np.log(1 + amount / reach) if amount > 0 else 2.0 * -np.log(1 - amount / 2.0)
    assert radius(dilated(RADII < start, amount, reach)) == pytest.approx(start + moved, abs=0.45)


def test_a_narrow_space_stays_filled_after_a_large_dilation() -> None:
    """In a single step, the surface of a slit would be sampled beyond its other side."""
    slit = np.abs(np.indices((SIDE,) * 3)[0] - MIDDLE) < 1.5
    profile = dilated(slit, 4.0)[:, MIDDLE, MIDDLE]
    assert (profile[MIDDLE - 3 : MIDDLE + 4] > 0.6).all() and (profile[[MIDDLE - 7, MIDDLE + 7]] < 0.1).all()


def test_distant_voxels_do_not_move() -> None:
    image = np.random.default_rng(0).random((SIDE,) * 3).astype(np.float32)
    found = dilated(RADII < 5, 1.0, reach=1.0, image=image)
    np.testing.assert_allclose(found[RADII > 15], image[RADII > 15], atol=1e-3)


@pytest.mark.parametrize("amount", [-1.5, 4.5])
def test_the_deformation_does_not_fold(amount: float) -> None:
    """The coordinate along a radius increases monotonically."""
    profile = dilated(RADII < 6, amount, image=RADII)[MIDDLE:, MIDDLE, MIDDLE]
    assert (np.diff(profile[1:-1]) > 0).all()


def test_each_space_has_its_own_field() -> None:
    labels = np.where(RADII < 4, 51, np.where(RADII > 15, 0, np.where(RADII > 13, 1, 81)))[None]
    fields = CSFDilationFieldd("label", [[51, 52], [1, 0]], [6.0, 1.5])({"label": torch.from_numpy(labels)})["label"]
    expected = [csf_dilation_field(RADII < 4, 6.0), csf_dilation_field(RADII > 13, 1.5)]
    np.testing.assert_array_equal(fields.numpy(), np.concatenate(expected))
