"""A denoiser that receives the guide of its source at every step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from midiff_monai.guidance.guide import LMIGuide


class GuidedDenoiser(nn.Module):
    """Concatenate the guide of a source to the noisy image before each call of a denoising network.

    The noisy image is x_t = √ᾱ x_0 + √(1 − ᾱ) ε. The network receives √ᾱ x_t and the guide, in which LMI(S, x_t) is
    scaled by √ᾱ too. At the top of the schedule √ᾱ is near 0. There the prediction is a regression on the source, and
    the noise of an unscaled x_t would hide the source's detail.

    Each call replaces `estimate`. The next call puts the conditional means of that estimate into the guide
    (self-conditioning, Chen, Zhang and Hinton, ICLR 2023, arXiv 2208.04202).

    Args:
        network: called as `network(x, timesteps=…, context=…)` with x of shape (B, 1 + guide channels, H, W).
        guide: makes the channels.
        source: (B, 2·context + 1, H, W) in [0, 1].
        alphas_cumprod: (T,), ᾱ of every timestep of the schedule.
        prediction_type: what the network predicts: "sample" (x_0), "epsilon" (ε) or "v_prediction", the velocity
            √ᾱ ε − √(1 − ᾱ) x_0.
        same_volume: the images of `source` are slices of one volume.
        scale_input: scale x_t and LMI(S, x_t) by √ᾱ. The published method does not.

    Attributes:
        estimate: the clean image (B, 1, H, W) that the last prediction implies, in the guide's `image_range`; None
            before the first call.

    Example:
        >>> from midiff_monai.guidance import ConditionalMean, LocalMutualInformation
        >>> guide = LMIGuide(LocalMutualInformation(), ConditionalMean())
        >>> network = lambda x, timesteps, context=None: x[:, 1:2]  # returns the source slice
        >>> alphas_cumprod = torch.linspace(0.999, 0.001, 1000)
        >>> denoiser = GuidedDenoiser(network, guide, torch.rand(2, 1, 8, 8), alphas_cumprod, "sample")
        >>> denoiser(torch.randn(2, 1, 8, 8), torch.tensor([999, 999])).shape
        torch.Size([2, 1, 8, 8])
        >>> denoiser.estimate.shape
        torch.Size([2, 1, 8, 8])
    """

    alphas_cumprod: torch.Tensor

    def __init__(
        self,
        network: Callable[..., torch.Tensor],
        guide: LMIGuide,
        source: torch.Tensor,
        alphas_cumprod: torch.Tensor,
        prediction_type: str,
        same_volume: bool = False,
        scale_input: bool = True,
    ) -> None:
        super().__init__()
        self.network, self.guide, self.source = network, guide, guide.prepare(source, same_volume)
        self.register_buffer("alphas_cumprod", alphas_cumprod.to(source.device), persistent=False)
        self.prediction_type, self.scale_input = prediction_type, scale_input
        self.estimate: torch.Tensor | None = None

    def forward(
        self, x: torch.Tensor, timesteps: torch.Tensor, context: torch.Tensor | None = None, **kwargs: Any
    ) -> torch.Tensor:
        """Predict, and keep the clean image that the prediction implies as `estimate`.

        Args:
            x: noisy images (B, 1, H, W).
            timesteps: (B,) or (1,).
            context: conditioning of the network's cross-attention, if it has any.
            kwargs: further arguments of the network.

        Returns:
            The prediction (B, 1, H, W), of the kind `prediction_type`.
        """
        prediction = self.predict(x, timesteps, context, **kwargs)
        self.estimate = self.clean_image(prediction.detach(), x, timesteps)
        return prediction

    def predict(
        self, x: torch.Tensor, timesteps: torch.Tensor, context: torch.Tensor | None = None, **kwargs: Any
    ) -> torch.Tensor:
        """Predict as `forward` does, and leave `estimate` as it is."""
        scale = self.sqrt_alpha_bar(timesteps) if self.scale_input else 1.0
        guided = torch.cat([scale * x, self.guide(self.source, x, scale, self.estimate)], dim=1)
        return self.network(guided, timesteps=timesteps, context=context, **kwargs)

    def clean_image(self, prediction: torch.Tensor, x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """The clean image x_0 that a prediction for x at these timesteps implies, clamped to the `image_range`."""
        sqrt_alpha_bar = self.sqrt_alpha_bar(timesteps)
        sigma = (1 - sqrt_alpha_bar**2).sqrt()
        match self.prediction_type:
            case "sample":
                clean = prediction
            case "epsilon":
                clean = (x - sigma * prediction) / sqrt_alpha_bar
            case _:
                clean = sqrt_alpha_bar * x - sigma * prediction
        low, high = self.guide.image_range
        return clean.clamp(low, high)

    def sqrt_alpha_bar(self, timesteps: torch.Tensor) -> torch.Tensor:
        """√ᾱ, the amplitude of the clean image in the noisy one, as (B or 1, 1, 1, 1)."""
        return self.alphas_cumprod[timesteps.to(self.alphas_cumprod.device).long()].sqrt().reshape(-1, 1, 1, 1)
