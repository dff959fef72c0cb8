"""The parcellation network: a prior in template space, and a U-Net that corrects it for each brain."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F


class RegionNetwork(nn.Module):
    """Add the logits of a U-Net to a prior of the regions, which is stored on a coarse grid.

    The U-Net also receives the coordinates of the voxels, from -1 to 1.

    Args:
        network: maps C + 3 channels to one channel a region, on the same or a coarser grid of the same extent.
        regions: number of regions.
        prior_shape: shape of the coarse grid of the prior, of the same extent.
    """

    def __init__(self, network: nn.Module, regions: int, prior_shape: Sequence[int]) -> None:
        super().__init__()
        self.network = network
        self.prior = nn.Parameter(torch.zeros(1, regions, *prior_shape))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map tissue fractions (B, C, X, Y, Z) to logits (B, regions, …) on the grid of the U-Net's output."""
        axes = [torch.linspace(-1, 1, size, device=x.device, dtype=x.dtype) for size in x.shape[2:]]
        coordinates = torch.stack(torch.meshgrid(*axes, indexing="ij"))[None].expand(len(x), -1, -1, -1, -1)
        correction = self.network(torch.cat([x, coordinates], dim=1))
        return correction + F.interpolate(self.prior, size=correction.shape[2:], mode="trilinear")
