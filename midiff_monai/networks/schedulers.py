"""The few-step solvers that MONAI lacks."""

from __future__ import annotations

import torch
from monai.networks.schedulers import DDIMScheduler


class TrailingDDIMScheduler(DDIMScheduler):
    """DDIM with timesteps that end where its step expects the next one to begin.

    MONAI spreads the timesteps of `DDIMScheduler` from T − 1 down to 0, T / (n − 1) apart, while its step moves by
    T / n: with few steps, the image is cleaner or noisier than the network is told. Here they are T / n apart from
    T − 1 on ("trailing", Lin et al., WACV 2024, arXiv 2305.08891), and the last step ends on the clean image.
    """

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        """Choose the number of denoising steps n.

        There are n of them if n divides the number T of training steps. Otherwise they are ⌊T / n⌋ apart, and there
        are as many as that takes to reach the clean image: of 1000, 334 for 300, and 1000 for 600.
        """
        super().set_timesteps(num_inference_steps, device)
        stride = self.num_train_timesteps // num_inference_steps
        self.timesteps = torch.arange(self.num_train_timesteps - 1, -1, -stride, device=device)


class DPMSolverScheduler(TrailingDDIMScheduler):
    """DPM-Solver++(2M), a solver of second order that asks the network no more often than DDIM.

    Lu et al., arXiv 2211.01095, algorithm 2. With λ = log(√ᾱ / √(1 − ᾱ)), a step of DDIM takes the clean image that
    the network predicts for constant in λ; here it goes on as the last two predictions have it, on a line.
    The first step, which has no prediction before it, and the last, whose λ ends at infinity, are those of DDIM, so
    one or two steps give what DDIM gives.

    The arguments are those of MONAI's `DDIMScheduler`; so is what `step` returns. It keeps the last prediction: call
    `set_timesteps` before each sample.
    """

    _before: tuple[int, torch.Tensor] | None = None

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        """Choose the number of denoising steps, as `TrailingDDIMScheduler` does, and forget the last sample."""
        super().set_timesteps(num_inference_steps, device)
        self._before = None

    def step(  # type: ignore[override]
        self, model_output: torch.Tensor, timestep: int, sample: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Move to the next timestep.

        Args:
            model_output: what the network predicts, of the kind `prediction_type`.
            timestep: that of the sample, an element of `timesteps`.
            sample: noisy images, of any shape.

        Returns:
            The sample at the next timestep, and the clean image predicted from this one.
        """
        image, clean = super().step(model_output, timestep, sample)
        stride = self.num_train_timesteps // self.num_inference_steps
        earlier, now, later = int(timestep) + stride, int(timestep), int(timestep) - stride
        before, self._before = self._before, (now, clean)
        if before is None or before[0] != earlier or later < 0:
            return image, clean
        length = self._log_snr(later) - self._log_snr(now)
        slope = (clean - before[1]) / (self._log_snr(now) - self._log_snr(earlier))
        weight = self.alphas_cumprod[later].sqrt() * -torch.expm1(-length)
        return image + weight * slope * length / 2, clean

    def _log_snr(self, timestep: int) -> torch.Tensor:
        """λ, half the logarithm of the signal-to-noise ratio."""
        return torch.logit(self.alphas_cumprod[timestep]) / 2
