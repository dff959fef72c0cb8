"""MONAI's diffusion inferer, guided by local mutual information with a source."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from monai.inferers import DiffusionInferer
from monai.networks.schedulers import Scheduler
from monai.networks.schedulers.ddim import DDIMPredictionType
from torch import nn

from midiff_monai.guidance.guide import LMIGuide


class LMIGuidedInferer(DiffusionInferer):
    """MONAI's `DiffusionInferer`, with the guide of a source concatenated to the noisy image at every step.

    Training and sampling time the guide alike: it is made of the very image the network sees. That image, and the map
    made of it, are weighted by √ᾱ, the part of the image in it: at the top of the schedule, where the prediction is a
    regression on the source, they are mere noise, in which all fine detail would drown. Each step is told of the
    estimate of the one before (self-conditioning, Chen et al., ICLR 2023, arXiv 2208.04202) by way of the source.
    Without a source, both calls are those of `DiffusionInferer`; beside a source, only its `context` conditioning
    is supported, not "concat", classifier-free guidance or SPADE.

    Args:
        scheduler: adds the noise in training and steps in sampling.
        guide: makes the channels.
    """

    def __init__(self, scheduler: Scheduler, guide: LMIGuide) -> None:
        super().__init__(scheduler)
        self.guide = guide

    def __call__(  # type: ignore[override]
        self,
        inputs: torch.Tensor,
        diffusion_model: nn.Module,
        noise: torch.Tensor,
        timesteps: torch.Tensor,
        *args: Any,
        source: torch.Tensor | None = None,
        self_conditioning_passes: int = 1,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Predict for one training step.

        Args:
            inputs: clean images (B, 1, H, W) in [-1, 1].
            diffusion_model: called with (B, 1 + guide channels, H, W).
            noise: standard normal, shape of the inputs.
            timesteps: (B,) integers.
            source: (B, 2·context + 1, H, W) in [0, 1].
            passes: number of predictions, of which each is told of the one before; the gradient is that of the last.
        """
        network = diffusion_model if source is None else self._guided(diffusion_model, source, self.scheduler)
        for _ in range(self_conditioning_passes - 1):
            with torch.no_grad():
                super().__call__(inputs, network, noise, timesteps, *args, **kwargs)  # type: ignore[arg-type]
        return super().__call__(inputs, network, noise, timesteps, *args, **kwargs)  # type: ignore[arg-type]

    def sample(  # type: ignore[override]
        self,
        input_noise: torch.Tensor,
        diffusion_model: nn.Module,
        scheduler: Scheduler | None = None,
        *args: Any,
        source: torch.Tensor | None = None,
        same_volume: bool = False,
        start_image: torch.Tensor | None = None,
        noise_level: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """Translate a source, from pure noise or from a noised image.

        Args:
            input_noise: standard normal (B, 1, H, W).
            diffusion_model: as in training.
            scheduler: takes the place of the inferer's; its `set_timesteps` has been called.
            source: (B, 2·context + 1, H, W) in [0, 1].
            together: whether the source's images are the slices of one volume, which has one contrast.
            start_image: (B, 1, H, W) in [-1, 1]; noised to `noise_level` it replaces the pure noise
                (SDEdit, Meng et al., ICLR 2022, arXiv 2108.01073).
            noise_level: with `start_image`, the timestep to begin at; steps above it are left out.

        Returns:
            What `DiffusionInferer.sample` returns: (B, 1, H, W), about in [-1, 1].

        Raises:
            ValueError: only one of `start_image` and `noise_level` is given, or no step lies below the level.
        """
        scheduler = scheduler or self.scheduler
        if (start_image is None) != (noise_level is None):
            raise ValueError("start_image and noise_level go together")
        if start_image is not None and noise_level is not None:
            scheduler = truncate_schedule(scheduler, noise_level)
            input_noise = scheduler.add_noise(start_image, input_noise, scheduler.timesteps[:1].to(input_noise.device))
        network = diffusion_model if source is None else self._guided(diffusion_model, source, scheduler, same_volume)
        return super().sample(input_noise, network, scheduler, *args, **kwargs)  # type: ignore[arg-type]

    def _guided(
        self, diffusion_model: nn.Module, source: torch.Tensor, scheduler: Scheduler, same_volume: bool = False
    ) -> Callable[..., torch.Tensor]:
        prepared = self.guide.prepare(source, same_volume)
        estimate: torch.Tensor | None = None

        def network(
            x: torch.Tensor, timesteps: torch.Tensor, context: torch.Tensor | None = None, **kwargs: Any
        ) -> torch.Tensor:
            nonlocal estimate
            sqrt_alpha_bar = self._sqrt_alpha_bar(scheduler, x, timesteps)
            guided = torch.cat([sqrt_alpha_bar * x, self.guide(prepared, x, sqrt_alpha_bar, estimate)], dim=1)
            prediction = diffusion_model(guided, timesteps=timesteps, context=context, **kwargs)
            estimate = self._estimate(scheduler, prediction.detach(), x, sqrt_alpha_bar)
            return prediction

        return network

    def _estimate(
        self, scheduler: Scheduler, prediction: torch.Tensor, x: torch.Tensor, sqrt_alpha_bar: torch.Tensor
    ) -> torch.Tensor:
        """The clean image that a prediction means, in [-1, 1]."""
        noise = (1 - sqrt_alpha_bar**2).sqrt()
        match scheduler.prediction_type:
            case DDIMPredictionType.SAMPLE:
                clean = prediction
            case DDIMPredictionType.EPSILON:
                clean = (x - noise * prediction) / sqrt_alpha_bar
            case _:
                clean = sqrt_alpha_bar * x - noise * prediction
        return clean.clamp(-1, 1)

    def _sqrt_alpha_bar(self, scheduler: Scheduler, x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """√ᾱ, the part of the image in a noisy one, as (B or 1, 1, 1, 1)."""
        alphas = scheduler.alphas_cumprod.to(x.device)[timesteps.to(x.device).long()]
        return alphas.sqrt().reshape(-1, 1, 1, 1)


def truncate_schedule(scheduler: Scheduler, noise_level: int) -> Scheduler:
    """A copy of the scheduler without the timesteps above a level."""
    shortened = copy.copy(scheduler)
    shortened.timesteps = scheduler.timesteps[scheduler.timesteps <= noise_level]
    if not len(shortened.timesteps):
        raise ValueError(f"no timestep of the schedule lies at or below noise_level={noise_level}")
    return shortened
