"""Volumes as batches of slices, and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from torch.nn import functional as F

Network = Callable[..., torch.Tensor]


def stack_slices(volumes: torch.Tensor, context: int = 0) -> torch.Tensor:
    """Cut volumes into slices along their last axis, each with its neighbours as further channels.

    Args:
        volumes: (B, 1, X, Y, Z).
        context: number of neighbours on either side; beyond the first and last slice these repeat.

    Returns:
        (B·Z, 2·context + 1, X, Y), slices of one volume in a row, the slice itself in the middle channel.
    """
    depth = volumes.shape[-1]
    positions = torch.arange(depth, device=volumes.device)
    offsets = torch.arange(-context, context + 1, device=volumes.device)
    neighbours = (positions[:, None] + offsets).clamp(0, depth - 1)  # (Z, 2c+1)
    slices = volumes[:, 0][..., neighbours]  # (B, X, Y, Z, 2c+1)
    return slices.permute(0, 3, 4, 1, 2).flatten(0, 1)


class SlicewiseInferer(Inferer):
    """Send a volume through a 2-D network slice by slice.

    Only the foreground's bounding box is computed; voxels that are zero in the input get `background`.

    Args:
        context: number of neighbouring slices on either side that the network sees as further channels.
        axis: the axis to slice along, 0 to 2 (2 is axial in RAS).
        mirror: average with what comes of the volume mirrored along its first axis, left and right in RAS.
        batch_size: slices at a time; it does not change the result.
        multiple: height and width are padded with zeros to multiples of this, two or more.
        background: value of every output channel where the input is zero: a number, or one per channel.
    """

    def __init__(
        self,
        context: int = 0,
        axis: int = 2,
        mirror: bool = False,
        batch_size: int = 16,
        multiple: int = 16,
        background: float | list[float] = 0.0,
    ) -> None:
        self.context, self.axis, self.mirror = context, axis, mirror
        self.batch_size, self.multiple = batch_size, multiple
        self.background = torch.as_tensor(background, dtype=torch.float32).reshape(-1, 1, 1, 1)

    def predict(self, slices: torch.Tensor, network: Network, positions: torch.Tensor, **options: Any) -> torch.Tensor:
        """Turn the slices of a volume (N, 2·context + 1, H, W) into the output's channels (N, C, H, W).

        Args:
            slices: all slices that are not empty, with their neighbours, in order.
            network: takes any number of slices, in batches of `batch_size`.
            positions: (N,) where the slices lie along the sliced axis of the volume.
            options: what `infer` was given.
        """
        return network(slices)

    def unmirror(self, output: torch.Tensor) -> torch.Tensor:
        """Put right the channels (C, X, Y, Z) of what was made of a mirrored volume, once it is mirrored back."""
        return output

    @torch.inference_mode()
    def __call__(self, inputs: torch.Tensor, network: Network) -> torch.Tensor:  # type: ignore[override]
        """Infer volumes (B, 1, X, Y, Z), zero in the background; answers (B, C, X, Y, Z), a MetaTensor if given one.

        The answer is float32. If all volumes are empty, C is the number of background values.
        """
        volumes = [self.infer(volume.as_subclass(torch.Tensor), network) for volume in torch.as_tensor(inputs)]
        channels = max(len(volume) for volume in volumes)
        outputs = torch.stack([volume.expand(channels, -1, -1, -1) for volume in volumes])
        if isinstance(inputs, MetaTensor):
            return MetaTensor(outputs, meta=inputs.meta)
        return outputs

    def infer(self, volume: torch.Tensor, network: Network, **options: Any) -> torch.Tensor:
        """The channels (C, X, Y, Z) of one volume (1, X, Y, Z)."""
        output = self._slice_by_slice(volume, network, options)
        if not self.mirror:
            return output
        mirrored = self._slice_by_slice(volume.flip(1), network, options)
        return (output + self.unmirror(mirrored.flip(1))) / 2

    def _slice_by_slice(self, volume: torch.Tensor, network: Network, options: dict[str, Any]) -> torch.Tensor:
        turned = volume.movedim(self.axis + 1, -1)
        box = foreground_box(turned[0], self.multiple)
        crop = pad_to_multiple(turned[:, box[0], box[1]], self.multiple)
        slices = stack_slices(crop[None], self.context)
        filled = slices[:, self.context].flatten(1).any(1).nonzero()[:, 0]
        if not len(filled):
            return self.background.to(volume.device).expand(-1, *volume.shape[1:]).clone()
        computed = self.predict(slices[filled], in_batches(network, self.batch_size), filled, **options)
        output = self.background.to(volume.device).expand(computed.shape[1], *turned.shape[1:]).clone()
        height, width = (side.stop - side.start for side in box[:2])
        computed = computed[..., :height, :width].permute(1, 2, 3, 0).float()
        # where there was nothing, nothing is made
        there = turned[0, box[0], box[1]][..., filled] != 0
        output[:, box[0], box[1], filled] = torch.where(there, computed, output[:, box[0], box[1], filled])
        return output.movedim(-1, self.axis + 1)


def in_batches(network: Network, size: int) -> Network:
    """The network, asked about `size` images at a time."""

    def batched(images: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return torch.cat([network(part, *args, **kwargs) for part in images.split(size)])

    return batched


def foreground_box(volume: torch.Tensor, multiple: int) -> tuple[slice, slice, slice]:
    """The box around the non-zero voxels of (X, Y, Z), its first two sides grown to multiples where they fit."""
    filled = volume.nonzero()
    if not len(filled):
        return slice(0, 0), slice(0, 0), slice(0, 0)
    starts, stops = filled.amin(0).tolist(), (filled.amax(0) + 1).tolist()
    sides = zip(starts, stops, volume.shape, (multiple, multiple, 1), strict=True)
    return tuple(_grow(*side) for side in sides)  # type: ignore[return-value]


def _grow(start: int, stop: int, size: int, multiple: int) -> slice:
    wanted = min(-(-(stop - start) // multiple) * multiple, size)
    start = min(max(start - (wanted - (stop - start)) // 2, 0), size - wanted)
    return slice(start, start + wanted)


def pad_to_multiple(volume: torch.Tensor, multiple: int) -> torch.Tensor:
    """Pad the first two spatial axes of (C, X, Y, Z) with zeros at their ends, each to two multiples or more.

    Of a single multiple a network's deepest layer would have one pixel left, which cannot be normalised.
    """
    height, width = (max(2, -(-size // multiple)) * multiple - size for size in volume.shape[1:3])
    return F.pad(volume, (0, 0, 0, width, 0, height))
