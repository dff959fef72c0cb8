"""Diffusion steered by local mutual information: the guide and the inferer.

Wang et al., "Mutual Information Guided Diffusion for Zero-shot Cross-modality Medical Image Translation",
IEEE TMI 2024, doi 10.1109/TMI.2024.3382043.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import nn

from midiff_monai.guidance.conditional_mean import ConditionalMean
from midiff_monai.guidance.mutual_information import LocalMutualInformation, LocalStatistics, standardize_locally


@dataclass(frozen=True)
class PreparedSource:
    """What the guide needs of a source, whatever the denoising step.

    Attributes:
        maps: channels that depend on the source alone.
        statistics: what the LMI with the noisy image needs.
        levels: what the conditional means of an estimate need.
        together: whether the images are the slices of one volume.
    """

    maps: torch.Tensor
    statistics: LocalStatistics
    bin_weights: torch.Tensor | None
    same_volume: bool


class LMIGuide(nn.Module):
    """The channels that tell the denoiser about the source.

    In this order: the source's slices (unless left out), the maps of the source with itself (one a shift, or their
    maximum, as `lmi` reduces), the map of the source with the noisy image, all in [0, 1]; then the means of the
    estimate of the step before, given the source's grey values (see `ConditionalMean`), in [-1, 1], or 0 if there is
    no estimate.

    Args:
        lmi: compares the source with itself.
        conditional_mean: turns an estimate into what the source makes of it; None leaves these channels out, as
            published.
        include_source: give the denoiser the source's grey values too; the published method does not.
        standardize: side of the neighbourhood that `lmi.standardize_locally` brings to equal contrast before the
            source is compared, or None for the grey values as they are, as published.
    """

    def __init__(
        self,
        lmi: LocalMutualInformation,
        conditional_mean: ConditionalMean | None = None,
        include_source: bool = True,
        standardize: int | None = 7,
    ) -> None:
        super().__init__()
        self.lmi, self.conditional_mean = lmi, conditional_mean
        self.include_source, self.standardize = include_source, standardize
        self.cross_lmi = copy.copy(lmi)
        self.cross_lmi.reduction = "max"

    def prepare(self, source: torch.Tensor, same_volume: bool = False) -> PreparedSource:
        """Compute once what depends on the source (B, slices, H, W) in [0, 1] alone.

        `same_volume` says that the middle slices make up one volume: it has one contrast, which they tell together.
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
        sqrt_alpha_bar: torch.Tensor | float = 1.0,
        estimate: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The guide (B, C, H, W) for a noisy image (B, 1, H, W) whose clean range is [-1, 1].

        The map that depends on the noisy image is multiplied by `sqrt_alpha_bar`, the part of the image in it. The estimate
        of the clean image, if there is one, has the shape and range of the noisy one.
        """
        channels = [source.maps, sqrt_alpha_bar * self.cross_lmi(source.statistics, (noisy + 1) / 2)]
        if self.conditional_mean and estimate is not None:
            channels.append(self.conditional_mean(source.bin_weights, estimate, source.same_volume))
        elif self.conditional_mean:
            channels.append(torch.zeros_like(noisy).repeat(1, self.conditional_mean.channels, 1, 1))
        return torch.cat(channels, dim=1)

    def channels(self, context: int) -> int:
        """Number of channels for sources of 2·context + 1 slices."""
        self_maps = 1 if self.lmi.reduction == "max" else len(self.lmi.shifts)
        means = self.conditional_mean.channels if self.conditional_mean else 0
        return (2 * context + 1) * self.include_source + self_maps + 1 + means


def centre_slice(slices: torch.Tensor) -> torch.Tensor:
    """The slice itself (B, 1, H, W) of a slice with its neighbours (B, slices, H, W)."""
    return slices[:, slices.shape[1] // 2][:, None]
