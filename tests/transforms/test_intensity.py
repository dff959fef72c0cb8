from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given
from monai.data import MetaTensor
from monai.transforms import Compose, LoadImaged, Orientationd, Spacing
from scipy import ndimage
from synthetic_images import distance_to

from midiff_monai.labels import FREESURFER_IDS
from midiff_monai.transforms.foreground import fill_holes, foreground_percentiles
from midiff_monai.transforms.intensity import MIN_FOREGROUND_VALUE, ScaleForegroundIntensityd
from midiff_monai.transforms.spatial import InvertMaskedSpacingd, InvertProbabilitiesToLabelsd, MaskedSpacingd

AFFINE = torch.diag(torch.tensor([2.0, 2.0, 3.0, 1.0], dtype=torch.float64))

seeds = st.integers(0, 2**31)

Data = dict[Hashable, Any]


def brain_in_air(seed: int, side: int = 24) -> torch.Tensor:
    """A ball of grey values between 100 and 200 in air at 0."""
    values = np.random.default_rng(seed).uniform(100, 200, (side, side, side))
    inside = distance_to((side - 1) / 2, values.shape) < 0.4 * side
    return torch.from_numpy(np.where(inside, values, 0)).float()[None]


def stretched(volume: torch.Tensor) -> torch.Tensor:
    return ScaleForegroundIntensityd("image")({"image": volume})["image"]


# --- ScaleForegroundIntensityd ---


def test_range_is_that_of_the_percentiles_of_the_brain() -> None:
    volume = brain_in_air(0)
    expected = np.percentile(volume[volume > 0].numpy(), [5, 90])
    np.testing.assert_allclose(foreground_percentiles(volume, 5, 90), expected, rtol=1e-6)


@given(seed=seeds, exponent=st.floats(-12, 12))
def test_stretch_does_not_depend_on_the_unit_of_intensity(seed: int, exponent: float) -> None:
    """A diffusivity in m²/s is about 1e-9, a raw MRI value about 1e3."""
    volume = brain_in_air(seed, side=12)
    torch.testing.assert_close(stretched(volume * 10**exponent), stretched(volume), atol=1e-4, rtol=0)


@given(seed=seeds, margin=st.integers(0, 3), air=st.floats(-50, 5, width=32, allow_subnormal=False))
def test_air_does_not_change_the_stretch_of_the_brain(seed: int, margin: int, air: float) -> None:
    """Be it cut away, zero, faint or negative, as bias-field correction leaves it, and however much there is."""
    volume = brain_in_air(seed, side=12)
    wide = torch.nn.functional.pad(torch.where(volume > 0, volume, air), (2 * margin,) * 6, value=air)
    inner = slice(2 * margin, 2 * margin + 12)
    result = stretched(wide)[:, inner, inner, inner]
    torch.testing.assert_close(result[volume > 0], stretched(volume)[volume > 0])
    assert (result[volume == 0] == (MIN_FOREGROUND_VALUE if air > 0 else 0)).all()


def test_zero_means_nothing_once_stretched() -> None:
    """The darkest tissue and holes within the brain, zero or negative, stay apart from the surroundings."""
    volume = brain_in_air(0)
    brain = volume > 0
    volume[0, 12, 12, 10:14] = torch.tensor([-5.0, 0.0, 0.0, 1e-4])
    result = stretched(volume)
    assert (result[~brain] == 0).all() and result[brain].min() == pytest.approx(MIN_FOREGROUND_VALUE)
    assert result[0, 12, 12, 10:14].tolist() == pytest.approx([MIN_FOREGROUND_VALUE] * 4)


@given(seed=seeds, outliers=st.integers(1, 4))
def test_stretch_is_robust_to_outliers(seed: int, outliers: int) -> None:
    clean, spiked = brain_in_air(seed), brain_in_air(seed)
    places = 2 * np.random.default_rng(seed).integers(0, 12, (3, outliers))  # where the estimate looks
    spiked[0, places[0], places[1], places[2]] = 1e6
    untouched = clean == spiked
    # four gaps between 456 sorted values, 0.009 on average, are wider than this once in millions of times
    assert (stretched(spiked) - stretched(clean))[untouched].abs().max() < 0.05
    assert (stretched(spiked)[~untouched] == 1).all()


@given(seed=seeds, constant=st.one_of(st.none(), st.floats(1e-9, 1e9)))
def test_stretch_fills_the_unit_interval_or_stays_within(seed: int, constant: float | None) -> None:
    volume = brain_in_air(seed, side=12)
    result = stretched(volume if constant is None else (volume > 0) * constant)
    assert result.isfinite().all() and result.min() == 0 and result.max() <= 1
    assert constant is not None or result.max() == 1


@pytest.mark.parametrize("value", [0.0, 7.0])
def test_stretch_finds_what_every_other_slice_does_not_show(value: float) -> None:
    """Of a scan of thick slices a brain that was found by mistake may leave a voxel, or none."""
    volume = torch.zeros(1, 6, 6, 6)
    volume[0, 1, 1, 1] = value
    stretched = ScaleForegroundIntensityd("image")({"image": volume})["image"]
    assert torch.equal(stretched != 0, volume != 0)


def test_stretch_keeps_the_geometry() -> None:
    result = stretched(MetaTensor(brain_in_air(0), affine=AFFINE))
    assert isinstance(result, MetaTensor)
    torch.testing.assert_close(result.affine, AFFINE)


# --- ScaleForegroundIntensityd with a window, as for CT ---


def test_a_window_keeps_noisy_fluid_within_the_head_and_drops_the_air_around_it() -> None:
    """Fluid of 5 Hounsfield units under noise of 10 falls below the window here and there, and stays."""
    noise = 10 * torch.randn(1, 24, 24, 24, generator=torch.Generator().manual_seed(0))
    inside = torch.from_numpy(distance_to(11.5, (24, 24, 24)) < 9)[None]
    head = torch.where(inside, 5 + noise, -1000.0)
    result = ScaleForegroundIntensityd("image", window=(-10, 90))({"image": head})["image"]
    deep = torch.from_numpy(distance_to(11.5, (24, 24, 24)) < 7)[None]
    assert (head[deep] < -10).any() and (result[deep] >= MIN_FOREGROUND_VALUE).all()
    assert not result[~inside].any()
    bright = head[inside] > -9.9
    torch.testing.assert_close(result[inside][bright], ((head[inside][bright] + 10) / 100).clamp(0, 1))


def test_what_was_cut_away_is_nothing_in_any_window() -> None:
    """A skull-stripped CT is 0 around the brain, where a window has fluid."""
    inside = torch.from_numpy(distance_to(11.5, (24, 24, 24)) < 9)[None]
    brain = torch.where(inside, 35.0, 0.0)
    result = ScaleForegroundIntensityd("image", window=(-10, 90))({"image": brain})["image"]
    torch.testing.assert_close(result, torch.where(inside, 0.45, 0.0))


# --- MaskedSpacingd ---


def resampled(volume: torch.Tensor, spacing: tuple[float, float, float], pixdim: float = 2.0) -> Data:
    image = MetaTensor(volume, affine=torch.diag(torch.tensor([*spacing, 1.0])))
    return MaskedSpacingd("image", pixdim=(pixdim,) * 3)({"image": image})


def test_a_flat_brain_stays_flat_up_to_its_surface() -> None:
    """Plain interpolation would darken its outer voxels, in every contrast alike."""
    inside = torch.from_numpy(distance_to(19.5, (40, 40, 40)) < 15.3)[None]
    result = resampled(70.0 * inside, (0.9, 0.9, 1.5))["image"]
    np.testing.assert_allclose(result[result > 0], 70, rtol=1e-4)
    volumes = [float((image > 0).sum()) * voxel for image, voxel in ((inside, 0.9 * 0.9 * 1.5), (result, 8.0))]
    assert volumes[1] == pytest.approx(volumes[0], rel=0.03)


def test_smoothing_is_as_wide_as_the_coming_spacing_demands() -> None:
    """The second moments of the response to an impulse in a full foreground; an axis to be refined is not smoothed."""
    volume = torch.ones(1, 41, 41, 9)
    volume[0, 20, 20, 4] = 1001
    image = MetaTensor(volume, affine=torch.diag(torch.tensor([0.5, 0.8, 3.0, 1.0])))
    fine = MaskedSpacingd("image", pixdim=(2.0, 2.0, 2.0))
    fine.spacing = Spacing((0.5, 0.8, 3.0))  # the smoothing alone
    response = fine({"image": image})["image"][0].numpy() - 1
    weights, offsets = response / 1000, np.indices((41, 41, 9)) - np.array([20, 20, 4]).reshape(3, 1, 1, 1)
    assert weights.sum() == pytest.approx(1, abs=1e-3)
    deviations = np.sqrt((weights * offsets**2).sum(axis=(1, 2, 3)).clip(0))
    np.testing.assert_allclose(deviations, [(4 - 1) / 2, (2.5 - 1) / 2, 0], rtol=0.05, atol=1e-3)


def test_what_is_linear_in_the_world_stays_so() -> None:
    """Without zeros it is Spacingd after a blur, which leaves a linear volume as it is, away from the edge."""
    world = torch.from_numpy(np.indices((30, 28, 20))).float()
    volume = 10 + (world * torch.tensor([1.2, 1.0, 1.5]).reshape(3, 1, 1, 1)).sum(0)[None]
    result = resampled(volume, (1.2, 1.0, 1.5))["image"]
    grid = torch.from_numpy(np.indices(result.shape[1:])).float()
    inner = (slice(3, -3),) * 3
    torch.testing.assert_close(
        result[0][inner].as_subclass(torch.Tensor), (10 + 2 * grid.sum(0))[inner], atol=0.01, rtol=0
    )


def test_the_foreground_is_handed_on_with_its_holes_filled() -> None:
    volume = brain_in_air(0)
    volume[0, 12, 12, 12] = 0
    data = resampled(volume, (2.0, 2.0, 2.0))
    assert data["image_foreground"].dtype == torch.bool
    np.testing.assert_array_equal(data["image_foreground"][0], ndimage.binary_fill_holes(volume[0].numpy() != 0))
    assert data["image_foreground"][0, 12, 12, 12] and data["image"][0, 12, 12, 12] == 0


# --- fill_holes ---


@given(seed=seeds, level=st.floats(-1, 1), shape=st.lists(st.integers(1, 9), min_size=2, max_size=3))
def test_holes_are_those_that_scipy_fills(seed: int, level: float, shape: list[int]) -> None:
    mask = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 0.6) > level / 2
    np.testing.assert_array_equal(fill_holes(mask), ndimage.binary_fill_holes(mask))


# --- InvertMaskedSpacingd, InvertProbabilitiesToLabelsd ---


@pytest.fixture
def conformed(tmp_path: Path) -> tuple[Data, nib.Nifti1Image]:
    """A file whose voxels are linear in the world, 200 plus mm to the right plus twice mm up; and it in RAS at 2 mm."""
    affine = nib.affines.from_matvec(np.array([[0, 0, 3], [-1.5, 0, 0], [0, -1, 0]]), [-20, 14, 11])
    world = nib.affines.apply_affine(affine, np.moveaxis(np.indices((20, 24, 14)), 0, -1))
    image = nib.Nifti1Image((200 + world[..., 0] + 2 * world[..., 2]).astype(np.float32), affine)
    nib.save(image, tmp_path / "image.nii.gz")
    transforms = [
        LoadImaged("image", image_only=True, ensure_channel_first=True),
        Orientationd("image", axcodes="RAS", labels=None),
        MaskedSpacingd("image", pixdim=(2, 2, 2)),
    ]
    return Compose(transforms)({"image": str(tmp_path / "image.nii.gz")}), image  # type: ignore[return-value]


def test_images_return_to_the_grid_of_their_file(conformed: tuple[Data, nib.Nifti1Image]) -> None:
    data, image = conformed
    grid = data["image"].affine.clone()
    restored = InvertMaskedSpacingd(["mean", "twice"], "image")(
        {**data, "mean": data["image"], "twice": 2 * data["image"]}
    )
    interior = (slice(4, -4),) * 3
    for key, factor in ("mean", 1), ("twice", 2):
        np.testing.assert_allclose(restored[key].affine, image.affine)
        assert restored[key].shape == (1, *image.shape)
        np.testing.assert_allclose(restored[key][0][interior], factor * image.get_fdata()[interior], atol=1e-3)
    torch.testing.assert_close(restored["image"].affine, grid)


def test_segmentations_return_as_freesurfer_ids(conformed: tuple[Data, nib.Nifti1Image]) -> None:
    data, image = conformed
    probabilities = torch.zeros(len(FREESURFER_IDS), *data["image"].shape[1:])
    left, right = FREESURFER_IDS.index(3), FREESURFER_IDS.index(42)
    probabilities[right] = torch.sigmoid((data["image"][0].as_tensor() - 200) / 100)
    probabilities[left] = 1 - probabilities[right]
    segmentation = InvertProbabilitiesToLabelsd("pred", "image")({**data, "pred": probabilities})["pred"]
    expected, interior = np.where(image.get_fdata() > 200, 42, 3), (slice(4, -4),) * 3
    certain = np.abs(image.get_fdata()[interior] - 200) > 0.5
    np.testing.assert_allclose(segmentation.affine, image.affine)
    np.testing.assert_array_equal(segmentation[0].numpy()[interior][certain], expected[interior][certain])


class Elsewhere:
    """An image on an accelerator, of which nothing can be used but its copy."""

    def __init__(self, image: torch.Tensor) -> None:
        self.image = image

    def cpu(self) -> torch.Tensor:
        return self.image


@pytest.mark.parametrize("restore", [InvertMaskedSpacingd, InvertProbabilitiesToLabelsd])
def test_what_an_accelerator_made_is_restored_on_the_cpu(restore: type[InvertMaskedSpacingd]) -> None:
    """In the bundles' own runs the evaluator leaves the foreground where it was read."""
    image = MetaTensor(torch.rand(1, 12, 12, 12), meta={"original_affine": np.eye(4), "spatial_shape": (12, 12, 12)})
    data = MaskedSpacingd("image", pixdim=(2, 2, 2))({"image": image})
    data["pred"] = torch.rand(len(FREESURFER_IDS), *data["image"].shape[1:])
    away = {key: Elsewhere(data[key]) for key in ("image", "pred")}
    expected, found = (restore("pred", "image")(given)["pred"] for given in (data, data | away))
    assert expected.any() and torch.equal(found, expected)
