"""Small guided inferers, networks and images for tests of diffusion."""

from __future__ import annotations

from typing import Any, Literal

import torch
from monai.networks.nets import DiffusionModelUNet
from monai.networks.schedulers import DDPMScheduler, Scheduler
from torch import nn

from midiff_monai.guidance.conditional_mean import ConditionalMean
from midiff_monai.guidance.guide import LMIGuide
from midiff_monai.guidance.mutual_information import LocalMutualInformation
from midiff_monai.inferers.guided_diffusion import LMIGuidedInferer


def make_guide(reduction: Literal["max", "none"] = "none", **settings: Any) -> LMIGuide:
    return LMIGuide(LocalMutualInformation(reduction=reduction), ConditionalMean(), **settings)


def make_inferer(scheduler: Scheduler | None = None, **guide_settings: Any) -> LMIGuidedInferer:
    return LMIGuidedInferer(scheduler or DDPMScheduler(num_train_timesteps=10), make_guide(**guide_settings))


def guide_of(inferer: LMIGuidedInferer) -> LMIGuide:
    assert inferer.guide is not None
    return inferer.guide


def make_unet(in_channels: int, **settings: Any) -> DiffusionModelUNet:
    torch.manual_seed(0)
    unet = DiffusionModelUNet(
        spatial_dims=2,
        in_channels=in_channels,
        out_channels=1,
        num_res_blocks=1,
        channels=(8, 8),
        attention_levels=(False, True),
        norm_num_groups=4,
        num_head_channels=8,
        **settings,
    )
    for parameter in unet.parameters():
        if not parameter.any():  # zero-initialised layers would hide the layers before them
            nn.init.normal_(parameter, std=0.1)
    return unet.eval()


def images(batch: int = 2, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Clean images in [-1, 1], noise, and sources of three slices in [0, 1]; each of 8×12 pixels."""
    generator = torch.Generator().manual_seed(seed)
    clean = 2 * torch.rand(batch, 1, 8, 12, generator=generator) - 1
    return clean, torch.randn(clean.shape, generator=generator), torch.rand(batch, 3, 8, 12, generator=generator)
