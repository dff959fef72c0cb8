"""Segmentation of brain structures in whole volumes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.nn import functional as F

from midiff_monai.inferers.brain_mask import interior, is_stripped, labelled, largest_component
from midiff_monai.inferers.slicewise import Network, SliceRunner, View, VolumeInferer, foreground_box, slicing_axis

CONTEXT_SLICES = 8
"""Number of slices on either side of the brain that influence its logits; slices beyond change them by at most 0.1."""

SLAB_CONTEXT = 16
"""Number of mirrored voxels on either side of a slab. Without them its cut faces look like the surface of a brain."""

MASKED_LOGIT = -100.0
"""Logit of an excluded class."""


class BrainSegmentation(VolumeInferer):
    """Compute the logits of brain structures, background first.

    The network has a receptive field of a few centimetres. In a whole head it also finds brain in the neck and the
    face. Therefore only the largest component is kept.

    In a skull-stripped brain, every voxel deep inside is brain. The network sometimes predicts background for a
    whole slice there, for example where the cerebellum is cut off. Therefore background is excluded deep inside, and
    the second most likely class is taken.

    The coarse pass computes the first view only.

    Args:
        mirrored: for each class, the index of its counterpart on the other side of the brain, such as
            `labels.MIRRORED`; adds mirrored views. None adds none.
        depth: voxels closer than this to the background may be background too, because remnants of the skull and CSF
            may surround a skull-stripped brain.
        context: as for `SliceRunner`.
        axis: as for `SliceRunner`.
        shifts: as for `SliceRunner`.
        multiple: as for `SliceRunner`.
        background: as for `SliceRunner`.

    Example:
        >>> inferer = BrainSegmentation(background=[20.0, 0.0])
        >>> network = lambda volume: torch.cat([0.5 - volume, volume], dim=1)
        >>> inferer(torch.rand(1, 1, 32, 32, 4), network).shape
        torch.Size([1, 2, 32, 32, 4])
    """

    def __init__(
        self,
        mirrored: Sequence[int] | None = None,
        depth: int = 3,
        context: int = 0,
        axis: int = 2,
        shifts: Sequence[int] = (0,),
        multiple: int = 16,
        background: float | list[float] = 0.0,
    ) -> None:
        self.depth = depth
        self.runner = SliceRunner(context, axis, mirrored is not None, multiple, background, shifts, mirrored)

    @torch.inference_mode()
    def infer(self, volume: torch.Tensor, network: Network, coarse: bool = False) -> torch.Tensor:
        """Segment one volume.

        Args:
            volume: (1, X, Y, Z), 0 in the background.
            network: maps (1, 2·context + 1, H, W, N), all slices at once, to logits (1, classes, H, W, N).
            coarse: compute the first view only.

        Returns:
            Logits (classes, X, Y, Z).
        """
        thin = slicing_axis(volume[0], self.runner.axis)
        if thin != self.runner.axis:
            return self._infer_slab(volume, network, coarse, thin)
        return self._infer(volume, network, coarse)

    def _infer_slab(self, volume: torch.Tensor, network: Network, coarse: bool, axis: int) -> torch.Tensor:
        """Segment a slab (1, X, Y, Z) with its mirror images on both sides, as context across its thin axis."""
        box = foreground_box(volume[0], 1)[axis]
        width = min(SLAB_CONTEXT, box.stop - box.start - 1)
        indices = np.pad(np.arange(box.start, box.stop), width, mode="reflect")
        extended = volume.index_select(axis + 1, torch.from_numpy(indices).to(volume.device))
        inside = self._infer(extended, network, coarse).narrow(axis + 1, width, box.stop - box.start)
        logits = self.runner.background.to(volume.device).expand(len(inside), *volume.shape[1:]).clone()
        logits.narrow(axis + 1, box.start, box.stop - box.start).copy_(inside)
        return logits

    def _infer(self, volume: torch.Tensor, network: Network, coarse: bool) -> torch.Tensor:
        """The logits of a volume that is no slab."""
        foreground_mask = volume[0] != 0
        logits = self._average_views(volume, foreground_mask, network, coarse)
        brain = labelled(logits, foreground_mask)
        if is_stripped(brain, volume[0]):
            logits[0].masked_fill_(interior(foreground_mask, self.depth), MASKED_LOGIT)
        else:
            logits[1:].masked_fill_(~largest_component(brain), MASKED_LOGIT)
        return logits

    def _average_views(
        self, volume: torch.Tensor, foreground_mask: torch.Tensor, network: Network, coarse: bool
    ) -> torch.Tensor:
        """Mean logits over all views; in a whole head, the views after the first skip slices far from the brain."""
        first, others = self.runner.tta_views[:1], self.runner.tta_views[1:]
        logits = self._run(volume, network, first)
        if others and not coarse:
            near_brain = self._near_brain(logits, volume[0])
            logits.lerp_(self._run(volume * near_brain, network, others), 1 - 1 / len(self.runner.tta_views))
        return logits

    def _run(self, volume: torch.Tensor, network: Network, tta_views: list[View]) -> torch.Tensor:
        """Mean logits (classes, X, Y, Z) over some views; the network receives all slices at once as a volume."""

        def predict(slices: torch.Tensor, positions: torch.Tensor) -> Iterator[torch.Tensor]:
            yield network(slices.permute(1, 2, 3, 0)[None])[0].movedim(-1, 0)

        return self.runner.run(volume, predict, tta_views)

    def _near_brain(self, logits: torch.Tensor, volume: torch.Tensor) -> torch.Tensor:
        """Mask, broadcastable to (X, Y, Z), of the slices within `CONTEXT_SLICES` of the brain."""
        foreground_mask = volume != 0
        brain = labelled(logits, foreground_mask)
        if is_stripped(brain, volume):
            return foreground_mask
        has_brain = largest_component(brain).movedim(self.runner.axis, 0).flatten(1).any(1).float()[None]
        near = F.max_pool1d(has_brain, 2 * CONTEXT_SLICES + 1, stride=1, padding=CONTEXT_SLICES)[0] > 0
        return near.reshape([-1 if axis == self.runner.axis else 1 for axis in range(3)])
