"""Data from a Gaussian distribution, for which the optimal denoiser has a closed form."""

from __future__ import annotations

import torch
from monai.networks.schedulers import DDIMScheduler, DDPMScheduler

MEAN = 0.3


def optimal_prediction(
    scheduler: DDIMScheduler | DDPMScheduler, noisy: torch.Tensor, timestep: int, deviation: float
) -> torch.Tensor:
    """Prediction of the optimal network for data from N(MEAN, deviation²): that of the posterior mean."""
    alpha = scheduler.alphas_cumprod[timestep].double()
    signal, noise = alpha.sqrt(), (1 - alpha).sqrt()
    gain = signal * deviation**2 / (alpha * deviation**2 + 1 - alpha)
    clean = MEAN + gain * (noisy - signal * MEAN)
    predictions = {"v_prediction": (signal * noisy - clean) / noise, "epsilon": (noisy - signal * clean) / noise}
    return (predictions | {"sample": clean})[scheduler.prediction_type]
