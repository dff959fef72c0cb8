"""T1w volumes simulated from label maps of whole heads at 1 mm: training data of the segmenter.

The method follows SynthSeg (Billot et al., Medical Image Analysis 86:102789, 2023) with the tissue intensities of T1w
instead of random ones.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Randomizable
from monai.utils import convert_to_dst_type
from torch.nn import functional as F

from midiff_monai.labels import CSF, FREESURFER_IDS, MERGED, MIRRORED
from midiff_monai.training.contrast import gaussian_blur, smooth_field, torch_seeded_by
from midiff_monai.training.simulated_lesions import with_lesions
from midiff_monai.transforms.meta import Data

LARGEST_LABEL = 600

WHITE = 0.7

MEANS: Mapping[int, float] = MappingProxyType(
    {2: WHITE, 3: 0.52, 4: 0.19, 5: 0.22, 7: 0.67, 8: 0.51, 10: 0.61, 11: 0.54, 12: 0.58, 13: 0.66, 14: 0.22, 15: 0.2}
    | {16: 0.63, 17: 0.52, 18: 0.51, 24: 0.2, 26: 0.52, 28: 0.64, 25: 0.55, 30: 0.35, 72: 0.2, 85: 0.62, 136: 0.33}
    | {137: 0.33, 502: 0.45, 506: 0.25, 507: 0.42, 508: 0.45, 509: 0.45, 511: 0.9, 512: 0.65, 514: 0.3, 515: 0.12}
    | {516: 0.65, 530: 0.45}
)
"""Label → mean T1w intensity at 3 T, relative to white matter at 0.7. A label on the right has that of the left."""

OUTSIDE_BRAIN = (502, 506, 507, 508, 509, 511, 512, 514, 515, 516, 530)

HINDBRAIN = (7, 8, 15, 16, 46, 47)

RIGHT_TO_LEFT = {FREESURFER_IDS[right]: FREESURFER_IDS[left] for left, right in enumerate(MIRRORED) if left < right}
RIGHT_TO_LEFT |= {57: 25, 62: 30, 163: 136, 164: 137}


def _mirrored_labels() -> list[int]:
    mirrored = list(range(LARGEST_LABEL))
    for right, left in RIGHT_TO_LEFT.items():
        mirrored[right], mirrored[left] = left, right
    return mirrored


MIRRORED_LABELS: tuple[int, ...] = tuple(_mirrored_labels())
"""Label → label of the same structure on the other side of the brain."""

_GREY = (3, 8, 17, 18, 26)
_FLUID = (4, 5, 14, 15, 24)


class RandSimulateT1wd(Randomizable, MapTransform):
    """Simulate a T1w slab of a label map, and turn the labels into class indices.

    Each structure has a random mean around that of real T1w. Then come correlated texture, partial volume by a blur, a
    random resolution, a bias field, noise, and at random a skull stripping and the ceiling that FreeSurfer's
    normalisation leaves on white matter. The intensity range is that of `ScaleForegroundIntensityd`.

    Args:
        keys: labels (1, X, Y, Z) at 1 mm, FreeSurfer ids and codes of `OUTSIDE_BRAIN`. They become class indices.
        image_key: key of the simulated image (1, X, Y, Z), in [0, 1], 0 in the background.
        strip_prob: probability of skull stripping.
        cerebrum_only_prob: probability that a stripped brain loses the hindbrain.
        low_resolution_prob: probability that the image has thick slices or large voxels.
        largest_spacing: largest spacing of such an image, in mm.
        thick_slice_prob: probability that such an image has thick slices, and not large voxels.
        slice_axis_probs: probabilities that thick slices are sagittal, coronal and axial, in the orientation RAS.
        ceiling_prob: probability of the ceiling.
        structure_std: standard deviation of a structure's mean.
        bias: largest absolute logarithm of the bias field.
        max_noise: largest standard deviation of the noise.
        lesion_prob: probability of white matter lesions.
        largest_lesion_share: largest share of the white matter that is lesion.
    """

    def __init__(
        self,
        keys: KeysCollection,
        image_key: Hashable = "image",
        strip_prob: float = 0.6,
        cerebrum_only_prob: float = 0.15,
        low_resolution_prob: float = 0.35,
        largest_spacing: float = 5.0,
        thick_slice_prob: float = 0.5,
        slice_axis_probs: Sequence[float] = (1 / 3, 1 / 3, 1 / 3),
        ceiling_prob: float = 0.12,
        structure_std: float = 0.025,
        bias: float = 0.25,
        max_noise: float = 0.06,
        lesion_prob: float = 0.3,
        largest_lesion_share: float = 0.08,
    ) -> None:
        MapTransform.__init__(self, keys)
        self.image_key, self.strip_prob, self.cerebrum_only_prob = image_key, strip_prob, cerebrum_only_prob
        self.low_resolution_prob, self.largest_spacing = low_resolution_prob, largest_spacing
        self.thick_slice_prob, self.slice_axis_probs = thick_slice_prob, torch.tensor(slice_axis_probs)
        self.ceiling_prob, self.structure_std = ceiling_prob, structure_std
        self.bias, self.max_noise = bias, max_noise
        self.lesion_prob, self.largest_lesion_share = lesion_prob, largest_lesion_share

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        """Simulate the images of a sample."""
        result = dict(data)
        for key in self.key_iterator(result):
            labels = torch.as_tensor(result[key]).as_subclass(torch.Tensor).long()
            with torch_seeded_by(self.R):
                labels = self._draw_lesions(labels)
                image, foreground_mask = self._simulate(labels)
            result[self.image_key] = convert_to_dst_type(image, result[key], dtype=torch.float32)[0]
            result[key] = (class_indices(labels) * foreground_mask).to(torch.uint8)
        return result

    def _simulate(self, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        stripped, foreground_mask = self._draw_foreground(labels)
        means = self._draw_means()
        image = self._acquire(means[labels] * foreground_mask, foreground_mask)
        upper = (WHITE if stripped else float(means[511])) * float(torch.empty(()).uniform_(0.96, 1.12))
        lower = (0.12 if stripped else 0.05) * float(torch.rand(()))
        if torch.rand(()) < self.ceiling_prob:
            upper = WHITE * float(torch.empty(()).uniform_(0.86, 1.05))
        image = ((image - lower) / (upper - lower)).clamp(1e-4, 1)
        return image.pow(float(torch.empty(()).uniform_(0.75, 1.35))) * foreground_mask, foreground_mask

    def _draw_lesions(self, labels: torch.Tensor) -> torch.Tensor:
        """Draw lesions into labels (1, X, Y, Z), or none; small loads are more frequent than large ones."""
        if torch.rand(()) >= self.lesion_prob:
            return labels
        return with_lesions(labels, self.largest_lesion_share * float(torch.rand(())) ** 2)

    def _draw_foreground(self, labels: torch.Tensor) -> tuple[bool, torch.Tensor]:
        """Draw whether the skull is stripped, and the mask (1, X, Y, Z) of what is left."""
        stripped = bool(torch.rand(()) < self.strip_prob)
        return stripped, self._brain_mask(labels) if stripped else labels > 0

    def _draw_means(self) -> torch.Tensor:
        """Draw the intensity of every label; both sides of the brain get about the same."""
        offsets = {group: 0.04 * torch.randn(()) for group in (_GREY, _FLUID)}
        means = torch.zeros(LARGEST_LABEL)
        for label, mean in MEANS.items():
            shift = sum(offset for group, offset in offsets.items() if label in group)
            spread = 0.12 if label in OUTSIDE_BRAIN else self.structure_std
            means[label] = mean + shift + spread * torch.randn(())
        means[2] = WHITE
        for right, left in RIGHT_TO_LEFT.items():
            means[right] = means[left] + 0.008 * torch.randn(())
        return means.clamp(0.03, 1.2) * (means != 0)

    def _acquire(self, image: torch.Tensor, foreground_mask: torch.Tensor) -> torch.Tensor:
        """Give an image (1, X, Y, Z) texture, partial volume, a resolution, a bias field and noise."""
        texture = gaussian_blur(torch.randn_like(image)[None], [0.9] * 3)[0]
        image = (image * (1 + 0.03 * texture / texture.std()))[None]
        weight = foreground_mask[None].float()
        width = [float(torch.empty(()).uniform_(0.3, 0.75))] * 3
        image, weight = gaussian_blur(image, width), gaussian_blur(weight, width)
        if torch.rand(()) < self.low_resolution_prob:
            spacing = self._draw_spacing()
            image, weight = (resampled_at(volume, spacing) for volume in (image, weight))
        image = image / weight.clamp(min=0.1)
        image = image * torch.exp(self.bias * torch.rand(()) * smooth_field(image))
        noise = self.max_noise * torch.rand(()) ** 2
        return (image + noise * torch.randn_like(image))[0] * foreground_mask

    def _draw_spacing(self) -> list[float]:
        """Draw isotropic voxels of up to 2 mm, as those of the translation, or thick slices along one axis."""
        if torch.rand(()) >= self.thick_slice_prob:
            return [float(torch.empty(()).uniform_(1.3, 2.0))] * 3
        spacing = [1.0, 1.0, 1.0]
        spacing[int(self.slice_axis_probs.multinomial(1))] = float(torch.empty(()).uniform_(2.0, self.largest_spacing))
        return spacing

    def _brain_mask(self, labels: torch.Tensor) -> torch.Tensor:
        """Draw the mask of a skull-stripping tool: brain with closed sulci, and some of the fluid around it."""
        brain = (labels > 0) & ~torch.isin(labels, torch.tensor([*OUTSIDE_BRAIN, CSF]))
        if torch.rand(()) < self.cerebrum_only_prob:
            brain &= ~torch.isin(labels, torch.tensor(HINDBRAIN))
        closing, margin = int(torch.randint(2, 7, ())), int(torch.randint(0, 4, ()))
        solid = _dilated(_dilated(brain[None].float(), closing) * -1, closing - margin) * -1
        return solid[0] > 0.5


def _dilated(volume: torch.Tensor, radius: int) -> torch.Tensor:
    """Maximum of (1, 1, X, Y, Z) within a box of a radius in voxels; the minimum, if the radius is negative."""
    if radius < 0:
        return -_dilated(-volume, -radius)
    for axis in range(3):  # a box is separable
        size = [2 * radius + 1 if other == axis else 1 for other in range(3)]
        padding = [radius if other == axis else 0 for other in range(3)]
        volume = F.max_pool3d(volume, size, stride=1, padding=padding)
    return volume


def class_indices(labels: torch.Tensor) -> torch.Tensor:
    """Turn FreeSurfer ids of any shape into positions in `labels.FREESURFER_IDS`; other labels become 0."""
    table = torch.zeros(LARGEST_LABEL, dtype=torch.long)
    for index, label in enumerate(FREESURFER_IDS):
        table[label] = index
    for label, into in MERGED.items():
        table[label] = table[into]
    return table[labels]


def resampled_at(volume: torch.Tensor, spacing: Sequence[float]) -> torch.Tensor:
    """Sample (1, 1, X, Y, Z) at a coarser spacing in voxels, averaged over its voxels, and interpolate it back."""
    size = volume.shape[2:]
    coarse = [max(int(np.ceil(length / step)), 2) for length, step in zip(size, spacing, strict=True)]
    averaged = F.interpolate(volume, coarse, mode="area")
    return F.interpolate(averaged, size, mode="trilinear", align_corners=False)
