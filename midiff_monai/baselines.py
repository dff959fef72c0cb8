"""What a user would try without a translation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def match_histogram(volume: NDArray, reference: NDArray, invert: bool = False) -> NDArray[np.float32]:
    """Give the positive voxels of a volume the grey-value distribution of a reference's.

    Args:
        volume: any shape; what is not positive stays 0.
        reference: any shape, for example a skull-stripped T1w.
        invert: turn dark and bright around first, as a T2w needs.

    Returns:
        The volume's shape, in the reference's grey values.
    """
    inside = volume > 0
    values = volume[inside].astype(np.float64)
    ranks = np.searchsorted(np.sort(values), values, side="right") / values.size
    matched = np.zeros(volume.shape, dtype=np.float32)
    # what np.quantile gives, which takes minutes for as many ranks as a volume has voxels
    levels = np.sort(reference[reference > 0])
    matched[inside] = np.interp(1 - ranks if invert else ranks, np.linspace(0, 1, levels.size), levels)
    return matched
