"""Scores of a result against the segmentation and the image of the same subject's real T1w."""

from __future__ import annotations

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from midiff_monai.evaluation.metrics import (
    SSIM_WINDOW,
    correlation,
    dice,
    hausdorff95,
    match_intensity,
    psnr,
    ssim,
    volume_error,
)
from midiff_monai.io.affines import voxel_volume_ml
from midiff_monai.labels import CSF, GROUPS, TISSUES
from midiff_monai.labels import STRUCTURES as ALL_STRUCTURES
from midiff_monai.pipeline.result import Result

STRUCTURES = ("white matter", "grey matter", "lateral ventricles")
"""Scored structures of the cerebrum, groups of `labels.GROUPS`. Grey matter is cortex and deep grey matter."""

REGIONS = {
    "white matter": GROUPS["white matter"],
    "cortex": GROUPS["cortex"],
    "deep grey matter": (10, 11, 12, 13, 49, 50, 51, 52),
    "hippocampus": (17, 53),
    "lateral ventricles": GROUPS["lateral ventricles"],
    "cerebellum": GROUPS["cerebellum"],
}
"""Region → FreeSurfer ids, for comparisons with labels of others. Deep grey matter is thalamus, caudate, putamen and
pallidum."""

MEAN, MEAN_WITHOUT_CSF = "mean of 32 structures", "mean of 31 structures"
"""Names of the means over all structures, with `CSF` and without it, of which FreeSurfer has only a few ml."""

PEAK_PERCENTILE = 99.5
"""Percentile of the real T1w in the brain that is the peak of PSNR and the data range of SSIM."""


def score(result: Result, truth: Result, structures: bool = True, image: bool = True) -> dict[str, float]:
    """Compare the result of a method with that of the real T1w on the same grid.

    Args:
        result: result of the method.
        truth: result of the real T1w. Its segmentation may be replaced by true labels.
        structures: whether the result distinguishes structures, and not only tissues.
        image: whether the result has a T1w image: a synthetic T1w, or the image that was segmented as a T1w.

    Returns:
        For each tissue "T tissue dice". For each structure "S dice", "S hd95" (mm), "S volume error" (relative, signed)
        and "S reference ml". For the image in the brain "correlation", "psnr" (dB), "ssim" and "through-plane".
    """
    assert result.segmentation is not None and truth.segmentation is not None
    scores = tissue_scores(result.segmentation, truth.segmentation)
    if structures:
        scores |= structure_scores(result.segmentation, truth.segmentation, truth.source.affine)
    if image:
        axis = slice_axis(truth.source.affine)
        scores |= image_scores(image_of(result), np.asarray(truth.source.dataobj), truth.segmentation > 0, axis)
    return scores


def image_of(result: Result) -> NDArray:
    """Return the synthetic T1w (X, Y, Z) of a result, or the image that was segmented as a T1w."""
    return np.asarray(result.source.dataobj) if result.synthetic is None else result.synthetic


def tissue_scores(segmentation: NDArray, truth: NDArray) -> dict[str, float]:
    """Compute the Dice of white matter, grey matter and CSF of the whole brain without the brain stem."""
    return {f"{tissue} tissue dice": dice(segmentation, truth, ids) for tissue, (_, ids) in TISSUES.items()}


def structure_scores(segmentation: NDArray, truth: NDArray, affine: NDArray) -> dict[str, float]:
    """Compute Dice, HD95 and volumes of `STRUCTURES`."""
    spacing, voxel = nib.affines.voxel_sizes(affine), voxel_volume_ml(affine)
    scores = {}
    for name in STRUCTURES:
        ids = GROUPS[name]
        scores[f"{name} dice"] = dice(segmentation, truth, ids)
        scores[f"{name} hd95"] = hausdorff95(segmentation, truth, ids, spacing)
        scores[f"{name} volume error"] = volume_error(segmentation, truth, ids)
        scores[f"{name} reference ml"] = float(np.isin(truth, ids).sum() * voxel)
    return scores


def region_dice(segmentation: NDArray, truth: NDArray) -> dict[str, float]:
    """Compute the Dice of `REGIONS`."""
    return {region: dice(segmentation, truth, ids) for region, ids in REGIONS.items()}


def region_volumes(segmentation: NDArray, voxel_ml: float) -> dict[str, float]:
    """Compute the volumes of `REGIONS` in ml."""
    return {region: float(np.isin(segmentation, ids).sum() * voxel_ml) for region, ids in REGIONS.items()}


def structure_dice(segmentation: NDArray, truth: NDArray) -> dict[str, float]:
    """Compute the Dice of the 32 structures by name, and `MEAN` and `MEAN_WITHOUT_CSF`.

    A structure that both volumes lack is NaN and is not part of a mean.
    """
    box = brain_box((segmentation > 0) | (truth > 0), margin=0)
    scores = {found: dice(segmentation[box], truth[box], [found.id]) for found in ALL_STRUCTURES if found.id}
    means = {MEAN: [*scores.values()], MEAN_WITHOUT_CSF: [scores[found] for found in scores if found.id != CSF]}
    by_name = {found.name: score for found, score in scores.items()}
    return by_name | {name: float(np.nanmean(values)) for name, values in means.items()}


def lesion_shares(segmentation: NDArray, lesions: NDArray[np.bool_]) -> dict[str, float]:
    """Compute the shares of the voxels of white matter lesions that are labelled cortex or CSF, or nothing."""
    labels = segmentation[lesions]
    shares = {region: np.isin(labels, GROUPS[region]).mean() for region in ("cortex", "cerebrospinal fluid")}
    return {region: float(share) for region, share in shares.items()} | {"background": float((labels == 0).mean())}


def image_scores(image: NDArray, reference: NDArray, brain: NDArray[np.bool_], axis: int) -> dict[str, float]:
    """Compare images (X, Y, Z) in the brain. PSNR and SSIM follow the alignment of `metrics.match_intensity`."""
    box = brain_box(brain, SSIM_WINDOW // 2)
    image, reference, brain = image[box], reference[box], brain[box]
    aligned = match_intensity(image, reference, brain)
    peak = float(np.percentile(reference[brain], PEAK_PERCENTILE))
    return {
        "correlation": correlation(image, reference, brain),
        "psnr": psnr(aligned, reference, brain, peak),
        "ssim": ssim(aligned, reference, peak, brain),
        "through-plane": roughness(image, brain, axis) / roughness(reference, brain, axis),
    }


def roughness(image: NDArray, brain: NDArray[np.bool_], axis: int) -> float:
    """Compute the mean absolute difference of neighbours along an axis in the brain, in standard deviations.

    The unit is the standard deviation of the image in the brain. Aligned intensities are no useful unit, because least
    squares reduce the contrast of an image that agrees poorly.
    """
    # differences of unsigned integers would wrap around
    steps = np.abs(np.diff(image.astype(float), axis=axis))
    pairs = np.take(brain, range(1, brain.shape[axis]), axis) & np.take(brain, range(brain.shape[axis] - 1), axis)
    return float(steps[pairs].mean() / image[brain].std())


def slice_axis(affine: NDArray) -> int:
    """Find the axis closest to inferior-superior, along which the volume is translated slice by slice."""
    return int(np.flatnonzero(nib.io_orientation(affine)[:, 0] == 2)[0])


def brain_box(brain: NDArray[np.bool_], margin: int) -> tuple[slice, ...]:
    """Find the box around the brain with a margin in voxels, within the volume."""
    return tuple(slice(max(index.min() - margin, 0), index.max() + margin + 1) for index in brain.nonzero())
