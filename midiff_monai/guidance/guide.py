"""The guide: input channels that describe the source and its local mutual information with the noisy image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from midiff_monai.guidance.conditional_mean import ConditionalMean
from midiff_monai.guidance.entropy import LocalStatistics
from midiff_monai.guidance.mutual_information import LocalMutualInformation, standardize_locally


@dataclass(frozen=True)
class PreparedSource:
    """The parts of the guide that do not change between denoising steps.

    Attributes:
        maps: (B, C, H, W), the channels that depend on the source alone.
        statistics: statistics of the source for its LMI with the noisy image.
        bin_weights: (B, bins, H, W), weights for the conditional means; None without conditional means.
        same_volume: the images are slices of one volume.
    """

    maps: torch.Tensor
    statistics: LocalStatistics
    bin_weights: torch.Tensor | None
    same_volume: bool


class LMIGuide(nn.Module):
    """Make the channels that condition the denoiser on the source.

    The channels are, in this order:

    1. the source slices, in [0, 1], unless `include_source` is False;
    2. LMI(S, S), the LMI of the source with itself, in [0, 1]: one map per shift, or their maximum, as `lmi` reduces;
    3. LMI(S, x_t), the LMI of the source with the noisy image, in [0, 1], maximised over shifts;
    4. the conditional means of the previous estimate given the source, in its range; 0 at the first step.

    Args:
        lmi: computes both LMI maps.
        conditional_mean: computes channels 4. None omits them, as published.
        include_source: whether the denoiser receives the source slices. The published method withholds them.
        standardize: side, in pixels, of the neighbourhood in which `standardize_locally` equalises the source before
            LMI. None compares the intensities as they are, as published.
        image_range: values of the noisy image that stand for the intensities 0 and 1. The published method has [0, 1].

    Example:
        >>> guide = LMIGuide(LocalMutualInformation(reduction="none"), ConditionalMean())
        >>> prepared = guide.prepare(torch.rand(2, 3, 16, 16))
        >>> guide(prepared, torch.randn(2, 1, 16, 16)).shape
        torch.Size([2, 15, 16, 16])
        >>> guide.channels(context=1)
        15
    """

    def __init__(
        self,
        lmi: LocalMutualInformation,
        conditional_mean: ConditionalMean | None = None,
        include_source: bool = True,
        standardize: int | None = 7,
        image_range: Sequence[float] = (-1.0, 1.0),
    ) -> None:
        super().__init__()
        self.lmi, self.conditional_mean = lmi, conditional_mean
        self.include_source, self.standardize, self.image_range = include_source, standardize, tuple(image_range)

    def prepare(self, source: torch.Tensor, same_volume: bool = False) -> PreparedSource:
        """Compute the parts that do not change between denoising steps.

        Args:
            source: (B, 2·context + 1, H, W) in [0, 1]; each slice with its neighbours as channels.
            same_volume: the centre slices form one volume and share its intensity scale.
        """
        image = centre_slice(source)
        compared = standardize_locally(image, self.standardize) if self.standardize else image
        statistics = self.lmi.prepare(compared)
        self_maps = self.lmi(statistics, compared)
        maps = torch.cat([source, self_maps], dim=1) if self.include_source else self_maps
        bin_weights = self.conditional_mean.prepare(image, same_volume) if self.conditional_mean else None
        return PreparedSource(maps, statistics, bin_weights, same_volume)

    def forward(
        self,
        source: PreparedSource,
        noisy: torch.Tensor,
        cross_map_scale: torch.Tensor | float = 1.0,
        estimate: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Make the guide of one denoising step.

        Args:
            source: from `prepare`.
            noisy: the noisy image x_t (B, 1, H, W); clean images lie in `image_range`.
            cross_map_scale: factor of LMI(S, x_t); a number or (B or 1, 1, 1, 1).
            estimate: the previous estimate of the clean image (B, 1, H, W) in `image_range`.

        Returns:
            (B, C, H, W), where C is `channels`.
        """
        low, high = self.image_range
        cross_map = self.lmi(source.statistics, (noisy - low) / (high - low), reduction="max")
        channels = [source.maps, cross_map_scale * cross_map]
        if self.conditional_mean and estimate is not None:
            channels.append(self.conditional_mean(source.bin_weights, estimate, source.same_volume))
        elif self.conditional_mean:
            channels.append(torch.zeros_like(noisy).repeat(1, self.conditional_mean.channels, 1, 1))
        return torch.cat(channels, dim=1)

    def channels(self, context: int) -> int:
        """Number of channels of the guide for sources of 2·context + 1 slices."""
        self_maps = 1 if self.lmi.reduction == "max" else len(self.lmi.shifts)
        means = self.conditional_mean.channels if self.conditional_mean else 0
        return (2 * context + 1) * self.include_source + self_maps + 1 + means


def centre_slice(slices: torch.Tensor) -> torch.Tensor:
    """Centre channel (B, 1, H, W) of slices with their neighbours (B, 2·context + 1, H, W)."""
    return slices[:, slices.shape[1] // 2][:, None]
