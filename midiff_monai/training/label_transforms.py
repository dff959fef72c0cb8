"""Dictionary transforms that use a parcellation: tissue normalisation, brain masks, region maps, signed distances."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from scipy import ndimage

from midiff_monai.errors import InputError
from midiff_monai.labels import FREESURFER_IDS
from midiff_monai.training.muse import freesurfer_from_muse
from midiff_monai.training.regions import Region
from midiff_monai.transforms.brain_distance import brain_distance, closed_solid
from midiff_monai.transforms.meta import Data, file_of, with_meta_of


class NormalizeTissuesd(MapTransform):
    """Divide images by a smooth field that gives tissues fixed intensities everywhere, and clip to [0, 1].

    With a label map, this replaces N4 (Tustison et al., IEEE TMI 2010) and a peak normalisation in a tenth of the time.
    White matter alone would leave deep grey matter too bright, because it lies in the middle of the head. Several
    tissues together determine the field everywhere.

    Args:
        keys: images of shape (1, X, Y, Z).
        label_key: label map on the same grid.
        tissues: labels of each tissue.
        values: intensity of each tissue after the normalisation.
        sigma: standard deviation of the Gaussian window over which the tissues are averaged, in voxels.

    Raises:
        InputError: no voxel of the label map lies inside a tissue, so that no intensity is known. This happens with
            labels of another protocol, and with labels on another grid.
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
            if not expected.any():
                fault = "has no tissue to normalise: its label map shows the interior of none of them"
                raise InputError(file_of(result[key]), fault, "Check that labels, protocol and grid belong together")
            field = self._field(np.asarray(result[key][0], dtype=np.float32), expected)
            result[key] = (result[key] / torch.from_numpy(field)[None]).clamp(0, 1)
        return result

    def _expected(self, labels: np.ndarray) -> np.ndarray:
        """The intensity (X, Y, Z) that each voxel should have, 0 where it is unknown."""
        expected = np.zeros(labels.shape, dtype=np.float32)
        for tissue, value in zip(self.tissues, self.values, strict=True):
            # eroded, because the outer voxels of a tissue have partial volume
            expected[ndimage.binary_erosion(np.isin(labels, tissue))] = value
        return expected

    def _field(self, volume: np.ndarray, expected: np.ndarray) -> np.ndarray:
        ratio = np.divide(volume, expected, out=np.zeros_like(volume), where=expected > 0)
        known = (expected > 0).astype(np.float32)
        # far from the tissues their overall mean prevails, with the weight of a ten-thousandth of a voxel
        prior = 1e-4
        mean = ratio.sum() / known.sum()
        total, weight = (ndimage.gaussian_filter(part, self.sigma, mode="constant") for part in (ratio, known))
        return (total + prior * mean) / (weight + prior)


class BrainMaskd(MapTransform):
    """Turn label maps into solid brain masks, including CSF in the sulci.

    The mask holds `Region.OUTSIDE` and `Region.BRAIN`, and is the first step of a region map.

    Args:
        keys: label maps of shape (1, X, Y, Z), 0 outside the brain.
        closing: radius of the closing in voxels. Gaps up to about twice as wide are filled.
    """

    def __init__(self, keys: KeysCollection, closing: int = 4) -> None:
        super().__init__(keys)
        self.closing = closing

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        result = dict(data)
        for key in self.key_iterator(result):
            solid = closed_solid(np.asarray(result[key][0]) > 0, self.closing)
            result[key] = with_meta_of(torch.from_numpy(solid.astype(np.float32))[None], result[key])
        return result


class BrainSignedDistanced(MapTransform):
    """Turn label maps into signed distances to the surface of the brain, positive inside.

    Skull-stripping tools cut near this surface. Some cut outside it, some cut within the cortex, and some remove the
    cerebellum. Cuts at random distances (`RandSkullStripd`) cover all of them.

    Args:
        keys: label maps of shape (1, X, Y, Z), 0 outside the brain. They become signed distances (2, X, Y, Z), in
            voxels and within ±20: to the surface of the brain, and to that of the brain without `hindbrain`.
        outside: labels that count as outside, such as that of the CSF around the brain.
        hindbrain: labels of the cerebellum and the brain stem.
    """

    def __init__(self, keys: KeysCollection, outside: Sequence[int], hindbrain: Sequence[int]) -> None:
        super().__init__(keys)
        self.outside, self.hindbrain = list(outside), list(hindbrain)

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        result = dict(data)
        for key in self.key_iterator(result):
            labels = np.asarray(result[key][0])
            brain = (labels > 0) & ~np.isin(labels, self.outside)
            distances = [brain_distance(mask) for mask in (brain, brain & ~np.isin(labels, self.hindbrain))]
            result[key] = with_meta_of(torch.from_numpy(np.stack(distances)), result[key])
        return result


class LabelBoundaryd(MapTransform):
    """Mark the boundary between ventricles and white matter in region maps, with `Region.VENTRICLE_BOUNDARY`.

    Voxels of either tissue are marked where they touch the other, at a face, an edge or a corner.

    Args:
        keys: region maps of shape (1, X, Y, Z).
        label_key: label map on the same grid.
        first: labels of one tissue.
        second: labels of the other tissue.
    """

    def __init__(self, keys: KeysCollection, label_key: str, first: Sequence[int], second: Sequence[int]) -> None:
        super().__init__(keys)
        self.label_key, self.first, self.second = label_key, list(first), list(second)

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        result = dict(data)
        labels = np.asarray(result[self.label_key][0])
        tissues = np.isin(labels, self.first), np.isin(labels, self.second)
        near = [ndimage.maximum_filter(tissue, size=3) for tissue in tissues]
        boundary = torch.from_numpy((tissues[0] & near[1]) | (tissues[1] & near[0]))[None]
        for key in self.key_iterator(result):
            code = torch.as_tensor(Region.VENTRICLE_BOUNDARY, dtype=result[key].dtype)
            result[key] = torch.where(boundary, code, result[key])
        return result


class LabelStructuresd(MapTransform):
    """Mark structures in region maps, with `Region.FIRST_STRUCTURE` and the values above it.

    Only voxels with the value `Region.BRAIN` change.

    Args:
        keys: region maps of shape (1, X, Y, Z).
        label_key: label map on the same grid.
        structures: labels of each structure.
    """

    def __init__(self, keys: KeysCollection, label_key: str, structures: Sequence[Sequence[int]]) -> None:
        super().__init__(keys)
        self.label_key, self.structures = label_key, [list(structure) for structure in structures]

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        result = dict(data)
        labels = np.asarray(result[self.label_key])
        for key in self.key_iterator(result):
            for code, structure in enumerate(self.structures, start=Region.FIRST_STRUCTURE):
                found = torch.from_numpy(np.isin(labels, structure)) & (result[key] == Region.BRAIN)
                result[key] = torch.where(found, torch.as_tensor(code, dtype=result[key].dtype), result[key])
        return result


class ClassIndexFromMUSEd(MapTransform):
    """Turn MUSE parcellations into class indices, the positions in `labels.FREESURFER_IDS`.

    The parcellations under `keys` have the shape (1, X, Y, Z). They become uint8.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        result = dict(data)
        for key in self.key_iterator(result):
            ids = freesurfer_from_muse(np.asarray(result[key][0]).astype(np.int16))
            classes = np.searchsorted(FREESURFER_IDS, ids).astype(np.uint8)
            result[key] = with_meta_of(torch.from_numpy(classes)[None], result[key])
        return result


class IgnoreBoundaryd(MapTransform):
    """Mark voxels where parcellation protocols may differ: at the boundary of a class, or of a doubtful class.

    Two protocols draw the boundary of a structure differently, but agree on its interior.

    Args:
        keys: class indices (1, X, Y, Z), uint8.
        doubtful: class indices whose voxels are all marked.
        ignored: value of the marked voxels.
    """

    def __init__(self, keys: KeysCollection, doubtful: Sequence[int] = (), ignored: int = 255) -> None:
        super().__init__(keys)
        self.doubtful, self.ignored = list(doubtful), ignored

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        """Mark the voxels of the label maps of a sample."""
        result = dict(data)
        face_neighbours = ndimage.generate_binary_structure(3, 1)
        for key in self.key_iterator(result):
            labels = np.asarray(result[key][0])
            lowest, highest = (
                extreme(labels, footprint=face_neighbours)
                for extreme in (ndimage.minimum_filter, ndimage.maximum_filter)
            )
            marked = (lowest != highest) | np.isin(labels, self.doubtful)
            values = np.where(marked, self.ignored, labels).astype(np.uint8)
            result[key] = with_meta_of(torch.from_numpy(values)[None], result[key])
        return result
