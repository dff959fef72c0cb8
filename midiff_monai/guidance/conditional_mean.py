"""The conditional mean E[X | S] of an estimate X given the intensity of its source S.

Mutual information measures how well one image predicts another. The conditional mean is that prediction: among all
functions of the source's intensity, it has the least squared error (Roche et al., "The Correlation Ratio as a New
Similarity Measure for Multimodal Image Registration", MICCAI 1998). It is a function of the source, so it keeps the
source's detail.
"""

from __future__ import annotations

import functools

import torch
from torch import nn
from torch.nn import functional as F

GLOBAL_MEAN_WEIGHT = 2e-3
"""Weight of a bin's global mean beside its local mean, as a share of the neighbourhood."""

JOINT_BINS = 64
"""Number of bins of the joint histogram of several sources."""

SURFACE_MARGIN = 4
"""Depth in pixels below the surface of a skull-stripped brain within which a translation is unreliable."""


class ConditionalMean(nn.Module):
    """Conditional mean of images given their sources, globally and in neighbourhoods.

    Source intensities are sorted into triangular, overlapping bins. The result is therefore a continuous function of
    the source. The bin centres are quantiles of the foreground.

    Neighbourhoods are Gaussian windows on a coarse grid, as in a bilateral grid (Chen, Paris and Durand, SIGGRAPH
    2007). In each neighbourhood, the mean of a bin shrinks towards the bin's global mean. The shrinkage is stronger
    for rarer bins.

    Args:
        bins: number of bins.
        cell: side of the cells of the coarse grid, in pixels. It is also about the standard deviation of the windows.

    Example:
        >>> source = torch.linspace(0.1, 1, 64).reshape(1, 1, 8, 8)
        >>> conditional_mean = ConditionalMean()
        >>> bin_weights = conditional_mean.prepare(source)
        >>> bin_weights.shape
        torch.Size([1, 16, 8, 8])
        >>> conditional_mean(bin_weights, 1 - source).shape
        torch.Size([1, 2, 8, 8])
    """

    channels = 2

    def __init__(self, bins: int = 16, cell: int = 8) -> None:
        super().__init__()
        self.bins, self.cell = bins, cell

    def prepare(self, source: torch.Tensor, same_volume: bool = False) -> torch.Tensor:
        """Compute the weight of every bin at every pixel.

        Args:
            source: (B, 1, H, W); 0 is background.
            same_volume: the images are slices of one volume and share one set of bins.

        Returns:
            (B, bins, H, W); the weights of a pixel sum to 1 in the foreground and are 0 in the background.
        """
        values = source.flatten(1)
        pooled = values.reshape(1, -1) if same_volume else values
        centres = quantiles(pooled, self.bins).expand(len(values), -1).contiguous()
        upper = torch.searchsorted(centres, values.contiguous()).clamp(1, self.bins - 1)
        left, right = centres.gather(1, upper - 1), centres.gather(1, upper)
        share = ((values - left) / (right - left).clamp(min=1e-6)).clamp(0, 1)
        weights = values.new_zeros(len(values), self.bins, values.shape[1])
        weights.scatter_(1, (upper - 1)[:, None], (1 - share)[:, None]).scatter_(1, upper[:, None], share[:, None])
        return (weights * (values > 0)[:, None]).unflatten(2, source.shape[2:])

    def prepare_joint(self, sources: torch.Tensor) -> torch.Tensor:
        """Compute the weight of every bin of the joint histogram of several sources, at every pixel.

        The bins are all combinations of one bin of each source. Sources have fewer bins each, the more there are.

        Args:
            sources: (B, S, H, W), slices of S volumes, which share one set of bins each; 0 is background.

        Returns:
            (B, C, H, W) with C of about `JOINT_BINS`; 0 where a source has background.
        """
        each = ConditionalMean(max(2, round(JOINT_BINS ** (1 / sources.shape[1]))), self.cell)
        weights = [each.prepare(source, same_volume=True) for source in sources.split(1, dim=1)]
        return functools.reduce(lambda joint, other: (joint[:, :, None] * other[:, None]).flatten(1, 2), weights)

    def forward(self, weights: torch.Tensor, image: torch.Tensor, same_volume: bool = False) -> torch.Tensor:
        """Compute the conditional means of an image.

        Args:
            weights: bin weights (B, bins, H, W) of the source, from `prepare`.
            image: (B, 1, H, W).
            same_volume: the images are slices of one volume; global means are those of the whole volume.

        Returns:
            (B, 2, H, W): the global and the local conditional mean; 0 in the background.
        """
        means = bin_means(weights, image, same_volume)
        window_sums = self._window_mean(weights * image) + GLOBAL_MEAN_WEIGHT * means
        local = window_sums / (self._window_mean(weights) + GLOBAL_MEAN_WEIGHT)
        smoothed = F.interpolate(local, size=image.shape[2:], mode="bilinear", align_corners=False)
        return torch.stack([(weights * means).sum(1), (weights * smoothed).sum(1)], dim=1)

    def shrink(self, weights: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """Shrink the slices of a volume towards their conditional mean, where the source explains them.

        The share explained by a source intensity s is 1 − Var(X | S = s) / Var X. The image moves towards
        E[X | S = s] by the sixth power of that share. Where the share is close to 1, as in white matter of T2w, the
        residual of a network is mostly error. Where the share is low, as in partial volumes of CSF that look like
        cortex, the residual is anatomy.

        Within `SURFACE_MARGIN` of the surface of a skull-stripped brain, networks mistake cut cortex for CSF. There the
        step is the correlation ratio η², the mean share over all intensities. The shares are measured deeper inside.

        Args:
            weights: bin weights (B, bins, H, W) of the slices of the source, from `prepare` with `same_volume`.
            image: (B, 1, H, W).

        Returns:
            (B, 1, H, W); the background is unchanged.
        """
        foreground_mask = weights.sum(1, keepdim=True) > 0
        # max_pool2d pads with −∞, so the edge of the image counts as deep: there the scan ends, not the brain
        deep = F.max_pool2d((~foreground_mask).to(image), 2 * SURFACE_MARGIN + 1, stride=1, padding=SURFACE_MARGIN) == 0
        deep_weights = weights * (deep if deep.any() else foreground_mask)
        means, squares = (bin_means(deep_weights, power, same_volume=True) for power in (image, image.square()))
        counts = deep_weights.sum((0, 2, 3), keepdim=True)
        variance = (mean_over_bins(squares, counts) - mean_over_bins(means, counts).square()).clamp(min=1e-6)
        shares = (1 - (squares - means.square()) / variance).clamp(0, 1)
        expected, share = ((weights * values).sum(1, keepdim=True) for values in (means, shares))
        step = torch.where(deep, share**6, mean_over_bins(shares, counts))  # η² beside the surface
        return torch.where(foreground_mask, torch.lerp(image, expected, step), image)

    def _window_mean(self, maps: torch.Tensor) -> torch.Tensor:
        """Mean of (B, C, H, W) in a Gaussian window around the centre of each cell of the coarse grid."""
        cells = F.avg_pool2d(maps, self.cell, ceil_mode=True, count_include_pad=False)
        taps = torch.tensor([0.06, 0.24, 0.4, 0.24, 0.06], device=maps.device, dtype=maps.dtype)
        kernel = taps.expand(maps.shape[1], 1, 1, 5)
        rows = F.conv2d(cells, kernel, padding=(0, 2), groups=maps.shape[1])
        return F.conv2d(rows, kernel.mT, padding=(2, 0), groups=maps.shape[1])


def bin_means(weights: torch.Tensor, image: torch.Tensor, same_volume: bool) -> torch.Tensor:
    """Mean of an image (B, 1, H, W) in every bin of (B, bins, H, W).

    Returns:
        (B, bins, 1, 1), or (1, bins, 1, 1) for the slices of one volume.
    """
    axes = (0, 2, 3) if same_volume else (2, 3)
    return (weights * image).sum(axes, keepdim=True) / weights.sum(axes, keepdim=True).clamp(min=1e-6)


def mean_over_bins(values: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Mean over all bins of a volume; both are (1, bins, 1, 1).

    With the means of the bins it is the mean of all pixels. Torch splits the sum of all pixels among its threads, so
    that its rounding depends on their number; that of the bins it does not split.
    """
    return (values * counts).sum() / counts.sum()


def quantiles(values: torch.Tensor, number: int) -> torch.Tensor:
    """Evenly spaced quantiles of the positive values of each row.

    Args:
        values: (B, N).
        number: number of quantiles; the first is the minimum and the last the maximum.

    Returns:
        (B, number); 0 for a row without positive values.
    """
    filled = (values > 0).sum(1, keepdim=True)
    last = (filled - 1).clamp(min=0)
    ranks = (torch.linspace(0, 1, number, device=values.device) * last).round().long()
    # float32 cannot represent every integer beyond 2²⁴; rounding could exceed the last rank
    return values.sort(dim=1).values.gather(1, values.shape[1] - 1 - last + ranks.minimum(last))
