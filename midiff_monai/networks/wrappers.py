"""Network parts that MONAI lacks: pixel unshuffling, normalisation per slice, autocast on every device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from monai.networks.layers import Norm
from monai.networks.utils import pixelshuffle, pixelunshuffle
from torch import nn
from torch.nn import functional as F


class PixelUnshuffleWrapper(nn.Module):
    """Run a network on slices with `factor`² times fewer pixels and `factor`² times more channels.

    The rearrangement is lossless in both directions (Shi et al., CVPR 2016, doi 10.1109/CVPR.2016.207). It reduces the
    cost of the convolutions at full resolution, which dominate a U-Net. The number of slices of a volume stays the
    same, because slices are usually thicker than pixels are wide.

    Args:
        network: maps factor²·C channels to factor²·C' channels.
        factor: divisor of height and width.

    Example:
        >>> network = PixelUnshuffleWrapper(nn.Conv2d(4 * 3, 4 * 2, kernel_size=3, padding=1), factor=2)
        >>> network(torch.rand(1, 3, 16, 16)).shape
        torch.Size([1, 2, 16, 16])
    """

    def __init__(self, network: nn.Module, factor: int = 2) -> None:
        super().__init__()
        self.network, self.factor = network, factor

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Map (B, C, H, W) or (B, C, H, W, Z) to (B, C', …); further arguments go to the network."""
        unshuffled = slice_by_slice(F.pixel_unshuffle, x, self.factor)
        return slice_by_slice(F.pixel_shuffle, self.network(unshuffled, *args, **kwargs), self.factor)


class VoxelUnshuffleWrapper(nn.Module):
    """Run a network on volumes with `factor`³ times fewer voxels and `factor`³ times more channels.

    It is to volumes what `PixelUnshuffleWrapper` is to slices.

    Args:
        network: maps factor³·C channels to factor³·C' channels.
        factor: divisor of the three sides.

    Example:
        >>> network = VoxelUnshuffleWrapper(nn.Conv3d(8 * 3, 8 * 2, kernel_size=3, padding=1), factor=2)
        >>> network(torch.rand(1, 3, 8, 10, 12)).shape
        torch.Size([1, 2, 8, 10, 12])
    """

    def __init__(self, network: nn.Module, factor: int = 2) -> None:
        super().__init__()
        self.network, self.factor = network, factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, C, X, Y, Z) to (B, C', X, Y, Z)."""
        return pixelshuffle(self.network(pixelunshuffle(x, 3, self.factor)), 3, self.factor)


class SliceInstanceNorm(nn.InstanceNorm2d):
    """Instance normalisation of every slice of a volume (B, C, H, W, Z) on its own.

    The statistics of a slice do not depend on the field of view of the scan. MONAI's networks accept the layer by the
    name "slice_instance".

    Example:
        >>> volume = torch.rand(1, 3, 8, 8, 5)
        >>> SliceInstanceNorm(3)(volume).mean(dim=(2, 3)).abs().max().item() < 1e-5
        True
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise (B, C, H, W) or (B, C, H, W, Z)."""
        if x.ndim == 4:
            return super().forward(x)
        # copying the slices into a batch for torch's own layer takes three times as long
        centred = x - x.mean((2, 3), keepdim=True, dtype=torch.float32)
        variance = torch.linalg.vector_norm(centred, dim=(2, 3), keepdim=True).square() / x[0, 0, ..., 0].numel()
        scale = (variance + self.eps).rsqrt()
        if not self.affine:
            return (centred * scale).to(x.dtype)
        weight, bias = (values[:, None, None, None] for values in (self.weight, self.bias))
        return torch.addcmul(bias, centred, weight * scale).to(x.dtype)


Norm.add_factory_class("slice_instance", SliceInstanceNorm)


def slice_by_slice(function: Callable[..., torch.Tensor], x: torch.Tensor, *args: Any) -> torch.Tensor:
    """Apply a two-dimensional network operation to slices (B, C, H, W), or to each slice of volumes (B, C, H, W, Z)."""
    if x.ndim == 4:
        return function(x, *args)
    slices = x.movedim(-1, 1)
    return function(slices.flatten(0, 1), *args).unflatten(0, slices.shape[:2]).movedim(1, -1)


class AutocastWrapper(nn.Module):
    """Run a network under bfloat16 autocast on the device of its input, and return float32.

    MONAI's engines support autocast on CUDA only. CPUs with bfloat16 units gain as much; see `has_fast_bfloat16`.

    Args:
        network: any network; its parameters stay float32.
        enabled: False runs the network in float32.
    """

    def __init__(self, network: nn.Module, enabled: bool = True) -> None:
        super().__init__()
        self.network, self.enabled = network, enabled

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Call the network; its output becomes float32."""
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.enabled):
            return self.network(x, *args, **kwargs).float()


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether a device computes faster in bfloat16 than in float32.

    Processors without bfloat16 instructions are up to a hundred times slower. With the vector instructions of AVX-512
    alone, as AMD has them, a segmentation takes two thirds of the time of float32. Intel's processors have matrix units
    (AMX) as well, but for one generation.
    """
    match device.type:
        case "cuda":
            return torch.cuda.is_bf16_supported(including_emulation=False)
        case "cpu":
            # releases of torch without this function use float32
            capabilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
            return any(capabilities.get(name) for name in ("amx_bf16", "avx512_bf16", "bf16"))
        case _:
            return False
