"""Errors of a segmentation in the depth in the brain, for the training of the intracranial mask."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Randomizable
from torch.nn import functional as F

from midiff_monai.transforms.brain_distance import FARTHEST, SURFACE
from midiff_monai.transforms.meta import Data, as_plain_tensor


class RandBrainErrord(Randomizable, MapTransform):
    """Give a depth in the brain the errors of a segmentation, at random.

    The surface moves as a whole, smoothly from place to place, and at some places by more: there a part of the brain is
    missing, or tissue beside it was taken for brain.

    Args:
        keys: depths (1, X, Y, Z), as of `depth_in_brain`.
        largest_offset: largest movement of the whole surface in voxels.
        largest_std: largest standard deviation of the smooth movement in voxels.
        most_places: largest number of places with a larger error.
        place_std: standard deviation of the movement there in voxels.
    """

    def __init__(
        self,
        keys: KeysCollection,
        largest_offset: float = 0.8,
        largest_std: float = 1.0,
        most_places: int = 4,
        place_std: float = 4.0,
    ) -> None:
        MapTransform.__init__(self, keys)
        self.largest_offset, self.largest_std = largest_offset, largest_std
        self.most_places, self.place_std = most_places, place_std

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        """Change the depths of a sample."""
        result = dict(data)
        for key in self.key_iterator(result):
            depth = as_plain_tensor(result[key])
            result[key] = (depth + self._movement(depth[0]) / (2 * FARTHEST)).clamp(0, 1)
        return result

    def _movement(self, depth: torch.Tensor) -> torch.Tensor:
        """Draw how far the surface moves outwards at each voxel (X, Y, Z), in voxels."""
        knots = torch.from_numpy(self.R.normal(0, self.R.uniform(0, self.largest_std), (1, 1, 8, 9, 8))).float()
        movement = F.interpolate(knots, size=depth.shape, mode="trilinear", align_corners=True)[0, 0]
        movement = movement + self.R.uniform(-self.largest_offset, self.largest_offset)
        surface = ((depth - SURFACE).abs() * 2 * FARTHEST < 1).nonzero()
        for _ in range(self.R.randint(self.most_places + 1) if len(surface) else 0):
            place = surface[self.R.randint(len(surface))]
            movement = movement + self.R.normal(0, self.place_std) * _bump(place, self.R.uniform(2, 7), depth.shape)
        return movement


class RandFalseBraind(Randomizable, MapTransform):
    """Add false brain outside the skull to a depth in the brain, at random, as a segmentation does in the neck.

    The false brain is either in pieces or a continuation of the lowest part of the brain into the neck. A piece is an
    ellipsoid with its centre outside the brain, most often below the middle of it.

    Args:
        keys: depths (1, X, Y, Z), as of `depth_in_brain`, in RAS.
        most_pieces: largest number of pieces.
        radii: range of the half axes in voxels.
        below_prob: probability that a piece lies below the middle of the brain.
        continuation_prob: probability that the false brain is a continuation.
        height: range of the height of the part that continues, in voxels.
        length: range of the length of the continuation, in voxels.
        prob: probability of false brain.
    """

    def __init__(
        self,
        keys: KeysCollection,
        most_pieces: int = 4,
        radii: tuple[float, float] = (2.0, 14.0),
        below_prob: float = 0.8,
        continuation_prob: float = 0.5,
        height: tuple[int, int] = (2, 14),
        length: tuple[int, int] = (2, 16),
        prob: float = 0.6,
    ) -> None:
        MapTransform.__init__(self, keys)
        self.most_pieces, self.radii, self.below_prob, self.prob = most_pieces, radii, below_prob, prob
        self.continuation_prob, self.height, self.length = continuation_prob, height, length

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        """Change the depths of a sample."""
        result = dict(data)
        for key in self.key_iterator(result):
            depth = as_plain_tensor(result[key])
            if self.R.random() < self.prob and (depth > SURFACE).any():
                depth = torch.maximum(depth, self._false_brain(depth[0]))
            result[key] = depth
        return result

    def _false_brain(self, depth: torch.Tensor) -> torch.Tensor:
        """The depth (X, Y, Z) in false brain beside the brain of `depth`."""
        if self.R.random() < self.continuation_prob:
            return self._continuation(depth)
        return torch.stack([self._piece(depth) for _ in range(self.R.randint(1, self.most_pieces + 1))]).amax(0)

    def _continuation(self, depth: torch.Tensor) -> torch.Tensor:
        """The depth (X, Y, Z) in the lowest part of the brain and below it, as if the part reached further down."""
        lowest = int((depth > SURFACE).any(dim=0).any(dim=0).nonzero()[0])
        part = depth.clone()
        part[..., lowest + self.R.randint(self.height[0], self.height[1] + 1) :] = 0
        length = self.R.randint(self.length[0], self.length[1] + 1)
        return F.max_pool1d(F.pad(part, (0, length)), length + 1, stride=1)

    def _piece(self, depth: torch.Tensor) -> torch.Tensor:
        """The depth (X, Y, Z) in one ellipsoid near the brain of `depth`."""
        outside = ((depth > 0) & (depth < SURFACE)).nonzero()
        if self.R.random() < self.below_prob:
            middle = (depth > SURFACE).nonzero()[:, 2].float().mean()
            outside = outside[outside[:, 2] < middle]
        if not len(outside):
            return torch.zeros_like(depth)
        centre = outside[self.R.randint(len(outside))].tolist()
        radii = self.R.uniform(*self.radii, 3)
        axes = [(torch.arange(size) - at) / float(r) for size, at, r in zip(depth.shape, centre, radii, strict=True)]
        x, y, z = (axis.float() ** 2 for axis in axes)
        reach = (x[:, None, None] + y[None, :, None] + z[None, None]).sqrt()
        return (SURFACE + (1 - reach) * float(radii.min()) / (2 * FARTHEST)).clamp(0, 1)


def _bump(place: torch.Tensor, width: float, shape: torch.Size) -> torch.Tensor:
    """A Gaussian (X, Y, Z) of height 1 and a standard deviation in voxels."""
    sides = (
        torch.exp(-0.5 * ((torch.arange(size) - centre) / width) ** 2)
        for size, centre in zip(shape, place.tolist(), strict=True)
    )
    x, y, z = sides
    return x[:, None, None] * y[None, :, None] * z[None, None]
