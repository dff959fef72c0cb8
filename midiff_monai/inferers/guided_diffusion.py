"""MONAI's diffusion inferer with a denoiser that is guided by local mutual information."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from monai.inferers import DiffusionInferer
from monai.networks.schedulers import Scheduler
from torch import nn

from midiff_monai.guidance.guide import LMIGuide
from midiff_monai.guidance.guided_denoiser import GuidedDenoiser
from midiff_monai.guidance.joint_denoiser import JointDenoiser


class LMIGuidedInferer(DiffusionInferer):
    """MONAI's `DiffusionInferer`, with the guide of a source concatenated to the noisy image at every step.

    Training and sampling compute the guide in the same way, from the noisy image that the network receives; see
    `GuidedDenoiser`. Without a source, both calls are those of `DiffusionInferer`. With a source, the only supported
    conditioning is cross-attention; "concat", classifier-free guidance and SPADE are not.

    Args:
        scheduler: adds the noise in training and makes the steps in sampling.
        guide: makes the channels of the guide. None for an unguided network, which receives the noisy image alone. A
            source then has no effect; results depend on it by way of `start_image` alone.
        scale_input: scale the noisy image and its LMI map by √ᾱ. The published method does not.

    Example:
        >>> from midiff_monai.guidance import LocalMutualInformation
        >>> from midiff_monai.networks import TrailingDDIMScheduler
        >>> scheduler = TrailingDDIMScheduler(prediction_type="sample")
        >>> scheduler.set_timesteps(2)
        >>> inferer = LMIGuidedInferer(scheduler, LMIGuide(LocalMutualInformation()))
        >>> network = lambda x, timesteps, context=None: x[:, 1:2]  # stands for a trained denoiser
        >>> source, noise = torch.rand(4, 1, 16, 16), torch.randn(4, 1, 16, 16)
        >>> inferer.sample(noise, network, source=source, verbose=False).shape
        torch.Size([4, 1, 16, 16])
    """

    def __init__(self, scheduler: Scheduler, guide: LMIGuide | None, scale_input: bool = True) -> None:
        super().__init__(scheduler)
        self.guide, self.scale_input = guide, scale_input

    def __call__(  # type: ignore[override]
        self,
        inputs: torch.Tensor,
        diffusion_model: nn.Module,
        noise: torch.Tensor,
        timesteps: torch.Tensor,
        condition: torch.Tensor | None = None,
        *args: Any,
        source: torch.Tensor | None = None,
        self_conditioning_passes: int = 1,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Predict for one training step.

        Args:
            inputs: clean images (B, 1, H, W) in the guide's `image_range`, by default [-1, 1].
            diffusion_model: receives (B, 1 + guide channels, H, W).
            noise: standard normal, in the shape of the inputs.
            timesteps: (B,), integers.
            condition: as in `DiffusionInferer`.
            source: (B, 2·context + 1, H, W) in [0, 1].
            self_conditioning_passes: number of forward passes. Each pass receives the conditional means of the previous
                pass's estimate. The gradient is that of the last pass.

        Returns:
            The prediction (B, 1, H, W), of the scheduler's prediction type.
        """
        if source is None or self.guide is None:
            return super().__call__(inputs, diffusion_model, noise, timesteps, condition, *args, **kwargs)  # type: ignore[arg-type]
        denoiser = self._guided_denoiser(diffusion_model, self.guide, source, self.scheduler)
        noisy = self.scheduler.add_noise(original_samples=inputs, noise=noise, timesteps=timesteps)
        for _ in range(self_conditioning_passes - 1):
            with torch.no_grad():
                prediction = denoiser.predict(noisy, timesteps, condition)
                denoiser.estimate = denoiser.clean_image(prediction, noisy, timesteps)
        return super().__call__(inputs, denoiser, noise, timesteps, condition, *args, **kwargs)  # type: ignore[arg-type]

    def sample(  # type: ignore[override]
        self,
        input_noise: torch.Tensor,
        diffusion_model: nn.Module,
        scheduler: Scheduler | None = None,
        *args: Any,
        source: torch.Tensor | Sequence[torch.Tensor] | None = None,
        same_volume: bool = False,
        start_image: torch.Tensor | None = None,
        noise_level: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """Translate a source, from pure noise or from a noised image.

        Args:
            input_noise: standard normal (B, 1, H, W).
            diffusion_model: as in training.
            scheduler: replaces the inferer's scheduler. Its `set_timesteps` must have been called.
            source: (B, 2·context + 1, H, W) in [0, 1], or several such sources of the same images.
            same_volume: the images of a source are slices of one volume and share its intensity scale.
            start_image: (B, 1, H, W) in the range of clean images. Noised to `noise_level`, it replaces the pure noise
                (SDEdit, Meng et al., ICLR 2022, arXiv 2108.01073).
            noise_level: the timestep to start from, with `start_image`. Steps above it are skipped.

        Returns:
            What `DiffusionInferer.sample` returns: (B, 1, H, W), in about the range of the clean images.

        Raises:
            ValueError: only one of `start_image` and `noise_level` is given, or no timestep is at or below the level.
        """
        scheduler = scheduler or self.scheduler
        if (start_image is None) != (noise_level is None):
            raise ValueError("start_image and noise_level go together: give both or neither")
        if start_image is not None and noise_level is not None:
            scheduler = truncate_schedule(scheduler, noise_level)
            input_noise = scheduler.add_noise(start_image, input_noise, scheduler.timesteps[:1].to(input_noise.device))
        if source is not None and self.guide is not None:
            sources = [source] if isinstance(source, torch.Tensor) else source
            denoisers = [
                self._guided_denoiser(diffusion_model, self.guide, each, scheduler, same_volume) for each in sources
            ]
            diffusion_model = denoisers[0] if len(denoisers) == 1 else JointDenoiser(denoisers, sources)
        return super().sample(input_noise, diffusion_model, scheduler, *args, **kwargs)  # type: ignore[arg-type]

    def _guided_denoiser(
        self, network: nn.Module, guide: LMIGuide, source: torch.Tensor, scheduler: Scheduler, same_volume: bool = False
    ) -> GuidedDenoiser:
        """A denoiser for one source and one schedule, without an estimate yet."""
        return GuidedDenoiser(
            network,
            guide,
            source,
            scheduler.alphas_cumprod,  # type: ignore[arg-type]
            scheduler.prediction_type,  # type: ignore[arg-type]
            same_volume,
            self.scale_input,
        )


def truncate_schedule(scheduler: Scheduler, noise_level: int) -> Scheduler:
    """A copy of the scheduler without the timesteps above a level.

    Raises:
        ValueError: no timestep is at or below the level.
    """
    truncated = copy.copy(scheduler)
    truncated.timesteps = scheduler.timesteps[scheduler.timesteps <= noise_level]
    if not len(truncated.timesteps):
        raise ValueError(f"no timestep of the schedule is at or below noise_level={noise_level}")
    return truncated
