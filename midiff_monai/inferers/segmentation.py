"""Brain structures of a volume, and what is known beforehand of a skull-stripped brain."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.nn import functional as F

from midiff_monai.inferers.brain_mask import interior, is_stripped, labelled, largest_component
from midiff_monai.inferers.slicewise import Network, SlicewiseInferer

CONTEXT_SLICES = 8
"""Slices around a brain that its logits depend on: what is further away changes none of them by more than 0.1."""

MASKED_LOGIT = -100.0
"""Logit of a class that is ruled out."""


class BrainSegmentation(SlicewiseInferer):
    """Logits of brain structures, background first; a head has one brain, and a skull-stripped one no hole.

    A network that sees a few centimetres around a voxel finds brain in the neck and the face: of a whole head the
    largest piece alone is kept. Deep inside what skull stripping has left there is nothing but brain. A network
    that loses its way in a slice, as where the cerebellum was cut off, answers background all the same; there its
    second choice is taken.

    Args:
        mirrored: class index → class index on the other side of the brain, such as `labels.MIRRORED`, to look at the
            mirrored volume too; None does not.
        depth: voxels nearer than this to the surroundings, which are zero, may still be background: remnants of the
            skull, or fluid around the brain.
        slicing: arguments of `SlicewiseInferer`; `batch_size` is of no consequence, for all slices are shown at once.
    """

    def __init__(self, mirrored: Sequence[int] | None = None, depth: int = 3, **slicing: Any) -> None:
        super().__init__(mirror=mirrored is not None, **slicing)
        self.mirrored, self.depth = mirrored, depth

    def predict(
        self, slices: torch.Tensor, network: Network, positions: torch.Tensor, **options: Any
    ) -> Iterator[torch.Tensor]:
        """Logits (N, classes, H, W) of all slices, which the network is shown as one volume (1, channels, H, W, N)."""
        yield network(slices.permute(1, 2, 3, 0)[None])[0].movedim(-1, 0)

    def unmirror(self, output: torch.Tensor) -> torch.Tensor:
        """Logits (n, classes, H, W) of classes whose side has been exchanged, exchanged back."""
        return output[:, list(self.mirrored or ())]

    @torch.inference_mode()
    def infer(self, volume: torch.Tensor, network: Network, coarse: bool = False) -> torch.Tensor:  # type: ignore[override]
        """Logits (classes, X, Y, Z) of one volume (1, X, Y, Z); a draft has the first look alone.

        All looks but the first are only at the slices near the brain that the first one finds in a head.
        """
        foreground_mask = volume[0] != 0
        logits = self.average(volume, network, self.tta_views[:1])
        if self.tta_views[1:] and not coarse:
            others = self.average(volume * self._near_brain(logits, foreground_mask), network, self.tta_views[1:])
            logits.lerp_(others, 1 - 1 / len(self.tta_views))
        brain = labelled(logits, foreground_mask)
        if is_stripped(brain, foreground_mask):
            logits[0].masked_fill_(interior(foreground_mask, self.depth), MASKED_LOGIT)
        else:
            logits[1:].masked_fill_(~largest_component(brain), MASKED_LOGIT)
        return logits

    def _near_brain(self, logits: torch.Tensor, foreground_mask: torch.Tensor) -> torch.Tensor:
        brain = labelled(logits, foreground_mask)
        if is_stripped(brain, foreground_mask):
            return foreground_mask
        places = largest_component(brain).movedim(self.axis, 0).flatten(1).any(1).float()[None]
        near = F.max_pool1d(places, 2 * CONTEXT_SLICES + 1, stride=1, padding=CONTEXT_SLICES)[0] > 0
        return near.reshape([-1 if axis == self.axis else 1 for axis in range(3)])
