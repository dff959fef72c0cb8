"""A denoiser head whose output is an affine function of the source at each pixel."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from midiff_monai.guidance.mutual_information import standardize_locally


class PixelwiseAffineHead(nn.Module):
    """Combine the input images with coefficients that the network predicts for every pixel.

    The output is b + a₁ (s − ½) + a₂ z + a₃ x + a₄ m₁ + a₅ m₂ …, where s is the source, z its local contrast, x the
    noisy image, and m₁, m₂ … are the conditional means of the previous estimate. The network predicts b and all aᵢ.

    The images supply the detail. A network that predicts the output itself must carry every edge through its layers,
    with a sign that depends on the contrast of the source. It learns coarse structure long before it learns edges.

    Args:
        network: maps (B, C, H, W) to (B, 4 + `means`, H, W), the coefficients in the order b, a₁, a₂ …
        source_channel: index of the input channel that holds s, in [0, 1]. Channel 0 holds x.
        means: number of conditional means. They are the last channels of the input.
        size: side, in pixels, of the neighbourhood in which `standardize_locally` computes z from s.

    Example:
        >>> coefficients = nn.Conv2d(3, 4, kernel_size=1)
        >>> head = PixelwiseAffineHead(coefficients, source_channel=1, means=0)
        >>> head(torch.rand(2, 3, 16, 16)).shape
        torch.Size([2, 1, 16, 16])
    """

    def __init__(self, network: nn.Module, source_channel: int, means: int = 2, size: int = 7) -> None:
        super().__init__()
        self.network, self.source_channel, self.means, self.size = network, source_channel, means, size

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Map (B, C, H, W) to (B, 1, H, W); further arguments go to the network."""
        source = x[:, self.source_channel][:, None]
        contrast = 2 * standardize_locally(source, self.size) - 1
        means = x[:, x.shape[1] - self.means :]
        terms = torch.cat([torch.ones_like(source), source - 0.5, contrast, x[:, :1], means], dim=1)
        return (self.network(x, *args, **kwargs) * terms).sum(dim=1, keepdim=True)
