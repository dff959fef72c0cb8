"""Scores of a mask of white matter lesions against a mask that others made."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from midiff_monai.evaluation.metrics import dice
from midiff_monai.transforms.lesions import CONNECTED, count_lesions


def lesion_scores(found: NDArray[np.bool_], truth: NDArray[np.bool_], voxel_ml: float) -> dict[str, float]:
    """Compare two masks (X, Y, Z), voxel by voxel and lesion by lesion.

    A lesion is a connected region. A true one counts as found, and a found one as true, if a voxel lies in the other
    mask (Kuijf et al., IEEE TMI 38:2556, 2019).

    Args:
        found: mask of the method.
        truth: mask of a person or of another method.
        voxel_ml: volume of a voxel in millilitres.

    Returns:
        "dice", "true_ml", "found_ml", "true_count", "found_count", "recall" and "precision", the last two of lesions.
        Recall and precision are NaN without true or found lesions.
    """
    return {
        "dice": dice(found.astype(np.uint8), truth.astype(np.uint8), [1]),
        "true_ml": float(truth.sum() * voxel_ml),
        "found_ml": float(found.sum() * voxel_ml),
        "true_count": count_lesions(truth),
        "found_count": count_lesions(found),
        "recall": _share_hit(truth, found),
        "precision": _share_hit(found, truth),
    }


def _share_hit(lesions: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Return the share of the regions of one mask that contain a voxel of the other mask; NaN without a region."""
    regions, count = ndimage.label(lesions, CONNECTED)
    return np.setdiff1d(regions[other], 0).size / count if count else np.nan
