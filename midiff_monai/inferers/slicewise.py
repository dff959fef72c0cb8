"""Volumes through slice-wise networks: boxes, padding, slices with their neighbours, and test-time augmentation."""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from torch.nn import functional as F

Network = Callable[..., torch.Tensor]

SLAB_EXTENT, SLAB_RATIO = 30, 1.5
"""A volume is a slab if its foreground has fewer voxels along one axis, and many times more along the slicing axis."""

PredictSlices = Callable[[torch.Tensor, torch.Tensor], Iterable[torch.Tensor]]
"""Maps slices (N, 2·context + 1, H, W) and their positions (N,) to batches (n, C, H, W) that cover all N, in order."""


class View(NamedTuple):
    """One view of test-time augmentation: the volume mirrored or not, and its slices shifted by some pixels."""

    mirrored: bool
    shift: int


class SliceRunner:
    """Run a function of slices on a volume and average its outputs over views (test-time augmentation).

    Only the bounding box of the foreground is computed. Empty slices are skipped. Voxels that are 0 in the input get
    `background`.

    Args:
        context: number of neighbouring slices on either side; the slices get them as further channels.
        axis: the axis to slice along, 0 to 2. In RAS, 2 gives axial slices.
        mirror: add the view that is mirrored along the volume's first axis, left and right in RAS.
        multiple: height and width are padded with zeros to multiples of this, at least to twice this.
        background: value of every output channel where the input is 0: one number, or one per channel.
        shifts: one view per shift, in pixels. The slices are shifted cyclically along both of their axes. The outputs
            are shifted back. After a shift, a network with pooling pools other groups of pixels.
        mirrored_channels: the order of the output channels that undoes a mirrored view, for example for left and right
            structures. None keeps the order.

    Example:
        >>> runner = SliceRunner(mirror=True, multiple=4, background=-1.0)
        >>> volume = torch.zeros(1, 8, 8, 3)
        >>> volume[:, 2:6, 2:6, 1] = 1
        >>> output = runner.run(volume, lambda slices, positions: [2 * slices])
        >>> output[0, 4, 4].tolist()
        [-1.0, 2.0, -1.0]
    """

    def __init__(
        self,
        context: int = 0,
        axis: int = 2,
        mirror: bool = False,
        multiple: int = 16,
        background: float | list[float] = 0.0,
        shifts: Sequence[int] = (0,),
        mirrored_channels: Sequence[int] | None = None,
    ) -> None:
        self.context, self.axis, self.multiple = context, axis, multiple
        self.background = torch.as_tensor(background, dtype=torch.float32).reshape(-1, 1, 1, 1)
        self.tta_views = [View(*view) for view in itertools.product((False, True) if mirror else (False,), shifts)]
        self.mirrored_channels = mirrored_channels

    def run(
        self, volume: torch.Tensor, predict: PredictSlices, tta_views: Sequence[View] | None = None
    ) -> torch.Tensor:
        """Average the output of `predict` over views.

        Args:
            volume: (S, X, Y, Z), one or several sources, 0 in their background.
            predict: called once per view, with all slices of the box that are not empty and their positions along the
                sliced axis of that view. Slices (N, S·(2·context + 1), H, W) of several sources lie side by side.
            tta_views: a selection of the runner's `tta_views`; None takes all.

        Returns:
            (C, X, Y, Z), float32. For an empty volume, C is the number of background values.
        """
        views = self.tta_views if tta_views is None else tta_views
        sliced = volume.movedim(self.axis + 1, -1)
        filled = (sliced != 0).any(dim=0)
        background = self.background.to(volume.device)
        if not filled.any():
            return background.expand(-1, *volume.shape[1:]).clone()
        rows, columns, _ = foreground_box(filled, self.multiple)
        output = torch.empty(0)
        for view in views:
            for positions, computed in self._run_view(sliced[:, rows, columns], predict, view):
                if not output.numel():
                    # slices are the first axis in memory: moving many channels takes longer than computing them
                    output = computed.new_zeros(sliced.shape[-1], computed.shape[1], *sliced.shape[1:3])
                output[:, :, rows, columns].index_add_(0, positions, computed, alpha=1 / len(views))
        foreground_mask = filled.movedim(-1, 0)[:, None]
        torch.where(foreground_mask, output, background[:, 0], out=output)
        return output.permute(1, 2, 3, 0).movedim(-1, self.axis + 1)

    def _run_view(
        self, boxed: torch.Tensor, predict: PredictSlices, view: View
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Run one view of a box (S, H, W, Z); yield positions (n,) along Z and the outputs (n, C, H, W) there."""
        mirror_dim = 1 if self.axis else 3  # where the volume's first axis is after `movedim`
        padded = pad_to_multiple(boxed.flip(mirror_dim) if view.mirrored else boxed, self.multiple)
        shifted = padded.roll((view.shift, view.shift), (1, 2))
        slices = torch.cat([stack_slices(source[None, None], self.context) for source in shifted], dim=1)
        filled = shifted.any(dim=0).flatten(0, 1).any(dim=0).nonzero()[:, 0]
        positions = len(slices) - 1 - filled if view.mirrored and mirror_dim == 3 else filled
        start = 0
        for computed in predict(slices[filled], filled):
            computed = computed.float().roll((-view.shift, -view.shift), (2, 3))
            computed = computed[..., : boxed.shape[1], : boxed.shape[2]]
            if view.mirrored:
                computed = self._undo_mirroring(computed, mirror_dim)
            yield positions[start : start + len(computed)], computed
            start += len(computed)

    def _undo_mirroring(self, computed: torch.Tensor, mirror_dim: int) -> torch.Tensor:
        """Mirror outputs (n, C, H, W) back and exchange their channels; mirrored positions are handled elsewhere."""
        flipped = computed.flip(2) if mirror_dim == 1 else computed
        return flipped if self.mirrored_channels is None else flipped[:, list(self.mirrored_channels)]


class VolumeInferer(Inferer):
    """Base of inferers that process one volume at a time."""

    @abstractmethod
    def infer(self, volume: torch.Tensor, network: Network, coarse: bool = False) -> torch.Tensor:
        """Process one volume.

        Args:
            volume: (1, X, Y, Z), 0 in the background.
            network: the network to run.
            coarse: compute the cheaper result of the coarse pass.

        Returns:
            (C, X, Y, Z), float32.
        """

    def __call__(self, inputs: torch.Tensor, network: Network) -> torch.Tensor:  # type: ignore[override]
        """Process a batch of volumes.

        Args:
            inputs: (B, 1, X, Y, Z), 0 in the background.
            network: the network to run.

        Returns:
            (B, C, X, Y, Z), float32; a MetaTensor for a MetaTensor. If all volumes are empty, C is the number of
            background values.
        """
        volumes = [self.infer(volume.as_subclass(torch.Tensor), network) for volume in torch.as_tensor(inputs)]
        channels = max(len(volume) for volume in volumes)
        outputs = torch.stack([volume.expand(channels, -1, -1, -1) for volume in volumes])
        if isinstance(inputs, MetaTensor):
            return MetaTensor(outputs, meta=inputs.meta)
        return outputs


class SlicewiseInferer(VolumeInferer):
    """Run a 2-D network on the slices of volumes. The coarse pass computes the first view only.

    Args:
        context: as for `SliceRunner`.
        axis: as for `SliceRunner`.
        mirror: as for `SliceRunner`.
        multiple: as for `SliceRunner`.
        background: as for `SliceRunner`.
        shifts: as for `SliceRunner`.
        batch_size: number of slices per call of the network; it does not change the result.

    Example:
        >>> inferer = SlicewiseInferer(context=1, batch_size=8)
        >>> network = torch.nn.Conv2d(3, 2, kernel_size=1)
        >>> inferer(torch.rand(1, 1, 20, 24, 5), network).shape
        torch.Size([1, 2, 20, 24, 5])
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
        self.runner = SliceRunner(context, axis, mirror, multiple, background, shifts)
        self.batch_size = batch_size

    @torch.inference_mode()
    def infer(self, volume: torch.Tensor, network: Network, coarse: bool = False) -> torch.Tensor:
        """Process one volume (1, X, Y, Z); see `VolumeInferer.infer`."""

        def predict(slices: torch.Tensor, positions: torch.Tensor) -> Iterable[torch.Tensor]:
            return map(network, slices.split(self.batch_size))

        return self.runner.run(volume, predict, self.runner.tta_views[:1] if coarse else None)


def slicing_axis(volume: torch.Tensor, default: int) -> int:
    """The thin axis of a slab (X, Y, Z), or the default axis for any other volume.

    Example:
        >>> slicing_axis(torch.ones(60, 15, 60), 2), slicing_axis(torch.ones(60, 70, 60), 2)
        (1, 2)
    """
    extents = [side.stop - side.start for side in foreground_box(volume, 1)]
    thin = min(range(3), key=lambda axis: extents[axis])
    is_slab = 0 < extents[thin] < SLAB_EXTENT and extents[default] > SLAB_RATIO * extents[thin]
    return thin if is_slab else default


def stack_slices(volumes: torch.Tensor, context: int = 0) -> torch.Tensor:
    """Cut volumes into slices along their last axis, each with its neighbours as further channels.

    Args:
        volumes: (B, 1, X, Y, Z).
        context: number of neighbours on either side; the first and the last slice repeat beyond the ends.

    Returns:
        (B·Z, 2·context + 1, X, Y), volume by volume, the slice itself in the centre channel.

    Example:
        >>> stack_slices(torch.arange(3.0).reshape(1, 1, 1, 1, 3), context=1)[:, :, 0, 0].tolist()
        [[0.0, 0.0, 1.0], [0.0, 1.0, 2.0], [1.0, 2.0, 2.0]]
    """
    depth = volumes.shape[-1]
    positions = torch.arange(depth, device=volumes.device)
    offsets = torch.arange(-context, context + 1, device=volumes.device)
    neighbours = (positions[:, None] + offsets).clamp(0, depth - 1)  # (Z, 2·context + 1)
    slices = volumes[:, 0][..., neighbours]  # (B, X, Y, Z, 2·context + 1)
    return slices.permute(0, 3, 4, 1, 2).flatten(0, 1)


def in_batches(network: Network, size: int, on_batch: Callable[[int], Any] = lambda count: None) -> Network:
    """Wrap a network so that it runs on `size` images at a time.

    Args:
        network: maps (B, …) to (B, …); further arguments are the same for all batches.
        size: number of images per call.
        on_batch: called after each batch with its number of images.
    """

    def batched(images: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        outputs = []
        for batch in images.split(size):
            outputs.append(network(batch, *args, **kwargs))
            on_batch(len(batch))
        return torch.cat(outputs)

    return batched


def foreground_box(volume: torch.Tensor, multiple: int) -> tuple[slice, slice, slice]:
    """Bounding box of the non-zero voxels of (X, Y, Z); empty slices for an empty volume.

    The first two sides grow to a multiple of `multiple`, as far as the volume allows.
    """
    filled = volume.nonzero()
    if not len(filled):
        return slice(0, 0), slice(0, 0), slice(0, 0)
    starts, stops = filled.amin(0).tolist(), (filled.amax(0) + 1).tolist()
    sides = zip(starts, stops, volume.shape, (multiple, multiple, 1), strict=True)
    return tuple(_grow(*side) for side in sides)  # type: ignore[return-value]


def _grow(start: int, stop: int, size: int, multiple: int) -> slice:
    """Grow an interval to a multiple of `multiple`, evenly on both sides, within [0, size]."""
    length = min(-(-(stop - start) // multiple) * multiple, size)
    start = min(max(start - (length - (stop - start)) // 2, 0), size - length)
    return slice(start, start + length)


def pad_to_multiple(volume: torch.Tensor, multiple: int) -> torch.Tensor:
    """Pad the first two spatial axes of (C, X, Y, Z) with zeros at their ends, to at least two multiples each.

    A single multiple would leave the deepest layer of a network one pixel, which instance normalisation rejects.
    """
    height, width = (max(2, -(-size // multiple)) * multiple - size for size in volume.shape[1:3])
    return F.pad(volume, (0, 0, 0, width, 0, height))
