"""Random atrophy: wider ventricles and sulci than the training subjects have.

A prior of young brains mistakes the large ventricles of an old brain for grey matter, if the contrast between CSF and
grey matter is as low as in proton density.
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
"""Distance in voxels over which the displacement decays inside a CSF space."""


class CSFDilationFieldd(MapTransform):
    """Turn label maps into velocity fields that dilate CSF spaces by one voxel.

    The field gives, for each voxel, the displacement to the position that it is sampled from. It points into the space,
    normal to its surface. Outside the space its length decays as exp(−distance / reach). To dilate a space by several
    voxels, follow the field in small steps (`RandDeformCropd`): no two voxels then map to the same position.

    Args:
        keys: label maps of shape (1, X, Y, Z). They become fields of shape (3 · spaces, X, Y, Z), in voxels.
        spaces: labels of each CSF space.
        reaches: decay length of each space's field in the surrounding tissue, in voxels.
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
    """Compute the field (3, X, Y, Z) that dilates a space (X, Y, Z) by one voxel."""
    outside, inside = ndimage.distance_transform_edt(~space), ndimage.distance_transform_edt(space)
    # smoothed, because the steps of a voxel mask would fold the surface
    distance = ndimage.gaussian_filter(outside - inside, 1.0)
    size = np.where(distance > 0, np.exp(-distance / reach), np.exp(distance / INNER_REACH))
    return (-size * np.stack(np.gradient(distance))).astype(np.float32)
