"""Diffusion steered by local mutual information: the guide and the inferer.

Wang et al., "Mutual Information Guided Diffusion for Zero-shot Cross-modality Medical Image Translation",
IEEE TMI 2024, doi 10.1109/TMI.2024.3382043.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from monai.inferers import DiffusionInferer
from monai.networks.schedulers import Scheduler
from monai.networks.schedulers.ddim import DDIMPredictionType
from torch import nn

from midiff_monai.conditional_mean import ConditionalMean
from midiff_monai.lmi import LocalMutualInformation, LocalStatistics, standardize_locally


@dataclass(frozen=True)
class PreparedSource:
    """What the guide needs of a source, whatever the denoising step.

    Attributes:
        maps: channels that depend on the source alone.
        statistics: what the LMI with the noisy image needs.
        levels: what the conditional means of an estimate need.
        together: whether the images are the slices of one volume.
    """

    maps: torch.Tensor
    statistics: LocalStatistics
    levels: torch.Tensor | None
    together: bool


class LMIGuide(nn.Module):
    """The channels that tell the denoiser about the source.

    In this order: the source's slices (unless left out), the maps of the source with itself (one a shift, or their
    maximum, as `lmi` reduces), the map of the source with the noisy image, all in [0, 1]; then the means of the
    estimate of the step before, given the source's grey values (see `ConditionalMean`), in [-1, 1], or 0 if there is
    no estimate.

    Args:
        lmi: compares the source with itself.
        conditional_mean: turns an estimate into what the source makes of it; None leaves these channels out, as
            published.
        include_source: give the denoiser the source's grey values too; the published method does not.
        standardize: side of the neighbourhood that `lmi.standardize_locally` brings to equal contrast before the
            source is compared, or None for the grey values as they are, as published.
    """

    def __init__(
        self,
        lmi: LocalMutualInformation,
        conditional_mean: ConditionalMean | None = None,
        include_source: bool = True,
        standardize: int | None = 7,
    ) -> None:
        super().__init__()
        self.lmi, self.conditional_mean = lmi, conditional_mean
        self.include_source, self.standardize = include_source, standardize
        self.cross_lmi = copy.copy(lmi)
        self.cross_lmi.reduction = "max"

    def prepare(self, source: torch.Tensor, together: bool = False) -> PreparedSource:
        """Compute once what depends on the source (B, slices, H, W) in [0, 1] alone.

        `together` says that the middle slices make up one volume: it has one contrast, which they tell together.
        """
        image = middle(source)
        compared = standardize_locally(image, self.standardize) if self.standardize else image
        statistics = self.lmi.prepare(compared)
        self_maps = self.lmi(statistics, compared)
        maps = torch.cat([source, self_maps], dim=1) if self.include_source else self_maps
        levels = self.conditional_mean.prepare(image, together) if self.conditional_mean else None
        return PreparedSource(maps, statistics, levels, together)

    def forward(
        self,
        source: PreparedSource,
        noisy: torch.Tensor,
        signal: torch.Tensor | float = 1.0,
        estimate: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The guide (B, C, H, W) for a noisy image (B, 1, H, W) whose clean range is [-1, 1].

        The map that depends on the noisy image is multiplied by `signal`, the part of the image in it. The estimate
        of the clean image, if there is one, has the shape and range of the noisy one.
        """
        channels = [source.maps, signal * self.cross_lmi(source.statistics, (noisy + 1) / 2)]
        if self.conditional_mean and estimate is not None:
            channels.append(self.conditional_mean(source.levels, estimate, source.together))
        elif self.conditional_mean:
            channels.append(torch.zeros_like(noisy).repeat(1, self.conditional_mean.channels, 1, 1))
        return torch.cat(channels, dim=1)

    def channels(self, context: int) -> int:
        """Number of channels for sources of 2·context + 1 slices."""
        self_maps = 1 if self.lmi.reduction == "max" else len(self.lmi.shifts)
        means = self.conditional_mean.channels if self.conditional_mean else 0
        return (2 * context + 1) * self.include_source + self_maps + 1 + means


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
        passes: int = 1,
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
        for _ in range(passes - 1):
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
        together: bool = False,
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
            scheduler = start_below(scheduler, noise_level)
            input_noise = scheduler.add_noise(start_image, input_noise, scheduler.timesteps[:1].to(input_noise.device))
        network = diffusion_model if source is None else self._guided(diffusion_model, source, scheduler, together)
        return super().sample(input_noise, network, scheduler, *args, **kwargs)  # type: ignore[arg-type]

    def _guided(
        self, diffusion_model: nn.Module, source: torch.Tensor, scheduler: Scheduler, together: bool = False
    ) -> Callable[..., torch.Tensor]:
        prepared = self.guide.prepare(source, together)
        estimate: torch.Tensor | None = None

        def network(
            x: torch.Tensor, timesteps: torch.Tensor, context: torch.Tensor | None = None, **kwargs: Any
        ) -> torch.Tensor:
            nonlocal estimate
            signal = self._signal(scheduler, x, timesteps)
            guided = torch.cat([signal * x, self.guide(prepared, x, signal, estimate)], dim=1)
            prediction = diffusion_model(guided, timesteps=timesteps, context=context, **kwargs)
            estimate = self._estimate(scheduler, prediction.detach(), x, signal)
            return prediction

        return network

    def _estimate(
        self, scheduler: Scheduler, prediction: torch.Tensor, x: torch.Tensor, signal: torch.Tensor
    ) -> torch.Tensor:
        """The clean image that a prediction means, in [-1, 1]."""
        noise = (1 - signal**2).sqrt()
        match scheduler.prediction_type:
            case DDIMPredictionType.SAMPLE:
                clean = prediction
            case DDIMPredictionType.EPSILON:
                clean = (x - noise * prediction) / signal
            case _:
                clean = signal * x - noise * prediction
        return clean.clamp(-1, 1)

    def _signal(self, scheduler: Scheduler, x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """√ᾱ, the part of the image in a noisy one, as (B or 1, 1, 1, 1)."""
        alphas = scheduler.alphas_cumprod.to(x.device)[timesteps.to(x.device).long()]
        return alphas.sqrt().reshape(-1, 1, 1, 1)


def middle(slices: torch.Tensor) -> torch.Tensor:
    """The slice itself (B, 1, H, W) of a slice with its neighbours (B, slices, H, W)."""
    return slices[:, slices.shape[1] // 2][:, None]


def start_below(scheduler: Scheduler, noise_level: int) -> Scheduler:
    """A copy of the scheduler without the timesteps above a level."""
    shortened = copy.copy(scheduler)
    shortened.timesteps = scheduler.timesteps[scheduler.timesteps <= noise_level]
    if not len(shortened.timesteps):
        raise ValueError(f"no timestep of the schedule lies at or below noise_level={noise_level}")
    return shortened
