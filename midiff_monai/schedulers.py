"""The few-step solver that MONAI lacks."""

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

        There are n of them if n divides the number T of training steps. Otherwise they are ⌊T / n⌋ apart, and the
        few more that takes to reach the clean image are added.
        """
        super().set_timesteps(num_inference_steps, device)
        stride = self.num_train_timesteps // num_inference_steps
        self.timesteps = torch.arange(self.num_train_timesteps - 1, -1, -stride, device=device)
