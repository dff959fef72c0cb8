"""What stands around MONAI's networks: a cheap full resolution, and mixed precision on every device."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F


class PixelUnshuffled(nn.Module):
    """Run a 2-D diffusion network on `factor`² fewer pixels of `factor`² times the channels.

    Nothing is lost on the way in or out (Shi et al., CVPR 2016, doi 10.1109/CVPR.2016.207), and the
    convolutions that would run at full resolution, most of a U-Net's cost, run at a quarter of it.

    Args:
        network: called as ``network(x, timesteps, context)``; takes and gives factor² times the channels.
        factor: by how much height and width shrink; they must be multiples of it.
    """

    def __init__(self, network: nn.Module, factor: int = 2) -> None:
        super().__init__()
        self.network, self.factor = network, factor

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor, context: torch.Tensor | None = None) -> torch.Tensor:
        """Map (B, C, H, W) and timesteps (B) or (1) to (B, C', H, W)."""
        return F.pixel_shuffle(self.network(F.pixel_unshuffle(x, self.factor), timesteps, context), self.factor)


class MixedPrecision(nn.Module):
    """Run a network under bfloat16 autocast on whatever device its input is, and answer in float32.

    MONAI's engines know autocast on CUDA alone; processors with bfloat16 units gain as much.

    Args:
        network: the network; its parameters stay float32.
        enabled: False runs everything in float32.
    """

    def __init__(self, network: nn.Module, enabled: bool = True) -> None:
        super().__init__()
        self.network, self.enabled = network, enabled

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Whatever the network takes and gives."""
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.enabled):
            return self.network(x, *args, **kwargs).float()
