"""Fluid spaces of the brain that widen, as they do with age: other ventricles and sulci than the training volumes have.

A prior of young brains takes the large ventricles of an old one for grey matter wherever the contrast leaves the
choice, as proton density does.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from numpy.typing import NDArray
from scipy import ndimage

from midiff_monai.transforms.meta import Data, with_meta_of

INNER_REACH = 2.0
"""Voxels inside a space over which the displacement fades: its content is alike everywhere."""


class CSFDilationFieldd(MapTransform):
    """Turn label maps into displacements that widen spaces by one voxel: where to look for what a voxel then holds.

    The displacement points into the space, straight from its border, and fades away from it: what lies next to the
    space gives way as a whole, what lies at a distance of `reach` by a third. It is a velocity: whoever follows it in
    small steps maps no two voxels to one.

    Args:
        keys: label maps of shape (1, X, Y, Z); (3 · spaces, X, Y, Z) afterwards, in voxels.
        spaces: the values of the label map that make up each space.
        reaches: over how many voxels the surroundings of each space give way.
    """

    def __init__(self, keys: KeysCollection, spaces: Sequence[Sequence[int]], reaches: Sequence[float]) -> None:
        super().__init__(keys)
        self.spaces, self.reaches = [list(space) for space in spaces], list(reaches)

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        result = dict(data)
        for key in self.key_iterator(result):
            labels = np.asarray(result[key][0])
            pairs = zip(self.spaces, self.reaches, strict=True)
            fields = [csf_dilation_field(np.isin(labels, space), reach) for space, reach in pairs]
            result[key] = with_meta_of(torch.from_numpy(np.concatenate(fields)), result[key])
        return result


def csf_dilation_field(space: NDArray[np.bool_], reach: float) -> NDArray[np.float32]:
    """The displacements (3, X, Y, Z) of a space (X, Y, Z) that widens by one voxel."""
    outside, inside = ndimage.distance_transform_edt(~space), ndimage.distance_transform_edt(space)
    # the steps of a mask would fold the surface of the space
    distance = ndimage.gaussian_filter(outside - inside, 1.0)
    size = np.where(distance > 0, np.exp(-distance / reach), np.exp(distance / INNER_REACH))
    return (-size * np.stack(np.gradient(distance))).astype(np.float32)
