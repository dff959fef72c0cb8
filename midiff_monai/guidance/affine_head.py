"""A denoiser head whose output is, at each pixel, an affine function of the source."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from midiff_monai.guidance.mutual_information import standardize_locally


class PixelwiseAffineHead(nn.Module):
    """Make the image b + a₁ (s − ½) + a₂ z + a₃ x + a₄ m₁ + a₅ m₂ …

    s is the source, z its local contrast, x the noisy image, and the m are the conditional means of the last estimate.
    The network tells b and the a for every pixel, and the detail comes from the images themselves. A network that
    makes the whole image has to send every edge through its layers with a sign that depends on the contrast of the
    whole, and learns coarse structure long before any edge.

    Args:
        network: gives 4 + `means` channels, the coefficients.
        source_channel: channel of the input that is s, in [0, 1]; channel 0 is x.
        means: number of the m, the last channels of the input.
        size: side of the neighbourhood in which `lmi.standardize_locally` makes z of s.
    """

    def __init__(self, network: nn.Module, source_channel: int, means: int = 2, size: int = 7) -> None:
        super().__init__()
        self.network, self.source_channel, self.means, self.size = network, source_channel, means, size

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Map (B, C, H, W), and whatever else the network takes, to (B, 1, H, W)."""
        source = x[:, self.source_channel][:, None]
        contrast = 2 * standardize_locally(source, self.size) - 1
        means = x[:, x.shape[1] - self.means :]
        terms = torch.cat([torch.ones_like(source), source - 0.5, contrast, x[:, :1], means], dim=1)
        return (self.network(x, *args, **kwargs) * terms).sum(dim=1, keepdim=True)
