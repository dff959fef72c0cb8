"""Tissue classes of volumes without labels, and random contrasts of them."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from monai.data import MetaTensor
from numpy.typing import NDArray
from skimage.filters import threshold_multiotsu
from small_slices import disc
from synthetic_images import distance_to

from midiff_monai.errors import InputError
from midiff_monai.training.image_classes import (
    ImageClassContrastRandomizer,
    ImageClassesd,
    class_knots,
    class_limits,
    limit_gain,
    object_mask,
)

seeds = st.integers(0, 2**31)

CLEAN: dict[str, Any] = {"bias": 0.0, "blur": 0.0, "through_plane_blur": 0.0, "noise": 0.0, "mixing_prob": 0.0}
"""Settings that change the intensities only, without degradations."""

SIDE = 32
DISTANCE = distance_to((SIDE - 1) / 2, (SIDE,) * 3)


def flair_head(air: float) -> NDArray[np.float32]:
    """A ball of 0.5 in a shell of 0.8, with a core as dark as air, in air with this noise."""
    head = np.select([DISTANCE < 4, DISTANCE < 9, DISTANCE < 12], [0.02, 0.5, 0.8], 0.0)
    noise = np.random.default_rng(0).uniform(0.2 * air, air, head.shape)
    return np.where(head == 0, noise, head).astype(np.float32)


def classes_of(volume: NDArray, classes: int = 3) -> NDArray:
    return np.asarray(ImageClassesd("regions", classes)({"regions": torch.from_numpy(volume)[None]})["regions"][0])


# --- the object ---


@pytest.mark.parametrize("air", [0.0, 0.03])
def test_enclosed_dark_tissue_belongs_to_the_object_and_air_does_not(air: float) -> None:
    mask = object_mask(flair_head(air))
    assert mask[DISTANCE < 11].all() and not mask[DISTANCE >= 12].any()


def test_air_whose_noise_was_rounded_to_zero_is_not_part_of_the_object() -> None:
    """The air of a magnitude image in whole numbers is mostly 0, with specks of noise."""
    head = flair_head(air=0.03)
    specks = np.random.default_rng(1).random(head.shape) < 0.2
    mask = object_mask(np.where((DISTANCE < 12) | specks, head, 0))
    assert mask[DISTANCE < 11].all() and not mask[DISTANCE >= 12].any()


def test_all_of_a_masked_object_belongs_to_it() -> None:
    """Around a skull-stripped brain, CSF may be as dark as air in a FLAIR."""
    brain = np.select([DISTANCE < 9, DISTANCE < 12], [0.6, 0.01], 0.0).astype(np.float32)
    np.testing.assert_array_equal(object_mask(brain), DISTANCE < 12)


def test_several_objects_are_found_and_specks_are_not() -> None:
    legs = np.full((30, 20, 20), 0.01, dtype=np.float32)
    legs[3:10, 4:16] = legs[18:26, 4:16] = 0.7
    legs[13:15, 2:4, 2:4] = 0.7
    mask = object_mask(legs)
    assert mask[4:9, 5:15, 1:19].all() and mask[19:25, 5:15, 1:19].all() and not mask[11:17].any()


# --- the classes ---


@given(seed=seeds)
def test_limits_are_those_of_otsu(seed: int) -> None:
    rng = np.random.default_rng(seed)
    means = np.array([0.15, 0.45, 0.8]) + rng.uniform(-0.05, 0.05, 3)
    values = np.concatenate([rng.normal(mean, 0.03, count) for mean, count in zip(means, (300, 800, 500), strict=True)])
    # several thresholds between two well separated classes are equally good
    for found, expected in zip(class_limits(values, 3), threshold_multiotsu(values, 3), strict=True):
        low, high = sorted((found, expected))
        assert ((values > low) & (values < high)).mean() < 0.005


def test_classes_are_numbered_from_dark_to_bright() -> None:
    found = classes_of(flair_head(air=0.03))
    clear = (DISTANCE < 11) | (DISTANCE >= 12)  # the surface is cut off where it is a single voxel
    expected = np.select([DISTANCE < 4, DISTANCE < 9, DISTANCE < 12], [1, 2, 3], 0)
    np.testing.assert_array_equal(found[clear], expected[clear])


def test_fewer_intensities_than_classes_leave_classes_empty() -> None:
    found = classes_of(flair_head(air=0.0), classes=6)
    assert len(np.unique(found[DISTANCE < 12])) == 3


@pytest.mark.parametrize("kind", ["empty", "constant"])
def test_a_volume_without_contrast_is_refused(kind: str) -> None:
    volume = torch.zeros(1, 12, 12, 12)
    if kind == "constant":
        volume[:, 3:9, 3:9, 3:9] = 1
    data: dict[Any, Any] = {"regions": MetaTensor(volume, meta={"filename_or_obj": "a_FLAIR.nii.gz"})}
    with pytest.raises(InputError, match=r"^a_FLAIR\.nii\.gz: shows no object"):
        ImageClassesd("regions")(data)


# --- the contrasts ---


def three_classes(draws: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Slabs with equal parts of three intensities, and their classes."""
    shape = (draws, 1, 12, 8, 4)
    parts = torch.arange(3.0).repeat_interleave(4).reshape(1, 1, 12, 1, 1)
    return (0.2 + 0.3 * parts).expand(shape), (1 + parts).expand(shape)


def means_of(source: torch.Tensor) -> torch.Tensor:
    return source.reshape(len(source), 3, -1).mean(dim=2)


@given(seed=seeds)
def test_knots_are_the_mean_intensities_of_the_classes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    regions = rng.integers(0, 5, (1, 1, 6, 5, 4))
    target = (0.1 + 0.2 * regions + 0.05 * rng.random(regions.shape)).astype(np.float32)
    knots = class_knots(torch.from_numpy(target), torch.from_numpy(regions).float())
    present = [value for value in np.unique(regions) if value]
    expected = [target[regions == value].astype(float).mean() for value in present]
    np.testing.assert_allclose(knots, [0, *expected, 1], atol=1e-6)


@given(seed=seeds)
def test_sources_fill_the_unit_interval_and_keep_the_background(seed: int) -> None:
    torch.manual_seed(seed)
    target = torch.rand(2, 1, 16, 14, 6)
    target[:, :, :3] = 0
    regions = torch.where(target > 0, 1 + (4 * target).floor(), 0)
    regions[..., :2] = 0
    source = ImageClassContrastRandomizer()(target, regions)
    assert source.dtype == torch.float32 and source.min() == 0 and 0.5 < source.max() <= 1
    assert torch.equal(source > 0, target > 0)


@pytest.mark.parametrize("target", [torch.zeros(2, 1, 8, 8, 4), torch.full((2, 1, 8, 8, 4), 0.01)])
def test_a_slab_may_lie_outside_the_object(target: torch.Tensor) -> None:
    torch.manual_seed(0)
    source = ImageClassContrastRandomizer()(target, torch.zeros_like(target))
    assert source.isfinite().all() and torch.equal(source > 0, target > 0)


def test_every_order_of_the_classes_is_equally_likely() -> None:
    draws = 1200
    torch.manual_seed(0)
    sources = ImageClassContrastRandomizer(overlap_prob=0.0, level_std=0.0, **CLEAN)(*three_classes(draws))
    orders = Counter(tuple(order) for order in means_of(sources).argsort(dim=1).tolist())
    for order in itertools.permutations(range(3)):
        assert abs(orders[order] - draws / 6) < 4 * (draws * 5 / 36) ** 0.5


def test_two_classes_may_come_to_look_alike() -> None:
    torch.manual_seed(0)
    gaps = {}
    for prob in (0.0, 1.0):
        randomizer = ImageClassContrastRandomizer(overlap_prob=prob, level_std=0.0, **CLEAN)
        gaps[prob] = means_of(randomizer(*three_classes(200))).sort(dim=1).values.diff(dim=1).amin(dim=1)
    assert gaps[0.0].min() > 0.3 and (gaps[1.0] < 0.1).float().mean() > 0.1


@given(
    levels=st.lists(st.floats(0.02, 1), min_size=2, max_size=7),
    gaps=st.lists(st.floats(0.001, 0.5), min_size=6, max_size=6),
    gain=st.floats(0.5, 4),
)
def test_noise_is_not_amplified_beyond_the_gain(levels: list[float], gaps: list[float], gain: float) -> None:
    knots = np.concatenate([[0], np.cumsum(gaps)])[: len(levels)]
    limited = limit_gain(torch.tensor(levels), torch.from_numpy(knots).float(), gain).numpy()
    before, after, distances = np.diff(levels), np.diff(limited), np.diff(knots)
    np.testing.assert_allclose(after, np.clip(before, -gain * distances, gain * distances), atol=1e-5)
    assert limited.min() >= 0.02 - 1e-6


def test_partial_volume_of_two_classes_stays_between_them() -> None:
    """A voxel halfway between the first two classes is halfway between their new intensities."""
    target, regions = (part.clone() for part in three_classes(40))
    target[:, :, 3, 0, 0], target[:, :, 3, 1, 0] = 0.35, 0.05  # the mean of the first class stays as it is
    torch.manual_seed(0)
    source = ImageClassContrastRandomizer(**CLEAN)(target, regions)[:, 0]
    first, second, partial = source[:, 0, 0, 0], source[:, 5, 0, 0], source[:, 3, 0, 0]
    unclipped = torch.minimum(first, second) > 0.002
    assert unclipped.sum() > 5
    torch.testing.assert_close(partial[unclipped], (first + second)[unclipped] / 2, atol=1e-3, rtol=0)


def test_air_stays_dark() -> None:
    target, regions = three_classes(60)
    wide, classes = torch.full((60, 1, 12, 14, 4), 0.01), torch.zeros(60, 1, 12, 14, 4)
    wide[..., 3:11, :], classes[..., 3:11, :] = target, regions
    torch.manual_seed(0)
    source = ImageClassContrastRandomizer(**CLEAN)(wide, classes)
    assert source[classes == 0].max() < 0.15
    assert (source.amax(dim=(1, 2, 3, 4)) > 0.9).all()


def test_air_in_the_head_may_have_any_intensity_but_air_around_it_not() -> None:
    """CSF is as dark as air in a FLAIR, and bright in a T2w."""
    head = torch.from_numpy(flair_head(air=0.03))
    regions = torch.from_numpy(classes_of(head.numpy()))
    slabs = (part[None, None].expand(60, 1, -1, -1, -1) for part in (head, regions))
    torch.manual_seed(0)
    source = ImageClassContrastRandomizer(**CLEAN)(*slabs)
    core, air = (source[:, :, torch.from_numpy(part)] for part in (DISTANCE < 4, DISTANCE >= 12))
    assert core.mean(dim=(1, 2)).max() > 0.8 and air.max() < 0.15


def test_the_object_of_a_single_slice_is_that_of_a_thick_one() -> None:
    picture = disc(3, (64, 64)).astype(np.float32) / 250
    noisy = picture + 0.01 * np.random.default_rng(0).random(picture.shape)
    thick = np.repeat(noisy[..., None], 5, axis=2)
    single = object_mask(noisy[..., None])
    np.testing.assert_array_equal(single[..., 0], object_mask(thick)[..., 2])
    assert single[32, 32] and not single[2, 2], "the dark core is enclosed, the air around is not"
