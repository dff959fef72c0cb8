"""Brain structures slice by slice, and what is known beforehand of a skull-stripped brain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional as F

from midiff_monai.slices import Network, SlicewiseInferer

STRIPPED_SHARE = 0.6
"""A volume of which the network labels more than this is skull-stripped; of a whole head it labels less than half."""

NEVER = -100.0
"""Logit of a class that is ruled out."""


class BrainSegmentation(SlicewiseInferer):
    """Logits of brain structures, background first; no hole is left in a skull-stripped brain.

    Deep inside what skull stripping has left there is nothing but brain. A 2-D network that loses its way in a slice,
    as where the cerebellum was cut off, answers background all the same; there its second choice is taken.

    Args:
        mirrored: class index → class index on the other side of the brain, such as `labels.MIRRORED`, to look at the
            mirrored volume too; None does not.
        depth: voxels nearer than this to the surroundings, which are zero, may still be background: remnants of the
            skull, or fluid around the brain.
        slicing: arguments of `SlicewiseInferer`.
    """

    def __init__(self, mirrored: Sequence[int] | None = None, depth: int = 3, **slicing: Any) -> None:
        super().__init__(mirror=mirrored is not None, **slicing)
        self.mirrored, self.depth = mirrored, depth

    def unmirror(self, output: torch.Tensor) -> torch.Tensor:
        """Logits of classes whose side has been exchanged, exchanged back."""
        return output[list(self.mirrored or ())]

    def infer(self, volume: torch.Tensor, network: Network, **options: Any) -> torch.Tensor:
        """Logits (classes, X, Y, Z) of one volume (1, X, Y, Z)."""
        logits = super().infer(volume, network, **options)
        there = volume[0] != 0
        labelled = (logits.argmax(dim=0) > 0) & there
        if labelled.sum() > STRIPPED_SHARE * there.sum():
            logits[0] = torch.where(deep_inside(there, self.depth), NEVER, logits[0])
        return logits


def deep_inside(mask: torch.Tensor, depth: int) -> torch.Tensor:
    """The voxels of a mask (X, Y, Z) with nothing but mask less than `depth` voxels away along every axis.

    Beyond the edge of the volume, where the scan ends and not the brain, counts as mask.
    """
    outside = (~mask).float()[None, None]
    return F.max_pool3d(outside, 2 * depth - 1, stride=1, padding=depth - 1)[0, 0] == 0
