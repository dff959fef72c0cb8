"""Random transforms of training volumes that MONAI lacks: skull stripping, and a deformation with a crop."""

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
"""Range of the signed distances at which skull stripping cuts, in voxels; positive values lie inside the brain."""

FLOW_STEPS = 4
"""Integration steps of the CSF dilation. In a single step, a narrow space would be sampled beyond its other side."""


class RandSkullStripd(Randomizable, MapTransform):
    """Set everything outside the brain to zero, at random, with a random margin.

    Args:
        keys: images and label maps of shape (1, X, Y, Z).
        distance_key: signed distances (2, X, Y, Z) on the same grid, of the brain and of the cerebrum, see
            `BrainSignedDistanced`.
        prob: probability of stripping.
        margin_range: range of the signed distance at which the brain is cut, in voxels.
        cerebrum_only_prob: probability that the cerebellum is removed as well.
    """

    def __init__(
        self,
        keys: KeysCollection,
        distance_key: str,
        prob: float = 0.5,
        margin_range: tuple[float, float] = MARGIN_RANGE,
        cerebrum_only_prob: float = 0.3,
    ) -> None:
        MapTransform.__init__(self, keys)
        self.distance_key, self.prob = distance_key, prob
        self.margin_range, self.cerebrum_only_prob = margin_range, cerebrum_only_prob

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        result = dict(data)
        if self.R.random() < self.prob:
            cerebrum_only = self.R.random() < self.cerebrum_only_prob
            distance = torch.as_tensor(result[self.distance_key])[int(cerebrum_only)]
            kept = distance > self.R.uniform(*self.margin_range)
            for key in self.key_iterator(result):
                result[key] = result[key] * kept
        return result


class RandDeformCropd(Randomizable, MapTransform):
    """Crop a slab from a volume under a random affine map and a random smooth deformation, in one interpolation.

    The deformation is a coarse grid of random displacements, interpolated linearly. It takes milliseconds, a tenth of
    the time of MONAI's `Rand3DElasticd`, which smooths noise.

    Args:
        keys: images or label maps of shape (C, X, Y, Z) on one grid.
        mode: "bilinear" or "nearest" for each key.
        spatial_size: shape of the slab in voxels.
        centre_range: range of the slab's centre along each axis, as fractions of the volume.
        rotate_std: standard deviation of the rotation about each axis in radians, one for all axes or one per axis.
        scale_std: standard deviation of the logarithm of the scale along each axis.
        control_points: number of displacements along each axis.
        displacement_std: standard deviation of each displacement along each axis, in voxels.
        flip_prob: probability that the first axis (left-right in RAS) is mirrored.
        mirrored_labels: for each key of class indices, the class on the other side of the brain of every class, such as
            `labels.MIRRORED`. A mirrored volume gets these classes.
        csf_dilation_key: key of the fields of `CSFDilationFieldd` on the same grid, or None.
        csf_dilation_range: range of the dilation of each CSF space in voxels. Negative values shrink the space.
    """

    def __init__(
        self,
        keys: KeysCollection,
        mode: Sequence[str],
        spatial_size: Sequence[int],
        centre_range: Sequence[Sequence[float]],
        rotate_std: float | Sequence[float] = 0.12,
        scale_std: float = 0.1,
        control_points: Sequence[int] = (5, 6, 3),
        displacement_std: float = 1.2,
        flip_prob: float = 0.0,
        mirrored_labels: Mapping[str, Sequence[int]] | None = None,
        csf_dilation_key: str | None = None,
        csf_dilation_range: Sequence[Sequence[float]] = (),
    ) -> None:
        MapTransform.__init__(self, keys)
        self.mode, self.spatial_size = list(mode), tuple(spatial_size)
        self.centre_range = np.asarray(centre_range)
        self.rotate_std, self.scale_std, self.flip_prob = rotate_std, scale_std, flip_prob
        self.control_points, self.displacement_std = tuple(control_points), displacement_std
        self.mirrored_labels = mirrored_labels or {}
        self.csf_dilation_key, self.csf_dilation_range = csf_dilation_key, np.asarray(csf_dilation_range)

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        result = dict(data)
        flipped = self.R.random() < self.flip_prob
        positions = self._positions(result[self.keys[0]].shape[1:], flipped)
        if self.csf_dilation_key is not None:
            positions = self._dilate_csf(positions, torch.as_tensor(result[self.csf_dilation_key]))
        for key, mode in zip(self.key_iterator(result), self.mode, strict=True):
            result[key] = sample_at(result[key], positions, mode)
            if flipped and key in self.mirrored_labels:
                mirrored = torch.tensor(self.mirrored_labels[key], dtype=result[key].dtype)
                result[key] = mirrored[result[key].long()]
        return result

    def _positions(self, shape: Sequence[int], flipped: bool) -> torch.Tensor:
        """Draw the position in the volume, in voxels, that each voxel of the slab is sampled from: (*size, 3)."""
        axes = [torch.arange(n) - (n - 1) / 2 for n in self.spatial_size]
        offsets = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
        linear = Rotation.from_euler("xyz", self.R.normal(0, self.rotate_std, 3)).as_matrix()
        linear = linear * np.exp(self.R.normal(0, self.scale_std, 3))
        if flipped:
            linear[:, 0] *= -1
        centre = self.R.uniform(self.centre_range[:, 0], self.centre_range[:, 1]) * (np.asarray(shape) - 1)
        coarse = torch.from_numpy(self.R.normal(0, self.displacement_std, (1, 3, *self.control_points))).float()
        smooth = F.interpolate(coarse, size=self.spatial_size, mode="trilinear", align_corners=True)[0].movedim(0, -1)
        return offsets @ torch.from_numpy(linear.T).float() + torch.from_numpy(centre).float() + smooth

    def _dilate_csf(self, positions: torch.Tensor, fields: torch.Tensor) -> torch.Tensor:
        """Move positions along the fields (3 · spaces, X, Y, Z), with a random amount for each space."""
        amounts = torch.from_numpy(self.R.uniform(*self.csf_dilation_range.T) / FLOW_STEPS).float()
        # the fields have at most unit length, which bounds the part of the volume that a path can reach
        reachable = bounding_slices(positions, fields.shape[1:], margin=2 + FLOW_STEPS * float(amounts.abs().sum()))
        fields = fields[(slice(None), *reachable)].float().unflatten(0, (-1, 3))
        velocity = torch.einsum("s,scxyz->cxyz", amounts, fields)
        corner = torch.tensor([float(part.start) for part in reachable])
        positions = positions - corner
        for _ in range(FLOW_STEPS):
            positions = positions + sample_at(velocity, positions).movedim(0, -1)
        return positions + corner


def bounding_slices(positions: torch.Tensor, shape: Sequence[int], margin: float) -> tuple[slice, ...]:
    """Find the box around positions (…, 3) with a margin, in a volume of this shape and at least two voxels wide."""
    lowest, highest = positions.flatten(0, -2).aminmax(dim=0)
    starts = [min(max(int(low - margin), 0), size - 2) for low, size in zip(lowest.tolist(), shape, strict=True)]
    stops = [min(int(high + margin) + 2, size) for high, size in zip(highest.tolist(), shape, strict=True)]
    return tuple(slice(start, max(stop, start + 2)) for start, stop in zip(starts, stops, strict=True))


def sample_at(volume: Any, positions: torch.Tensor, mode: str = "bilinear") -> torch.Tensor:
    """Interpolate a volume (C, X, Y, Z) at positions (*size, 3) in voxels: (C, *size), 0 outside the volume.

    A volume of one slice goes on along the normal of the slice.
    """
    image = torch.as_tensor(volume).as_subclass(torch.Tensor)
    # grid_sample's last axis runs over the volume's axes in reverse order, from -1 to 1
    grid = (2 * positions / (torch.tensor(image.shape[1:]) - 1.0).clamp(min=1) - 1).flip(-1)[None]
    sampled = F.grid_sample(image[None].float(), grid, mode=mode, padding_mode="zeros", align_corners=True)
    return sampled[0].to(image.dtype)
