"""Brain masks from the logits of a segmentation, for whole heads and skull-stripped brains."""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import binary_closing, distance_transform_edt, label
from torch.nn import functional as F

from midiff_monai.transforms.foreground import fill_holes
from midiff_monai.transforms.skull import shows_skull

STRIPPED_SHARE = 0.6
"""Least share of labelled foreground in a skull-stripped volume. In a whole head it is below one half, but in a slab of
a head it may be larger: the image decides then."""

VOXEL_MM = 2.0
"""Voxel size of the grid of the networks."""

LARGEST_BRAIN_ML = 2300
"""Upper bound in ml of a skull-stripped brain with its CSF, also in MNI space. A larger foreground is a whole head."""

OPENING_RADIUS = 3
"""Radius in voxels of the widest bridge that is cut, such as the spinal cord between brain and neck."""

CLOSING_RADIUS = 3
"""Radius in voxels of the widest gap in the brain that is closed, such as a sulcus."""


def labelled(logits: torch.Tensor, foreground_mask: torch.Tensor) -> torch.Tensor:
    """Mask (X, Y, Z) of the foreground voxels whose largest logit (C, X, Y, Z) is not that of the background."""
    return (logits.argmax(dim=0) > 0) & foreground_mask


def is_stripped(brain: torch.Tensor, volume: torch.Tensor) -> bool:
    """Whether a volume is skull-stripped: its labelled voxels fill most of its foreground, and it shows no skull.

    Args:
        brain: (X, Y, Z), the labelled voxels.
        volume: (X, Y, Z), any contrast, 0 in the background, with voxels of `VOXEL_MM`.
    """
    if brain.sum() <= STRIPPED_SHARE * (volume != 0).sum():
        return False
    return not shows_skull(volume.cpu().numpy(), (VOXEL_MM,) * 3)


def extract_brain(logits: torch.Tensor, volume: torch.Tensor) -> torch.Tensor | None:
    """Brain mask of a whole head, as from a skull-stripping tool.

    Args:
        logits: (C, X, Y, Z) of a `BrainSegmentation`, background first.
        volume: (X, Y, Z), the image that was segmented or translated, 0 in the background.

    Returns:
        (X, Y, Z): the labelled voxels with closed sulci and filled holes. None if the volume is skull-stripped, or if
        no labelled region is as thick as a brain.

    Example:
        >>> brain = torch.zeros(24, 24, 24, dtype=torch.bool)
        >>> brain[6:18, 6:18, 6:18] = True
        >>> logits = torch.stack([1.0 - brain.float(), 2.0 * brain.float()])
        >>> torch.equal(extract_brain(logits, torch.ones(24, 24, 24)), brain)
        True
    """
    foreground_mask = volume != 0
    brain = labelled(logits, foreground_mask)
    if is_stripped(brain, volume) or distance_transform_edt(brain.numpy()).max() <= OPENING_RADIUS:
        return None
    # a brain that the edge of the volume cuts continues beyond it
    padded = np.pad(brain.numpy(), CLOSING_RADIUS, mode="edge")
    closed = binary_closing(padded, iterations=CLOSING_RADIUS)
    inner = (slice(CLOSING_RADIUS, -CLOSING_RADIUS),) * 3
    return torch.from_numpy(fill_holes(closed[inner])) & foreground_mask


def largest_component(mask: torch.Tensor, radius: int = OPENING_RADIUS) -> torch.Tensor:
    """Largest component of a mask (X, Y, Z) after thin bridges are cut.

    Components are found among the voxels deeper than `radius`. The result is the part of the mask near the largest of
    them. A mask without such voxels is returned unchanged.
    """
    depth = torch.from_numpy(distance_transform_edt(mask.cpu().numpy()))
    components, _ = label(depth > radius)
    sizes = np.bincount(components.ravel())[1:]
    if not sizes.size:
        return mask
    distance = torch.from_numpy(distance_transform_edt(components != 1 + sizes.argmax()))
    return mask & (distance <= radius + 2).to(mask.device)


def interior(mask: torch.Tensor, depth: int) -> torch.Tensor:
    """Erode a mask (X, Y, Z) by a cube of side 2·depth − 1.

    The edge of the volume does not erode the mask, because the scan ends there, not the brain.
    """
    outside = (~mask).float()[None, None]
    return F.max_pool3d(outside, 2 * depth - 1, stride=1, padding=depth - 1)[0, 0] == 0
