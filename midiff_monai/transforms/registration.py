"""Rigid registration of two scans of one head with SimpleITK, and whether they show one head."""

from __future__ import annotations

from itertools import product
from math import degrees, dist, log
from typing import NamedTuple

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from nibabel.affines import voxel_sizes
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, distance_transform_edt

from midiff_monai.transforms.foreground import above_air, fill_holes
from midiff_monai.transforms.joint_histogram import mutual_information_bits

BINS = 50
"""Bins of the histogram of each scan."""

SHARE = 0.2
"""Fraction of the voxels that the mutual information is computed from."""

MOST_SAMPLES = 100_000
"""Most voxels that it is computed from where a translation waits for it: a 1 mm head has millions."""

SHRINK_FACTORS = (4, 2, 1)

DEPTH_MM = 20.0
"""Depth below the surface of the head from which on two positions are compared. Fat, whose chemical shift differs from
sequence to sequence, and mobile skin lie above it. Of a brain without skull, cortex does."""

DRAWN_MM = 5.0
"""Farthest that the scalp can draw a registration. A longer way is a motion: between such positions, the inside does
not decide, because one of them may show skull and air there, which tell much of each other."""

CHECK_SPACING_MM, SHIFT_MM = 2.0, 6.0
"""Distance of the voxels that two scans are compared at, and the shift that must not fit as well."""

LEAST_SHARPNESS, LEAST_OVERLAP = 0.5, 0.5
"""Two scans of one head exceed these, see `Alignment`. Measured sharpness: brains of one person on one grid 0.79 to
0.91; T1w and FLAIR of heads, 5 mm thick and registered, 0.57 to 0.61; two people, registered, 0.17 to 0.45."""


class Alignment(NamedTuple):
    """How well two scans agree on one grid.

    Attributes:
        mutual_information: in nats, of the voxels inside both foregrounds.
        sharpness: the share of it that is lost when one scan is shifted by `SHIFT_MM`, a mean over six directions.
        overlap: the share of the smaller foreground that lies in the other one.
        rotation_degrees: the rotation of the second scan that was undone; None without a registration.
        shift_mm: the distance by which it was moved at the centre of the first; None without a registration.
    """

    mutual_information: float
    sharpness: float
    overlap: float
    rotation_degrees: float | None = None
    shift_mm: float | None = None

    @property
    def same_head(self) -> bool:
        """Whether the scans show one head in one position."""
        return self.overlap > LEAST_OVERLAP and self.sharpness > LEAST_SHARPNESS


def align(first: nib.Nifti1Image, second: nib.Nifti1Image) -> tuple[nib.Nifti1Image, Alignment]:
    """Register a scan rigidly to another one, and resample it to the grid of that, linearly.

    Args:
        first: (X, Y, Z), float32, with a background of 0.
        second: (X', Y', Z'), likewise.

    Returns:
        The second scan on the grid of the first, 0 outside its field of view, and how well the two agree.
    """
    fixed, moving = as_itk(first), as_itk(second)
    try:
        transform = register(fixed, moving, most_samples=MOST_SAMPLES)
    except RuntimeError as error:
        if "outside" not in str(error):
            raise
        return second, Alignment(0.0, 0.0, 0.0)
    voxels = sitk.GetArrayFromImage(sitk.Resample(moving, fixed, transform, sitk.sitkLinear, 0.0)).transpose()
    centre = transform.GetCenter()
    cosine = (np.trace(np.reshape(transform.GetMatrix(), (3, 3))) - 1) / 2
    motion = degrees(np.arccos(np.clip(cosine, -1, 1))), dist(transform.TransformPoint(centre), centre)
    moved = nib.Nifti1Image(voxels, first.affine)
    return moved, compare(first, moved)._replace(rotation_degrees=motion[0], shift_mm=motion[1])


def compare(first: nib.Nifti1Image, second: nib.Nifti1Image) -> Alignment:
    """Compare two scans (X, Y, Z) on one grid.

    Args:
        first: (X, Y, Z), with a background of 0.
        second: (X, Y, Z), likewise.
    """
    spacing = voxel_sizes(first.affine)
    strides = np.maximum(1, np.round(CHECK_SPACING_MM / spacing)).astype(int)
    every = tuple(slice(None, None, stride) for stride in strides)
    scans = [np.asarray(scan.dataobj)[every] for scan in (first, second)]
    foregrounds = above_air(scans[0]), above_air(scans[1])
    inner = binary_erosion(foregrounds[0] & foregrounds[1])  # the outline alone has mutual information
    smaller = min(foreground.sum() for foreground in foregrounds)
    if not inner.any():
        return Alignment(0.0, 0.0, 0.0)
    levels = [_levels(scan, foreground) for scan, foreground in zip(scans, foregrounds, strict=True)]
    best = _information(levels[0][inner], levels[1][inner])
    steps = np.maximum(1, np.round(SHIFT_MM / (spacing * strides))).astype(int)
    shifted = []
    for axis, sign in product(range(3), (-1, 1)):
        moved, known = (np.roll(array, sign * steps[axis], axis) for array in (levels[1], foregrounds[1]))
        shifted.append(_information(levels[0][inner & known], moved[inner & known]))
    overlap = float((foregrounds[0] & foregrounds[1]).sum() / smaller)
    return Alignment(best, 1 - float(np.mean(shifted)) / max(best, 1e-6), overlap)


def _levels(scan: NDArray, foreground: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Sort the intensities of a scan into `BINS` equal bins between two percentiles of its foreground."""
    low, high = np.percentile(scan[foreground], (1, 99))
    return np.clip((scan - low) / max(high - low, 1e-6) * BINS, 0, BINS - 1).astype(np.int64)


def _information(first: NDArray[np.int64], second: NDArray[np.int64]) -> float:
    """Mutual information, in nats, of two lists of levels."""
    joint = np.bincount(first * BINS + second, minlength=BINS**2).reshape(BINS, BINS) / max(1, len(first))
    return log(2) * mutual_information_bits(joint)


def register(
    fixed: sitk.Image, moving: sitk.Image, seed: int = 1, most_samples: int | None = None
) -> sitk.Euler3DTransform:
    """Register two scans of a head rigidly. The transform maps points of the first scan to the second.

    It maximises mutual information (Mattes et al., IEEE TMI 22:120, 2003) from coarse to fine resolution, and starts
    from the headers. In scans of thick slices, fat of the scalp can draw the maximum away by a millimetre. The position
    in the headers is therefore kept where the inside of the head agrees better in it, see `DEPTH_MM`.

    Args:
        fixed: the first scan, in single precision.
        moving: the second scan, in single precision.
        seed: seed of the choice of voxels.
        most_samples: most voxels that the mutual information is computed from; None takes `SHARE` of all.

    Raises:
        RuntimeError: the headers place the scans so far from each other that they do not overlap.
    """
    centre = fixed.TransformContinuousIndexToPhysicalPoint([(size - 1) / 2 for size in fixed.GetSize()])
    shares = [SHARE for _ in SHRINK_FACTORS]
    if most_samples:
        shares = [min(SHARE, most_samples * factor**3 / fixed.GetNumberOfPixels()) for factor in SHRINK_FACTORS]
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(BINS)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentagePerLevel(shares, seed)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetShrinkFactorsPerLevel(SHRINK_FACTORS)
    method.SetSmoothingSigmasPerLevel([4, 2, 0])  # mm
    method.SetOptimizerAsRegularStepGradientDescent(learningRate=1.0, minStep=1e-3, numberOfIterations=200)
    method.SetOptimizerScalesFromPhysicalShift()
    transform = sitk.Euler3DTransform(centre)
    method.SetInitialTransform(transform, inPlace=True)
    method.Execute(fixed, moving)
    inside, headers = interior(fixed), sitk.Euler3DTransform(centre)
    if inside is None or dist(transform.TransformPoint(centre), centre) > DRAWN_MM:
        return transform
    return max(transform, headers, key=lambda position: mutual_information(fixed, moving, position, inside))


def interior(image: sitk.Image) -> sitk.Image | None:
    """Mask of what lies deeper than `DEPTH_MM` below the surface of a head, at about 2 mm; None if nothing does."""
    spacing = np.asarray(image.GetSpacing())
    strides = np.maximum(1, np.round(CHECK_SPACING_MM / spacing)).astype(int)
    every = tuple(slice(None, None, stride) for stride in strides[::-1])
    head = fill_holes(above_air(sitk.GetArrayViewFromImage(image)[every]))
    deep = distance_transform_edt(head, sampling=(spacing * strides)[::-1]) > DEPTH_MM
    if not deep.any():
        return None
    mask = sitk.GetImageFromArray(deep.astype(np.uint8))
    mask.SetSpacing((spacing * strides).tolist())
    mask.SetOrigin(image.GetOrigin())
    mask.SetDirection(image.GetDirection())
    return mask


def mutual_information(
    fixed: sitk.Image, moving: sitk.Image, transform: sitk.Transform, mask: sitk.Image | None = None
) -> float:
    """Compute the mutual information, in nats, that `register` maximises, of all voxels or of those in a mask."""
    method = sitk.ImageRegistrationMethod()
    if mask is not None:
        method.SetMetricFixedMask(mask)
    method.SetMetricAsMattesMutualInformation(BINS)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetInitialTransform(transform)
    return -float(method.MetricEvaluate(fixed, moving))


def as_itk(image: nib.Nifti1Image) -> sitk.Image:
    """Convert a volume (X, Y, Z) to ITK, with the voxels of the file and the affine of the image."""
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.affine
    spacing = voxel_sizes(lps)
    converted = sitk.GetImageFromArray(np.asarray(image.dataobj).transpose())
    converted.SetSpacing(spacing.tolist())
    converted.SetOrigin(lps[:3, 3].tolist())
    converted.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    return converted
