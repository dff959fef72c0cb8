"""Segmentation of brain structures in whole volumes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.nn import functional as F

from midiff_monai.inferers.brain_mask import interior, is_stripped, labelled, largest_component
from midiff_monai.inferers.slicewise import Network, SliceRunner, View, VolumeInferer

CONTEXT_SLICES = 8
"""Number of slices on either side of the brain that influence its logits; slices beyond change them by at most 0.1."""

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
        foreground_mask = volume[0] != 0
        logits = self._average_views(volume, foreground_mask, network, coarse)
        brain = labelled(logits, foreground_mask)
        if is_stripped(brain, foreground_mask):
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
            near_brain = self._near_brain(logits, foreground_mask)
            logits.lerp_(self._run(volume * near_brain, network, others), 1 - 1 / len(self.runner.tta_views))
        return logits

    def _run(self, volume: torch.Tensor, network: Network, tta_views: list[View]) -> torch.Tensor:
        """Mean logits (classes, X, Y, Z) over some views; the network receives all slices at once as a volume."""

        def predict(slices: torch.Tensor, positions: torch.Tensor) -> Iterator[torch.Tensor]:
            yield network(slices.permute(1, 2, 3, 0)[None])[0].movedim(-1, 0)

        return self.runner.run(volume, predict, tta_views)

    def _near_brain(self, logits: torch.Tensor, foreground_mask: torch.Tensor) -> torch.Tensor:
        """Mask, broadcastable to (X, Y, Z), of the slices within `CONTEXT_SLICES` of the brain."""
        brain = labelled(logits, foreground_mask)
        if is_stripped(brain, foreground_mask):
            return foreground_mask
        has_brain = largest_component(brain).movedim(self.runner.axis, 0).flatten(1).any(1).float()[None]
        near = F.max_pool1d(has_brain, 2 * CONTEXT_SLICES + 1, stride=1, padding=CONTEXT_SLICES)[0] > 0
        return near.reshape([-1 if axis == self.runner.axis else 1 for axis in range(3)])
