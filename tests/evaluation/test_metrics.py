"""The metrics compared with scikit-image, SciPy, brute force and boxes counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, gaussian_filter
from scipy.spatial.distance import cdist
from scipy.spatial.distance import dice as dice_dissimilarity
from scipy.stats import bootstrap, pearsonr
from skimage.measure import shannon_entropy
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from midiff_monai.evaluation.metrics import (
    bootstrap_interval,
    correlation,
    dice,
    dice_table,
    hausdorff95,
    match_intensity,
    mutual_information,
    psnr,
    ssim,
    volume_error,
)

SPACING = (0.9, 1.2, 3.0)
label_volumes = arrays(np.uint8, (4, 5, 3), elements=st.integers(0, 3))


def box(start: int, stop: int, label: int = 1) -> NDArray[np.int32]:
    """A 20³ volume with a box of width 10 in Y and Z, from `start` to `stop` in X."""
    volume = np.zeros((20, 20, 20), dtype=np.int32)
    volume[start:stop, 5:15, 5:15] = label
    return volume


def pair(seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Two similar smooth volumes, and a mask."""
    generator = np.random.default_rng(seed)
    reference = gaussian_filter(generator.normal(size=(24, 20, 18)), 2) * 50 + 10
    image = reference + gaussian_filter(generator.normal(size=reference.shape), 1)
    return image, reference, generator.random(reference.shape) > 0.4


def surface_points(mask: NDArray[np.bool_]) -> NDArray:
    return np.argwhere(mask & ~binary_erosion(mask)) * SPACING


@given(prediction=label_volumes, reference=label_volumes)
def test_dice_equals_scipy_on_the_union_of_labels(prediction: NDArray, reference: NDArray) -> None:
    predicted, true = (prediction == 1) | (prediction == 3), (reference == 1) | (reference == 3)
    expected = 1 - dice_dissimilarity(predicted.ravel(), true.ravel()) if (predicted | true).any() else np.nan
    np.testing.assert_allclose(dice(prediction, reference, [1, 3]), expected)


def test_dice_of_boxes() -> None:
    assert dice(box(0, 10), box(5, 15), [1]) == 0.5
    assert dice(box(0, 10), box(10, 20), [1]) == 0
    assert dice(box(0, 10, label=3), box(0, 10, label=42), [3, 42]) == 1


def test_dice_table_names_groups_and_the_mean_ignores_absent_ones() -> None:
    table = dice_table(box(0, 10), box(5, 15), {"left": [1], "absent": [7], "either": [1, 7]})
    assert list(table.index) == ["left", "absent", "either"]
    assert np.isnan(table["absent"])
    assert table.mean() == 0.5


@given(prediction=label_volumes, reference=label_volumes)
def test_hausdorff_equals_brute_force(prediction: NDArray, reference: NDArray) -> None:
    predicted, true = np.isin(prediction, (1, 2)), np.isin(reference, (1, 2))
    assume(predicted.any() and true.any())
    distances = cdist(surface_points(predicted), surface_points(true))
    expected = max(np.percentile(distances.min(axis=axis), 95) for axis in (0, 1))
    assert hausdorff95(prediction, reference, [1, 2], SPACING) == pytest.approx(expected, abs=1e-5)


def test_hausdorff_of_shifted_boxes_is_the_shift_in_mm() -> None:
    assert hausdorff95(box(2, 12), box(5, 15), [1], (2.0, 1.0, 1.0)) == pytest.approx(6)
    assert hausdorff95(box(2, 12), box(2, 12), [1], (2.0, 1.0, 1.0)) == 0


def test_hausdorff_accepts_integer_and_fractional_spacing() -> None:
    first, second = np.zeros((2, 8, 8, 8), np.uint8)
    first[2:5, 2:5, 2:5], second[2:5, 2:5, 3:6] = 1, 1
    assert hausdorff95(first, second, [1], (1, 0.9, 3)) == pytest.approx(3)


def test_hausdorff_of_an_absent_structure() -> None:
    assert hausdorff95(box(0, 0), box(0, 5), [1], SPACING) == np.inf
    assert hausdorff95(box(0, 5), box(0, 0), [1], SPACING) == np.inf
    assert np.isnan(hausdorff95(box(0, 5), box(0, 5), [9], SPACING))


def test_volume_error_is_signed_and_relative() -> None:
    assert volume_error(box(0, 6), box(0, 8), [1]) == -0.25
    assert volume_error(box(0, 12), box(0, 8), [1]) == 0.5
    assert np.isnan(volume_error(box(0, 6), box(0, 0), [1]))


def test_correlation_equals_scipy() -> None:
    image, reference, mask = pair()
    assert correlation(image, reference, mask) == pytest.approx(pearsonr(image[mask], reference[mask]).statistic)


def test_psnr_equals_scikit_image() -> None:
    image, reference, mask = pair()
    expected = peak_signal_noise_ratio(reference[mask], image[mask], data_range=80)
    assert psnr(image, reference, mask, 80) == pytest.approx(expected)
    assert psnr(reference, reference, mask, 80) == np.inf


def test_psnr_of_unsigned_bytes_does_not_wrap_around() -> None:
    dark, bright = np.zeros((3, 3, 3), np.uint8), np.full((3, 3, 3), 255, np.uint8)
    assert psnr(dark, bright, bright > 0, 255) == 0


@pytest.mark.parametrize("dimensions", [2, 3])
def test_ssim_equals_scikit_image(dimensions: int) -> None:
    image, reference, _ = (volume[..., 9] if dimensions == 2 else volume for volume in pair())
    expected = structural_similarity(
        image, reference, data_range=40, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert ssim(image, reference, 40) == pytest.approx(expected, abs=1e-4)


def test_ssim_of_slices_is_the_mean_over_slices_of_scikit_image() -> None:
    image, reference, _ = pair()
    expected = [
        structural_similarity(a, b, data_range=40, gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
        for a, b in zip(image.swapaxes(0, 1), reference.swapaxes(0, 1), strict=True)
    ]
    assert ssim(image, reference, 40, axis=1) == pytest.approx(np.mean(expected), abs=1e-4)


def test_ssim_of_slices_counts_windows_centred_in_the_mask() -> None:
    image, reference, _ = pair()
    changed = image.copy()
    changed[:, :, 10] = 0
    mask = np.ones(image.shape, bool)
    mask[:, :, 10] = False
    assert ssim(changed, reference, 40, mask, axis=2) == ssim(image, reference, 40, mask, axis=2)
    assert ssim(changed, reference, 40, axis=2) < ssim(image, reference, 40, axis=2)


def test_ssim_without_room_for_a_window_is_nan() -> None:
    thin = np.random.default_rng(0).random((20, 20, 5))
    assert np.isnan(ssim(thin, thin, 1.0)) and ssim(thin, thin, 1.0, axis=2) == pytest.approx(1)


def test_mutual_information_equals_entropies_of_scikit_image() -> None:
    rng = np.random.default_rng(0)
    levels = rng.integers(0, 32, size=(40, 40, 40))
    other = (levels + rng.integers(0, 3, size=levels.shape)) % 32
    mask = rng.random(levels.shape) > 0.3
    single, both = (levels, other), 32 * levels + other
    expected = sum(shannon_entropy(image[mask]) for image in single) - shannon_entropy(both[mask])
    assert mutual_information(levels, other, mask) == pytest.approx(expected)
    assert mutual_information(3.5 - 2.0 * levels, levels, mask) == pytest.approx(5, abs=0.01)  # log2 of 32 levels


def test_mutual_information_of_independent_images_is_near_0() -> None:
    first, second = np.random.default_rng(0).normal(size=(2, 60, 60, 60))
    expected = 31**2 / (2 * first.size * np.log(2))  # bias of the histogram (Miller 1955)
    assert mutual_information(first, second, first < 9) == pytest.approx(expected, rel=0.2)


@given(slope=st.floats(0.1, 10), sign=st.sampled_from([-1, 1]), intercept=st.floats(-100, 100))
def test_match_intensity_inverts_a_linear_map(slope: float, sign: int, intercept: float) -> None:
    _, reference, mask = pair()
    np.testing.assert_allclose(match_intensity(sign * slope * reference + intercept, reference, mask), reference)


def test_match_intensity_is_the_least_squares_map_inside_the_mask() -> None:
    image, reference, mask = pair()
    matched = match_intensity(image, np.where(mask, reference, 1e6), mask)
    residual = (matched - reference)[mask]
    assert abs(residual.mean()) < 1e-9
    assert abs(np.dot(residual, image[mask])) / residual.size < 1e-9


def test_match_intensity_is_accurate_for_a_million_voxels_in_single_precision() -> None:
    rng = np.random.default_rng(0)
    image = rng.normal(0.6, 0.12, 1_300_000)
    reference = 500 * image + 100 + rng.normal(0, 30, image.size)
    everywhere = np.ones(image.size, bool)
    matched = match_intensity(image.astype(np.float32), reference.astype(np.float32), everywhere)
    assert (matched - reference).std() == pytest.approx(30, rel=0.01)


def test_bootstrap_interval_equals_scipy() -> None:
    scores = np.random.default_rng(3).beta(8, 2, size=25)
    expected = bootstrap((scores,), np.mean, confidence_level=0.9, method="percentile", rng=5).confidence_interval
    assert bootstrap_interval(scores, level=0.9) == pytest.approx(expected, abs=3e-3)


def test_bootstrap_interval_is_reproducible_and_ignores_nan() -> None:
    scores = np.array([0.7, 0.8, 0.9, 0.6])
    interval = bootstrap_interval([*scores, np.nan], seed=4)
    assert interval == bootstrap_interval(scores, seed=4)
    assert interval[0] < scores.mean() < interval[1]
