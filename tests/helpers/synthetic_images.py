"""Synthetic images for tests."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage


def random_image(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Intensities (*shape) in (0, 1), multiples of 1/256, so that differences and 1 − x are exact."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, 256, shape, generator=generator).to(dtype) / 256


def distance_to(centre: float, shape: tuple[int, int, int]) -> NDArray[np.float64]:
    """Distance of every voxel to the point that has the same coordinate along all axes."""
    return np.sqrt(((np.indices(shape) - centre) ** 2).sum(axis=0))


def smooth_pattern(shape: tuple[int, int, int], seed: int = 0, sigma: float = 2.0) -> NDArray[np.float32]:
    """Smoothed noise in [0, 1]."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), sigma)
    return ((noise - noise.min()) / np.ptp(noise)).astype(np.float32)


def brain_in_air(seed: int, side: int = 24) -> torch.Tensor:
    """A ball of intensities between 100 and 200 in air at 0."""
    values = np.random.default_rng(seed).uniform(100, 200, (side, side, side))
    inside = distance_to((side - 1) / 2, values.shape) < 0.4 * side
    return torch.from_numpy(np.where(inside, values, 0)).float()[None]
