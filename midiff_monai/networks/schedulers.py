"""Samplers that MONAI lacks: few-step solvers, and DDPM with the variance of the published method."""

from __future__ import annotations

from typing import Any, Literal

import torch
from monai.networks.schedulers import DDIMScheduler, DDPMScheduler


class TrailingDDIMScheduler(DDIMScheduler):
    """DDIM with trailing timesteps, so that every step ends at the timestep of the next.

    MONAI's `DDIMScheduler` spaces its timesteps T / (n − 1) apart, from T − 1 to 0, but its step moves by T / n. With
    few steps, the noise level of the image then differs from the timestep that the network receives. Here the
    timesteps are T / n apart, from T − 1 on ("trailing", Lin et al., WACV 2024, arXiv 2305.08891), and the last step
    ends at the clean image.

    Example:
        >>> scheduler = TrailingDDIMScheduler(num_train_timesteps=1000)
        >>> scheduler.set_timesteps(5)
        >>> scheduler.timesteps.tolist()
        [999, 799, 599, 399, 199]
    """

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        """Set the timesteps for n denoising steps.

        They are ⌊T / n⌋ apart, where T is the number of training timesteps. If n does not divide T, there are more than
        n of them: with T = 1000, 334 for n = 300, and 1000 for n = 600.

        Args:
            num_inference_steps: n, at most T.
            device: device of the timesteps.
        """
        super().set_timesteps(num_inference_steps, device)
        stride = self.num_train_timesteps // num_inference_steps
        self.timesteps = torch.arange(self.num_train_timesteps - 1, -1, -stride, device=device)


class SpacedDDIMScheduler(TrailingDDIMScheduler):
    """DDIM with noise in every step, and with a choice of timesteps (Song et al., ICLR 2021, arXiv 2010.02502).

    Args:
        eta: η, the share of the noise of ancestral sampling that each step adds. 0 adds none, as
            `TrailingDDIMScheduler`. 1 has the variance of DDPM for any number of steps.
        spacing: "uniform" as `TrailingDDIMScheduler`, or "quadratic": the square roots of the timesteps are evenly
            spaced, so that steps are small near the clean image. Timesteps that coincide are taken once.
        settings: arguments of MONAI's `DDIMScheduler`.

    Example:
        >>> scheduler = SpacedDDIMScheduler(spacing="quadratic")
        >>> scheduler.set_timesteps(4)
        >>> scheduler.timesteps.tolist()
        [999, 562, 250, 62]
    """

    def __init__(
        self, *, eta: float = 0.0, spacing: Literal["uniform", "quadratic"] = "uniform", **settings: Any
    ) -> None:
        self.eta, self.spacing = eta, spacing
        super().__init__(**settings)

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        """Set the timesteps for n denoising steps, at most T."""
        super().set_timesteps(num_inference_steps, device)
        if self.spacing == "quadratic":
            roots = torch.linspace((self.num_train_timesteps - 1) ** 0.5, 0, num_inference_steps + 1)[:-1]
            self.timesteps = roots.square().round().long().unique().flip(0).to(device or "cpu")

    def step(  # type: ignore[override]
        self, model_output: torch.Tensor, timestep: int, sample: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Step to the next timestep; arguments and results as for `DPMSolverScheduler.step`."""
        image, clean = super().step(model_output, timestep, sample, self.eta if self.spacing == "uniform" else 0.0)
        if self.spacing == "uniform":
            return image, clean
        remaining = self.timesteps[self.timesteps < timestep]
        alpha = self.alphas_cumprod[timestep]
        later = self.alphas_cumprod[remaining[0]] if len(remaining) else self.final_alpha_cumprod
        direction = (sample - alpha.sqrt() * clean) / (1 - alpha).sqrt()
        deviation = self.eta * ((1 - later) / (1 - alpha) * (1 - alpha / later)).sqrt()  # equation 16
        image = later.sqrt() * clean + (1 - later - deviation**2).sqrt() * direction  # equation 12
        return (image + deviation * torch.randn_like(image) if self.eta else image), clean


class AncestralScheduler(DDPMScheduler):
    """DDPM with the large variance β_t, as published (Ho et al., NeurIPS 2020, arXiv 2006.11239, section 3.2).

    A step of MONAI's `DDPMScheduler` always ends at the timestep before, whatever timesteps were set. With some of the
    timesteps left out, its samples have a wrong variance. Here all of them are taken.

    Args:
        variance_type: as for `DDPMScheduler`.
        settings: further arguments of `DDPMScheduler`.
    """

    def __init__(self, *, variance_type: str = "fixed_large", **settings: Any) -> None:
        super().__init__(variance_type=variance_type, **settings)

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        """Set the timesteps.

        Raises:
            ValueError: the number of steps is not that of the training.
        """
        if num_inference_steps != self.num_train_timesteps:
            total = self.num_train_timesteps
            raise ValueError(f"ancestral sampling takes all {total} steps of the training, not {num_inference_steps}")
        super().set_timesteps(num_inference_steps, device)


class DPMSolverScheduler(TrailingDDIMScheduler):
    """DPM-Solver++(2M), a second-order solver with one network call per step, as DDIM (Lu et al., arXiv 2211.01095).

    Let λ = log(√ᾱ / √(1 − ᾱ)). A DDIM step assumes that the predicted clean image is constant in λ. Here it is
    extrapolated linearly from the last two predictions (algorithm 2 of the paper). The first step has no earlier
    prediction, and λ of the last step ends at infinity. Both are DDIM steps, so one or two steps equal DDIM.

    The arguments, and the return value of `step`, are those of MONAI's `DDIMScheduler`. The scheduler stores the last
    prediction. Call `set_timesteps` before each sample to clear it.
    """

    _previous: tuple[int, torch.Tensor] | None = None

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        """Set the timesteps as `TrailingDDIMScheduler` does, and clear the stored prediction."""
        super().set_timesteps(num_inference_steps, device)
        self._previous = None

    def step(  # type: ignore[override]
        self, model_output: torch.Tensor, timestep: int, sample: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Step to the next timestep.

        Args:
            model_output: the network's prediction, of the scheduler's `prediction_type`.
            timestep: timestep of the sample, an element of `timesteps`.
            sample: noisy images, of any shape.

        Returns:
            The sample at the next timestep, and the clean image predicted from this sample.
        """
        image, clean = super().step(model_output, timestep, sample)
        stride = self.num_train_timesteps // self.num_inference_steps
        earlier, now, later = int(timestep) + stride, int(timestep), int(timestep) - stride
        previous, self._previous = self._previous, (now, clean)
        if previous is None or previous[0] != earlier or later < 0:
            return image, clean
        length = self._log_snr(later) - self._log_snr(now)
        slope = (clean - previous[1]) / (self._log_snr(now) - self._log_snr(earlier))
        weight = self.alphas_cumprod[later].sqrt() * -torch.expm1(-length)
        return image + weight * slope * length / 2, clean

    def _log_snr(self, timestep: int) -> torch.Tensor:
        """λ, half the logarithm of the signal-to-noise ratio."""
        return torch.logit(self.alphas_cumprod[timestep]) / 2
