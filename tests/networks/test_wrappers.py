"""Network wrappers against explicit computations."""

from __future__ import annotations

import pytest
import torch
from monai.networks.layers import Norm
from monai.networks.nets import DiffusionModelUNet
from torch import nn

from midiff_monai.networks.wrappers import AutocastWrapper, PixelUnshuffleWrapper, SliceInstanceNorm, has_fast_bfloat16


class Recorder(nn.Module):
    """Returns its input, and records it."""

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor, context: torch.Tensor | None = None) -> torch.Tensor:
        self.seen = x, timesteps, context
        return x


def small_unet(channels_in: int, channels_out: int) -> DiffusionModelUNet:
    torch.manual_seed(0)
    unet = DiffusionModelUNet(
        spatial_dims=2,
        in_channels=channels_in,
        out_channels=channels_out,
        num_res_blocks=1,
        channels=(8, 8),
        attention_levels=(False, False),
        norm_num_groups=4,
    )
    for parameter in unet.parameters():
        if not parameter.any():  # zero-initialised layers would hide the layers before them
            nn.init.normal_(parameter, std=0.1)
    return unet


def convolutions() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.SiLU(), nn.Conv2d(8, 1, 3, padding=1))


@pytest.mark.parametrize("factor", [2, 3])
def test_unshuffled_network_receives_every_pixel_of_a_block_as_a_channel(factor: int) -> None:
    inner, image = Recorder(), torch.rand(2, 3, 4 * factor, 5 * factor)
    PixelUnshuffleWrapper(inner, factor)(image, torch.tensor([7]))
    expected = torch.empty(2, 3 * factor**2, 4, 5)
    for channel in range(3):
        for row in range(factor):
            for column in range(factor):
                block = channel * factor**2 + row * factor + column
                expected[:, block] = image[:, channel, row::factor, column::factor]
    assert torch.equal(inner.seen[0], expected)


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_unshuffled_identity_is_the_identity(factor: int) -> None:
    image = torch.rand(2, 3, 8, 12)
    assert torch.equal(PixelUnshuffleWrapper(Recorder(), factor)(image, torch.tensor([7])), image)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_unshuffled_volumes_are_unshuffled_slice_by_slice(layout: torch.memory_format) -> None:
    inner, volume = Recorder(), torch.rand(2, 3, 8, 12, 5).to(memory_format=layout).requires_grad_()
    result = PixelUnshuffleWrapper(inner)(volume, torch.tensor([7]))
    for place in range(5):
        assert torch.equal(inner.seen[0][..., place], torch.pixel_unshuffle(volume[..., place], 2))
    assert torch.equal(result, volume)
    result.square().sum().backward()
    torch.testing.assert_close(volume.grad, 2 * volume.detach())


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_slices_are_normalised_separately(layout: torch.memory_format) -> None:
    """With learnt weight and bias, as in the segmenter, and without, the default of torch."""
    volume = (torch.rand(2, 3, 8, 9, 4) * torch.arange(1.0, 5.0)).to(memory_format=layout).requires_grad_()
    torch.manual_seed(0)
    ours = Norm["slice_instance", 3](3, affine=True)
    assert isinstance(ours, SliceInstanceNorm)
    torch.nn.init.uniform_(ours.weight)
    torch.nn.init.uniform_(ours.bias)
    result = ours(volume)
    mean = volume.mean(dim=(2, 3), keepdim=True)
    deviation = (volume.var(dim=(2, 3), correction=0, keepdim=True) + ours.eps).sqrt()
    weight, bias = (values[:, None, None, None] for values in (ours.weight, ours.bias))
    expected = (volume - mean) / deviation * weight + bias
    torch.testing.assert_close(result, expected)
    torch.testing.assert_close(Norm["slice_instance", 3](3)(volume), (volume - mean) / deviation)
    ours_gradient, expected_gradient = (torch.autograd.grad(x.pow(3).sum(), volume)[0] for x in (result, expected))
    torch.testing.assert_close(ours_gradient, expected_gradient, rtol=1e-3, atol=1e-3)


def test_unshuffled_network_receives_timesteps_and_context() -> None:
    inner, timesteps, context = Recorder(), torch.tensor([7, 3]), torch.rand(2, 1, 4)
    PixelUnshuffleWrapper(inner)(torch.rand(2, 1, 4, 4), timesteps=timesteps, context=context)
    assert inner.seen[1] is timesteps
    assert inner.seen[2] is context


def test_unshuffled_unet_maps_channels_and_passes_gradients() -> None:
    network = PixelUnshuffleWrapper(small_unet(12, 4))
    image = torch.rand(2, 3, 8, 12, requires_grad=True)
    result = network(image, torch.tensor([5, 900]))
    assert result.shape == (2, 1, 8, 12)
    result.square().sum().backward()
    assert image.grad is not None and image.grad.abs().sum() > 0
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_sides_that_the_factor_does_not_divide_raise() -> None:
    with pytest.raises(RuntimeError, match="divisible"):
        PixelUnshuffleWrapper(Recorder())(torch.rand(1, 1, 5, 4), torch.tensor([0]))


def test_autocast_is_close_to_float32_and_returns_float32() -> None:
    inner, image = convolutions(), torch.rand(2, 2, 8, 9)
    exact, result = inner(image), AutocastWrapper(inner)(image)
    assert result.dtype == torch.float32
    assert not torch.equal(result, exact)  # otherwise nothing ran in bfloat16
    torch.testing.assert_close(result, exact, rtol=0.02, atol=0.02)


def test_disabled_autocast_is_exact_even_within_autocast() -> None:
    inner, image = convolutions(), torch.rand(2, 2, 8, 9)
    network = AutocastWrapper(inner, enabled=False)
    assert torch.equal(network(image), inner(image))
    with torch.autocast("cpu", torch.bfloat16):
        assert inner(image).dtype == torch.bfloat16
        within = network(image)
    assert torch.equal(within, inner(image))


def test_autocast_keeps_parameters_and_gradients_in_float32() -> None:
    inner, image = convolutions(), torch.rand(2, 2, 8, 9)
    inner(image).square().mean().backward()
    exact = [parameter.grad.clone() for parameter in inner.parameters() if parameter.grad is not None]
    inner.zero_grad()
    AutocastWrapper(inner)(image).square().mean().backward()
    for parameter, expected in zip(inner.parameters(), exact, strict=True):
        assert parameter.dtype == torch.float32
        assert parameter.grad is not None and parameter.grad.dtype == torch.float32
        torch.testing.assert_close(parameter.grad, expected, rtol=0.1, atol=0.02)


def test_autocast_passes_timesteps_and_context_on() -> None:
    inner, timesteps, context = Recorder(), torch.tensor([3]), torch.rand(1, 1, 4)
    AutocastWrapper(inner)(torch.rand(1, 1, 4, 4), timesteps, context=context)
    assert inner.seen[1] is timesteps
    assert inner.seen[2] is context


def test_both_wrappers_around_a_diffusion_unet() -> None:
    unet = small_unet(8, 4).eval()
    image, timesteps = torch.rand(1, 2, 8, 12), torch.tensor([500])
    exact = PixelUnshuffleWrapper(unet)(image, timesteps)
    result = AutocastWrapper(PixelUnshuffleWrapper(unet))(image, timesteps=timesteps, context=None)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, exact, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"architecture": "x86_64", "avx2": True, "avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, False),
        ({"architecture": "x86_64", "avx512_bf16": True, "amx_bf16": False}, True),
        ({"architecture": "x86_64", "amx_bf16": True}, True),
        ({"architecture": "aarch64", "neon": True, "bf16": True}, True),
        ({"architecture": "aarch64", "neon": True}, False),
    ],
)
def test_bfloat16_is_fast_only_on_processors_with_instructions_for_it(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, object], expected: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert has_fast_bfloat16(torch.device("cpu")) is expected


def test_releases_of_torch_without_capabilities_use_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert not has_fast_bfloat16(torch.device("cpu"))


def test_fast_bfloat16_agrees_with_onednn() -> None:
    supported = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    assert supported or not has_fast_bfloat16(torch.device("cpu"))
