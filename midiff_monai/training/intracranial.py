"""Training samples of the intracranial mask: heads of random contrast, and what their inner skull encloses."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Randomizable
from numpy.typing import NDArray
from scipy import ndimage
from torch.nn import functional as F

from midiff_monai.labels import CSF
from midiff_monai.training.contrast import RandomContrast, torch_seeded_by
from midiff_monai.training.simulated_scan import DARKEST, RandSimulateScand
from midiff_monai.training.simulated_t1 import RIGHT_TO_LEFT, class_indices, resampled_at
from midiff_monai.transforms.brain_distance import brain_of_classes, depth_in_brain
from midiff_monai.transforms.foreground import fill_holes
from midiff_monai.transforms.meta import Data, as_plain_tensor

SINUSES = 514

SINUS_REACH_MM = 8
"""Distance from the brain and its CSF within which veins are inside the skull. Those of the neck lie beyond."""

CT_LEVELS: Mapping[int, float] = {
    **{label: 0.67 for label in (3, 8, 10, 11, 12, 13, 17, 18, 26)},
    **{label: 0.53 for label in (2, 7, 16, 28, 25, 85)},
    **{label: 0.2 for label in (4, 5, 14, 15, 24, 30, 72, 506)},
    **{label: 0.85 for label in (502, 507, 508, 509, 512, 530)},
    **{514: 0.97, 511: 0.05, 515: 1.0, 516: 1.0, 136: 0.3, 137: 0.3},
}
"""Label of the left side → intensity in a CT that is windowed from -5 to 60 HU."""

NEAR_MM, FAR_MM = 0.0, 40.0
"""Range of the distance from the intracranial mask at which the edge of the volume or a defacing cuts the head."""


def intracranial_mask(labels: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Return what the inner skull encloses: brain, CSF and venous sinuses, above the lowest slice with brain.

    Args:
        labels: label map of a whole head (X, Y, Z) at 1 mm, in RAS, FreeSurfer ids.
    """
    brain = brain_mask(labels)
    inside = brain | (labels == CSF)
    inside |= (labels == SINUSES) & (ndimage.distance_transform_cdt(~inside) <= SINUS_REACH_MM)
    inside[:, :, : int(brain.any(axis=(0, 1)).argmax())] = False
    return fill_holes(inside)


def brain_mask(labels: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Return the brain with its ventricles in a label map (X, Y, Z), FreeSurfer ids."""
    return brain_of_classes(class_indices(torch.from_numpy(labels.astype(np.int64))))


class IntracranialFractiond(MapTransform):
    """Reduce label maps of whole heads from 1 mm to 2 mm, and add what is intracranial and what is brain.

    Args:
        keys: label maps (1, X, Y, Z) at 1 mm, in RAS, with even sides. Every second voxel is kept.
        mask_key: key of the share of each voxel that is intracranial (1, X/2, Y/2, Z/2), in [0, 1].
        depth_key: key of the `depth_in_brain`.
    """

    def __init__(self, keys: KeysCollection, mask_key: Hashable = "mask", depth_key: Hashable = "depth") -> None:
        super().__init__(keys)
        self.mask_key, self.depth_key = mask_key, depth_key

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        """Convert the label map of a sample."""
        result = dict(data)
        for key in self.key_iterator(result):
            labels = as_plain_tensor(result[key]).long()
            mask = torch.from_numpy(intracranial_mask(labels[0].numpy()))[None].float()
            labels = labels[..., ::2, ::2, ::2]
            result[key] = labels.to(torch.int16)
            result[self.depth_key] = depth_in_brain(brain_mask(labels[0].numpy()))[None]
            result[self.mask_key] = F.avg_pool3d(mask, 2)
        return result


class RandSimulateHeadd(RandSimulateScand):
    """Simulate a whole head of a random contrast, or a CT, from labels at any voxel size.

    Args:
        ct_prob: probability of a CT.
        options: those of `RandSimulateScand`. The skull is never stripped.
    """

    def __init__(self, *args: object, ct_prob: float = 0.15, **options: Any) -> None:
        super().__init__(*args, strip_prob=0.0, **options)
        self.ct_prob = ct_prob

    def _draw_contrast(self) -> torch.Tensor:
        means = super()._draw_contrast()
        if torch.rand(()) >= self.ct_prob:
            return means
        for label, level in CT_LEVELS.items():
            means[label] = level + 0.04 * torch.randn(())
        for right, left in RIGHT_TO_LEFT.items():
            means[right] = means[left]
        return means.clamp(DARKEST, 1.2)


class RandContrastd(Randomizable, MapTransform):
    """Give T1w volumes another contrast, at random.

    Args:
        keys: volumes (1, X, Y, Z) in [0, 1], as the contrast randomiser needs them.
        region_key: region maps on the same grid.
        contrast_randomizer: draws the contrasts.
        prob: probability of another contrast.
    """

    def __init__(
        self, keys: KeysCollection, region_key: str, contrast_randomizer: RandomContrast, prob: float = 0.7
    ) -> None:
        MapTransform.__init__(self, keys)
        self.region_key, self.contrast_randomizer, self.prob = region_key, contrast_randomizer, prob

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        """Change the volumes of a sample."""
        result = dict(data)
        regions = as_plain_tensor(result[self.region_key])[None]
        for key in self.key_iterator(result):
            if self.R.random() < self.prob:
                with torch_seeded_by(self.R):
                    result[key] = self.contrast_randomizer(as_plain_tensor(result[key])[None], regions)[0]
        return result


class RandThickSlicesd(Randomizable, MapTransform):
    """Average volumes over thick slices along a random axis, and interpolate them back, at random.

    Args:
        keys: volumes (1, X, Y, Z).
        largest_spacing: largest spacing of the slices in voxels.
        prob: probability of thick slices.
    """

    def __init__(self, keys: KeysCollection, largest_spacing: float, prob: float = 0.5) -> None:
        MapTransform.__init__(self, keys)
        self.largest_spacing, self.prob = largest_spacing, prob

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        """Change the volumes of a sample."""
        result = dict(data)
        if self.R.random() < self.prob:
            spacing = [1.0, 1.0, 1.0]
            spacing[self.R.randint(3)] = self.R.uniform(1.0, self.largest_spacing)
            for key in self.key_iterator(result):
                result[key] = resampled_at(as_plain_tensor(result[key])[None], spacing)[0]
        return result


class RandCutHeadd(Randomizable, MapTransform):
    """Set everything beyond a random plane to 0, as a defacing or a tight field of view does, at random.

    The plane lies beyond the intracranial mask, in front of it, below it or anywhere around it.

    Args:
        keys: volumes (1, X, Y, Z), in RAS.
        mask_key: intracranial shares on the same grid.
        voxel_mm: side of the voxels.
        prob: probability of a cut.
    """

    def __init__(self, keys: KeysCollection, mask_key: str, voxel_mm: float = 2.0, prob: float = 0.4) -> None:
        MapTransform.__init__(self, keys)
        self.mask_key, self.voxel_mm, self.prob = mask_key, voxel_mm, prob

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        """Change the volumes of a sample."""
        result = dict(data)
        mask = as_plain_tensor(result[self.mask_key])[0] > 0
        if mask.any() and self.R.random() < self.prob:
            height = self._height(mask.shape)
            beyond = height > height[mask].max() + self.R.uniform(NEAR_MM, FAR_MM) / self.voxel_mm
            for key in self.key_iterator(result):
                result[key] = as_plain_tensor(result[key]) * ~beyond
        return result

    def _height(self, shape: torch.Size) -> torch.Tensor:
        """Position (X, Y, Z) of each voxel along a random direction, most often forwards and downwards."""
        direction = torch.from_numpy(self.R.normal((0.0, 0.7, -0.7), 0.6)).float()
        direction = direction / direction.norm()
        axes = [torch.arange(size, dtype=torch.float32) * part for size, part in zip(shape, direction, strict=True)]
        return axes[0][:, None, None] + axes[1][None, :, None] + axes[2][None, None, :]
