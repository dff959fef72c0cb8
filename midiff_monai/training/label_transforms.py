"""What a parcellation tells of a training volume, as dictionary transforms: flat tissues, masks, depths, structures."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from scipy import ndimage

from midiff_monai.labels import FREESURFER_IDS
from midiff_monai.training.muse import freesurfer_from_muse
from midiff_monai.transforms.foreground import fill_holes
from midiff_monai.transforms.meta import Data, with_meta_of


class NormalizeTissuesd(MapTransform):
    """Divide images by a smooth field that brings tissues to the same values everywhere, and clip to [0, 1].

    Where a label map is at hand this does what N4 (Tustison et al., IEEE TMI 2010) and a peak normalisation do
    together, in a tenth of the time. White matter alone leaves deep grey matter too bright, in the middle of the
    head as it is; several tissues hold the field everywhere.

    Args:
        keys: images of shape (1, X, Y, Z).
        label_key: label map on the same grid.
        tissues: the values of the label map that make up each tissue.
        values: what each tissue becomes.
        sigma: standard deviation of the Gaussian window over which the tissues are averaged, in voxels.
    """

    def __init__(
        self,
        keys: KeysCollection,
        label_key: str,
        tissues: Sequence[Sequence[int]],
        values: Sequence[float],
        sigma: float = 3.5,
    ) -> None:
        super().__init__(keys)
        self.label_key, self.sigma = label_key, sigma
        self.tissues, self.values = [list(tissue) for tissue in tissues], list(values)

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        result = dict(data)
        expected = self._expected(np.asarray(result[self.label_key][0]))
        for key in self.key_iterator(result):
            field = self._field(np.asarray(result[key][0], dtype=np.float32), expected)
            result[key] = (result[key] / torch.from_numpy(field)[None]).clamp(0, 1)
        return result

    def _expected(self, labels: np.ndarray) -> np.ndarray:
        """What each voxel becomes, 0 where that is not known."""
        expected = np.zeros(labels.shape, dtype=np.float32)
        for tissue, value in zip(self.tissues, self.values, strict=True):
            # the outer voxels of a tissue hold a part of its neighbours
            expected[ndimage.binary_erosion(np.isin(labels, tissue))] = value
        return expected

    def _field(self, volume: np.ndarray, expected: np.ndarray) -> np.ndarray:
        ratio = np.divide(volume, expected, out=np.zeros_like(volume), where=expected > 0)
        known = (expected > 0).astype(np.float32)
        # far from the tissues their overall mean takes over, at the weight of a ten-thousandth of a voxel
        prior = 1e-4
        mean = ratio.sum() / known.sum()
        total, weight = (ndimage.gaussian_filter(part, self.sigma, mode="constant") for part in (ratio, known))
        return (total + prior * mean) / (weight + prior)


class BrainMaskd(MapTransform):
    """Turn label maps into solid brain masks, cerebrospinal fluid in the sulci included.

    Args:
        keys: label maps of shape (1, X, Y, Z), 0 outside the brain.
        closing: gaps up to about twice this many voxels are closed.
    """

    def __init__(self, keys: KeysCollection, closing: int = 4) -> None:
        super().__init__(keys)
        self.closing = closing

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        result = dict(data)
        for key in self.key_iterator(result):
            solid = _closed(np.asarray(result[key][0]) > 0, self.closing)
            result[key] = with_meta_of(torch.from_numpy(solid.astype(np.float32))[None], result[key])
        return result


def _closed(mask: np.ndarray, closing: int) -> np.ndarray:
    """A mask with its holes filled, and gaps of up to about twice this many voxels."""
    # the margin keeps the closing from eating into a brain that touches the edge of the image
    margin = closing + 1
    solid = fill_holes(ndimage.binary_closing(np.pad(mask, margin), iterations=closing))
    return solid[margin:-margin, margin:-margin, margin:-margin]


class BrainSignedDistanced(MapTransform):
    """Turn label maps into maps of depth below the surface of the brain, negative outside it.

    A skull-stripping tool cuts somewhere near that surface, some of them far outside and others inside the cortex, and
    some take the cerebellum away: cuts at random depths make training volumes of them all.

    Args:
        keys: label maps of shape (1, X, Y, Z), 0 outside the brain; (2, X, Y, Z) afterwards, signed distances in voxels
            from the surface of the brain, and from that of the brain without `hindbrain`.
        outside: values of the label map that lie on the surface, such as that of the fluid around the brain.
        hindbrain: values of the label map that make up the cerebellum and the brain stem.
    """

    def __init__(self, keys: KeysCollection, outside: Sequence[int], hindbrain: Sequence[int]) -> None:
        super().__init__(keys)
        self.outside, self.hindbrain = list(outside), list(hindbrain)

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        result = dict(data)
        for key in self.key_iterator(result):
            labels = np.asarray(result[key][0])
            brain = (labels > 0) & ~np.isin(labels, self.outside)
            depths = [_signed_distance(mask) for mask in (brain, brain & ~np.isin(labels, self.hindbrain))]
            result[key] = with_meta_of(torch.from_numpy(np.stack(depths)), result[key])
        return result


def _signed_distance(mask: np.ndarray) -> np.ndarray:
    """Distance in voxels to the surface of what a mask is once small gaps are closed, positive inside."""
    solid = _closed(mask, 2)
    inside, outside = ndimage.distance_transform_edt(solid), ndimage.distance_transform_edt(~solid)
    return (np.minimum(inside, 20) - np.minimum(outside, 20)).astype(np.float32)


class LabelBoundaryd(MapTransform):
    """Give voxels on both sides of the border between two tissues a value of their own.

    Args:
        keys: masks of shape (1, X, Y, Z).
        label_key: label map on the same grid.
        first: the values of the label map that make up one tissue.
        second: those of the other.
        value: what the mask becomes where either tissue touches the other, at a face, an edge or a corner.
    """

    def __init__(
        self, keys: KeysCollection, label_key: str, first: Sequence[int], second: Sequence[int], value: float
    ) -> None:
        super().__init__(keys)
        self.label_key, self.first, self.second, self.value = label_key, list(first), list(second), value

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        result = dict(data)
        labels = np.asarray(result[self.label_key][0])
        tissues = np.isin(labels, self.first), np.isin(labels, self.second)
        near = [ndimage.maximum_filter(tissue, size=3) for tissue in tissues]
        border = torch.from_numpy((tissues[0] & near[1]) | (tissues[1] & near[0]))[None]
        for key in self.key_iterator(result):
            result[key] = torch.where(border, torch.as_tensor(self.value, dtype=result[key].dtype), result[key])
        return result


class LabelStructuresd(MapTransform):
    """Number structures in masks of the brain: the first becomes 3, the next 4, and so on.

    Args:
        keys: masks of shape (1, X, Y, Z), 0 outside the brain, 1 inside, 2 on the border that `LabelBoundaryd` marks.
        label_key: label map on the same grid.
        structures: the values of the label map that make up each structure.
    """

    def __init__(self, keys: KeysCollection, label_key: str, structures: Sequence[Sequence[int]]) -> None:
        super().__init__(keys)
        self.label_key, self.structures = label_key, [list(structure) for structure in structures]

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        result = dict(data)
        labels = np.asarray(result[self.label_key])
        for key in self.key_iterator(result):
            for number, structure in enumerate(self.structures, start=3):
                found = torch.from_numpy(np.isin(labels, structure)) & (result[key] == 1)
                result[key] = torch.where(found, torch.as_tensor(number, dtype=result[key].dtype), result[key])
        return result


class ClassIndexFromMUSEd(MapTransform):
    """Turn MUSE parcellations into class indices: positions in `labels.FREESURFER_IDS`.

    Args:
        keys: parcellations of shape (1, X, Y, Z).
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        result = dict(data)
        for key in self.key_iterator(result):
            ids = freesurfer_from_muse(np.asarray(result[key][0]).astype(np.int16))
            classes = np.searchsorted(FREESURFER_IDS, ids).astype(np.uint8)
            result[key] = with_meta_of(torch.from_numpy(classes)[None], result[key])
        return result
