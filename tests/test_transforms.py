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
from monai.transforms import Compose, LoadImaged, Orientationd, Spacingd
from numpy.typing import NDArray
from scipy import ndimage
from synthetic_images import distance_to

from midiff_monai.labels import FREESURFER_IDS, freesurfer_from_muse
from midiff_monai.transforms import (
    DARKEST,
    BrainMaskd,
    ClassIndexFromMUSEd,
    FlattenTissued,
    MarkBorderd,
    RestoreImaged,
    RestoreSegmentationd,
    SmoothBeforeDownsamplingd,
    StretchIntensityd,
    fill_holes,
    foreground_range,
)

AFFINE = torch.diag(torch.tensor([2.0, 2.0, 3.0, 1.0], dtype=torch.float64))

seeds = st.integers(0, 2**31)

Data = dict[Hashable, Any]


def brain_in_air(seed: int, side: int = 24) -> torch.Tensor:
    """A ball of grey values between 100 and 200 in air at 0."""
    values = np.random.default_rng(seed).uniform(100, 200, (side, side, side))
    inside = distance_to((side - 1) / 2, values.shape) < 0.4 * side
    return torch.from_numpy(np.where(inside, values, 0)).float()[None]


def stretched(volume: torch.Tensor) -> torch.Tensor:
    return StretchIntensityd("image")({"image": volume})["image"]


# --- StretchIntensityd ---


def test_range_is_that_of_the_percentiles_of_the_brain() -> None:
    volume = brain_in_air(0)
    expected = np.percentile(volume[volume > 0].numpy(), [5, 90])
    np.testing.assert_allclose(foreground_range(volume, 5, 90), expected, rtol=1e-6)


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
    assert (result[volume == 0] == (DARKEST if air > 0 else 0)).all()


def test_zero_means_nothing_once_stretched() -> None:
    """The darkest tissue and holes within the brain, zero or negative, stay apart from the surroundings."""
    volume = brain_in_air(0)
    brain = volume > 0
    volume[0, 12, 12, 10:14] = torch.tensor([-5.0, 0.0, 0.0, 1e-4])
    result = stretched(volume)
    assert (result[~brain] == 0).all() and result[brain].min() == pytest.approx(DARKEST)
    assert result[0, 12, 12, 10:14].tolist() == pytest.approx([DARKEST] * 4)


@given(seed=seeds, outliers=st.integers(1, 4))
def test_stretch_is_robust_to_outliers(seed: int, outliers: int) -> None:
    clean, spiked = brain_in_air(seed), brain_in_air(seed)
    places = 2 * np.random.default_rng(seed).integers(0, 12, (3, outliers))  # where the estimate looks
    spiked[0, places[0], places[1], places[2]] = 1e6
    untouched = clean == spiked
    assert (stretched(spiked) - stretched(clean))[untouched].abs().max() < 0.03
    assert (stretched(spiked)[~untouched] == 1).all()


@given(seed=seeds, constant=st.one_of(st.none(), st.floats(1e-9, 1e9)))
def test_stretch_fills_the_unit_interval_or_stays_within(seed: int, constant: float | None) -> None:
    volume = brain_in_air(seed, side=12)
    result = stretched(volume if constant is None else (volume > 0) * constant)
    assert result.isfinite().all() and result.min() == 0 and result.max() <= 1
    assert constant is not None or result.max() == 1


def test_stretch_keeps_the_geometry() -> None:
    result = stretched(MetaTensor(brain_in_air(0), affine=AFFINE))
    assert isinstance(result, MetaTensor)
    torch.testing.assert_close(result.affine, AFFINE)


# --- SmoothBeforeDownsamplingd ---


def test_smoothing_is_as_wide_as_the_coming_spacing_demands() -> None:
    """The second moments of the response to an impulse; an axis that is to be refined stays as it is."""
    impulse = torch.zeros(1, 25, 25, 7)
    impulse[0, 12, 12, 3] = 1
    image = MetaTensor(impulse, affine=torch.diag(torch.tensor([-0.5, 0.8, 3.0, 1.0])))
    response = SmoothBeforeDownsamplingd("image", pixdim=(2.0, 2.0, 2.0))({"image": image})["image"]
    torch.testing.assert_close(response.affine, image.affine)
    weights, offsets = response[0].numpy(), np.indices((25, 25, 7)) - np.array([12, 12, 3]).reshape(3, 1, 1, 1)
    assert weights.sum() == pytest.approx(1, abs=1e-4)
    deviations = np.sqrt((weights * offsets**2).sum(axis=(1, 2, 3)))
    np.testing.assert_allclose(deviations, [(4 - 1) / 2, (2.5 - 1) / 2, 0], rtol=0.05)


# --- FlattenTissued ---


def flattened(truth: NDArray[Any], labels: NDArray[Any], bias: NDArray[Any] | float, **kwargs: Any) -> NDArray[Any]:
    data: Data = {"image": torch.from_numpy(truth * bias).float()[None], "label": torch.from_numpy(labels)[None]}
    transform = FlattenTissued("image", "label", labels=[2, 41], value=0.7, **kwargs)
    return transform(data)["image"][0].numpy()


@pytest.mark.parametrize("unit", [1.0, 1e4])
def test_flattening_recovers_a_phantom_under_a_bias_field(unit: float) -> None:
    """White matter on both sides with rods of fluid in between; the bias sweeps by a sixth along every axis."""
    side = 40
    x, y, z = np.indices((side, side, side))
    fluid = (x % 10 < 3) & (y % 10 < 3)
    labels = np.where(fluid, 4, np.where(x < side / 2, 2, 41))
    truth = np.where(fluid, 0.3, 1.0) * unit
    bias = np.exp(0.08 * sum(np.cos(np.pi * axis / (side - 1)) for axis in (x, y, z)))

    result = flattened(truth, labels, bias, sigma=4)
    assert np.ptp(bias) > 0.45
    np.testing.assert_allclose(result[~fluid], 0.7, rtol=0.02)
    np.testing.assert_allclose(result[fluid], 0.7 * 0.3, rtol=0.02)


def test_tissue_in_one_corner_sets_the_scale_of_the_whole_volume() -> None:
    labels = np.zeros((30, 30, 30), dtype=np.int16)
    labels[:6, :6, :6] = 2
    truth = np.where(labels == 2, 350.0, np.linspace(0, 300, 30))
    result = flattened(truth, labels, 1.0, sigma=2)
    np.testing.assert_allclose(result, truth * 0.7 / 350, atol=1e-5)


def test_partial_volume_does_not_bias_the_tissue_and_what_is_brighter_is_clipped() -> None:
    labels = np.zeros((20, 20, 20), dtype=np.int16)
    labels[4:16, 4:16, 4:16] = 2
    core = ndimage.binary_erosion(labels)
    truth = np.where(core, 100.0, np.where(labels, 60.0, 400.0))
    result = flattened(truth, labels, 1.0, sigma=3)
    np.testing.assert_allclose(result[core], 0.7, rtol=1e-4)
    assert result.max() == 1


# --- fill_holes, MarkBorderd ---


@given(seed=seeds, level=st.floats(-1, 1), shape=st.lists(st.integers(1, 9), min_size=2, max_size=3))
def test_holes_are_those_that_scipy_fills(seed: int, level: float, shape: list[int]) -> None:
    mask = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 0.6) > level / 2
    np.testing.assert_array_equal(fill_holes(mask), ndimage.binary_fill_holes(mask))


@given(seed=seeds)
def test_border_is_where_either_tissue_has_the_other_for_a_neighbour(seed: int) -> None:
    labels = np.random.default_rng(seed).integers(0, 9, (6, 5, 4))
    data: Data = {"mask": torch.ones(1, 6, 5, 4), "label": torch.from_numpy(labels)[None]}
    mask = MarkBorderd("mask", "label", first=[1, 2], second=[3], value=2.0)(data)["mask"][0]
    assert mask.dtype == torch.float32
    for position in np.ndindex(labels.shape):
        around = labels[tuple(slice(max(index - 1, 0), index + 2) for index in position)]
        other = {1: [3], 2: [3], 3: [1, 2]}.get(int(labels[position]), [])
        assert mask[position] == (2.0 if np.isin(around, other).any() else 1.0)


# --- BrainMaskd, ClassIndexFromMUSEd ---


def brain_mask(labels: NDArray[Any], **kwargs: Any) -> NDArray[np.bool_]:
    mask = BrainMaskd("mask", **kwargs)({"mask": torch.from_numpy(labels)[None]})["mask"]
    assert mask.dtype == torch.float32 and set(mask.unique().tolist()) <= {0.0, 1.0}
    return mask[0].numpy() > 0


def test_mask_fills_sulci_and_ventricles_and_leaves_the_outside() -> None:
    distance = distance_to(17.5, (36, 36, 36))
    brain = distance < 14
    labels = np.where(brain & (distance > 5), 101, 0)  # a hollow: unlabelled fluid
    labels[16:20, 16:, 10:26] = 0  # a sulcus, 4 voxels wide, open to the outside
    mask = brain_mask(labels)
    assert mask[distance < 11].all()
    assert not mask[distance > 14].any()


@pytest.mark.parametrize("width, filled", [(8, True), (10, False)])
def test_mask_closes_gaps_of_up_to_twice_the_closing(width: int, filled: bool) -> None:
    labels = np.ones((40, 24, 24), dtype=np.int16)
    labels[14 : 14 + width] = 0
    labels[:, :, 20:] = 0  # the gap is open there, lest it be a hole
    gap = brain_mask(labels, closing=4)[14 : 14 + width, 12, 10]
    assert gap.all() if filled else not gap.any()


@given(seed=seeds, density=st.floats(0.0, 0.6), closing=st.integers(1, 4))
def test_mask_covers_its_labels_up_to_the_border_and_stays_within_their_box(
    seed: int, density: float, closing: int
) -> None:
    labels = (np.random.default_rng(seed).random((9, 10, 8)) < density).astype(np.int16)
    mask = brain_mask(labels, closing=closing)
    assert mask.shape == labels.shape and mask[labels > 0].all()
    for box in ndimage.find_objects(labels):  # one, or none if there are no labels
        mask[box] = False
    assert not mask.any()


def test_classes_are_the_structures_of_the_parcellation() -> None:
    muse = np.zeros((6, 5, 4), dtype=np.int16)
    muse[0], muse[1], muse[2], muse[3, 0], muse[4] = 60, 59, 101, 11, 100
    muse[2, 2], muse[4, 2] = 95, 95  # the corpus callosum, which has no side of its own
    parcellation = MetaTensor(torch.from_numpy(muse)[None], affine=AFFINE)
    classes = ClassIndexFromMUSEd("label")({"label": parcellation})["label"]
    assert isinstance(classes, MetaTensor) and classes.dtype == torch.uint8
    torch.testing.assert_close(classes.affine, AFFINE)
    np.testing.assert_array_equal(np.array(FREESURFER_IDS)[np.asarray(classes[0])], freesurfer_from_muse(muse))
    # background, left and right thalamus, left cortex, fourth ventricle: lines of the published table
    assert classes[0, [5, 0, 1, 2, 3], [0, 0, 0, 0, 0], 0].tolist() == [0, 7, 25, 2, 12]


# --- RestoreImaged, RestoreSegmentationd ---


@pytest.fixture
def conformed(tmp_path: Path) -> tuple[Data, nib.Nifti1Image]:
    """A file whose voxels are linear in the world, mm to the right plus twice mm up; and it in RAS at 2 mm."""
    affine = nib.affines.from_matvec(np.array([[0, 0, 3], [-1.5, 0, 0], [0, -1, 0]]), [-20, 14, 11])
    world = nib.affines.apply_affine(affine, np.moveaxis(np.indices((20, 24, 14)), 0, -1))
    image = nib.Nifti1Image((world[..., 0] + 2 * world[..., 2]).astype(np.float32), affine)
    nib.save(image, tmp_path / "image.nii.gz")
    transforms = [
        LoadImaged("image", image_only=True, ensure_channel_first=True),
        Orientationd("image", axcodes="RAS", labels=None),
        Spacingd("image", pixdim=(2, 2, 2)),
    ]
    return Compose(transforms)({"image": str(tmp_path / "image.nii.gz")}), image  # type: ignore[return-value]


def test_images_return_to_the_grid_of_their_file(conformed: tuple[Data, nib.Nifti1Image]) -> None:
    data, image = conformed
    grid = data["image"].affine.clone()
    restored = RestoreImaged(["mean", "twice"], "image")({**data, "mean": data["image"], "twice": 2 * data["image"]})
    interior = (slice(2, -2),) * 3
    for key, factor in ("mean", 1), ("twice", 2):
        np.testing.assert_allclose(restored[key].affine, image.affine)
        assert restored[key].shape == (1, *image.shape)
        np.testing.assert_allclose(restored[key][0][interior], factor * image.get_fdata()[interior], atol=1e-3)
    torch.testing.assert_close(restored["image"].affine, grid)


def test_segmentations_return_as_freesurfer_ids(conformed: tuple[Data, nib.Nifti1Image]) -> None:
    data, image = conformed
    probabilities = torch.zeros(len(FREESURFER_IDS), *data["image"].shape[1:])
    left, right = FREESURFER_IDS.index(3), FREESURFER_IDS.index(42)
    probabilities[right] = torch.sigmoid(data["image"][0].as_tensor() / 100)
    probabilities[left] = 1 - probabilities[right]
    segmentation = RestoreSegmentationd("pred", "image")({**data, "pred": probabilities})["pred"]
    expected, interior = np.where(image.get_fdata() > 0, 42, 3), (slice(2, -2),) * 3
    certain = np.abs(image.get_fdata()[interior]) > 0.5
    np.testing.assert_allclose(segmentation.affine, image.affine)
    np.testing.assert_array_equal(segmentation[0].numpy()[interior][certain], expected[interior][certain])
