"""Denoisers of known output, and what samplers and inferers must make of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.networks.schedulers import DDIMScheduler, Scheduler
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


def training_input(inferer: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What an inferer gives the network in a step of training: it, the source, and the noisy image (2, 1, 16, 16)."""
    image, noise, source = torch.rand(2, 1, 16, 16), torch.randn(2, 1, 16, 16), torch.rand(2, 1, 16, 16)
    timesteps, spy = torch.tensor([900, 20]), Spy()
    inferer(image, spy, noise, timesteps, source=source)
    return spy.images[0], source, inferer.scheduler.add_noise(image, noise, timesteps)


def assert_steps_are_exact(scheduler: DDIMScheduler) -> None:
    """With the true noise, every sample equals the clean image noised to its timestep.

    Args:
        scheduler: one whose network predicts noise, with its timesteps set, the first one 999.
    """
    timesteps = scheduler.timesteps.tolist()
    assert timesteps[0] == 999
    clean, noise = torch.tensor([0.7], dtype=torch.float64), torch.tensor([-1.3], dtype=torch.float64)
    image = scheduler.add_noise(clean, noise, torch.tensor(timesteps[:1]))
    for timestep, following in zip(timesteps, timesteps[1:] + [None], strict=True):
        image, _ = scheduler.step(noise, timestep, image)
        expected = clean if following is None else scheduler.add_noise(clean, noise, torch.tensor([following]))
        torch.testing.assert_close(image, expected, rtol=0, atol=1e-4)
