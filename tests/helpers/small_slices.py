"""Small grey pictures of a target modality, one slice a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike, NDArray
from PIL import Image
from synthetic_images import smooth_pattern


def disc(seed: int = 0, shape: tuple[int, int] = (40, 48), dtype: DTypeLike = np.uint8) -> NDArray:
    """A disc (rows, columns) of smooth texture around a dark core of 0, in a background of 0."""
    rows, columns = np.meshgrid(*(np.linspace(-1, 1, side) for side in shape), indexing="ij")
    radius = np.hypot(rows, columns)
    texture = 0.4 + 0.6 * smooth_pattern((*shape, 3), seed)[..., 1]
    largest = 250 if np.dtype(dtype) == np.uint8 else 50_000
    return np.rint(np.where((radius > 0.25) & (radius < 0.85), texture, 0.0) * largest).astype(dtype)


def write_picture(path: Path, seed: int = 0, shape: tuple[int, int] = (40, 48), dtype: DTypeLike = np.uint8) -> Path:
    """Write a disc in the format that the suffix names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(disc(seed, shape, dtype)).save(path)
    return path


def write_pictures(folder: Path, count: int = 3, shape: tuple[int, int] = (40, 48)) -> Path:
    """Write `count` discs as PNG with numbered names."""
    for number in range(count):
        write_picture(folder / f"case1_{number:03}.png", number, shape)
    return folder
