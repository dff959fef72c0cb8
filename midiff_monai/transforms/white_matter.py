"""Intensity of normal white matter, estimated around each voxel, and of the other tissues relative to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch.nn import functional as F

from midiff_monai.labels import GROUPS

WHITE_MATTER, CORTEX = GROUPS["white matter"], GROUPS["cortex"]

LATERAL_VENTRICLES = (4, 43)
"""The bodies of the lateral ventricles. Their temporal horns are too thin to show the intensity of CSF."""

SMOOTHING_MM = 20.0
"""Standard deviation of the Gaussian window of a local mean. Bias fields vary over longer distances, lesions over
shorter ones."""

BLOCK_MM = 4.0
"""Side, about, of the blocks on which local means are computed."""

ROUNDS = 6
"""Rounds of estimating and leaving out outliers. Later rounds change nothing in scans with moderate lesions."""

LOWEST_Z, HIGHEST_Z = -3.0, 2.0
"""Range of normal white matter. Lesions are on the upper side."""

SMALLEST_STD = 1e-5
"""Standard deviation, as a fraction of the mean, below which an image is constant but for rounding."""

MIN_COUNT = 1e-3
"""Weight of the mean over all of a mask, in voxels for each block."""

MAD_TO_SD = 1.4826
"""Standard deviation of a normal distribution in units of its median absolute deviation."""


class WhiteMatterModel(NamedTuple):
    """Intensity of normal white matter in a scan.

    Attributes:
        level: (X, Y, Z), its mean around each voxel.
        std: its standard deviation around that mean, noise included, as a fraction of the mean.
    """

    level: NDArray[np.float32]
    std: float

    def z_scores(self, image: NDArray) -> NDArray[np.float32]:
        """Return by how many standard deviations each voxel (X, Y, Z) is brighter than normal white matter.

        A bias field multiplies all intensities around a voxel, and does not change their ratio.
        """
        return ((image / self.level - 1) / self.std).astype(np.float32)


class TissueZ(NamedTuple):
    """Median z-scores of cortex and of CSF, relative to normal white matter. NaN where a tissue is missing."""

    cortex: float
    csf: float


def fit_white_matter(
    image: NDArray[np.float32], labels: NDArray[np.integer], spacing: Sequence[float]
) -> WhiteMatterModel | None:
    """Estimate the intensity of normal cerebral white matter, in spite of lesions and a bias field.

    Outliers are left out and the rest is estimated again, several times. The standard deviation is that of the voxels
    below the mean, because lesions and partial volume with brighter tissue lie above.

    Args:
        image: (X, Y, Z), a contrast in which lesions are bright.
        labels: FreeSurfer ids on the same grid.
        spacing: voxel size in mm.

    Returns:
        None if there is no white matter, or if its intensity is constant or 0.
    """
    white = np.isin(labels, WHITE_MATTER)
    normal = white
    for _ in range(ROUNDS):
        mean = _local_mean(image, normal, spacing)
        if mean is None:
            return None
        level = mean
        residuals = image / level - 1
        darker = residuals[normal & (residuals < 0)]
        std = MAD_TO_SD * float(np.median(-darker)) if darker.size else 0.0
        if std < SMALLEST_STD:
            return None
        normal = white & (residuals > LOWEST_Z * std) & (residuals < HIGHEST_Z * std)
    return WhiteMatterModel(level, std)


def tissue_z(z: NDArray[np.float32], labels: NDArray[np.integer]) -> TissueZ:
    """Measure the median z-scores of cortex and of the CSF in the lateral ventricles, without their outermost voxels.

    Args:
        z: (X, Y, Z), as from `WhiteMatterModel.z_scores`.
        labels: FreeSurfer ids on the same grid.
    """
    ventricles = np.isin(labels, LATERAL_VENTRICLES)
    interior = ndimage.binary_erosion(ventricles)
    csf = interior if interior.any() else ventricles
    return TissueZ(*(float(np.median(z[mask])) if mask.any() else np.nan for mask in (np.isin(labels, CORTEX), csf)))


def _local_mean(image: NDArray, mask: NDArray[np.bool_], spacing: Sequence[float]) -> NDArray[np.float32] | None:
    """Return the mean of the image in a mask, over a Gaussian window around each voxel (normalised convolution).

    Far from the mask, it approaches the mean over all of the mask. None if the mask is empty or a mean not positive.
    """
    steps = [max(1, round(BLOCK_MM / side)) for side in spacing]
    widths = [SMOOTHING_MM / (side * step) for side, step in zip(spacing, steps, strict=True)]
    total, count = _block_sums(image * mask, steps), _block_sums(mask, steps)
    overall = total.sum() / max(count.sum(), 1)
    total, count = (ndimage.gaussian_filter(blocks, widths, mode="constant") for blocks in (total, count))
    means = (total + MIN_COUNT * overall) / (count + MIN_COUNT)
    if means.min() <= 0:
        return None
    blocks = torch.from_numpy(means.astype(np.float32))[None, None]
    fine = F.interpolate(blocks, scale_factor=[float(step) for step in steps], mode="trilinear")[0, 0].numpy()
    return fine[tuple(map(slice, image.shape))]


def _block_sums(volume: NDArray, steps: Sequence[int]) -> NDArray[np.float64]:
    """Sum a volume over blocks of `steps` voxels. The last blocks may be incomplete."""
    sums = volume.astype(np.float64)
    for axis, step in enumerate(steps):
        sums = np.add.reduceat(sums, np.arange(0, sums.shape[axis], step), axis)
    return sums
