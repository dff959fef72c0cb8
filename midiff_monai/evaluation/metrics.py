"""Metrics of segmentations and images. They take NumPy arrays and return floats or pandas tables.

An undefined score is NaN, for example the Dice of a structure that is absent from both volumes. pandas ignores NaN in
means.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from monai.metrics import PSNRMetric, compute_hausdorff_distance
from monai.metrics.fid import get_fid_score
from monai.metrics.regression import compute_ssim_and_cs
from numpy.typing import ArrayLike, NDArray

from midiff_monai.transforms.joint_histogram import mutual_information_bits

SSIM_WINDOW = 11
"""Side of the windows of `ssim`, in voxels."""

HISTOGRAM_BINS = 32
"""Bins of `mutual_information` along either side. More need larger volumes."""


def dice(prediction: NDArray, reference: NDArray, labels: Sequence[int]) -> float:
    """Return the Dice of the union of `labels` in two label volumes, in [0, 1], or NaN if both lack these labels."""
    predicted, true = np.isin(prediction, labels), np.isin(reference, labels)
    size = predicted.sum() + true.sum()
    return float(2 * (predicted & true).sum() / size) if size else float("nan")


def dice_table(prediction: NDArray, reference: NDArray, groups: Mapping[str, Sequence[int]]) -> pd.Series:
    """Return the Dice of each group of labels, indexed by name, or NaN if both volumes lack the group."""
    scores = {name: dice(prediction, reference, labels) for name, labels in groups.items()}
    return pd.Series(scores, name="dice", dtype=float).rename_axis("structure")


def hausdorff95(prediction: NDArray, reference: NDArray, labels: Sequence[int], spacing: Sequence[float]) -> float:
    """Return the 95th percentile Hausdorff distance between the surfaces of the union of `labels`, in mm.

    It is the larger of the two directed percentiles. It is infinite if only one volume has the structure, and NaN if
    both lack it.

    Args:
        prediction: label volume (X, Y, Z).
        reference: label volume of the same shape.
        labels: ids of the structure.
        spacing: voxel size along X, Y and Z in mm.
    """
    predicted, true = np.isin(prediction, labels), np.isin(reference, labels)
    if not (predicted.any() and true.any()):
        return float("inf") if predicted.any() or true.any() else float("nan")
    distance = compute_hausdorff_distance(
        predicted[None, None],
        true[None, None],
        include_background=True,
        percentile=95,
        spacing=[float(side) for side in spacing],
    )
    return distance.item()


def volume_error(prediction: NDArray, reference: NDArray, labels: Sequence[int]) -> float:
    """Return the signed volume error of `labels`, relative to the reference, or NaN if the reference lacks them."""
    true = np.isin(reference, labels).sum()
    return float(np.isin(prediction, labels).sum() / true - 1) if true else float("nan")


def match_intensity(image: NDArray, reference: NDArray, mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return `image` under the linear map that minimises the squared error to `reference` in the mask.

    Image metrics need this alignment, because MR intensities have no unit.
    """
    # in single precision, NumPy's rank test fails for a million voxels
    slope, intercept = np.polyfit(image[mask].astype(float), reference[mask].astype(float), deg=1)
    return slope * image.astype(float) + intercept


def correlation(image: NDArray, reference: NDArray, mask: NDArray[np.bool_]) -> float:
    """Return the Pearson correlation of the voxels in the mask, in [-1, 1]."""
    return float(np.corrcoef(image[mask], reference[mask])[0, 1])


def psnr(image: NDArray, reference: NDArray, mask: NDArray[np.bool_], data_range: float) -> float:
    """Return the peak signal-to-noise ratio in the mask in dB, with the peak `data_range`; infinite if equal."""
    inside = (torch.as_tensor(volume[mask].astype(float))[None, None] for volume in (image, reference))
    return float(PSNRMetric(data_range)(*inside))  # type: ignore[arg-type]


def ssim(
    image: NDArray,
    reference: NDArray,
    data_range: float,
    mask: NDArray[np.bool_] | None = None,
    axis: int | None = None,
) -> float:
    """Return the mean structural similarity of two volumes, at most 1 (Wang et al., IEEE TIP 13:600, 2004).

    Windows are Gaussian, 11 voxels wide with a standard deviation of 1.5 voxels. They lie inside the volume. A volume
    with a shorter side has no window, and the similarity is NaN. Empty background counts as agreement. With a mask,
    only windows centred in it count.

    Args:
        image: volume (X, Y, Z).
        reference: volume of the same shape.
        data_range: range of the intensities.
        mask: centres of the windows that count.
        axis: compare the slices across this axis, with flat windows. None takes windows in three dimensions, which need
            many times as long.
    """
    first, second = (_windowed(volume.astype(np.float32), axis)[:, None] for volume in (image, reference))
    dimensions = first.ndim - 2
    if min(first.shape[2:]) < SSIM_WINDOW:
        return float("nan")
    sides, sigmas = [SSIM_WINDOW] * dimensions, [1.5] * dimensions
    similarity, _ = compute_ssim_and_cs(first, second, dimensions, sides, sigmas, data_range)
    centres = (slice(None), *[slice(SSIM_WINDOW // 2, -(SSIM_WINDOW // 2))] * dimensions)
    counted = similarity[:, 0] if mask is None else similarity[:, 0][_windowed(mask, axis)[centres]]
    return counted.mean().item()


def _windowed(volume: NDArray, axis: int | None) -> torch.Tensor:
    """A volume as a batch of one, or the batch of its slices across an axis."""
    return torch.as_tensor(volume[None] if axis is None else np.ascontiguousarray(np.moveaxis(volume, axis, 0)))


def mutual_information(image: NDArray, reference: NDArray, mask: NDArray[np.bool_]) -> float:
    """Return the mutual information of the intensities in the mask, in bits, from a joint histogram.

    It needs no alignment of intensities. The histogram has `HISTOGRAM_BINS` bins of equal width along either side,
    from the 0.5th to the 99.5th percentile. Intensities beyond count in the outermost bins.
    """
    first, second = (np.clip(volume[mask], *np.percentile(volume[mask], [0.5, 99.5])) for volume in (image, reference))
    joint, _, _ = np.histogram2d(first, second, bins=HISTOGRAM_BINS)
    return mutual_information_bits(joint / joint.sum())


def frechet_distance(features: NDArray, reference: NDArray) -> float:
    """Return the squared Fréchet distance between Gaussians fitted to two sets of features; 0 if they are equal.

    With the features of an Inception network it is the FID (Heusel et al., NeurIPS 2017, equation 6). It is biased
    upwards, and more so for small sets. With no more images than features the covariances are singular, which may cause
    most of the distance. Compare only distances between sets of the same size.

    Args:
        features: (N, D), one row per image.
        reference: (M, D) of the same network.
    """
    # rotations keep the distance; in the span of the images, MONAI's matrix root is smaller and less singular
    basis, _ = np.linalg.qr(np.concatenate([features, reference], dtype=float).T)
    return get_fid_score(torch.from_numpy(features @ basis), torch.from_numpy(reference @ basis)).item()


def kernel_distance(features: NDArray, reference: NDArray) -> float:
    """Return the unbiased squared maximum mean discrepancy under the kernel (x·y / D + 1)³.

    With the features of an Inception network it is the KID (Bińkowski et al., ICLR 2018). For independent images its
    expectation does not depend on the size of the sets. The expectation is 0 if the first three moments of the
    distributions are equal, and positive otherwise. Single values may be negative. They are for two equal sets.

    Args:
        features: (N, D), one row per image, N ≥ 2.
        reference: (M, D) of the same network, M ≥ 2.
    """

    def kernel(first: NDArray, second: NDArray) -> NDArray[np.float64]:
        return (first @ second.T / first.shape[1] + 1.0) ** 3

    def within(images: NDArray) -> float:
        values = kernel(images, images)  # without the diagonal, which pairs each image with itself
        return (values.sum() - values.trace()) / (len(images) * (len(images) - 1))

    return float(within(features) + within(reference) - 2 * kernel(features, reference).mean())


def bootstrap_interval(
    values: ArrayLike, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of the mean over subjects (Efron and Tibshirani 1993, chapter 13).

    Args:
        values: one score per subject. NaN is ignored.
        level: nominal coverage of the true mean.
        resamples: number of resamples of the subjects, with replacement.
        seed: seed of the resamples. Equal arguments give equal intervals.

    Returns:
        Lower and upper end of the interval, in the unit of `values`.
    """
    scores = np.asarray(values, dtype=float)
    scores = scores[~np.isnan(scores)]
    draws = np.random.default_rng(seed).choice(scores, size=(resamples, scores.size))
    low, high = np.quantile(draws.mean(axis=1), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
