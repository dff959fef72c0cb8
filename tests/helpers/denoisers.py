"""Denoisers of known output."""

from __future__ import annotations

from collections.abc import Callable

import torch
from monai.networks.schedulers import Scheduler
from torch import nn


class Spy(nn.Module):
    """A cheap, deterministic denoiser that records its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.images: list[torch.Tensor] = []
        self.timesteps: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor, context: torch.Tensor | None = None) -> torch.Tensor:
        self.images.append(x)
        self.timesteps.append(timesteps)
        return torch.tanh(x[:, :1] + x.mean(dim=1, keepdim=True))


class Oracle(nn.Module):
    """Predicts the exact velocity v = (√ᾱ x_t − x_0) / √(1 − ᾱ) of a known clean image x_0, from the input √ᾱ x_t.

    Args:
        scheduler: gives ᾱ.
        clean: maps the input of the network to the clean image (B, 1, H, W).
    """

    def __init__(self, scheduler: Scheduler, clean: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.scheduler, self.clean = scheduler, clean

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor, context: torch.Tensor | None = None) -> torch.Tensor:
        alpha = self.scheduler.alphas_cumprod[int(timesteps)]
        return (x[:, :1] - self.clean(x)) / (1 - alpha).sqrt()
