"""Baselines of the evaluation: histogram matching, and other ways to sample from the diffusion model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from midiff_monai.guidance.guide import centre_slice
from midiff_monai.inferers.guided_diffusion import LMIGuidedInferer


def match_histogram(volume: NDArray, reference: NDArray, invert: bool = False) -> NDArray[np.float32]:
    """Match the histogram of a volume's positive voxels to that of a reference.

    Args:
        volume: any shape. Voxels that are not positive become 0.
        reference: any shape, for example a skull-stripped T1w.
        invert: invert the intensities first, as a T2w needs.

    Returns:
        The matched volume, with the intensities of the reference.
    """
    inside = volume > 0
    values = volume[inside].astype(np.float64)
    ranks = np.searchsorted(np.sort(values), values, side="right") / values.size
    matched = np.zeros(volume.shape, dtype=np.float32)
    # the result of np.quantile, which would take minutes for as many ranks
    levels = np.sort(reference[reference > 0])
    matched[inside] = np.interp(1 - ranks if invert else ranks, np.linspace(0, 1, levels.size), levels)
    return matched


T1_WHITE = 0.7
"""Intensity of white matter in the T1w volumes that the translation was trained on."""


class StartFromSource(LMIGuidedInferer):
    """SDEdit: sample from the source with added noise, instead of from pure noise (Meng et al., ICLR 2022)."""

    def __init__(self, noise_level: int, **parts: Any) -> None:
        super().__init__(**parts)
        self.noise_level = noise_level

    def sample(  # type: ignore[override]
        self, input_noise: torch.Tensor, *args: Any, source: Sequence[torch.Tensor], **kwargs: Any
    ) -> Any:
        """Sample as `LMIGuidedInferer` does, from the centre slice of the only source (B, slices, H, W)."""
        kwargs |= {"start_image": _as_t1(source), "noise_level": self.noise_level}
        return super().sample(input_noise, *args, source=source, **kwargs)


class LowFrequenciesOfSource(LMIGuidedInferer):
    """ILVR: each estimate of the image gets the low frequencies of the source (Choi et al., ICCV 2021)."""

    def __init__(self, factor: int, **parts: Any) -> None:
        super().__init__(**parts)
        self.factor = factor

    def sample(  # type: ignore[override]
        self, input_noise: torch.Tensor, diffusion_model: Any, *args: Any, source: Sequence[torch.Tensor], **kwargs: Any
    ) -> Any:
        """Sample as `LMIGuidedInferer` does, with the only source (B, slices, H, W)."""
        low = self._low_frequencies(_as_t1(source))

        def network(x: torch.Tensor, **options: Any) -> torch.Tensor:
            estimate = diffusion_model(x, **options)
            return estimate + low - self._low_frequencies(estimate)

        return super().sample(input_noise, network, *args, source=source, **kwargs)  # type: ignore[arg-type]

    def _low_frequencies(self, image: torch.Tensor) -> torch.Tensor:
        """Downsample an image (B, 1, H, W) by the factor, and upsample it again."""
        small = F.interpolate(image, scale_factor=1 / self.factor, mode="area")
        return F.interpolate(small, size=image.shape[2:], mode="bilinear")


def _as_t1(sources: Sequence[torch.Tensor]) -> torch.Tensor:
    """Scale the centre slice (B, 1, H, W) of a matched source, the only one, like a T1w, in [-1, 1]."""
    (source,) = sources
    return 2 * T1_WHITE * centre_slice(source) - 1
