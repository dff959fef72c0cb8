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
from midiff_monai.transforms.guided_upsampling import GuidedUpsampling
from midiff_monai.transforms.meta import Data, as_plain_tensor, with_meta_of
from midiff_monai.transforms.resampling import Observer, resample_labels, resample_to_grid, restore_foreground

Grids = tuple[torch.Tensor, Any, torch.Tensor, Any]
"""The last four arguments of `resampling.restore_foreground`."""


MORE_LIKELY = 0.5
"""Probability from which a voxel belongs to a mask."""


class MaskedSpacingd(MapTransform):
    """Resample images to a voxel spacing without mixing the foreground with the zeros around it.

    Downsampling is preceded by a Gaussian blur against aliasing. Its standard deviation is (factor − 1) / 2 voxels, as
    in scikit-image's `rescale`. Blur and interpolation are normalised convolutions (Knutsson and Westin, CVPR 1993):
    zeros outside the foreground have no weight. Plain interpolation would darken the surface of a skull-stripped brain
    in every contrast, as no tissue does.

    The foreground is every voxel that is not 0, with its holes filled. The transform stores it, on the original grid of
    the image, under `foreground_key(key)`, for `InvertMaskedSpacingd` and `InvertProbabilitiesToLabelsd`.

    Args:
        keys: keys of MetaTensors (1, X, Y, Z).
        pixdim: the new spacing, in mm.

    Example:
        >>> image = MetaTensor(torch.rand(1, 10, 10, 10), affine=torch.eye(4))
        >>> data = MaskedSpacingd("image", pixdim=(2, 2, 2))({"image": image})
        >>> data["image"].pixdim.tolist(), tuple(data["image_foreground"].shape)
        ([2.0, 2.0, 2.0], (1, 10, 10, 10))
    """

    def __init__(self, keys: KeysCollection, pixdim: Sequence[float]) -> None:
        super().__init__(keys)
        self.pixdim = np.asarray(pixdim, dtype=float)
        self.spacing = Spacing(pixdim, padding_mode="zeros")

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        """Resample the images of a sample, and add their foregrounds."""
        result = dict(data)
        for key in self.key_iterator(result):
            image = result[key]
            foreground_mask = fill_holes(np.asarray(image[0]) != 0)
            result[key] = self._resample(image, foreground_mask)
            result[foreground_key(key)] = with_meta_of(torch.from_numpy(foreground_mask)[None], image)
        return result

    def _resample(self, image: MetaTensor, foreground_mask: np.ndarray) -> torch.Tensor:
        """Blur and resample an image (1, X, Y, Z), weighted by its foreground (X, Y, Z)."""
        sigmas = np.maximum(self.pixdim / np.asarray(image.pixdim) - 1, 0) / 2
        masked, mask = np.asarray(image[0], dtype=np.float32) * foreground_mask, foreground_mask.astype(np.float32)
        blurred = [ndimage.gaussian_filter(volume, sigmas, mode="nearest") for volume in (masked, mask)]
        weighted, weight = (self.spacing(with_meta_of(torch.from_numpy(volume)[None], image)) for volume in blurred)
        return torch.where(weight > 0.5, weighted / weight.clamp(min=0.5), 0.0)


def foreground_key(key: Hashable) -> str:
    """The key under which `MaskedSpacingd` stores the foreground of an image."""
    return f"{key}_foreground"


class InvertMaskedSpacingd(MapTransform):
    """Resample images back to the grid of the source file, linearly and within the foreground.

    The computation takes place on the CPU, because class probabilities on a fine grid need gigabytes of memory.

    Args:
        keys: keys of images (C, X, Y, Z) on the current grid of `orig_keys`.
        orig_keys: keys of images resampled by `MaskedSpacingd`. Their metadata hold the original grid.

    Example:
        >>> meta = {"original_affine": np.eye(4), "spatial_shape": (10, 10, 10)}
        >>> image = MetaTensor(0.1 + torch.rand(1, 10, 10, 10), affine=torch.eye(4), meta=meta)
        >>> data = MaskedSpacingd("image", pixdim=(2, 2, 2))({"image": image})
        >>> data["pred"] = 1 - data["image"]
        >>> InvertMaskedSpacingd("pred", "image")(data)["pred"].shape
        torch.Size([1, 10, 10, 10])
    """

    def __init__(self, keys: KeysCollection, orig_keys: KeysCollection) -> None:
        super().__init__(keys)
        self.orig_keys = ensure_tuple_rep(orig_keys, len(self.keys))

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        """Resample the images of a sample back to their original grids."""
        result = dict(data)
        for key, orig_key in zip(self.key_iterator(result), self.orig_keys, strict=True):
            items = result[orig_key], result[foreground_key(orig_key)], result[key]
            conformed, foreground, image = (item.cpu() for item in items)
            affine, shape = conformed.meta["original_affine"], tuple(map(int, conformed.meta["spatial_shape"]))
            foreground_in_file = resample_to_grid(
                as_plain_tensor(foreground[0]).float(), foreground.affine, shape, affine, fill=0.0, mode="nearest"
            )
            grids = as_plain_tensor(conformed[0] != 0), conformed.affine, foreground_in_file > 0.5, affine
            restored = self._restore(as_plain_tensor(image), grids, conformed, result)
            # a new dictionary of metadata: that of the conformed image keeps its affine
            result[key] = MetaTensor(restored, meta=conformed.meta | {"affine": affine})
        return result

    def _restore(self, image: torch.Tensor, grids: Grids, conformed: MetaTensor, data: Data) -> torch.Tensor:
        """Resample (C, X, Y, Z); `data` is the sample, `conformed` its image on the grid of the network."""
        return restore_foreground(image, *grids)


class GuidedUpsamplingd(InvertMaskedSpacingd):
    """Resample images back to the grid of the source file, with the detail of the source.

    Args:
        keys: as for `InvertMaskedSpacingd`.
        orig_keys: as for `InvertMaskedSpacingd`; scaled by `ScaleForegroundIntensityd`.
        source_key: key of the source (1, X', Y', Z') as it was loaded.
        upsampling: a `GuidedUpsampling`.
    """

    def __init__(
        self, keys: KeysCollection, orig_keys: KeysCollection, source_key: Hashable, upsampling: GuidedUpsampling
    ) -> None:
        super().__init__(keys, orig_keys)
        self.source_key, self.upsampling = source_key, upsampling

    def _restore(self, image: torch.Tensor, grids: Grids, conformed: MetaTensor, data: Data) -> torch.Tensor:
        return self.upsampling(image, conformed, data[self.source_key].cpu(), grids[2])


class InvertProbabilitiesToLabelsd(InvertMaskedSpacingd):
    """Resample class probabilities back to the grid of the source file, and convert them to FreeSurfer labels.

    Args:
        keys: keys of probabilities (C, X, Y, Z), in the order of `labels.FREESURFER_IDS`; they become (1, X', Y', Z').
        orig_keys: as for `InvertMaskedSpacingd`.
    """

    def _restore(self, image: torch.Tensor, grids: Grids, conformed: MetaTensor, data: Data) -> torch.Tensor:
        return probabilities_to_labels(image, *grids)[None]


class InvertProbabilityToMaskd(InvertMaskedSpacingd):
    """Resample the probability of a mask back to the grid of the source file, and keep what is more likely than not.

    The mask is not limited to the foreground: it may hold voxels that are 0 in the source.

    Args:
        keys: keys of probabilities (1, X, Y, Z); they become masks (1, X', Y', Z'), uint8.
        orig_keys: as for `InvertMaskedSpacingd`.
    """

    def _restore(self, image: torch.Tensor, grids: Grids, conformed: MetaTensor, data: Data) -> torch.Tensor:
        _, source_affine, foreground, affine = grids
        return probability_to_mask(image[0], source_affine, foreground.shape, affine)[None]


def probability_to_mask(
    probability: torch.Tensor, source_affine: Any, target_shape: Sequence[int], target_affine: Any
) -> torch.Tensor:
    """Resample the probability (X, Y, Z) of a mask to another grid, and keep what is more likely than not.

    Returns:
        (X', Y', Z'), uint8.
    """
    resampled = resample_to_grid(probability, source_affine, target_shape, target_affine, fill=0.0)
    return (resampled > MORE_LIKELY).to(torch.uint8)


def probabilities_to_labels(
    probabilities: torch.Tensor,
    source_mask: torch.Tensor,
    source_affine: Any,
    target_mask: torch.Tensor,
    target_affine: Any,
    observe: Observer | None = None,
) -> torch.Tensor:
    """Resample class probabilities to another grid, and convert the most probable class to its FreeSurfer label.

    Args:
        probabilities: (C, X, Y, Z), in the order of `labels.FREESURFER_IDS`.
        source_mask: as in `resampling.restore_foreground`.
        source_affine: as in `resampling.restore_foreground`.
        target_mask: as in `resampling.restore_foreground`.
        target_affine: as in `resampling.restore_foreground`.
        observe: as in `resampling.resample_labels`.

    Returns:
        (X', Y', Z'), int16, 0 outside the target mask.
    """
    # voxels outside the source mask get probability 0 for every class, so they do not affect the argmax
    known = probabilities * source_mask
    classes = resample_labels(known, source_affine, target_mask.shape, target_affine, observe=observe)
    return torch.tensor(FREESURFER_IDS, dtype=torch.int16)[classes.long()] * target_mask
