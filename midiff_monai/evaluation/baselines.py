"""What a user would try without a translation."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from midiff_monai.guidance.guide import centre_slice
from midiff_monai.inferers.guided_diffusion import LMIGuidedInferer


def match_histogram(volume: NDArray, reference: NDArray, invert: bool = False) -> NDArray[np.float32]:
    """Give the positive voxels of a volume the grey-value distribution of a reference's.

    Args:
        volume: any shape; what is not positive stays 0.
        reference: any shape, for example a skull-stripped T1w.
        invert: turn dark and bright around first, as a T2w needs.

    Returns:
        The volume's shape, in the reference's grey values.
    """
    inside = volume > 0
    values = volume[inside].astype(np.float64)
    ranks = np.searchsorted(np.sort(values), values, side="right") / values.size
    matched = np.zeros(volume.shape, dtype=np.float32)
    # what np.quantile gives, which takes minutes for as many ranks as a volume has voxels
    levels = np.sort(reference[reference > 0])
    matched[inside] = np.interp(1 - ranks if invert else ranks, np.linspace(0, 1, levels.size), levels)
    return matched


T1_WHITE = 0.7
"""Grey value of white matter in the T1w that the translation was trained on."""


class StartFromSource(LMIGuidedInferer):
    """Sample from the source itself, scaled like a T1w and noised to a level, instead of from pure noise."""

    def __init__(self, noise_level: int, **parts: Any) -> None:
        super().__init__(**parts)
        self.noise_level = noise_level

    def sample(self, input_noise: torch.Tensor, *args: Any, source: torch.Tensor, **kwargs: Any) -> Any:  # type: ignore[override]
        """As `LMIGuidedInferer.sample`, with the middle slice of `source` (B, slices, H, W) as the start."""
        kwargs |= {"start_image": _as_t1(source), "noise_level": self.noise_level}
        return super().sample(input_noise, *args, source=source, **kwargs)


class LowFrequenciesOfSource(LMIGuidedInferer):
    """Sample with the low frequencies of the source, scaled like a T1w, in every estimate of the image."""

    def __init__(self, factor: int, **parts: Any) -> None:
        super().__init__(**parts)
        self.factor = factor

    def sample(  # type: ignore[override]
        self, input_noise: torch.Tensor, diffusion_model: Any, *args: Any, source: torch.Tensor, **kwargs: Any
    ) -> Any:
        """As `LMIGuidedInferer.sample`."""
        low = self._low_frequencies(_as_t1(source))

        def network(x: torch.Tensor, **options: Any) -> torch.Tensor:
            estimate = diffusion_model(x, **options)
            return estimate + low - self._low_frequencies(estimate)

        return super().sample(input_noise, network, *args, source=source, **kwargs)  # type: ignore[arg-type]

    def _low_frequencies(self, image: torch.Tensor) -> torch.Tensor:
        """An image (B, 1, H, W) thinned out by the factor and brought back."""
        small = F.interpolate(image, scale_factor=1 / self.factor, mode="area")
        return F.interpolate(small, size=image.shape[2:], mode="bilinear")


def _as_t1(source: torch.Tensor) -> torch.Tensor:
    """The middle slice (B, 1, H, W) of a matched source, as bright as a T1w, in [-1, 1]."""
    return 2 * T1_WHITE * centre_slice(source) - 1
