"""Images of random contrast, generated from label maps: training data of the baseline `randomised_contrast`."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Randomizable


class RandLabelContrastd(Randomizable, MapTransform):
    """Replace images by label maps with a random intensity and random noise for each structure.

    The method is that of SynthSeg (Billot et al., Medical Image Analysis 86:102789, 2023).

    Args:
        keys: images (1, X, Y, Z) to replace.
        label_key: class indices on the same grid. Class 0 becomes 0.
        mirrored: class index of the same structure on the other side of the brain. Both sides get the same intensity.
        intensity_range: range of the intensities.
        max_noise_std: largest standard deviation of the noise in a structure.
    """

    def __init__(
        self,
        keys: KeysCollection,
        label_key: str,
        mirrored: Sequence[int],
        intensity_range: tuple[float, float] = (0.05, 1.0),
        max_noise_std: float = 0.1,
    ) -> None:
        MapTransform.__init__(self, keys)
        self.label_key, self.intensity_range, self.max_noise_std = label_key, intensity_range, max_noise_std
        self.side = [min(index, other) for index, other in enumerate(mirrored)]

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        label = torch.as_tensor(result[self.label_key]).as_subclass(torch.Tensor).long()
        means = torch.from_numpy(self.R.uniform(*self.intensity_range, len(self.side))).float()[self.side]
        deviations = torch.from_numpy(self.R.uniform(0, self.max_noise_std, len(self.side))).float()[self.side]
        for key in self.key_iterator(result):
            noise = torch.from_numpy(self.R.standard_normal(label.shape)).float()
            result[key] = (means[label] + deviations[label] * noise).clamp(min=1e-3) * (label > 0)
        return result
