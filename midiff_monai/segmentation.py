"""Brain structures of a volume, and what is known beforehand of a skull-stripped brain."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from scipy.ndimage import binary_closing, distance_transform_edt, label
from torch.nn import functional as F

from midiff_monai.slices import Network, SlicewiseInferer
from midiff_monai.transforms import fill_holes

STRIPPED_SHARE = 0.6
"""A volume of which the network labels more than this is skull-stripped; of a whole head it labels less than half."""

LARGEST_BRAIN_ML = 2300
"""Of a skull-stripped brain and its fluid, even in MNI space, where brains are large; what is larger is a head."""

BRIDGE = 3
"""Voxels of half the width of what may join the brain to something else, as the spinal cord joins it to the neck."""

SULCI = 3
"""Voxels of half the width of what is taken for a gap within the brain."""

NEAR = 8
"""Slices around a brain that its logits depend on: what is further away changes none of them by more than 0.1."""

NEVER = -100.0
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
    def infer(self, volume: torch.Tensor, network: Network, draft: bool = False) -> torch.Tensor:  # type: ignore[override]
        """Logits (classes, X, Y, Z) of one volume (1, X, Y, Z); a draft has the first look alone.

        All looks but the first are only at the slices near the brain that the first one finds in a head.
        """
        there = volume[0] != 0
        logits = self.average(volume, network, self.looks[:1])
        if self.looks[1:] and not draft:
            others = self.average(volume * self._near_brain(logits, there), network, self.looks[1:])
            logits.lerp_(others, 1 - 1 / len(self.looks))
        brain = labelled(logits, there)
        if is_stripped(brain, there):
            logits[0].masked_fill_(deep_inside(there, self.depth), NEVER)
        else:
            logits[1:].masked_fill_(~largest_piece(brain), NEVER)
        return logits

    def _near_brain(self, logits: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        brain = labelled(logits, there)
        if is_stripped(brain, there):
            return there
        places = largest_piece(brain).movedim(self.axis, 0).flatten(1).any(1).float()[None]
        near = F.max_pool1d(places, 2 * NEAR + 1, stride=1, padding=NEAR)[0] > 0
        return near.reshape([-1 if axis == self.axis else 1 for axis in range(3)])


def labelled(logits: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
    """The voxels (X, Y, Z), of those where there is something, for which logits (C, X, Y, Z) know a structure."""
    return (logits.argmax(dim=0) > 0) & there


def is_stripped(brain: torch.Tensor, there: torch.Tensor) -> bool:
    """Whether a volume, of which there is so much (X, Y, Z) and so much of that is labelled, is skull-stripped."""
    return bool(brain.sum() > STRIPPED_SHARE * there.sum())


def brain_in_head(logits: torch.Tensor, there: torch.Tensor) -> torch.Tensor | None:
    """The brain as a skull-stripping tool would leave it, of the logits (C, X, Y, Z) of a whole head.

    Args:
        logits: of a `BrainSegmentation`, background first.
        there: (X, Y, Z), true where the head is.

    Returns:
        A mask (X, Y, Z): what is labelled, its sulci closed and its holes filled; None of a volume that is
        skull-stripped already, or in which nothing as thick as a brain is labelled.
    """
    brain = labelled(logits, there)
    if is_stripped(brain, there) or distance_transform_edt(brain.numpy()).max() <= BRIDGE:
        return None
    # beyond the edge of the volume the brain goes on
    grown = binary_closing(np.pad(brain.numpy(), SULCI, mode="edge"), iterations=SULCI)
    inner = (slice(SULCI, -SULCI),) * 3
    return torch.from_numpy(fill_holes(grown[inner])) & there


def largest_piece(mask: torch.Tensor, bridge: int = BRIDGE) -> torch.Tensor:
    """The largest piece of a mask (X, Y, Z), cut off from what thin bridges alone join it to.

    Voxels deeper than `bridge` are what pieces are made of; the largest takes along all of the mask that is near it.
    """
    depth = torch.from_numpy(distance_transform_edt(mask.cpu().numpy()))
    pieces, _ = label(depth > bridge)
    sizes = np.bincount(pieces.ravel())[1:]
    if not sizes.size:
        return mask
    away = torch.from_numpy(distance_transform_edt(pieces != 1 + sizes.argmax()))
    return mask & (away <= bridge + 2).to(mask.device)


def deep_inside(mask: torch.Tensor, depth: int) -> torch.Tensor:
    """The voxels of a mask (X, Y, Z) with nothing but mask less than `depth` voxels away along every axis.

    Beyond the edge of the volume, where the scan ends and not the brain, counts as mask.
    """
    outside = (~mask).float()[None, None]
    return F.max_pool3d(outside, 2 * depth - 1, stride=1, padding=depth - 1)[0, 0] == 0
