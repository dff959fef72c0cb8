"""Local mutual information (LMI) of two images, as a differentiable layer.

Wang et al., "Mutual Information Guided Diffusion for Zero-shot Cross-modality Medical Image Translation",
IEEE TMI 2024, doi 10.1109/TMI.2024.3382043. Ω are the offsets of a patch, Q the shifts of the search window:

    LMI(S, X)(i) = max over d in Q of  NMI(S on i + Ω, X on i + d + Ω)
    NMI = 2 (H_S + H_X − H_SX) / (H_S + H_X)

`entropy.py` holds two estimators of the entropies H: "parzen", as published, and "renyi", a closed form.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from midiff_monai.guidance.entropy import LocalStatistics, ParzenEntropy, RenyiEntropy, crop

ESTIMATORS: dict[str, type[ParzenEntropy] | type[RenyiEntropy]] = {"parzen": ParzenEntropy, "renyi": RenyiEntropy}

MIN_ENTROPY_SUM = 1e-6
"""Least denominator of the normalised mutual information, in nats; flat patches have no entropy."""

CPU_BATCH = 8
"""Number of images compared at a time on a CPU; the intermediate maps of more images exceed its caches."""


class LocalMutualInformation(nn.Module):
    """Map the normalised mutual information of the patches of two images, maximised over small shifts.

    The map lies in [0, 1]. It is 0 where either patch is flat, and never NaN. The images are padded by repeating their
    edges. Values outside [0, 1] are clamped, so the histogram of a noisy image stays meaningful.

    Args:
        patch_size: side of the patches Ω, in pixels, odd.
        search_size: side of the window of shifts Q, in pixels, odd.
        estimator: "parzen" (as published) or "renyi" (closed form, no bins).
        spatial_dims: 2 or 3.
        bandwidth: standard deviation of the Gaussian kernel, on the [0, 1] intensity scale. Default: 8/255 for
            "parzen", as published; 0.1 for "renyi".
        bins: number of histogram bins of "parzen"; the first is centred on 0 and the last on 1.
        reduction: "max" over the shifts, as published, or "none": one channel per shift, in the order of `shifts`.

    Raises:
        ValueError: a size is not positive and odd, or a name is unknown.

    Example:
        >>> lmi = LocalMutualInformation(reduction="none")
        >>> source, target = torch.rand(2, 1, 8, 8), torch.rand(2, 1, 8, 8)
        >>> lmi(source, target).shape  # one channel for each of the 3 × 3 shifts
        torch.Size([2, 9, 8, 8])
        >>> statistics = lmi.prepare(source)  # reused for every target
        >>> torch.equal(lmi(statistics, target), lmi(source, target))
        True
    """

    estimator: ParzenEntropy | RenyiEntropy

    def __init__(
        self,
        patch_size: int = 3,
        search_size: int = 3,
        estimator: Literal["parzen", "renyi"] = "renyi",
        spatial_dims: int = 2,
        bandwidth: float | None = None,
        bins: int = 27,
        reduction: Literal["max", "none"] = "max",
    ) -> None:
        super().__init__()
        if any(size < 1 or size % 2 == 0 for size in (patch_size, search_size)):
            raise ValueError(f"patch_size and search_size must be positive and odd, got {patch_size} and {search_size}")
        if estimator not in ESTIMATORS or reduction not in ("max", "none"):
            raise ValueError(f"unknown estimator {estimator!r} or reduction {reduction!r}")
        self.patch_radius, self.search_radius = patch_size // 2, search_size // 2
        self.spatial_dims, self.reduction = spatial_dims, reduction
        self.estimator = ESTIMATORS[estimator](patch_size, spatial_dims, bandwidth, bins)

    @property
    def shifts(self) -> list[tuple[int, ...]]:
        """The shifts Q of the search window, in pixels."""
        window = range(-self.search_radius, self.search_radius + 1)
        return list(itertools.product(window, repeat=self.spatial_dims))

    def prepare(self, source: torch.Tensor) -> LocalStatistics:
        """Compute the statistics of a source (B, 1, *spatial) in [0, 1], which `forward` accepts in its place."""
        return self.estimator(_pad(source, self.patch_radius))

    def forward(
        self,
        source: torch.Tensor | LocalStatistics,
        target: torch.Tensor,
        reduction: Literal["max", "none"] | None = None,
    ) -> torch.Tensor:
        """Compare two images.

        A batch of one source or one target is compared with every image of the other batch.

        Args:
            source: (B, 1, *spatial) in [0, 1], or its statistics from `prepare`.
            target: (B, 1, *spatial) in [0, 1]; gradients flow to it.
            reduction: replaces the reduction of the layer for this call.

        Returns:
            (B, 1, *spatial), or (B, number of shifts, *spatial) for the reduction "none".
        """
        fixed = source if isinstance(source, LocalStatistics) else self.prepare(source)
        count = max(len(fixed.features), len(target))
        size = CPU_BATCH if target.device.type == "cpu" else count
        pairs = zip(fixed.split(size, count), target.expand(count, *target.shape[1:]).split(size), strict=True)
        return torch.cat([self._reduced(*pair, reduction or self.reduction) for pair in pairs])

    def _reduced(self, fixed: LocalStatistics, target: torch.Tensor, reduction: str) -> torch.Tensor:
        moving = self.estimator(_pad(target, self.patch_radius + self.search_radius))
        maps = (self._compare(fixed, shifted) for shifted in self._shifted(moving, fixed))
        return torch.cat(list(maps), dim=1) if reduction == "none" else functools.reduce(torch.maximum, maps)

    def _shifted(self, moving: LocalStatistics, fixed: LocalStatistics) -> Iterator[LocalStatistics]:
        """The statistics of the moving image under every shift, cropped to those of the fixed image."""
        for shift in self.shifts:
            start = [offset + self.search_radius for offset in shift]
            yield LocalStatistics(
                crop(moving.features, start, fixed.features.shape[2:]),
                crop(moving.entropy, start, fixed.entropy.shape[2:]),
            )

    def _compare(self, fixed: LocalStatistics, moving: LocalStatistics) -> torch.Tensor:
        """NMI = 2 (H_S + H_X − H_SX) / (H_S + H_X)."""
        total = fixed.entropy + moving.entropy
        information = total - self.estimator.joint_entropy(fixed.features, moving.features)
        return (2 * information / total.clamp(min=MIN_ENTROPY_SUM)).clamp(min=0)


def standardize_locally(image: torch.Tensor, size: int = 7, floor: float = 0.04) -> torch.Tensor:
    """Normalise every neighbourhood to the same mean and contrast, so that faint edges count as much as strong ones.

    Args:
        image: (B, 1, *spatial) in [0, 1].
        size: side of the neighbourhood, in pixels, odd.
        floor: standard deviation of noise; contrast below it is not fully amplified.

    Returns:
        The same shape, in [0, 1]. The local mean becomes 0.5; ± three local standard deviations become 1 and 0.

    Example:
        >>> round(standardize_locally(torch.full((1, 1, 9, 9), 0.3)).mean().item(), 3)
        0.5
    """
    pool = F.avg_pool2d if image.ndim == 4 else F.avg_pool3d
    mean = pool(_pad(image, size // 2), size, stride=1)
    variance = (pool(_pad(image**2, size // 2), size, stride=1) - mean**2).clamp(min=0)
    return (0.5 + (image - mean) / (6 * (variance + floor**2).sqrt())).clamp(0, 1)


def _pad(image: torch.Tensor, margin: int) -> torch.Tensor:
    """Clamp to [0, 1] and pad every side by `margin` copies of the edge."""
    return F.pad(image.clamp(0, 1), (margin,) * 2 * (image.ndim - 2), mode="replicate")
