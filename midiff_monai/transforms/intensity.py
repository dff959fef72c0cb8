"""Dictionary transforms of intensities."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from midiff_monai.transforms.foreground import fill_holes, foreground_percentiles
from midiff_monai.transforms.meta import Data, as_plain_tensor

MIN_FOREGROUND_VALUE = 1e-3
"""Least value of a foreground voxel after scaling; 0 is reserved for the background."""

INTENSITY_RANGE = "intensity_range"
"""Key of the metadata of a scaled image, under which the intensities lie that became 0 and 1."""


class ScaleForegroundIntensityd(MapTransform):
    """Scale two percentiles of the foreground of an image, or a fixed window, to 0 and 1. Clip values beyond.

    The transform works on whole heads and on skull-stripped brains, and on volumes with negative voxels or outliers.
    Scaling is important for proton density, whose contrast occupies a fifth of its intensity range.

    The output is 0 in the background: at voxels at or below 0, except for holes of the foreground. All other voxels are
    at least `MIN_FOREGROUND_VALUE`. A MetaTensor keeps the two intensities in its metadata, under `INTENSITY_RANGE`.

    Args:
        keys: keys of images (1, X, Y, Z).
        lower: percentile of the foreground that becomes 0.
        upper: percentile of the foreground that becomes 1.
        window: the intensities that become 0 and 1, for modalities with an absolute scale such as CT. The background is
            then everything at or below the first, and everything at 0. Percentiles are not used.

    Example:
        >>> image = torch.zeros(1, 4, 4, 4)
        >>> image[:, :2] = 50.0
        >>> image[:, 0] = 100.0
        >>> scaled = ScaleForegroundIntensityd("image", window=(0, 100))({"image": image})["image"]
        >>> scaled[0, :, 0, 0].tolist()
        [1.0, 0.5, 0.0, 0.0]
    """

    def __init__(
        self,
        keys: KeysCollection,
        lower: float = 1.0,
        upper: float = 99.0,
        window: tuple[float, float] | None = None,
    ) -> None:
        super().__init__(keys)
        self.lower, self.upper, self.window = lower, upper, window

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        """Scale the images of a sample."""
        result = dict(data)
        for key in self.key_iterator(result):
            low, high = self.window or self._percentiles(result[key])
            image = np.asarray(result[key][0])
            foreground_mask = fill_holes((image != 0) & (image > (low if self.window else 0)))
            scaled = ((result[key] - low) / (high - low)).clamp(MIN_FOREGROUND_VALUE, 1)
            result[key] = _with_range(scaled * torch.from_numpy(foreground_mask)[None], low, high)
        return result

    def _percentiles(self, image: torch.Tensor) -> tuple[float, float]:
        """The percentiles of every other voxel along each axis; of all voxels if none of those is positive."""
        subsampled = image[..., ::2, ::2, ::2]
        return foreground_percentiles(subsampled if (subsampled > 0).any() else image, self.lower, self.upper)


def stack_sources(scaled: Sequence[MetaTensor]) -> MetaTensor:
    """Stack scaled images (1, X, Y, Z) of one grid to (S, X, Y, Z), with the intensity range of each as (S, 2)."""
    ranges = torch.stack([image.meta[INTENSITY_RANGE] for image in scaled])
    plain = torch.cat([as_plain_tensor(image) for image in scaled])
    return MetaTensor(plain, meta=scaled[0].meta | {INTENSITY_RANGE: ranges})


def _with_range(scaled: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """The image with its intensity range in the metadata; a tensor without metadata stays as it is."""
    if not isinstance(scaled, MetaTensor):
        return scaled
    return MetaTensor(scaled, meta=scaled.meta | {INTENSITY_RANGE: torch.tensor([low, high], dtype=torch.float64)})
