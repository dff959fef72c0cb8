"""Resampling of volumes between grids, and the way back to the grid of the input."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray

SLAB_VALUES = 2**25
"""Values of four bytes that a slab of the target grid may take at once, 128 MiB."""


COORDINATE_VALUES = 24  # a voxel's three coordinates: as float64 before, during and after their arithmetic


WEIGHT_FLOOR = 1e-3
"""Where what is known has less weight than this, a normalised convolution knows nothing."""


BORDER = 0.5 + 1e-4  # a grid ends at the faces of its outer voxels, half a voxel beyond their centres


def restore_to_grid(
    posteriors: torch.Tensor, affine: ArrayLike, shape: Sequence[int], reference_affine: ArrayLike, outside: int = 0
) -> torch.Tensor:
    """Bring class probabilities to another grid by trilinear interpolation, and take the most probable class there.

    Only voxels beside a voxel where another class than `outside` leads are interpolated: where `outside` leads at all
    eight neighbours it leads in every convex combination of them. Needs about 0.5 GiB beyond input and output.

    Args:
        posteriors: (C, X, Y, Z), floating point, any scale on which the largest class wins.
        affine: (4, 4), of the grid of the posteriors.
        shape: X', Y', Z' of the target grid.
        reference_affine: (4, 4), of the target grid.
        outside: index of the class beyond the field of view of the posteriors.

    Returns:
        (X', Y', Z'), int16, class indices, on the device of the posteriors.
    """
    labels = torch.full(tuple(shape), outside, dtype=torch.int16, device=posteriors.device)
    foreground = (posteriors.amax(dim=0) > posteriors[outside]).to(posteriors.dtype)[None]
    for slab, points, inside in _slabs(posteriors, affine, shape, reference_affine):
        near_foreground = inside & (_sample(foreground, points, "bilinear")[0] > 0)
        classes = _sample(posteriors, points[near_foreground][:, None, None], "bilinear").argmax(dim=0)
        labels[slab][near_foreground] = classes.flatten().to(torch.int16)
    return labels


def resample_to_grid(
    volume: torch.Tensor,
    affine: ArrayLike,
    shape: Sequence[int],
    reference_affine: ArrayLike,
    fill: float,
    mode: Literal["bilinear", "nearest"] = "bilinear",
) -> torch.Tensor:
    """Bring a continuous volume to another grid.

    Args:
        volume: (X, Y, Z), floating point.
        affine: (4, 4), of the grid of the volume.
        shape: X', Y', Z' of the target grid.
        reference_affine: (4, 4), of the target grid.
        fill: value beyond the field of view of the volume.
        mode: "bilinear" means trilinear, as in PyTorch.

    Returns:
        (X', Y', Z'), float32, on the device of the volume.
    """
    resampled = torch.full(tuple(shape), fill, dtype=torch.float32, device=volume.device)
    for slab, points, inside in _slabs(volume[None], affine, shape, reference_affine):
        resampled[slab][inside] = _sample(volume[None], points, mode)[0][inside].float()
    return resampled


def restore_foreground(
    volume: torch.Tensor,
    foreground_mask: torch.Tensor,
    affine: ArrayLike,
    foreground: torch.Tensor,
    reference_affine: ArrayLike,
) -> torch.Tensor:
    """Bring a continuous volume that is known in its foreground alone to another grid: a normalised convolution.

    Args:
        volume: (X, Y, Z), floating point.
        there: (X, Y, Z), true where the volume is known.
        affine: (4, 4), of the grid of the volume.
        foreground: (X', Y', Z'), true where the target grid has a foreground.
        reference_affine: (4, 4), of the target grid.

    Returns:
        (X', Y', Z'), float32: 0 outside the foreground, and where no voxel beside is known.
    """
    grids = affine, foreground.shape, reference_affine
    weight = resample_to_grid(foreground_mask.to(volume.dtype), *grids, fill=0.0)
    total = resample_to_grid(volume * foreground_mask, *grids, fill=0.0)
    return torch.where(foreground & (weight > WEIGHT_FLOOR), total / weight.clamp(min=WEIGHT_FLOOR), 0.0)


def _slabs(
    source: torch.Tensor, affine: ArrayLike, shape: Sequence[int], reference_affine: ArrayLike
) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor]]:
    """Walk a target grid in slabs, to sample a source (C, X, Y, Z) there.

    Yields:
        The place of the slab along the first axis; the normalised points (x, Y', Z', 3) of its voxels in the source; a
        mask (x, Y', Z') of those inside the field of view of the source.
    """
    to_source = np.linalg.inv(np.asarray(affine, dtype=np.float64)) @ np.asarray(reference_affine, dtype=np.float64)
    sizes = torch.tensor(source.shape[1:], dtype=torch.float64, device=source.device)
    # align_corners=True puts -1 at the centre of voxel 0 and +1 at that of voxel n-1: u = 2 i / (n - 1) - 1. With the
    # voxel index i = M j + t of the target voxel j, the matrix from j to u is (2 M / (n - 1), 2 t / (n - 1) - 1), row
    # by row. A source one voxel thick has no second centre, and every u means that voxel.
    scale = 2 / (sizes - 1).clamp(min=1)
    values_per_plane = max(source.shape[0], COORDINATE_VALUES) * shape[1] * shape[2]
    thickness = max(1, SLAB_VALUES // values_per_plane)
    for start in range(0, shape[0], thickness):
        slab = slice(start, min(start + thickness, shape[0]))
        indices = _source_indices(to_source, slab, shape, source.device)
        inside = ((indices >= -BORDER) & (indices <= sizes - 1 + BORDER)).all(dim=-1)
        # grid_sample names the axes of its points from the last to the first.
        yield slab, (indices * scale - 1).flip(-1).to(source.dtype), inside


def _source_indices(
    to_source: NDArray[np.float64], slab: slice, shape: Sequence[int], device: torch.device
) -> torch.Tensor:
    matrix = torch.as_tensor(to_source, device=device)
    first, second, third = (
        torch.arange(start, stop, dtype=torch.float64, device=device)[:, None] * column
        for (start, stop), column in zip(
            ((slab.start, slab.stop), (0, shape[1]), (0, shape[2])), matrix[:3, :3].T, strict=True
        )
    )
    return first[:, None, None] + second[None, :, None] + third[None, None] + matrix[:3, 3]


def _sample(source: torch.Tensor, points: torch.Tensor, mode: str) -> torch.Tensor:
    """Sample (C, X, Y, Z) at normalised points (x, y, z, 3); in the outer half voxels the border value goes on."""
    return F.grid_sample(source[None], points[None], mode=mode, padding_mode="border", align_corners=True)[0]
