"""Spaces that widen, against balls whose every voxel is known."""

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


def widened(space: NDArray[np.bool_], amount: float, reach: float = 6.0, image: Any = None) -> NDArray[np.float32]:
    """What becomes of an image, or of the space itself, once the space has widened."""
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
def test_a_slab_is_a_piece_of_the_widened_volume(centre: tuple[int, int, int]) -> None:
    """However far away the field that it has to follow."""
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
    np.testing.assert_allclose(slab, np.asarray(widened(space, 4.0, image=image))[piece], atol=1e-4)


def radius(ball: NDArray[np.float32]) -> float:
    """Of the ball of the same volume."""
    return float((ball.sum() * 3 / (4 * np.pi)) ** (1 / 3))


@pytest.mark.parametrize("start", [4.5, 8.0])
@pytest.mark.parametrize("amount", [-1.5, 1.0, 3.0])
def test_the_border_of_a_ball_moves_by_what_the_flow_of_the_field_says(start: float, amount: float) -> None:
    """Along a radius r the flow solves dr/dt = −exp(−(r − start)/reach) outside the ball: in closed form."""
    reach = 6.0
    moved = reach * np.log(1 + amount / reach) if amount > 0 else 2.0 * -np.log(1 - amount / 2.0)
    assert radius(widened(RADII < start, amount, reach)) == pytest.approx(start + moved, abs=0.45)


def test_a_narrow_space_stays_filled_however_far_it_widens() -> None:
    """A slit: at one go, its border would be sought in what lies beyond its other side."""
    slit = np.abs(np.indices((SIDE,) * 3)[0] - MIDDLE) < 1.5
    profile = widened(slit, 4.0)[:, MIDDLE, MIDDLE]
    assert (profile[MIDDLE - 3 : MIDDLE + 4] > 0.6).all() and (profile[[MIDDLE - 7, MIDDLE + 7]] < 0.1).all()


def test_far_away_nothing_moves() -> None:
    image = np.random.default_rng(0).random((SIDE,) * 3).astype(np.float32)
    found = widened(RADII < 5, 1.0, reach=1.0, image=image)
    np.testing.assert_allclose(found[RADII > 15], image[RADII > 15], atol=1e-3)


@pytest.mark.parametrize("amount", [-1.5, 4.5])
def test_no_two_voxels_change_places(amount: float) -> None:
    """The coordinate along a radius keeps rising."""
    profile = widened(RADII < 6, amount, image=RADII)[MIDDLE:, MIDDLE, MIDDLE]
    assert (np.diff(profile[1:-1]) > 0).all()


def test_every_space_has_a_field_of_its_own() -> None:
    labels = np.where(RADII < 4, 51, np.where(RADII > 15, 0, np.where(RADII > 13, 1, 81)))[None]
    fields = CSFDilationFieldd("label", [[51, 52], [1, 0]], [6.0, 1.5])({"label": torch.from_numpy(labels)})["label"]
    expected = [csf_dilation_field(RADII < 4, 6.0), csf_dilation_field(RADII > 13, 1.5)]
    np.testing.assert_array_equal(fields.numpy(), np.concatenate(expected))
