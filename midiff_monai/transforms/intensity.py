"""The dictionary transforms that MONAI lacks."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from midiff_monai.transforms.foreground import fill_holes, foreground_percentiles
from midiff_monai.transforms.meta import Data

MIN_FOREGROUND_VALUE = 1e-3
"""The least value of a voxel that holds something, once stretched."""


class ScaleForegroundIntensityd(MapTransform):
    """Map percentiles of the foreground of every image, or fixed grey values, to 0 and 1, clipping what lies beyond.

    Works alike on whole heads and on skull-stripped brains, on volumes with negative voxels and with outliers.
    A proton-density volume holds its whole contrast in a fifth of its range: without the stretch there is
    little left to translate. Afterwards 0 means that there was nothing: voxels at or below 0, but for holes
    within the object. All others are at least `MIN_FOREGROUND_VALUE`.

    Args:
        keys: images (1, X, Y, Z).
        lower: percentile of the foreground that becomes 0.
        upper: percentile of the foreground that becomes 1.
        window: the grey values that become 0 and 1, for modalities whose grey values mean the same in every volume;
            there is nothing at or below the first. Percentiles are not used then.
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
        result = dict(data)
        for key in self.key_iterator(result):
            sample = result[key][..., ::2, ::2, ::2]
            measured = sample if (sample > 0).any() else result[key]
            low, high = self.window or foreground_percentiles(measured, self.lower, self.upper)
            image = np.asarray(result[key][0])
            foreground_mask = fill_holes((image != 0) & (image > (low if self.window else 0)))
            stretched = ((result[key] - low) / (high - low)).clamp(MIN_FOREGROUND_VALUE, 1)
            result[key] = stretched * torch.from_numpy(foreground_mask)[None]
        return result
