"""The space inside the skull of a whole head: the brain lies in it."""

from __future__ import annotations

import torch
from monai.data import MetaTensor

from midiff_monai.bundle.bundle import Bundle
from midiff_monai.transforms.brain_distance import brain_of_classes, depth_in_brain
from midiff_monai.transforms.meta import as_plain_tensor
from midiff_monai.transforms.spatial import MORE_LIKELY


def space_of(scans: MetaTensor, classes: torch.Tensor, bundle: Bundle, coarse: bool = False) -> MetaTensor:
    """Return the probability (1, X, Y, Z) that a voxel of conformed scans lies inside the skull.

    Args:
        scans: (S, X, Y, Z) on the grid of the networks.
        classes: (X, Y, Z), those of a segmentation, positions in `FREESURFER_IDS`.
        bundle: finds the space from the scans and from where the segmentation has brain.
        coarse: as a coarse pass, at half the cost.
    """
    seen = torch.cat([as_plain_tensor(scans), depth_in_brain(brain_of_classes(classes))[None]])
    return MetaTensor(bundle.infer(MetaTensor(seen, affine=scans.affine), coarse), affine=scans.affine)


def inside_skull(mask: torch.Tensor, space: MetaTensor) -> torch.Tensor:
    """Return the part of a mask (X, Y, Z) that lies in a space (1, X, Y, Z).

    Where the scan ends in the neck, a segmentation takes tissue below the skull for brain. An empty space says nothing;
    then the mask is returned as it is.
    """
    inside = as_plain_tensor(space)[0] > MORE_LIKELY
    return mask & inside if inside.any() else mask
