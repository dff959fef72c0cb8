"""Balls as skull-stripped brains and as heads, on voxels of 2 mm."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from synthetic_images import distance_to

SPACING = (2.0, 2.0, 2.0)
SIDE = 64
RADII = distance_to((SIDE - 1) / 2, (SIDE, SIDE, SIDE)) * 2


def brain() -> NDArray[np.float32]:
    """A ball of 90 mm diameter, 100 to 200, in a background of 0."""
    texture = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=RADII.shape), 2)
    return np.where(RADII < 45, 150 + 400 * texture.clip(-0.1, 0.1), 0).astype(np.float32)


def head(air: float = 3.0) -> NDArray[np.float32]:
    """The ball of `brain` with a dark skull of 8 mm, a scalp of 6 mm, and the noise of air."""
    noise = np.hypot(*np.random.default_rng(1).normal(scale=air, size=(2, *RADII.shape)))
    tissue = np.where((RADII >= 53) & (RADII < 59), 180, brain())
    return (tissue + noise).astype(np.float32)
