"""Random transforms of training volumes that MONAI lacks: other heads, and other ways to cut them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Randomizable
from scipy.spatial.transform import Rotation
from torch.nn import functional as F

from midiff_monai.transforms.meta import Data

MARGIN_RANGE = (-2.5, 1.0)
"""Depths below the surface of the brain, in voxels, between which skull stripping cuts."""

FLOW_STEPS = 4
"""Steps in which a space widens: at one go, the border of a narrow one would be sought beyond its other side."""


class RandSkullStripd(Randomizable, MapTransform):
    """Set everything outside the brain to zero, at random, as one tool or another would.

    Args:
        keys: images and label maps of shape (1, X, Y, Z).
        depth_key: depth of the brain, and of the brain without cerebellum, on the same grid: see `BrainSignedDistanced`.
        prob: how often.
        cuts: range of the depth, in voxels, at which the surface is cut.
        cerebrum_only_prob: how often the cerebellum goes as well.
    """

    def __init__(
        self,
        keys: KeysCollection,
        depth_key: str,
        prob: float = 0.5,
        margin_range: tuple[float, float] = MARGIN_RANGE,
        cerebrum_only_prob: float = 0.3,
    ) -> None:
        MapTransform.__init__(self, keys)
        self.depth_key, self.prob, self.margin_range, self.cerebrum_only_prob = (
            depth_key,
            prob,
            margin_range,
            cerebrum_only_prob,
        )

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        result = dict(data)
        if self.R.random() < self.prob:
            depth = torch.as_tensor(result[self.depth_key])[int(self.R.random() < self.cerebrum_only_prob)]
            kept = depth > self.R.uniform(*self.margin_range)
            for key in self.key_iterator(result):
                result[key] = result[key] * kept
        return result


class RandDeformCropd(Randomizable, MapTransform):
    """Cut a slab out of a volume under a random affine map and a random smooth deformation, in one interpolation.

    A coarse grid of displacements, interpolated linearly, takes the place of the smoothed noise of MONAI's
    `Rand3DElasticd`: a slab in milliseconds, at a tenth of the cost.

    Args:
        keys: images or label maps of shape (C, X, Y, Z) on one grid.
        modes: "bilinear" or "nearest" for each key.
        size: shape of the slab in voxels.
        centre_range: range of the slab's centre along each axis, as fractions of the volume.
        rotate: standard deviation of the rotation about each axis, in radians; one for all or one per axis.
        scale: standard deviation of the logarithm of the scale along each axis.
        knots: number of displacements along each axis.
        displacement: standard deviation of each displacement along each axis, in voxels.
        flip_prob: how often the first axis of the volume, left and right in RAS, is mirrored.
        sides: of each key that holds class indices, the class index on the other side of the brain of each, such as
            `labels.MIRRORED`: in a mirrored volume they are exchanged.
        csf_dilation_key: fields of `atrophy.CSFDilationFieldd` on the same grid, or None.
        widening: range of voxels by which each of its spaces widens, below 0 by which it narrows.
    """

    def __init__(
        self,
        keys: KeysCollection,
        modes: Sequence[str],
        size: Sequence[int],
        centre_range: Sequence[Sequence[float]],
        rotate: float | Sequence[float] = 0.12,
        scale: float = 0.1,
        knots: Sequence[int] = (5, 6, 3),
        displacement: float = 1.2,
        flip_prob: float = 0.0,
        sides: Mapping[str, Sequence[int]] | None = None,
        csf_dilation_key: str | None = None,
        csf_dilation: Sequence[Sequence[float]] = (),
    ) -> None:
        MapTransform.__init__(self, keys)
        self.modes, self.size, self.centre_range = list(modes), tuple(size), np.asarray(centre_range)
        self.rotate, self.scale, self.knots = rotate, scale, tuple(knots)
        self.displacement, self.flip_prob, self.sides = displacement, flip_prob, sides or {}
        self.csf_dilation_key, self.csf_dilation = csf_dilation_key, np.asarray(csf_dilation)

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        result = dict(data)
        flipped = self.R.random() < self.flip_prob
        positions = self._positions(result[self.keys[0]].shape[1:], flipped)
        if self.csf_dilation_key is not None:
            positions = self._widen(positions, torch.as_tensor(result[self.csf_dilation_key]))
        for key, mode in zip(self.key_iterator(result), self.modes, strict=True):
            result[key] = sample(result[key], positions, mode)
            if flipped and key in self.sides:
                result[key] = torch.tensor(self.sides[key], dtype=result[key].dtype)[result[key].long()]
        return result

    def _positions(self, shape: Sequence[int], flipped: bool) -> torch.Tensor:
        """Where each voxel of the slab comes from: (*size, 3), in voxels of the volume."""
        axes = [torch.arange(n) - (n - 1) / 2 for n in self.size]
        offsets = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
        linear = Rotation.from_euler("xyz", self.R.normal(0, self.rotate, 3)).as_matrix()
        linear = linear * np.exp(self.R.normal(0, self.scale, 3))
        if flipped:
            linear[:, 0] *= -1
        centre = self.R.uniform(self.centre_range[:, 0], self.centre_range[:, 1]) * (np.asarray(shape) - 1)
        coarse = torch.from_numpy(self.R.normal(0, self.displacement, (1, 3, *self.knots))).float()
        smooth = F.interpolate(coarse, size=self.size, mode="trilinear", align_corners=True)[0].movedim(0, -1)
        return offsets @ torch.from_numpy(linear.T).float() + torch.from_numpy(centre).float() + smooth

    def _widen(self, positions: torch.Tensor, fields: torch.Tensor) -> torch.Tensor:
        """Follow the fields (3 · spaces, X, Y, Z) from each position, each by an amount of its own."""
        amounts = torch.from_numpy(self.R.uniform(*self.csf_dilation.T) / FLOW_STEPS).float()
        # the fields are of unit length at most, and what no path can reach is not needed
        near = bounding_slices(positions, fields.shape[1:], margin=2 + FLOW_STEPS * float(amounts.abs().sum()))
        fields = fields[(slice(None), *near)].float().unflatten(0, (-1, 3))
        velocity = torch.einsum("s,scxyz->cxyz", amounts, fields)
        corner = torch.tensor([float(part.start) for part in near])
        positions = positions - corner
        for _ in range(FLOW_STEPS):
            positions = positions + sample(velocity, positions).movedim(0, -1)
        return positions + corner


def bounding_slices(positions: torch.Tensor, shape: Sequence[int], margin: float) -> tuple[slice, ...]:
    """The part of a volume of this shape, at least two voxels wide, that lies within a margin of positions (…, 3)."""
    lowest, highest = positions.flatten(0, -2).aminmax(dim=0)
    starts = [min(max(int(low - margin), 0), size - 2) for low, size in zip(lowest.tolist(), shape, strict=True)]
    stops = [min(int(high + margin) + 2, size) for high, size in zip(highest.tolist(), shape, strict=True)]
    return tuple(slice(start, max(stop, start + 2)) for start, stop in zip(starts, stops, strict=True))


def sample(volume: Any, positions: torch.Tensor, mode: str = "bilinear") -> torch.Tensor:
    """What a volume (C, X, Y, Z) holds at positions (*size, 3) in voxels, 0 beyond it: (C, *size)."""
    image = torch.as_tensor(volume).as_subclass(torch.Tensor)
    # grid_sample's last axis runs over the volume's axes in reverse order, from -1 to 1
    grid = (2 * positions / (torch.tensor(image.shape[1:]) - 1.0) - 1).flip(-1)[None]
    found = F.grid_sample(image[None].float(), grid, mode=mode, padding_mode="zeros", align_corners=True)
    return found[0].to(image.dtype)
