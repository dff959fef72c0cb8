"""Regression of an image on another one in the boxes around each voxel."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F


class LocalMoments(NamedTuple):
    """Second moments of an image and a source in the box around each voxel, all (X, Y, Z) and float32.

    Attributes:
        covariance: of the image and the source.
        image_variance: of the image.
        source_variance: of the source.
    """

    covariance: torch.Tensor
    image_variance: torch.Tensor
    source_variance: torch.Tensor


def local_moments(image: torch.Tensor, source: torch.Tensor, mask: torch.Tensor, radius: int) -> LocalMoments:
    """Compute the moments of the voxels of a mask, in the boxes around every voxel.

    Args:
        image: (X, Y, Z).
        source: (X, Y, Z).
        mask: (X, Y, Z), true where both are known.
        radius: half the side of the box in voxels.
    """
    weight = mask.float()
    known = box_mean(weight, radius).clamp(min=1e-6)
    image_mean, source_mean, product, image_square, source_square = (
        box_mean(weight * values, radius) / known
        for values in (image, source, image * source, image * image, source * source)
    )
    return LocalMoments(
        product - image_mean * source_mean,
        (image_square - image_mean.square()).clamp(min=0),
        (source_square - source_mean.square()).clamp(min=0),
    )


def local_slope(
    image: torch.Tensor, source: torch.Tensor, mask: torch.Tensor, radius: int, epsilon: float
) -> torch.Tensor:
    """Slope of the regression of an image on a source in the boxes around a voxel (He and Sun 2015, equation 3).

    The slopes of all boxes that contain a voxel are averaged (equation 4).

    Args:
        image: (X, Y, Z).
        source: (X, Y, Z).
        mask: (X, Y, Z), true where both are known.
        radius: half the side of the box in voxels.
        epsilon: added to the variance of the source.

    Returns:
        (X, Y, Z), float32; 0 outside the mask.
    """
    moments = local_moments(image, source, mask, radius)
    slope = moments.covariance / (moments.source_variance + epsilon)
    weight = mask.float()
    known = box_mean(weight, radius).clamp(min=1e-6)
    return weight * box_mean(weight * slope, radius) / known


def unexplained_share(image: torch.Tensor, source: torch.Tensor, mask: torch.Tensor, radius: int) -> torch.Tensor:
    """Share of the variance of an image that its local regression on a source does not explain: 1 − r².

    Args:
        image: (X, Y, Z).
        source: (X, Y, Z).
        mask: (X, Y, Z), true where both are known.
        radius: half the side of the box in voxels.

    Returns:
        (X, Y, Z) in [0, 1], float32; 1 where one of the two is constant.
    """
    moments = local_moments(image, source, mask, radius)
    variances = (moments.image_variance * moments.source_variance).clamp(min=1e-12)
    return (1 - moments.covariance.square() / variances).clamp(0, 1)


def box_mean(values: torch.Tensor, radius: int) -> torch.Tensor:
    """Mean of (X, Y, Z) in boxes, one axis after the other; voxels outside the volume count as 0."""
    for kernel in torch.eye(3, dtype=torch.int64).tolist():
        size, padding = [1 + 2 * radius * axis for axis in kernel], [radius * axis for axis in reversed(kernel)]
        # padded before: `avg_pool3d` refuses axes that are shorter than its kernel, such as the normal of one slice
        padded = F.pad(values[None, None], [side for side in padding for _ in range(2)])
        values = F.avg_pool3d(padded, size, stride=1)[0, 0]
    return values
