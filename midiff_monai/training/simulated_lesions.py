"""White matter lesions drawn into label maps, as old and ill brains have them."""

from __future__ import annotations

import torch
from scipy.ndimage import distance_transform_edt
from torch.nn import functional as F

VENTRICLES = (4, 43)

LESION_OF = {2: 25, 41: 57}
"""Cerebral white matter → lesion, as FreeSurfer ids. `labels.MERGED` counts the lesion as white matter."""

PERIVENTRICULAR_MM = 4.0
"""Distance from the lateral ventricles at which lesions are 1/e as likely as at their surface."""

PERIVENTRICULAR_WEIGHT = 2.5
"""How much lesions prefer the surface of the ventricles, in standard deviations of the random field."""

BLOB_MM = 5.0


def with_lesions(labels: torch.Tensor, share: float) -> torch.Tensor:
    """Turn a share of the cerebral white matter into lesions, scattered blobs and caps around the lateral ventricles.

    Args:
        labels: FreeSurfer ids (1, X, Y, Z) at 1 mm.
        share: share of the white matter in [0, 1].

    Returns:
        A copy (1, X, Y, Z) with ids of `LESION_OF`.
    """
    white = torch.isin(labels, torch.tensor(list(LESION_OF)))
    score = _random_blobs(labels) + PERIVENTRICULAR_WEIGHT * torch.exp(-_distance(labels) / PERIVENTRICULAR_MM)
    count = int(share * int(white.sum()))
    if not count:
        return labels.clone()
    threshold = score[white].topk(count).values[-1]
    lesions = white & (score >= threshold)
    result = labels.clone()
    for tissue, lesion in LESION_OF.items():
        result[lesions & (labels == tissue)] = lesion
    return result


def _random_blobs(labels: torch.Tensor) -> torch.Tensor:
    """Draw a random field of standard deviation 1 whose blobs have the size `BLOB_MM`."""
    size = [max(round(length / BLOB_MM), 2) for length in labels.shape[1:]]
    field = F.interpolate(torch.randn(1, 1, *size), labels.shape[1:], mode="trilinear", align_corners=False)[0]
    return field / field.std()


def _distance(labels: torch.Tensor) -> torch.Tensor:
    """Distance to the lateral ventricles in mm; infinite if there are none."""
    outside = ~torch.isin(labels[0], torch.tensor(VENTRICLES))
    if outside.all():
        return torch.full(labels.shape, torch.inf)
    return torch.from_numpy(distance_transform_edt(outside.numpy())).float()[None]
