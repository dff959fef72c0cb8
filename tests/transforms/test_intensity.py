"""Scaling of foreground intensities."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from monai.data import MetaTensor
from synthetic_images import brain_in_air, distance_to

from midiff_monai.transforms.intensity import MIN_FOREGROUND_VALUE, ScaleForegroundIntensityd

AFFINE = torch.diag(torch.tensor([2.0, 2.0, 3.0, 1.0], dtype=torch.float64))

seeds = st.integers(0, 2**31)


def scaled(volume: torch.Tensor) -> torch.Tensor:
    return ScaleForegroundIntensityd("image")({"image": volume})["image"]


@given(seed=seeds, exponent=st.floats(-12, 12))
def test_scaling_does_not_depend_on_the_unit_of_intensity(seed: int, exponent: float) -> None:
    """A diffusivity in m²/s is about 1e-9; a raw MRI intensity is about 1e3."""
    volume = brain_in_air(seed, side=12)
    torch.testing.assert_close(scaled(volume * 10**exponent), scaled(volume), atol=1e-4, rtol=0)


@given(seed=seeds, margin=st.integers(0, 3), air=st.floats(-50, 5, width=32, allow_subnormal=False))
def test_air_does_not_change_the_scaling_of_the_brain(seed: int, margin: int, air: float) -> None:
    """Air may be cropped, zero, faint or negative (after bias-field correction), and of any amount."""
    volume = brain_in_air(seed, side=12)
    wide = torch.nn.functional.pad(torch.where(volume > 0, volume, air), (2 * margin,) * 6, value=air)
    inner = slice(2 * margin, 2 * margin + 12)
    result = scaled(wide)[:, inner, inner, inner]
    torch.testing.assert_close(result[volume > 0], scaled(volume)[volume > 0])
    assert (result[volume == 0] == (MIN_FOREGROUND_VALUE if air > 0 else 0)).all()


def test_zero_is_reserved_for_the_background() -> None:
    """Dark tissue and holes of the brain, zero or negative, become positive."""
    volume = brain_in_air(0)
    brain = volume > 0
    volume[0, 12, 12, 10:14] = torch.tensor([-5.0, 0.0, 0.0, 1e-4])
    result = scaled(volume)
    assert (result[~brain] == 0).all() and result[brain].min() == pytest.approx(MIN_FOREGROUND_VALUE)
    assert result[0, 12, 12, 10:14].tolist() == pytest.approx([MIN_FOREGROUND_VALUE] * 4)


@given(seed=seeds, outliers=st.integers(1, 4))
def test_scaling_is_robust_to_outliers(seed: int, outliers: int) -> None:
    clean, spiked = brain_in_air(seed), brain_in_air(seed)
    # only every other voxel along each axis enters the percentiles
    places = 2 * np.random.default_rng(seed).integers(0, 12, (3, outliers))
    spiked[0, places[0], places[1], places[2]] = 1e6
    untouched = clean == spiked
    # the bound exceeds four gaps between 456 sorted values, 0.009 on average, except once in millions of cases
    assert (scaled(spiked) - scaled(clean))[untouched].abs().max() < 0.05
    assert (scaled(spiked)[~untouched] == 1).all()


@given(seed=seeds, constant=st.one_of(st.none(), st.floats(1e-9, 1e9)))
def test_scaled_intensities_lie_in_the_unit_interval(seed: int, constant: float | None) -> None:
    volume = brain_in_air(seed, side=12)
    result = scaled(volume if constant is None else (volume > 0) * constant)
    assert result.isfinite().all() and result.min() == 0 and result.max() <= 1
    assert constant is not None or result.max() == 1


@pytest.mark.parametrize("value", [0.0, 7.0])
def test_scaling_uses_all_voxels_if_every_other_slice_is_empty(value: float) -> None:
    """A wrong brain mask on thick slices may leave one voxel, or none."""
    volume = torch.zeros(1, 6, 6, 6)
    volume[0, 1, 1, 1] = value
    scaled_volume = ScaleForegroundIntensityd("image")({"image": volume})["image"]
    assert torch.equal(scaled_volume != 0, volume != 0)


def test_scaling_keeps_the_affine() -> None:
    result = scaled(MetaTensor(brain_in_air(0), affine=AFFINE))
    assert isinstance(result, MetaTensor)
    torch.testing.assert_close(result.affine, AFFINE)


# --- a fixed window, as for CT ---


def test_a_window_keeps_noisy_csf_within_the_head_and_removes_the_air_around_it() -> None:
    """CSF of 5 Hounsfield units with noise of 10 is below the window in some voxels. They stay foreground."""
    noise = 10 * torch.randn(1, 24, 24, 24, generator=torch.Generator().manual_seed(0))
    inside = torch.from_numpy(distance_to(11.5, (24, 24, 24)) < 9)[None]
    head = torch.where(inside, 5 + noise, -1000.0)
    result = ScaleForegroundIntensityd("image", window=(-10, 90))({"image": head})["image"]
    deep = torch.from_numpy(distance_to(11.5, (24, 24, 24)) < 7)[None]
    assert (head[deep] < -10).any() and (result[deep] >= MIN_FOREGROUND_VALUE).all()
    assert not result[~inside].any()
    bright = head[inside] > -9.9
    torch.testing.assert_close(result[inside][bright], ((head[inside][bright] + 10) / 100).clamp(0, 1))


def test_zeros_of_a_stripped_ct_are_background_in_any_window() -> None:
    """A skull-stripped CT is 0 around the brain, which is the intensity of CSF."""
    inside = torch.from_numpy(distance_to(11.5, (24, 24, 24)) < 9)[None]
    brain = torch.where(inside, 35.0, 0.0)
    result = ScaleForegroundIntensityd("image", window=(-10, 90))({"image": brain})["image"]
    torch.testing.assert_close(result, torch.where(inside, 0.45, 0.0))


@pytest.mark.parametrize("window", [None, (110.0, 170.0)])
def test_the_metadata_hold_the_intensities_that_became_0_and_1(window: tuple[float, float] | None) -> None:
    volume = MetaTensor(brain_in_air(0), affine=AFFINE)
    result = ScaleForegroundIntensityd("image", window=window)({"image": volume})["image"]
    low, high = result.meta["intensity_range"]
    inside = (result > MIN_FOREGROUND_VALUE) & (result < 1)
    torch.testing.assert_close((low + result * (high - low))[inside], volume[inside], atol=1e-3, rtol=0)
    assert inside.any() and "intensity_range" not in volume.meta
