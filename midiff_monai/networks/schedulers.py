"""Few-step solvers that MONAI lacks."""

from __future__ import annotations

import torch
from monai.networks.schedulers import DDIMScheduler


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
