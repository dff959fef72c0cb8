"""Images of no contrast in particular, made of label maps: training data of a rival."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Randomizable


class RandLabelContrastd(Randomizable, MapTransform):
    """Paint each structure with a grey value and a noise of its own (Billot et al., Medical Image Analysis, 2023).

    Args:
        keys: images to be replaced, (1, X, Y, Z).
        label_key: class indices on the same grid; class 0 is left at 0.
        mirrored: class index → class index on the other side of the brain: both sides look alike.
        values: range of the grey values.
        noise: largest standard deviation within a structure.
    """

    def __init__(
        self,
        keys: KeysCollection,
        label_key: str,
        mirrored: Sequence[int],
        values: tuple[float, float] = (0.05, 1.0),
        noise: float = 0.1,
    ) -> None:
        MapTransform.__init__(self, keys)
        self.label_key, self.values, self.noise = label_key, values, noise
        self.side = [min(index, other) for index, other in enumerate(mirrored)]

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        label = torch.as_tensor(result[self.label_key]).as_subclass(torch.Tensor).long()
        means = torch.from_numpy(self.R.uniform(*self.values, len(self.side))).float()[self.side]
        noises = torch.from_numpy(self.R.uniform(0, self.noise, len(self.side))).float()[self.side]
        for key in self.key_iterator(result):
            grain = torch.from_numpy(self.R.standard_normal(label.shape)).float()
            result[key] = (means[label] + noises[label] * grain).clamp(min=1e-3) * (label > 0)
        return result
