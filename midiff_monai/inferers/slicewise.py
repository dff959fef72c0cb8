"""Volumes as batches of slices, and back."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
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
    """Send a volume through a network slice by slice, a 2-D one unless `predict` says otherwise.

    Only the foreground's bounding box is computed; voxels that are zero in the input get `background`.

    Args:
        context: number of neighbouring slices on either side that the network sees as further channels.
        axis: the axis to slice along, 0 to 2 (2 is axial in RAS).
        mirror: average with what comes of the volume mirrored along its first axis, left and right in RAS.
        batch_size: slices at a time; it does not change the result.
        multiple: height and width are padded with zeros to multiples of this, two or more.
        background: value of every output channel where the input is zero: a number, or one per channel.
        shifts: pixels by which the slices are moved along both of their axes, around their edges, each time anew; what
            comes of it is moved back and averaged. A network that pools pixels pools others when they are moved.
    """

    def __init__(
        self,
        context: int = 0,
        axis: int = 2,
        mirror: bool = False,
        batch_size: int = 16,
        multiple: int = 16,
        background: float | list[float] = 0.0,
        shifts: Sequence[int] = (0,),
    ) -> None:
        self.context, self.axis = context, axis
        self.tta_views = list(itertools.product((False, True) if mirror else (False,), shifts))
        self.batch_size, self.multiple = batch_size, multiple
        self.background = torch.as_tensor(background, dtype=torch.float32).reshape(-1, 1, 1, 1)

    def predict(
        self, slices: torch.Tensor, network: Network, positions: torch.Tensor, **options: Any
    ) -> Iterable[torch.Tensor]:
        """Turn the slices of a volume (N, 2·context + 1, H, W) into the output's channels (n, C, H, W), some at a time.

        Args:
            slices: all slices that are not empty, with their neighbours, in order.
            network: takes any number of slices; `batch_size` of them fit into memory.
            positions: (N,) where the slices lie along the sliced axis of the volume.
            options: what `infer` was given.
        """
        return map(network, slices.split(self.batch_size))

    def unmirror(self, output: torch.Tensor) -> torch.Tensor:
        """Put right the channels (n, C, H, W) of what was made of mirrored slices, once they are mirrored back."""
        return output

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

    @torch.inference_mode()
    def infer(self, volume: torch.Tensor, network: Network, coarse: bool = False, **options: Any) -> torch.Tensor:
        """The channels (C, X, Y, Z), float32, of one volume (1, X, Y, Z); a draft has the first look alone."""
        return self.average(volume, network, self.tta_views[:1] if coarse else self.tta_views, **options)

    def average(
        self, volume: torch.Tensor, network: Network, tta_views: Sequence[tuple[bool, int]], **options: Any
    ) -> torch.Tensor:
        """The mean (C, X, Y, Z), float32, of some looks at one volume (1, X, Y, Z)."""
        turned = volume.movedim(self.axis + 1, -1)
        box = foreground_box(turned[0], self.multiple)
        background = self.background.to(volume.device)
        if not turned.any():
            return background.expand(-1, *volume.shape[1:]).clone()
        output = torch.empty(0)
        for view in tta_views:
            for positions, computed in self._slice_by_slice(turned[:, box[0], box[1]], network, *view, options):
                if not output.numel():
                    # kept slice by slice in memory: to reorder many channels takes longer than to compute them
                    output = computed.new_zeros(turned.shape[-1], computed.shape[1], *turned.shape[1:3])
                output[:, :, box[0], box[1]].index_add_(0, positions, computed, alpha=1 / len(tta_views))
        # where there was nothing, nothing is made
        foreground_mask = turned[0].movedim(-1, 0)[:, None] != 0
        torch.where(foreground_mask, output, background[:, 0], out=output)
        return output.permute(1, 2, 3, 0).movedim(-1, self.axis + 1)

    def _slice_by_slice(
        self, boxed: torch.Tensor, network: Network, mirrored: bool, shift: int, options: dict[str, Any]
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """One look at a box (1, H, W, Z): yields places along Z (n,), and the channels made there (n, C, H, W)."""
        side = 1 if self.axis else 3  # where the volume's first axis has gone
        crop = pad_to_multiple(boxed.flip(side) if mirrored else boxed, self.multiple).roll((shift, shift), (1, 2))
        slices = stack_slices(crop[None], self.context)
        filled = slices[:, self.context].flatten(1).any(1).nonzero()[:, 0]
        places = len(slices) - 1 - filled if mirrored and side == 3 else filled
        begun = 0
        for computed in self.predict(slices[filled], network, filled, **options):
            computed = computed.float().roll((-shift, -shift), (2, 3))[..., : boxed.shape[1], : boxed.shape[2]]
            if mirrored:
                computed = self.unmirror(computed.flip(2) if side == 1 else computed)
            yield places[begun : begun + len(computed)], computed
            begun += len(computed)


def in_batches(network: Network, size: int, done: Callable[[int], Any] = lambda count: None) -> Network:
    """The network, asked about `size` images at a time; `done` is told of how many it has answered."""

    def batched(images: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        answers = []
        for part in images.split(size):
            answers.append(network(part, *args, **kwargs))
            done(len(part))
        return torch.cat(answers)

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
