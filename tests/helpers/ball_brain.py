"""A brain of a shell and balls, at the places that its structures have in template space."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from midiff_monai.labels import FREESURFER_IDS, MIRRORED
from midiff_monai.transforms.hemispheres import TEMPLATE_CENTROIDS

RADII_MM = np.array([66.0, 85.0, 60.0])


def ball_brain(spacing_mm: float = 4.0) -> tuple[NDArray[np.int16], NDArray[np.float64]]:
    """Labels in FreeSurfer ids, symmetric but for their sides, and their affine."""
    size = np.ceil(2 * (RADII_MM + 12) / spacing_mm).astype(int)
    affine = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
    affine[:3, 3] = -spacing_mm * (size - 1) / 2
    points = np.moveaxis(np.indices(size.tolist()), 0, -1) * spacing_mm + affine[:3, 3]
    radius = np.linalg.norm(points / RADII_MM, axis=-1)
    left = np.select([radius < 0.85, radius < 1], [2, 3], 0).astype(np.int16)
    folded = points * np.where(points[..., :1] > 0, [-1, 1, 1], 1)
    for label, centroid in TEMPLATE_CENTROIDS.items():
        if label not in (2, 3):
            left[np.linalg.norm(folded - centroid, axis=-1) < 6] = label
    return np.where(points[..., 0] > 0, other_side(left), left), affine


def other_side(labels: NDArray[np.integer]) -> NDArray[np.int16]:
    """The labels of the same structures in the other hemisphere."""
    table = np.array(FREESURFER_IDS, dtype=np.int16)[list(MIRRORED)]
    return table[np.searchsorted(FREESURFER_IDS, labels)]
