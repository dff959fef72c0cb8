"""Diffusion steered by local mutual information: the guide, the inferer and its use on whole volumes.

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
from torch import nn

from midiff_monai.lmi import LocalMutualInformation, LocalStatistics, standardize_locally
from midiff_monai.slices import Network, SlicewiseInferer


@dataclass(frozen=True)
class PreparedSource:
    """What the guide needs of a source, whatever the denoising step: its own maps and its statistics."""

    maps: torch.Tensor
    statistics: LocalStatistics


class LMIGuide(nn.Module):
    """The channels that tell the denoiser about the source.

    In this order: the source's slices (unless left out), the maps of the source with itself (one a shift, or their
    maximum, as `lmi` reduces), the map of the source with the noisy image. All in [0, 1].

    Args:
        lmi: compares the source with itself.
        include_source: give the denoiser the source's grey values too; the published method does not.
        standardize: side of the neighbourhood that `lmi.standardize_locally` brings to equal contrast before the
            source is compared, or None for the grey values as they are, as published.
    """

    def __init__(self, lmi: LocalMutualInformation, include_source: bool = True, standardize: int | None = 7) -> None:
        super().__init__()
        self.lmi, self.include_source, self.standardize = lmi, include_source, standardize
        self.cross_lmi = copy.copy(lmi)
        self.cross_lmi.reduction = "max"

    def prepare(self, source: torch.Tensor) -> PreparedSource:
        """Compute once what depends on the source (B, slices, H, W) in [0, 1] alone."""
        middle = source[:, source.shape[1] // 2 :][:, :1]
        compared = standardize_locally(middle, self.standardize) if self.standardize else middle
        statistics = self.lmi.prepare(compared)
        self_maps = self.lmi(statistics, compared)
        maps = torch.cat([source, self_maps], dim=1) if self.include_source else self_maps
        return PreparedSource(maps, statistics)

    def forward(self, source: PreparedSource, noisy: torch.Tensor, signal: torch.Tensor | float = 1.0) -> torch.Tensor:
        """The guide (B, C, H, W) for a noisy image (B, 1, H, W) whose clean range is [-1, 1].

        The map that depends on the noisy image is multiplied by `signal`, the part of the image in it.
        """
        return torch.cat([source.maps, signal * self.cross_lmi(source.statistics, (noisy + 1) / 2)], dim=1)

    def channels(self, context: int) -> int:
        """Number of channels for sources of 2·context + 1 slices."""
        self_maps = 1 if self.lmi.reduction == "max" else len(self.lmi.shifts)
        return self_maps + 1 + (2 * context + 1 if self.include_source else 0)


class LMIGuidedInferer(DiffusionInferer):
    """MONAI's `DiffusionInferer`, with the guide of a source concatenated to the noisy image at every step.

    Training and sampling time the guide alike: it is made of the very image the network sees. That image, and the map
    made of it, are weighted by √ᾱ, the part of the image in it: at the top of the schedule, where the prediction is a
    regression on the source, they are mere noise, in which all fine detail would drown.
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
        **kwargs: Any,
    ) -> torch.Tensor:
        """Predict for one training step.

        Args:
            inputs: clean images (B, 1, H, W) in [-1, 1].
            diffusion_model: called with (B, 1 + guide channels, H, W).
            noise: standard normal, shape of the inputs.
            timesteps: (B,) integers.
            source: (B, 2·context + 1, H, W) in [0, 1].
        """
        network = diffusion_model if source is None else self._guided(diffusion_model, source)
        return super().__call__(inputs, network, noise, timesteps, *args, **kwargs)  # type: ignore[arg-type]

    def sample(  # type: ignore[override]
        self,
        input_noise: torch.Tensor,
        diffusion_model: nn.Module,
        scheduler: Scheduler | None = None,
        *args: Any,
        source: torch.Tensor | None = None,
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
        network = diffusion_model if source is None else self._guided(diffusion_model, source)
        return super().sample(input_noise, network, scheduler, *args, **kwargs)  # type: ignore[arg-type]

    def _guided(self, diffusion_model: nn.Module, source: torch.Tensor) -> Callable[..., torch.Tensor]:
        prepared = self.guide.prepare(source)

        def network(
            x: torch.Tensor, timesteps: torch.Tensor, context: torch.Tensor | None = None, **kwargs: Any
        ) -> torch.Tensor:
            signal = self._signal(x, timesteps)
            guided = torch.cat([signal * x, self.guide(prepared, x, signal)], dim=1)
            return diffusion_model(guided, timesteps=timesteps, context=context, **kwargs)

        return network

    def _signal(self, x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """√ᾱ, the part of the image in a noisy one, as (B or 1, 1, 1, 1)."""
        alphas = self.scheduler.alphas_cumprod.to(x.device)[timesteps.to(x.device).long()]
        return alphas.sqrt().reshape(-1, 1, 1, 1)


def start_below(scheduler: Scheduler, noise_level: int) -> Scheduler:
    """A copy of the scheduler without the timesteps above a level."""
    shortened = copy.copy(scheduler)
    shortened.timesteps = scheduler.timesteps[scheduler.timesteps <= noise_level]
    if not len(shortened.timesteps):
        raise ValueError(f"no timestep of the schedule lies at or below noise_level={noise_level}")
    return shortened


class SlicewiseTranslation(SlicewiseInferer):
    """Translate volumes in [0, 1] slice by slice with an `LMIGuidedInferer`; answers volumes in [0, 1].

    Args:
        inferer: samples the slices.
        steps: number of denoising steps.
        samples: number of samples whose mean is returned; with several, their standard deviation is the second channel.
        seed: the same seed gives the same voxels, whatever the batch size.
        shared_noise: 1 starts every slice from the same noise, so that neighbours come out alike; 0 gives each slice
            noise of its own; in between, the variance is split.
        slicing: arguments of `SlicewiseInferer`.
    """

    def __init__(
        self,
        inferer: LMIGuidedInferer,
        steps: int = 10,
        samples: int = 1,
        seed: int = 0,
        shared_noise: float = 1.0,
        **slicing: Any,
    ) -> None:
        super().__init__(**slicing)
        self.inferer, self.steps, self.samples, self.seed = inferer, steps, samples, seed
        self.shared_noise = shared_noise

    def predict(self, slices: torch.Tensor, network: Network, positions: torch.Tensor) -> torch.Tensor:
        """The mean of the samples, and their standard deviation as a second channel if there are several."""
        draws = torch.stack([self._draw(slices, network, positions, index) for index in range(self.samples)])
        if self.samples == 1:
            return draws[0]
        return torch.cat([draws.mean(dim=0), draws.std(dim=0)], dim=1)

    def _draw(self, slices: torch.Tensor, network: Network, positions: torch.Tensor, index: int) -> torch.Tensor:
        scheduler = self.inferer.scheduler
        scheduler.set_timesteps(self.steps)  # type: ignore[operator]
        noise = torch.stack([self._noise(slices, int(position), index) for position in positions])
        image = self.inferer.sample(noise, network, scheduler, source=slices, verbose=False)  # type: ignore[arg-type]
        return ((image + 1) / 2).clamp(0, 1)

    def _noise(self, slices: torch.Tensor, position: int, index: int) -> torch.Tensor:
        shape = (1, *slices.shape[2:])
        shared = seeded_noise(shape, self.seed, index, 0)
        own = seeded_noise(shape, self.seed, index, position + 1)
        return (self.shared_noise**0.5 * shared + (1 - self.shared_noise) ** 0.5 * own).to(slices.device)


def seeded_noise(shape: tuple[int, ...], *seeds: int) -> torch.Tensor:
    """Standard normal noise that depends on its shape and seeds alone, on every device."""
    combined = 0
    for seed in seeds:
        combined = (combined * 1_000_003 + seed) % 2**63
    return torch.randn(shape, generator=torch.Generator().manual_seed(combined))
