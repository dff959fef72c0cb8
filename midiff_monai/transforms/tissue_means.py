"""Mean intensities of tissues around each voxel, from class probabilities."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from midiff_monai.labels import FREESURFER_IDS

TISSUES = ((2, 41, 7, 46), (3, 42, 8, 47), (4, 43, 5, 44, 14, 15, 24))
"""FreeSurfer ids of white matter, grey matter and CSF. Deep grey matter is left out: its intensity lies between."""

DEFAULTS = (0.8, 0.55, 0.2)
"""Means of tissues that a volume lacks."""

WINDOW, STRIDE = 16, 4
"""Side of the window of a mean, and distance of the windows, in voxels."""

PRIOR_SHARE = 0.02
"""Share of a window at which a tissue counts as much as its mean over the whole volume."""


def tissue_means(image: torch.Tensor, probabilities: torch.Tensor) -> torch.Tensor:
    """Estimate the intensities of white matter, grey matter and CSF around each voxel.

    The weight of a voxel is the square of its probability, so that mixed voxels count little. Windows with little of a
    tissue take its mean over the whole volume.

    Args:
        image: (1, 1, X, Y, Z), 0 in the background.
        probabilities: (1, C, X, Y, Z) on the same grid, in the order of `labels.FREESURFER_IDS`.

    Returns:
        (1, 3, X, Y, Z).
    """
    members = [[FREESURFER_IDS.index(label) for label in labels] for labels in TISSUES]
    weights = torch.cat([probabilities[:, indices].sum(dim=1, keepdim=True) for indices in members], dim=1)
    weights = weights.square() * (image != 0)
    total = weights.sum(dim=(2, 3, 4), keepdim=True)
    defaults = torch.tensor(DEFAULTS, device=image.device).reshape(1, 3, 1, 1, 1)
    overall = ((weights * image).sum(dim=(2, 3, 4), keepdim=True) + defaults) / (total + 1)
    local = (_pooled(weights * image) + PRIOR_SHARE * overall) / (_pooled(weights) + PRIOR_SHARE)
    return F.interpolate(local, image.shape[2:], mode="trilinear", align_corners=True)


def _pooled(volume: torch.Tensor) -> torch.Tensor:
    """Means over windows (…, X', Y', Z'), centred within the volume; windows may reach beyond its faces."""
    return F.avg_pool3d(F.pad(volume, [WINDOW // 2] * 6), WINDOW, stride=STRIDE)
