"""Networks of MONAI Generative in the guided inferer: as they are, and converted into those of core."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from monai.networks.nets import DiffusionModelUNet
from monai.networks.schedulers import DDIMScheduler
from old_unets import CONTEXT, SMALL, UNREADABLE, make_old_unet, randomise
from small_inferers import guide_of, images, make_inferer
from torch import nn

from midiff_monai.bundle.conversion import convert_state, unet_arguments
from midiff_monai.inferers.guided_diffusion import LMIGuidedInferer


def packaged_unet(**arguments: Any) -> nn.Module:
    reason = "needs MONAI Generative: pip install 'midiff-monai[generative]'"
    nets = pytest.importorskip("generative.networks.nets", reason=reason)
    return randomise(nets.DiffusionModelUNet(num_channels=arguments.pop("channels"), **UNREADABLE, **arguments))


@pytest.mark.parametrize("make", [make_old_unet, packaged_unet])
@pytest.mark.parametrize("conditioning", [{}, CONTEXT], ids=["attention", "cross-attention"])
class TestOldNetwork:
    """Without the package, the network restated stands for it. Double precision leaves no room for chance."""

    @pytest.fixture
    def inferer(self) -> LMIGuidedInferer:
        scheduler = DDIMScheduler(1000)
        scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()  # as its first call would make them
        scheduler.set_timesteps(3)
        return make_inferer(scheduler)

    @pytest.fixture
    def networks(self, make: Any, conditioning: dict[str, Any], inferer: LMIGuidedInferer) -> list[nn.Module]:
        """The old network and the converted one."""
        old = make(**SMALL | conditioning | {"in_channels": 1 + guide_of(inferer).channels(context=1)})
        new = DiffusionModelUNet(**unet_arguments(old.state_dict()), **UNREADABLE)
        new.load_state_dict(convert_state(old.state_dict()))
        return [network.double().eval() for network in (old, new)]

    @staticmethod
    def context(conditioning: dict[str, Any]) -> torch.Tensor | None:
        return torch.linspace(-1, 1, 2 * 3 * 5).reshape(2, 3, 5).double() if conditioning else None

    def test_training_call(
        self, networks: list[nn.Module], inferer: LMIGuidedInferer, conditioning: dict[str, Any]
    ) -> None:
        clean, noise, source = (image.double() for image in images())
        context, timesteps = self.context(conditioning), torch.tensor([3, 800])
        old, new = (inferer(clean, network, noise, timesteps, context, source=source) for network in networks)
        assert old.shape == clean.shape and old.std() > 0.1
        torch.testing.assert_close(new, old, rtol=0, atol=1e-10)
        old.sum().backward()  # it trains, but for the projection that it does not apply
        without = {name for name, parameter in networks[0].named_parameters() if parameter.grad is None}
        assert without == {name for name in networks[0].state_dict() if ".proj_attn." in name}

    def test_sampling(self, networks: list[nn.Module], inferer: LMIGuidedInferer, conditioning: dict[str, Any]) -> None:
        _, noise, source = (image.double() for image in images())
        arguments: dict[str, Any] = {"source": source, "conditioning": self.context(conditioning), "verbose": False}
        old, new = (inferer.sample(noise, network, **arguments) for network in networks)
        assert old.shape == noise.shape and old.std() > 0.1
        torch.testing.assert_close(new, old, rtol=0, atol=1e-10)
