"""The signed distance to the surface of a brain."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from numpy.typing import NDArray
from scipy import ndimage

from midiff_monai.labels import CSF, FREESURFER_IDS
from midiff_monai.transforms.foreground import fill_holes
from midiff_monai.transforms.meta import Data, with_meta_of

CLOSING = 2
"""Radius in voxels of the gaps in a brain, such as sulci, that belong to it."""

FARTHEST = 20
"""Largest distance in voxels. Beyond it, all voxels are alike."""

SURFACE = 0.5
"""Depth at the surface of a brain."""


def closed_solid(mask: NDArray[np.bool_], closing: int) -> NDArray[np.bool_]:
    """Close a mask (X, Y, Z) with a radius in voxels, and fill its holes."""
    # without the margin, the closing would erode a brain that touches the edge of the image
    margin = closing + 1
    solid = fill_holes(ndimage.binary_closing(np.pad(mask, margin), iterations=closing))
    return solid[margin:-margin, margin:-margin, margin:-margin]


def brain_distance(brain: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return the distance in voxels to the surface of a mask (X, Y, Z) with its gaps closed.

    It is positive inside, negative outside, and within ±`FARTHEST`.
    """
    solid = closed_solid(brain, CLOSING)
    inside, outside = ndimage.distance_transform_edt(solid), ndimage.distance_transform_edt(~solid)
    return (np.minimum(inside, FARTHEST) - np.minimum(outside, FARTHEST)).astype(np.float32)


def depth_in_brain(brain: NDArray[np.bool_]) -> torch.Tensor:
    """Return where a voxel lies with respect to a brain (X, Y, Z): 0 far outside, 0.5 at the surface, 1 deep inside.

    It grows by 0.025 from voxel to voxel. As an image, it is 0 beyond the volume too.
    """
    return torch.from_numpy(SURFACE + brain_distance(brain) / (2 * FARTHEST))


def brain_of_classes(classes: torch.Tensor) -> NDArray[np.bool_]:
    """Return the brain with its ventricles, without the CSF around it.

    Args:
        classes: (X, Y, Z), positions in `labels.FREESURFER_IDS`.
    """
    return ((classes > 0) & (classes != FREESURFER_IDS.index(CSF))).numpy()


class DepthInBraind(MapTransform):
    """Turn label maps into `depth_in_brain`.

    Args:
        keys: label maps (1, X, Y, Z), 0 outside brain and CSF. They become float32.
        outside: further labels that are not brain, such as that of the CSF around it.
    """

    def __init__(self, keys: KeysCollection, outside: Sequence[int]) -> None:
        super().__init__(keys)
        self.outside = list(outside)

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        """Convert the label maps of a sample."""
        result = dict(data)
        for key in self.key_iterator(result):
            labels = np.asarray(result[key][0]).round()
            depth = depth_in_brain((labels > 0) & ~np.isin(labels, self.outside))
            result[key] = with_meta_of(depth[None], result[key])
        return result
