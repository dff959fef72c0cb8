"""The brain in a segmented head, and what is known beforehand of a skull-stripped brain."""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import binary_closing, distance_transform_edt, label
from torch.nn import functional as F

from midiff_monai.transforms.foreground import fill_holes

STRIPPED_SHARE = 0.6
"""A volume of which the network labels more than this is skull-stripped; of a whole head it labels less than half."""


LARGEST_BRAIN_ML = 2300
"""Of a skull-stripped brain and its fluid, even in MNI space, where brains are large; what is larger is a head."""


OPENING_RADIUS = 3
"""Voxels of half the width of what may join the brain to something else, as the spinal cord joins it to the neck."""


CLOSING_RADIUS = 3
"""Voxels of half the width of what is taken for a gap within the brain."""


def labelled(logits: torch.Tensor, foreground_mask: torch.Tensor) -> torch.Tensor:
    """The voxels (X, Y, Z), of those where there is something, for which logits (C, X, Y, Z) know a structure."""
    return (logits.argmax(dim=0) > 0) & foreground_mask


def is_stripped(brain: torch.Tensor, foreground_mask: torch.Tensor) -> bool:
    """Whether a volume, of which there is so much (X, Y, Z) and so much of that is labelled, is skull-stripped."""
    return bool(brain.sum() > STRIPPED_SHARE * foreground_mask.sum())


def extract_brain(logits: torch.Tensor, foreground_mask: torch.Tensor) -> torch.Tensor | None:
    """The brain as a skull-stripping tool would leave it, of the logits (C, X, Y, Z) of a whole head.

    Args:
        logits: of a `BrainSegmentation`, background first.
        there: (X, Y, Z), true where the head is.

    Returns:
        A mask (X, Y, Z): what is labelled, its sulci closed and its holes filled; None of a volume that is
        skull-stripped already, or in which nothing as thick as a brain is labelled.
    """
    brain = labelled(logits, foreground_mask)
    if is_stripped(brain, foreground_mask) or distance_transform_edt(brain.numpy()).max() <= OPENING_RADIUS:
        return None
    # beyond the edge of the volume the brain goes on
    grown = binary_closing(np.pad(brain.numpy(), CLOSING_RADIUS, mode="edge"), iterations=CLOSING_RADIUS)
    inner = (slice(CLOSING_RADIUS, -CLOSING_RADIUS),) * 3
    return torch.from_numpy(fill_holes(grown[inner])) & foreground_mask


def largest_component(mask: torch.Tensor, bridge: int = OPENING_RADIUS) -> torch.Tensor:
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


def interior(mask: torch.Tensor, depth: int) -> torch.Tensor:
    """The voxels of a mask (X, Y, Z) with nothing but mask less than `depth` voxels away along every axis.

    Beyond the edge of the volume, where the scan ends and not the brain, counts as mask.
    """
    outside = (~mask).float()[None, None]
    return F.max_pool3d(outside, 2 * depth - 1, stride=1, padding=depth - 1)[0, 0] == 0
