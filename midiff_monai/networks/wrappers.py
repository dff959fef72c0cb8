"""What MONAI's networks lack: a cheap full resolution, norms slice by slice, mixed precision on every device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from monai.networks.layers import Norm
from torch import nn
from torch.nn import functional as F


class PixelUnshuffleWrapper(nn.Module):
    """Run a network on `factor`² fewer pixels a slice, of `factor`² times the channels.

    Nothing is lost on the way in or out (Shi et al., CVPR 2016, doi 10.1109/CVPR.2016.207), and the
    convolutions that would run at full resolution, most of a U-Net's cost, run at a quarter of it. Volumes keep all
    of their slices, which are thicker than their pixels are wide as a rule.

    Args:
        network: takes and gives factor² times the channels.
        factor: by how much height and width shrink; they must be multiples of it.
    """

    def __init__(self, network: nn.Module, factor: int = 2) -> None:
        super().__init__()
        self.network, self.factor = network, factor

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Map slices (B, C, H, W) or volumes (B, C, H, W, Z), and whatever else the network takes, to (B, C', …)."""
        unshuffled = slice_by_slice(F.pixel_unshuffle, x, self.factor)
        return slice_by_slice(F.pixel_shuffle, self.network(unshuffled, *args, **kwargs), self.factor)


class SliceInstanceNorm(nn.InstanceNorm2d):
    """Instance normalisation of every slice of a volume (B, C, H, W, Z) by itself.

    What a slice is normalised by does not depend on how much of the body was scanned.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.ndim == 4:
            return super().forward(x)
        # to copy the slices into a batch for torch's own norm takes three times as long
        centred = x - x.mean((2, 3), keepdim=True, dtype=torch.float32)
        variance = torch.linalg.vector_norm(centred, dim=(2, 3), keepdim=True).square() / x[0, 0, ..., 0].numel()
        scale = (variance + self.eps).rsqrt()
        if not self.affine:
            return (centred * scale).to(x.dtype)
        weight, bias = (values[:, None, None, None] for values in (self.weight, self.bias))
        return torch.addcmul(bias, centred, weight * scale).to(x.dtype)


Norm.add_factory_class("slice_instance", SliceInstanceNorm)


def slice_by_slice(function: Callable[..., torch.Tensor], x: torch.Tensor, *args: Any) -> torch.Tensor:
    """Apply a function of slices (B, C, H, W) to them, or to all of those of volumes (B, C, H, W, Z)."""
    if x.ndim == 4:
        return function(x, *args)
    slices = x.movedim(-1, 1)
    return function(slices.flatten(0, 1), *args).unflatten(0, slices.shape[:2]).movedim(1, -1)


class AutocastWrapper(nn.Module):
    """Run a network under bfloat16 autocast on whatever device its input is, and answer in float32.

    MONAI's engines know autocast on CUDA alone; processors with bfloat16 units gain as much, see `has_fast_bfloat16`.

    Args:
        network: the network; its parameters stay float32.
        enabled: False runs everything in float32.
    """

    def __init__(self, network: nn.Module, enabled: bool = True) -> None:
        super().__init__()
        self.network, self.enabled = network, enabled

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Whatever the network takes and gives."""
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.enabled):
            return self.network(x, *args, **kwargs).float()


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether a device has units for bfloat16; where it has none, convolutions take up to a hundred times longer."""
    match device.type:
        case "cuda":
            return torch.cuda.is_bf16_supported(including_emulation=False)
        case "cpu":
            # releases of torch that cannot tell leave it at float32
            capabilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
            return any(capabilities.get(name) for name in ("amx_bf16", "avx512_bf16", "bf16"))
        case _:
            return False
