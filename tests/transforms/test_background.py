"""A background that is not exactly 0 is cleared; clean volumes and the air of heads stay as they are."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from ball_heads import RADII, SPACING, brain, head
from monai.data import MetaTensor
from numpy.typing import NDArray
from scipy import ndimage

from midiff_monai.transforms.background import ClearBackgroundd, clear_background


def uniform(scale: float) -> NDArray[np.float64]:
    return scale * np.random.default_rng(2).random(RADII.shape)


def normal(scale: float) -> NDArray[np.float64]:
    return np.random.default_rng(3).normal(scale=scale, size=RADII.shape)


CHANGES: dict[str, Callable[[NDArray[np.float32]], NDArray]] = {
    "dust": lambda d: np.where(d == 0, uniform(1e-5), d),
    "signed dust": lambda d: np.where(d == 0, uniform(1e-4) - 5e-5, d),
    "small negative values": lambda d: np.where(d == 0, -uniform(0.3), d),
    "faint noise": lambda d: np.where(d == 0, uniform(4.0), d),
    "offset": lambda d: d + 1,
    "large offset": lambda d: d + 1000,
    "negative offset": lambda d: d - 500,
    "offset with dust": lambda d: d + 1 + uniform(1e-4),
    "min-max": lambda d: (d - d.min()) / np.ptp(d) * 0.8 + 0.1,
    "z-score of the whole volume": lambda d: (d - d.mean()) / d.std(),
    "padding of -1": lambda d: np.where(d == 0, -1, d),
    "padding of 7": lambda d: np.where(d == 0, 7, d),
    "bright padding": lambda d: np.where(d == 0, 4095, d),
    "unsigned 8 bits": lambda d: (np.round(d / d.max() * 250) + 3).astype(np.uint8),
    "signed noise": lambda d: d + normal(2.0),
    "magnitude noise": lambda d: np.hypot(d + normal(2.0), normal(2.0)[::-1]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_foreground_is_that_of_the_clean_volume(change: str) -> None:
    clean = brain()
    cleared = clear_background(CHANGES[change](clean).astype(np.float32), SPACING)
    assert np.mean((cleared != 0) != (clean != 0)) < 1e-4
    inside = (cleared != 0) & (clean != 0)
    assert np.corrcoef(cleared[inside], clean[inside])[0, 1] > 0.98 and (cleared[inside] > 0).all()


def test_ripples_of_a_cubic_interpolation_are_background() -> None:
    """The interpolation moves the surface by less than half a voxel."""
    clean = brain()
    rippled = ndimage.shift(clean, (0.4, 0.3, 0.2), order=3)
    assert (rippled < 0).mean() > 0.2
    cleared = clear_background(rippled, SPACING)
    near = ndimage.binary_dilation(clean != 0, iterations=1)
    deep = ndimage.binary_erosion(clean != 0, iterations=2)
    assert (cleared[~near] != 0).mean() < 1e-3 and (cleared[deep] > 0).all() and (cleared < 0).mean() < 1e-3


@pytest.mark.parametrize(
    ("shift", "order"),
    [
        *(((0.4, 0.3, 0.2), 1), ((0.2, 0.3, 0.5), 1)),
        *(((0.4, 0.3, 0.2), 3), ((0.2, 0.3, 0.5), 3), ((0.5, 0.5, 0.5), 3)),
    ],
)
def test_an_interpolation_does_not_make_the_object_larger(shift: tuple[float, float, float], order: int) -> None:
    """Between the object and the background lie voxels of both. Those that are more background do not count."""
    clean = brain()
    cleared = clear_background(ndimage.shift(clean, shift, order=order), SPACING)
    assert (cleared > 0).sum() == pytest.approx((clean > 0).sum(), rel=0.025)


@pytest.mark.parametrize("lowest", [0, -2048])
def test_air_as_bright_as_tissue_is_background(lowest: int) -> None:
    """The UNI image of an MP2RAGE: air and bone are uniform noise over the range of all intensities."""
    tissue = np.where(brain() > 0, 20 * brain() - 1000, 2500)
    noise = np.random.default_rng(0).uniform(0, 4095, RADII.shape)
    noisy = (RADII >= 60) | ((RADII >= 45) & (RADII < 53))
    image = np.where(noisy, noise, tissue).astype(np.float32)
    cleared = clear_background(image + lowest, SPACING)
    assert (cleared[RADII < 44] != 0).all() and not cleared[RADII > 66].any()
    inside = cleared != 0
    np.testing.assert_allclose(cleared[inside], (image - image.min())[inside], atol=1e-3)


def one_side(volume: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.pad(volume, ((0, 5), (0, 0), (0, 0)), constant_values=4095)


def corners(volume: NDArray[np.float32]) -> NDArray[np.float32]:
    return ndimage.rotate(volume, 10, reshape=False, order=0, cval=4095)


@pytest.mark.parametrize("pad", [one_side, corners])
def test_bright_padding_of_a_part_of_the_border_is_background(
    pad: Callable[[NDArray[np.float32]], NDArray[np.float32]],
) -> None:
    padded = pad(brain())
    np.testing.assert_array_equal(clear_background(padded, SPACING), np.where(padded == 4095, 0, padded))


NOTHING_BUT_NOISE = np.random.default_rng(0).uniform(1, 900, RADII.shape).astype(np.float32)


@pytest.mark.parametrize("volume", [brain(), head(), head(air=0.5), head(air=0), NOTHING_BUT_NOISE])
def test_clean_volumes_are_returned_as_they_are(volume: NDArray[np.float32]) -> None:
    assert clear_background(volume, SPACING) is volume


def test_bias_field_correction_leaves_negative_voxels_within_the_brain() -> None:
    volume = brain()
    volume[30:32, 30, 30:34] = -3
    assert clear_background(volume, SPACING) is volume


def test_an_offset_of_a_head_is_subtracted_and_its_noise_stays() -> None:
    volume = head()
    np.testing.assert_allclose(clear_background(volume + 500, SPACING), volume, atol=1)


def test_ct_keeps_its_scale_and_loses_dust() -> None:
    volume = np.where(RADII < 45, 35, -1000).astype(np.float32)
    assert clear_background(volume, SPACING, absolute=True) is volume
    stripped = np.where(RADII < 45, 35, 0).astype(np.float32)
    dusty = np.where(stripped == 0, uniform(1e-5), stripped).astype(np.float32)
    np.testing.assert_array_equal(clear_background(dusty, SPACING, absolute=True), stripped)


def test_the_transform_keeps_the_metadata() -> None:
    affine = torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0]))
    image = MetaTensor(torch.from_numpy(brain() + 1)[None], affine=affine)
    cleared = ClearBackgroundd("image")({"image": image})["image"]
    assert torch.equal(cleared.affine, image.affine)
    np.testing.assert_allclose(cleared[0].numpy(), brain(), atol=1e-4)


def test_an_object_with_negative_intensities_stays_as_it_is() -> None:
    """A z-score within the brain: half of the brain is negative, and must not be cleared as ripples."""
    brain = RADII < 45
    volume = np.where(brain, np.random.default_rng(0).normal(size=RADII.shape), 0).astype(np.float32)
    np.testing.assert_array_equal(clear_background(volume, SPACING), volume)


def test_a_ct_stays_as_it_is_without_its_modality() -> None:
    """Otherwise it would pass for an MR with padding, and not be refused with the hint to name the modality."""
    volume = np.where(RADII < 45, 35, -1000).astype(np.float32)
    np.testing.assert_array_equal(clear_background(volume, SPACING), volume)


def test_a_single_slice_stays_as_it_is() -> None:
    """All of its voxels lie in the shell of the volume, so a constant object would be taken for padding."""
    voxels = np.zeros((40, 40, 1), np.float32)
    voxels[2:-2, 2:-2] = 100
    voxels[10:20, 10:20] = 200
    assert clear_background(voxels, (1, 1, 1)) is voxels
