"""Random transforms of training volumes that MONAI lacks: other heads, and other ways to cut them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Randomizable
from scipy import ndimage
from scipy.spatial.transform import Rotation
from torch.nn import functional as F

Data = dict[Hashable, Any]


class RandStripd(Randomizable, MapTransform):
    """Set everything outside a brain mask to zero, at random.

    Args:
        keys: images of shape (1, X, Y, Z).
        mask_key: brain mask on the same grid.
        prob: how often.
    """

    def __init__(self, keys: KeysCollection, mask_key: str, prob: float = 0.5) -> None:
        MapTransform.__init__(self, keys)
        self.mask_key, self.prob = mask_key, prob

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        result = dict(data)
        if self.R.random() < self.prob:
            for key in self.key_iterator(result):
                result[key] = result[key] * (torch.as_tensor(result[self.mask_key]) > 0.5)
        return result


class RandRemoveStructuresd(Randomizable, MapTransform):
    """Cut structures out of images and label maps, at random, as skull stripping cuts off a cerebellum.

    Args:
        keys: images and label maps of shape (1, X, Y, Z); what is cut out becomes 0.
        label_key: label map on the same grid, one of the keys or not.
        structures: the values of the label map that are cut out, a margin of one voxel included.
        prob: how often.
    """

    def __init__(self, keys: KeysCollection, label_key: str, structures: Sequence[int], prob: float = 0.5) -> None:
        MapTransform.__init__(self, keys)
        self.label_key, self.structures, self.prob = label_key, list(structures), prob

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        result = dict(data)
        if self.R.random() < self.prob:
            removed = np.isin(np.asarray(result[self.label_key]), self.structures)
            kept = torch.from_numpy(~ndimage.maximum_filter(removed, size=(1, 3, 3, 3)))
            for key in self.key_iterator(result):
                result[key] = result[key] * kept
        return result


class RandWarpSlabd(Randomizable, MapTransform):
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
        flip_prob: how often the first axis is mirrored.
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
    ) -> None:
        MapTransform.__init__(self, keys)
        self.modes, self.size, self.centre_range = list(modes), tuple(size), np.asarray(centre_range)
        self.rotate, self.scale, self.knots = rotate, scale, tuple(knots)
        self.displacement, self.flip_prob = displacement, flip_prob

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        result = dict(data)
        shape = tuple(result[self.keys[0]].shape[1:])
        # grid_sample's last axis runs over the volume's axes in reverse order, from -1 to 1
        grid = (2 * self._positions(shape) / (torch.tensor(shape) - 1.0) - 1).flip(-1)[None]
        for key, mode in zip(self.key_iterator(result), self.modes, strict=True):
            volume = torch.as_tensor(result[key]).as_subclass(torch.Tensor)
            slab = F.grid_sample(volume[None].float(), grid, mode=mode, padding_mode="zeros", align_corners=True)
            result[key] = slab[0].to(volume.dtype)
        return result

    def _positions(self, shape: Sequence[int]) -> torch.Tensor:
        """Where each voxel of the slab comes from: (*size, 3), in voxels of the volume."""
        axes = [torch.arange(n) - (n - 1) / 2 for n in self.size]
        offsets = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
        linear = Rotation.from_euler("xyz", self.R.normal(0, self.rotate, 3)).as_matrix()
        linear = linear * np.exp(self.R.normal(0, self.scale, 3))
        if self.R.random() < self.flip_prob:
            linear[:, 0] *= -1
        centre = self.R.uniform(self.centre_range[:, 0], self.centre_range[:, 1]) * (np.asarray(shape) - 1)
        coarse = torch.from_numpy(self.R.normal(0, self.displacement, (1, 3, *self.knots))).float()
        smooth = F.interpolate(coarse, size=self.size, mode="trilinear", align_corners=True)[0].movedim(0, -1)
        return offsets @ torch.from_numpy(linear.T).float() + torch.from_numpy(centre).float() + smooth
