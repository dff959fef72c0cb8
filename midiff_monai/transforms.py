"""The dictionary transforms that MONAI lacks."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import ensure_tuple_rep
from scipy import ndimage

from midiff_monai.geometry import resample_to_grid, restore_to_grid
from midiff_monai.labels import FREESURFER_IDS, freesurfer_from_muse

Data = dict[Hashable, Any]

DARKEST = 1e-3
"""The least value of a voxel that holds something, once stretched."""


def foreground_range(volume: torch.Tensor, lower: float = 1.0, upper: float = 99.0) -> tuple[float, float]:
    """The grey values at two percentiles of the foreground of a volume.

    The foreground is what exceeds a tenth of the 99th percentile of the positive voxels: air, zero-filled
    surroundings and the negative values that bias-field correction leaves fall outside it.

    Args:
        volume: any shape, any range, at least one positive value.
        lower: lower percentile, 0 to 100.
        upper: upper percentile, 0 to 100.

    Returns:
        The two grey values; they differ, whatever the volume.
    """
    values = np.asarray(volume.detach().cpu(), dtype=np.float32).ravel()
    positive = values[values > 0]
    foreground = positive[positive > 0.1 * np.percentile(positive, 99)]
    low, high = np.percentile(foreground, [lower, upper])
    return float(low), float(max(high, low * (1 + 1e-6)))


class StretchIntensityd(MapTransform):
    """Map the foreground's percentiles of every image to 0 and 1, clipping what lies beyond.

    Works alike on whole heads and on skull-stripped brains, on volumes with negative voxels and with outliers.
    A proton-density volume holds its whole contrast in a fifth of its range: without the stretch there is
    little left to translate. Afterwards 0 means that there was nothing: voxels at or below 0, but for holes
    within the object. All others are at least `DARKEST`.

    Args:
        keys: images (1, X, Y, Z), at least one positive voxel each.
        lower: percentile of the foreground that becomes 0.
        upper: percentile of the foreground that becomes 1.
    """

    def __init__(self, keys: KeysCollection, lower: float = 1.0, upper: float = 99.0) -> None:
        super().__init__(keys)
        self.lower, self.upper = lower, upper

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        result = dict(data)
        for key in self.key_iterator(result):
            low, high = foreground_range(result[key][..., ::2, ::2, ::2], self.lower, self.upper)
            there = fill_holes(np.asarray(result[key][0]) > 0)
            stretched = ((result[key] - low) / (high - low)).clamp(DARKEST, 1)
            result[key] = stretched * torch.from_numpy(there)[None]
        return result


def fill_holes(mask: np.ndarray) -> np.ndarray:
    """Add to a mask what it encloses: SciPy's `binary_fill_holes`, by one labelling instead of many dilations."""
    regions, _ = ndimage.label(np.pad(~mask, 1, constant_values=True))
    inner = (slice(1, -1),) * mask.ndim
    return (regions != regions.flat[0])[inner]


class SmoothBeforeDownsamplingd(MapTransform):
    """Blur images along the axes that `Spacingd` is about to thin out, so that fine detail does not turn to noise.

    The Gaussian's standard deviation is (factor − 1) / 2 voxels, as in scikit-image's `rescale`.

    Args:
        keys: MetaTensors (1, X, Y, Z).
        pixdim: the spacing to come, in mm.
    """

    def __init__(self, keys: KeysCollection, pixdim: Sequence[float]) -> None:
        super().__init__(keys)
        self.pixdim = np.asarray(pixdim, dtype=float)

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        result = dict(data)
        for key in self.key_iterator(result):
            sigmas = np.maximum(self.pixdim / np.asarray(result[key].pixdim) - 1, 0) / 2
            smooth = ndimage.gaussian_filter(np.asarray(result[key][0], dtype=np.float32), sigmas, mode="nearest")
            result[key] = _like(torch.from_numpy(smooth)[None], result[key])
        return result


class FlattenTissued(MapTransform):
    """Divide images by a smooth field that brings one tissue to the same value everywhere, and clip to [0, 1].

    Where a label map is at hand this does what N4 (Tustison et al., IEEE TMI 2010) and a peak normalisation do
    together, in a tenth of the time, and is not fooled by deep structures that are as bright as the tissue.

    Args:
        keys: images of shape (1, X, Y, Z).
        label_key: label map on the same grid.
        labels: the values of the label map that make up the tissue.
        value: what the tissue becomes.
        sigma: standard deviation of the Gaussian window over which the tissue is averaged, in voxels.
    """

    def __init__(
        self, keys: KeysCollection, label_key: str, labels: Sequence[int], value: float, sigma: float = 8.0
    ) -> None:
        super().__init__(keys)
        self.label_key, self.labels, self.value, self.sigma = label_key, list(labels), value, sigma

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        result = dict(data)
        tissue = np.isin(np.asarray(result[self.label_key][0]), self.labels)
        # the outer voxels of the tissue hold a part of its neighbours
        core = ndimage.binary_erosion(tissue).astype(np.float32)
        for key in self.key_iterator(result):
            field = self._field(np.asarray(result[key][0], dtype=np.float32), core)
            result[key] = (result[key] * (self.value / torch.from_numpy(field)[None])).clamp(0, 1)
        return result

    def _field(self, volume: np.ndarray, core: np.ndarray) -> np.ndarray:
        # far from the tissue its overall mean takes over, at the weight of a ten-thousandth of a voxel
        prior = 1e-4
        mean = (volume * core).sum() / core.sum()
        weighted = ndimage.gaussian_filter(volume * core, self.sigma, mode="constant")
        return (weighted + prior * mean) / (ndimage.gaussian_filter(core, self.sigma, mode="constant") + prior)


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
            # the margin keeps the closing from eating into a brain that touches the edge of the image
            margin = self.closing + 1
            padded = np.pad(np.asarray(result[key][0]) > 0, margin)
            solid = fill_holes(ndimage.binary_closing(padded, iterations=self.closing))
            inner = solid[margin:-margin, margin:-margin, margin:-margin]
            result[key] = _like(torch.from_numpy(inner.astype(np.float32))[None], result[key])
        return result


class MarkBorderd(MapTransform):
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
            result[key] = _like(torch.from_numpy(classes)[None], result[key])
        return result


class RestoreImaged(MapTransform):
    """Bring conformed images back to the grid of the file they came from, by linear interpolation.

    Args:
        keys: MetaTensors (C, X, Y, Z) on the grid that `orig_keys` have now.
        orig_keys: images whose meta data tell the original grid.
    """

    def __init__(self, keys: KeysCollection, orig_keys: KeysCollection) -> None:
        super().__init__(keys)
        self.orig_keys = ensure_tuple_rep(orig_keys, len(self.keys))

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        result = dict(data)
        for key, original in zip(self.key_iterator(result), self.orig_keys, strict=True):
            meta = result[original].meta
            shape, affine = meta["spatial_shape"], meta["original_affine"]
            restored = self._restore(result[key], result[original].affine, shape, affine)
            # meta data of its own: the original stays where it is
            result[key] = MetaTensor(restored, meta=meta | {"affine": affine})
        return result

    def _restore(self, image: torch.Tensor, affine: torch.Tensor, shape: Any, original: Any) -> torch.Tensor:
        grids = affine.numpy(), tuple(int(n) for n in shape), np.asarray(original)
        return torch.stack([resample_to_grid(channel, *grids, fill=0.0) for channel in image])


class RestoreSegmentationd(RestoreImaged):
    """Bring class probabilities back to the grid of the file, then choose the class, then its FreeSurfer id."""

    def _restore(self, image: torch.Tensor, affine: torch.Tensor, shape: Any, original: Any) -> torch.Tensor:
        grid = affine.numpy(), tuple(int(n) for n in shape), np.asarray(original)
        return torch.tensor(FREESURFER_IDS)[restore_to_grid(image, *grid).long()][None]


def _like(array: torch.Tensor, reference: Any) -> torch.Tensor:
    if isinstance(reference, MetaTensor):
        return MetaTensor(array, meta=reference.meta)
    return array
