"""Resampling of volumes and class probabilities between grids.

A grid is a shape (X, Y, Z) and an affine (4, 4) from voxel indices to world coordinates in mm. The source grid is that
of the volume; the target grid is that of the result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray

SLAB_VALUES = 2**25
"""Number of float32 values per slab of the target grid, 128 MiB; larger grids are processed slab by slab."""

COORDINATE_VALUES = 24
"""Memory of a voxel's three float64 coordinates and their intermediate results, in float32 values."""

MIN_WEIGHT = 1e-3
"""Weight of known voxels below which a normalised convolution is undefined."""

Observer = Callable[[Sequence[slice], torch.Tensor, torch.Tensor], None]
"""Gets class probabilities part by part, because those of a whole volume would need gigabytes: the window of the part
in the target grid, the mask (x, y, z) of its voxels that are known, and the probabilities (C, N) of these voxels."""

FIELD_OF_VIEW_MARGIN = 0.5 + 1e-4
"""Distance in voxels from the outer voxel centres to the faces of the grid, with a tolerance for rounding."""


def resample_labels(
    probabilities: torch.Tensor,
    source_affine: ArrayLike,
    target_shape: Sequence[int],
    target_affine: ArrayLike,
    outside: int = 0,
    observe: Observer | None = None,
) -> torch.Tensor:
    """Resample class probabilities to another grid trilinearly, and take the most probable class there.

    A target voxel is only interpolated if the most probable class of one of its eight neighbours is not `outside`.
    Otherwise `outside` is the most probable class of every convex combination of the neighbours. This needs about
    0.5 GiB beyond input and output.

    Args:
        probabilities: (C, X, Y, Z), floating point; any scale that preserves the order of the classes.
        source_affine: (4, 4).
        target_shape: X', Y', Z'.
        target_affine: (4, 4).
        outside: index of the class outside the field of view of the source.
        observe: gets the probabilities of the interpolated voxels. They may add up to less than 1.

    Returns:
        (X', Y', Z'), int16, class indices, on the device of the probabilities.

    Example:
        >>> probabilities = torch.tensor([[0.9, 0.1], [0.1, 0.9]]).reshape(2, 2, 1, 1)
        >>> resample_labels(probabilities, np.eye(4), (4, 1, 1), np.diag([0.5, 1, 1, 1]))[:, 0, 0].tolist()
        [0, 0, 1, 1]
    """
    labels = torch.full(tuple(target_shape), outside, dtype=torch.int16, device=probabilities.device)
    foreground = (probabilities.amax(dim=0) > probabilities[outside]).to(probabilities.dtype)[None]
    for slab, points, inside in _slabs(probabilities, source_affine, target_shape, target_affine):
        near_foreground = inside & (_sample(foreground, points, "bilinear")[0] > 0)
        interpolated = _sample(probabilities, points[near_foreground][:, None, None], "bilinear")[..., 0, 0]
        labels[slab][near_foreground] = interpolated.argmax(dim=0).to(torch.int16)
        if observe:
            observe((slab,), near_foreground, interpolated)
    return labels


def resample_to_grid(
    volume: torch.Tensor,
    source_affine: ArrayLike,
    target_shape: Sequence[int],
    target_affine: ArrayLike,
    fill: float,
    mode: Literal["bilinear", "nearest"] = "bilinear",
) -> torch.Tensor:
    """Resample a volume to another grid.

    Args:
        volume: (X, Y, Z), floating point.
        source_affine: (4, 4).
        target_shape: X', Y', Z'.
        target_affine: (4, 4).
        fill: value outside the field of view of the volume.
        mode: "bilinear" means trilinear, as in PyTorch.

    Returns:
        (X', Y', Z'), float32, on the device of the volume.

    Example:
        >>> volume = torch.tensor([0.0, 1.0]).reshape(2, 1, 1)
        >>> resample_to_grid(volume, np.eye(4), (4, 1, 1), np.diag([0.5, 1, 1, 1]), fill=-1)[:, 0, 0].tolist()
        [0.0, 0.5, 1.0, 1.0]
    """
    resampled = torch.full(tuple(target_shape), fill, dtype=torch.float32, device=volume.device)
    for slab, points, inside in _slabs(volume[None], source_affine, target_shape, target_affine):
        resampled[slab][inside] = _sample(volume[None], points, mode)[0][inside].float()
    return resampled


def restore_foreground(
    volume: torch.Tensor,
    source_mask: torch.Tensor,
    source_affine: ArrayLike,
    target_mask: torch.Tensor,
    target_affine: ArrayLike,
) -> torch.Tensor:
    """Resample volumes that are known in their foreground only, by normalised convolution.

    Voxels outside the foreground have no weight, so the surface of the foreground is not darkened.

    Args:
        volume: (C, X, Y, Z), floating point.
        source_mask: (X, Y, Z), true where the volumes are known.
        source_affine: (4, 4).
        target_mask: (X', Y', Z'), foreground of the target grid.
        target_affine: (4, 4).

    Returns:
        (C, X', Y', Z'), float32; 0 outside the target mask, and where no neighbouring voxel is known.
    """
    known = torch.cat([source_mask.to(volume.dtype)[None], volume * source_mask])
    restored = torch.zeros(len(volume), *target_mask.shape, device=volume.device)
    for slab, points, inside in _slabs(known, source_affine, target_mask.shape, target_affine):
        wanted = inside & target_mask[slab]
        sampled = _sample(known, points[wanted][:, None, None], "bilinear")[..., 0, 0].float()
        weight, weighted = sampled[:1], sampled[1:]
        restored[:, slab][:, wanted] = torch.where(weight > MIN_WEIGHT, weighted / weight.clamp(min=MIN_WEIGHT), 0.0)
    return restored


def _slabs(
    source: torch.Tensor, source_affine: ArrayLike, target_shape: Sequence[int], target_affine: ArrayLike
) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor]]:
    """Divide a target grid into slabs, with the points at which to sample a source (C, X, Y, Z).

    Yields:
        The range of the slab along the first axis; the normalised source coordinates (x, Y', Z', 3) of its voxels; the
        mask (x, Y', Z') of voxels inside the field of view of the source.
    """
    affines = (np.asarray(affine, dtype=np.float64) for affine in (source_affine, target_affine))
    to_world_from_source, to_world_from_target = affines
    to_source = np.linalg.inv(to_world_from_source) @ to_world_from_target
    sizes = torch.tensor(source.shape[1:], dtype=torch.float64, device=source.device)
    values_per_plane = max(source.shape[0], COORDINATE_VALUES) * target_shape[1] * target_shape[2]
    thickness = max(1, SLAB_VALUES // values_per_plane)
    for start in range(0, target_shape[0], thickness):
        slab = slice(start, min(start + thickness, target_shape[0]))
        box = (slab, slice(0, target_shape[1]), slice(0, target_shape[2]))
        indices = source_indices(to_source, box, source.device)
        inside = (indices >= -FIELD_OF_VIEW_MARGIN) & (indices <= sizes - 1 + FIELD_OF_VIEW_MARGIN)
        yield slab, _normalized(indices, sizes).to(source.dtype), inside.all(dim=-1)


def source_indices(
    to_source: NDArray[np.float64], box: Sequence[slice], device: torch.device | str = "cpu"
) -> torch.Tensor:
    """Map the voxels of a box of the target grid to voxel indices of the source: M j + t, summed axis by axis.

    Args:
        to_source: M and t as an affine (4, 4).
        box: ranges of the target voxels along the three axes.
        device: device of the result.

    Returns:
        (x, y, z, 3), float64.
    """
    matrix = torch.as_tensor(to_source, device=device)
    first, second, third = (
        torch.arange(side.start, side.stop, dtype=torch.float64, device=device)[:, None] * column
        for side, column in zip(box, matrix[:3, :3].T, strict=True)
    )
    return first[:, None, None] + second[None, :, None] + third[None, None] + matrix[:3, 3]


def interpolate(volume: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """Interpolate a volume trilinearly at voxel indices. Outside the volume, the value of the border is repeated.

    Args:
        volume: (C, X, Y, Z), floating point.
        indices: (x, y, z, 3).

    Returns:
        (C, x, y, z).
    """
    sizes = torch.tensor(volume.shape[1:], dtype=indices.dtype, device=indices.device)
    return _sample(volume, _normalized(indices, sizes).to(volume.dtype), "bilinear")


def _normalized(indices: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
    """Turn voxel indices (…, 3) into the points of `grid_sample`, which expects the last axis first.

    align_corners=True puts -1 at the centre of voxel 0 and +1 at that of voxel n-1: u = 2 i / (n - 1) - 1. A source of
    one voxel has a single centre, and every u means that voxel.
    """
    return (indices * (2 / (sizes - 1).clamp(min=1)) - 1).flip(-1)


def _sample(source: torch.Tensor, points: torch.Tensor, mode: str) -> torch.Tensor:
    """Sample (C, X, Y, Z) at normalised points (x, y, z, 3); outer half voxels take the value of the border."""
    return F.grid_sample(source[None], points[None], mode=mode, padding_mode="border", align_corners=True)[0]
