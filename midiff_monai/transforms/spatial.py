"""Dictionary transforms between the grid of a file and that of a network."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Spacing
from monai.utils import ensure_tuple_rep
from scipy import ndimage

from midiff_monai.labels import FREESURFER_IDS
from midiff_monai.transforms.foreground import fill_holes
from midiff_monai.transforms.meta import Data, as_plain_tensor, with_meta_of
from midiff_monai.transforms.resampling import resample_to_grid, restore_foreground, restore_to_grid


class MaskedSpacingd(MapTransform):
    """Bring images to a spacing, without mixing what they show with the zeros around it.

    Before an axis is thinned out it is blurred, so that fine detail does not turn to noise: by a Gaussian of
    (factor − 1) / 2 voxels, as in scikit-image's `rescale`. Blur and interpolation are normalised convolutions
    (Knutsson and Westin, CVPR 1993): zeros outside the foreground have no weight. Otherwise the surface of a
    skull-stripped brain would be darkened in every contrast alike, which no tissue does.

    The foreground is what is not 0, and what that encloses. It is added to the data on the grid that the image had,
    under `foreground_key` of the key, for `InvertMaskedSpacingd` and `InvertProbabilitiesToLabelsd`.

    Args:
        keys: MetaTensors (1, X, Y, Z).
        pixdim: the spacing to come, in mm.
    """

    def __init__(self, keys: KeysCollection, pixdim: Sequence[float]) -> None:
        super().__init__(keys)
        self.pixdim = np.asarray(pixdim, dtype=float)
        self.spacing = Spacing(pixdim, padding_mode="zeros")

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        result = dict(data)
        for key in self.key_iterator(result):
            image = result[key]
            foreground_mask = fill_holes(np.asarray(image[0]) != 0)
            sigmas = np.maximum(self.pixdim / np.asarray(image.pixdim) - 1, 0) / 2
            parts = np.asarray(image[0], dtype=np.float32) * foreground_mask, foreground_mask.astype(np.float32)
            smooth = [torch.from_numpy(ndimage.gaussian_filter(part, sigmas, mode="nearest"))[None] for part in parts]
            total, weight = (self.spacing(with_meta_of(part, image)) for part in smooth)
            result[key] = torch.where(weight > 0.5, total / weight.clamp(min=0.5), 0.0)
            result[foreground_key(key)] = with_meta_of(torch.from_numpy(foreground_mask)[None], image)
        return result


def foreground_key(key: Hashable) -> str:
    """Where `MaskedSpacingd` leaves the foreground of an image."""
    return f"{key}_foreground"


class InvertMaskedSpacingd(MapTransform):
    """Bring conformed images back to the grid of the file they came from, by linear interpolation in the foreground.

    This takes place on the CPU, wherever the images were made: on a fine grid, class probabilities take gigabytes.

    Args:
        keys: MetaTensors (C, X, Y, Z) on the grid that `orig_keys` have now.
        orig_keys: images conformed by `MaskedSpacingd`, whose meta data tell the original grid.
    """

    def __init__(self, keys: KeysCollection, orig_keys: KeysCollection) -> None:
        super().__init__(keys)
        self.orig_keys = ensure_tuple_rep(orig_keys, len(self.keys))

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        result = dict(data)
        for key, original in zip(self.key_iterator(result), self.orig_keys, strict=True):
            parts = result[original], result[foreground_key(original)], result[key]
            conformed, foreground, image = (part.cpu() for part in parts)
            affine, shape = conformed.meta["original_affine"], tuple(map(int, conformed.meta["spatial_shape"]))
            turned_back = resample_to_grid(
                as_plain_tensor(foreground[0]).float(), foreground.affine, shape, affine, fill=0.0, mode="nearest"
            )
            grids = as_plain_tensor(conformed[0] != 0), conformed.affine, turned_back > 0.5, affine
            # meta data of its own: the original stays where it is
            restored = self._restore(as_plain_tensor(image), *grids)
            result[key] = MetaTensor(restored, meta=conformed.meta | {"affine": affine})
        return result

    def _restore(self, image: torch.Tensor, *grids: Any) -> torch.Tensor:
        return torch.stack([restore_foreground(part, *grids) for part in image])


class InvertProbabilitiesToLabelsd(InvertMaskedSpacingd):
    """Bring class probabilities back to the grid of the file, then choose the class, then its FreeSurfer id."""

    def _restore(self, image: torch.Tensor, *grids: Any) -> torch.Tensor:
        return probabilities_to_labels(image, *grids)[None]


def probabilities_to_labels(
    probabilities: torch.Tensor,
    foreground_mask: torch.Tensor,
    affine: Any,
    foreground: torch.Tensor,
    reference_affine: Any,
) -> torch.Tensor:
    """Bring class probabilities to another grid, choose the class there, and answer its FreeSurfer id.

    Args:
        probabilities: (C, X, Y, Z) in the order of `labels.FREESURFER_IDS`.
        there, affine, foreground, reference_affine: as in `geometry.restore_foreground`.

    Returns:
        (X', Y', Z'), int16, 0 outside the foreground.
    """
    # what is unknown has no weight: without probabilities, it leaves the largest class of its neighbours the largest
    classes = restore_to_grid(probabilities * foreground_mask, affine, foreground.shape, reference_affine)
    return torch.tensor(FREESURFER_IDS, dtype=torch.int16)[classes.long()] * foreground
