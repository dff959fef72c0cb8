"""What an estimate is, on average, where its source has the same grey value.

Mutual information tells how well one image predicts another; the conditional mean E[X | S] is that prediction, the best
in least squares among all functions of the source's grey values (Roche et al., "The Correlation Ratio as a New
Similarity Measure for Multimodal Image Registration", MICCAI 1998). It has all the detail of the source.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

PRIOR = 2e-3
"""Share of a neighbourhood at which its own mean of a bin counts as much as that of the whole image."""

SURFACE_MARGIN = 4
"""Pixels from the surface of a skull-stripped brain within which a translation is not to be trusted."""


class ConditionalMean(nn.Module):
    """Conditional mean of images given their sources, over whole images and over neighbourhoods.

    The bins are triangular and overlap, so that the result is a continuous function of the source; their centres are
    quantiles of its foreground. Neighbourhoods are Gaussian windows on a coarse grid, as in a bilateral grid (Chen et
    al., SIGGRAPH 2007); there each bin shrinks towards its mean over the whole image, the more the rarer it is.

    Args:
        bins: number of bins.
        cell: side of the cells of the coarse grid, in pixels; the windows' standard deviation is about one cell.
    """

    channels = 2

    def __init__(self, bins: int = 16, cell: int = 8) -> None:
        super().__init__()
        self.bins, self.cell = bins, cell

    def prepare(self, source: torch.Tensor, same_volume: bool = False) -> torch.Tensor:
        """The weight of every bin at every pixel (B, bins, H, W) of sources (B, 1, H, W), 0 where they are 0.

        `same_volume` says that the images are slices of one volume, which has the same bins everywhere.
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

    def forward(self, weights: torch.Tensor, image: torch.Tensor, same_volume: bool = False) -> torch.Tensor:
        """Conditional means of an image.

        Args:
            weights: what `prepare` made of the source.
            image: (B, 1, H, W).
            together: as in `prepare`; the whole image is then the whole volume.

        Returns:
            (B, 2, H, W): over the whole image, and over neighbourhoods; 0 where the source is 0.
        """
        means = bin_means(weights, image, same_volume)
        local = (self._window(weights * image) + PRIOR * means) / (self._window(weights) + PRIOR)
        smoothed = F.interpolate(local, size=image.shape[2:], mode="bilinear", align_corners=False)
        return torch.stack([(weights * means).sum(1), (weights * smoothed).sum(1)], dim=1)

    def shrink(self, weights: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """Move the slices of a volume towards their conditional mean, as far as it explains them.

        1 − Var(X | S = s) / Var X tells how far a grey value s explains a volume. Where it does nearly altogether, as
        white matter's does in T2w, what a network adds is mostly error; where it does not, as where voxels that are
        half fluid look like cortex, it is anatomy. The step is the sixth power of that. At the surface of a
        skull-stripped brain, less than `SURFACE_MARGIN` deep, a network takes cut cortex for fluid: there the step is the
        mean over all grey values, the correlation ratio η², and what lies deeper is all that is measured on.

        Args:
            weights: what `prepare` made of the slices of the source together.
            image: (B, 1, H, W).
        """
        foreground_mask = weights.sum(1, keepdim=True) > 0
        # beyond the edge of the image, where the scan ends and not the brain, counts as deep
        deep = F.max_pool2d((~foreground_mask).to(image), 2 * SURFACE_MARGIN + 1, stride=1, padding=SURFACE_MARGIN) == 0
        counted = weights * (deep if deep.any() else foreground_mask)
        means, squares = (bin_means(counted, power, same_volume=True) for power in (image, image.square()))
        total = image[counted.sum(1, keepdim=True) > 0].var(correction=0).clamp(min=1e-6)
        shares = (1 - (squares - means.square()) / total).clamp(0, 1)
        expected, share = ((weights * values).sum(1, keepdim=True) for values in (means, shares))
        mean_share = (counted * shares).sum() / counted.sum()
        return torch.where(foreground_mask, torch.lerp(image, expected, torch.where(deep, share**6, mean_share)), image)

    def _window(self, maps: torch.Tensor) -> torch.Tensor:
        """Mean of (B, C, H, W) in a window around the centre of each cell."""
        cells = F.avg_pool2d(maps, self.cell, ceil_mode=True, count_include_pad=False)
        taps = torch.tensor([0.06, 0.24, 0.4, 0.24, 0.06], device=maps.device, dtype=maps.dtype)
        kernel = taps.expand(maps.shape[1], 1, 1, 5)
        rows = F.conv2d(cells, kernel, padding=(0, 2), groups=maps.shape[1])
        return F.conv2d(rows, kernel.mT, padding=(2, 0), groups=maps.shape[1])


def bin_means(weights: torch.Tensor, image: torch.Tensor, same_volume: bool) -> torch.Tensor:
    """Mean of an image (B, 1, H, W) in every bin of (B, bins, H, W): (B or 1, bins, 1, 1)."""
    whole = (0, 2, 3) if same_volume else (2, 3)
    return (weights * image).sum(whole, keepdim=True) / weights.sum(whole, keepdim=True).clamp(min=1e-6)


def quantiles(values: torch.Tensor, number: int) -> torch.Tensor:
    """Evenly spaced quantiles (B, number), lowest and highest included, of what is above 0 in each row of (B, N)."""
    filled = (values > 0).sum(1, keepdim=True)
    last = (filled - 1).clamp(min=0)
    places = (torch.linspace(0, 1, number, device=values.device) * last).round().long()
    # float32 does not hold every whole number beyond 2²⁴, and would round past the last
    return values.sort(dim=1).values.gather(1, values.shape[1] - 1 - last + places.minimum(last))
