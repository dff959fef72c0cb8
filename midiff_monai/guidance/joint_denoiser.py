"""A denoiser that several sources of one image guide at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from midiff_monai.guidance.guide import centre_slice
from midiff_monai.guidance.guided_denoiser import GuidedDenoiser

WINDOW = 7
"""Side, in pixels, of the neighbourhood in which the sources are weighed."""

NOISE_VARIANCE = 1e-3
"""Variance, for images in [0, 1], that no source explains. It keeps the weights of good sources alike."""


class JointDenoiser(nn.Module):
    """Average the predictions of one network for several sources of an image, at every step.

    Each source has a guide of its own, so the network never sees two at a time and needs no training for it. All
    guides share the noisy image and the previous estimate: the conditional means of a source are those of an estimate
    that the other sources shaped. Averaged predictions are a product of experts (Liu et al., "Compositional Visual
    Generation with Composable Diffusion Models", ECCV 2022, arXiv 2206.01714).

    The weight of a source is its local precision, the inverse of Var(X | S) in a neighbourhood: the mean squared
    difference of the mean prediction X from its local conditional mean E[X | S]. A source that tells little about the
    image there, as PD does about white and grey matter, thus counts little. Guides without conditional means have
    equal weights.

    The order of the sources has no effect, and a source that is given twice counts as one.

    Args:
        denoisers: one for each source, of the same network and schedule.
        sources: the source of each denoiser, (B, 2·context + 1, H, W) in [0, 1]. A source has no weight where it is 0.

    Example:
        >>> from midiff_monai.guidance import LMIGuide, LocalMutualInformation
        >>> guide = LMIGuide(LocalMutualInformation())
        >>> network = lambda x, timesteps, context=None: x[:, 1:2]  # returns the source slice
        >>> alphas_cumprod = torch.linspace(0.999, 0.001, 1000)
        >>> sources = [torch.full((2, 1, 8, 8), 0.2), torch.full((2, 1, 8, 8), 0.4)]
        >>> denoisers = [GuidedDenoiser(network, guide, source, alphas_cumprod, "sample") for source in sources]
        >>> joint = JointDenoiser(denoisers, sources)
        >>> round(joint(torch.randn(2, 1, 8, 8), torch.tensor([999, 999])).mean().item(), 3)
        0.3
    """

    def __init__(self, denoisers: Sequence[GuidedDenoiser], sources: Sequence[torch.Tensor]) -> None:
        super().__init__()
        self.denoisers: Sequence[GuidedDenoiser] = nn.ModuleList(denoisers)  # type: ignore[assignment]
        self.known = torch.cat([centre_slice(source) for source in sources], dim=1) != 0

    def forward(
        self, x: torch.Tensor, timesteps: torch.Tensor, context: torch.Tensor | None = None, **kwargs: Any
    ) -> torch.Tensor:
        """Predict as `GuidedDenoiser.forward` does. The estimate of every denoiser becomes the common one."""
        predictions = torch.cat([each.predict(x, timesteps, context, **kwargs) for each in self.denoisers], dim=1)
        mean = weighted_mean(predictions, self.known)
        weights = self.known * self.precisions(self._clean(mean, x, timesteps))
        prediction = weighted_mean(predictions, weights)
        for denoiser in self.denoisers:
            denoiser.estimate = self._clean(prediction, x, timesteps)
        return prediction

    def precisions(self, image: torch.Tensor) -> torch.Tensor:
        """The local precision (B, S, H, W) of each source as a predictor of an image (B, 1, H, W)."""
        guide = self.denoisers[0].guide
        if guide.conditional_mean is None:
            return torch.ones_like(image)
        low, high = guide.image_range
        precisions = []
        for source in (denoiser.source for denoiser in self.denoisers):
            local = guide.conditional_mean(source.bin_weights, image, source.same_volume)[:, 1:]
            residual = ((image - local) / (high - low)).square()
            variance = F.avg_pool2d(residual, WINDOW, stride=1, padding=WINDOW // 2, count_include_pad=False)
            precisions.append(1 / (variance + NOISE_VARIANCE))
        return torch.cat(precisions, dim=1)

    def _clean(self, prediction: torch.Tensor, x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        return self.denoisers[0].clean_image(prediction.detach(), x, timesteps)


def weighted_mean(images: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted mean (B, 1, H, W) of the channels of images (B, S, H, W); the plain mean where all weights are 0.

    Args:
        images: (B, S, H, W).
        weights: (B, S, H, W), not negative; or booleans, true where a channel counts.
    """
    weights = weights.to(images)
    weights = torch.where(weights.any(dim=1, keepdim=True), weights, 1.0)
    return (weights * images).sum(dim=1, keepdim=True) / weights.sum(dim=1, keepdim=True)
