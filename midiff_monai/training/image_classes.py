"""Tissue classes of a volume without labels, found in its own intensities, and random contrasts of them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from numpy.typing import NDArray
from scipy import ndimage

from midiff_monai.errors import InputError
from midiff_monai.training.contrast import RandomContrast, remap
from midiff_monai.training.regions import Region
from midiff_monai.transforms.foreground import fill_holes
from midiff_monai.transforms.meta import Data, file_of, with_meta_of
from midiff_monai.transforms.skull import solid_object

MIN_OBJECT_SHARE = 0.05
"""Least size of a further object, such as an arm beside a trunk, as a share of the largest one."""

NEAR_VOXELS, MAX_NOISE_SHARE = 4, 0.01
"""Beyond this distance from what lies above air, a larger share of voxels that are not 0 is noise of air. With less,
the background was masked, and all that is not 0 belongs to the object."""

MIN_CONTRAST = 0.02
"""Least range of the intensities of an object, in [0, 1]. It is smaller where a window does not fit the unit of a
volume, as that of Hounsfield units for a CT of 8 bits."""

BINS, ITERATIONS = 256, 100
"""Bins of the histogram that is divided into classes, and most iterations of the division."""

KNOT_GAP = 1e-3
"""Least distance of two knots of a remapping."""


class ImageClassesd(MapTransform):
    """Turn images into maps of intensity classes: 0 outside the object, then 1, 2 … from dark to bright.

    The object is all that is not 0 where the background was masked, as around a skull-stripped brain. Otherwise it is
    what lies above air, with dark parts that are enclosed, such as CSF in a FLAIR or the skull. Air is not part of it.

    Args:
        keys: images (1, X, Y, Z) in [0, 1]. They become float32 maps of the same shape.
        classes: largest number of classes. An image with fewer distinct intensities has fewer.

    Raises:
        InputError: an image shows no object, or an object without contrast.
    """

    def __init__(self, keys: KeysCollection, classes: int = 4) -> None:
        super().__init__(keys)
        self.classes = classes

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        """Replace the images of a sample."""
        result = dict(data)
        for key in self.key_iterator(result):
            volume = np.asarray(result[key][0], dtype=np.float32)
            inside = object_mask(volume)
            if not inside.any() or np.ptp(volume[inside]) < MIN_CONTRAST:
                hint = "Remove it, or check its intensities and the window or the percentiles that scale them"
                raise InputError(file_of(result[key]), "shows no object with a contrast", hint)
            limits = class_limits(volume[inside], self.classes)
            classes = np.where(inside, 1 + np.digitize(volume, limits), Region.OUTSIDE).astype(np.float32)
            result[key] = with_meta_of(torch.from_numpy(classes)[None], result[key])
        return result


def object_mask(volume: NDArray) -> NDArray[np.bool_]:
    """Mask of the object in a volume (X, Y, Z), without air. It is empty if there is none."""
    solid = solid_object(volume, MIN_OBJECT_SHARE)
    if not solid.any() or (volume != 0).all():
        return solid
    far = volume[ndimage.distance_transform_edt(~solid) > NEAR_VOXELS]
    masked = not far.size or (far != 0).mean() <= MAX_NOISE_SHARE
    return fill_holes(volume != 0) if masked else solid


def class_limits(values: NDArray, classes: int) -> NDArray[np.float64]:
    """Limits between classes of intensities: k-means in one dimension (Lloyd, IEEE Trans. Inf. Theory 28:129, 1982).

    Its criterion, the variance within the classes, is that of several Otsu thresholds.

    Args:
        values: intensities, any shape.
        classes: number of classes, at least 1.

    Returns:
        (classes − 1,), ascending. A value belongs to class number `np.digitize(value, limits)`.
    """
    counts, edges = np.histogram(values, bins=BINS)
    centres = (edges[:-1] + edges[1:]) / 2
    # from evenly spaced intensities: from quantiles, a tissue of few voxels such as CSF would not get a class
    means = np.interp((np.arange(classes) + 0.5) / classes, [0, 1], edges[[0, -1]])
    for _ in range(ITERATIONS):
        members = np.digitize(centres, (means[:-1] + means[1:]) / 2)
        weights, sums = (np.bincount(members, share, classes) for share in (counts, counts * centres))
        updated = np.divide(sums, weights, out=means.copy(), where=weights > 0)
        if np.array_equal(updated, means):
            break
        means = updated
    return (means[:-1] + means[1:]) / 2


class ImageClassContrastRandomizer(RandomContrast):
    """Give slabs of any modality another contrast, by classes of their own intensities (`ImageClassesd`).

    The mean intensity of each class is a knot of the remapping, which is linear between knots. A voxel between two
    classes thus stays between their new intensities, as partial volume does in a real scan. The new intensities of the
    classes are a random permutation of well separated values. No order is more likely than another, because nothing is
    known about the tissues. Classes that are close together in the target stay close enough that its noise is not
    amplified beyond `max_gain`.

    Args:
        max_gain: largest factor between a difference of intensities in the target and in the source.
        overlap_prob: probability that one class moves towards another, up to the same intensity and slightly beyond.
            Tissues that differ in the target may look alike in the source.
        mixing_prob: as for `RandomContrast`. It is larger than with labels: only the place tells tissues of the same
            intensity apart, such as fat and white matter in T1w.
        level_std: as for `RandomContrast`.
        bias: as for `RandomContrast`.
        blur: as for `RandomContrast`.
        through_plane_blur: as for `RandomContrast`.
        noise: as for `RandomContrast`.
    """

    def __init__(
        self,
        max_gain: float = 2.0,
        overlap_prob: float = 0.5,
        mixing_prob: float = 0.3,
        level_std: float = 0.1,
        bias: float = 0.4,
        blur: float = 0.7,
        through_plane_blur: float = 1.2,
        noise: float = 0.07,
    ) -> None:
        super().__init__(mixing_prob, level_std, bias, blur, through_plane_blur, noise)
        self.max_gain, self.overlap_prob = max_gain, overlap_prob

    def _remap_inside(self, target: torch.Tensor, regions: torch.Tensor) -> torch.Tensor:
        knots = class_knots(target, regions)
        return remap(target, self._draw_levels(knots), knots)

    def _remap_outside(self, target: torch.Tensor, regions: torch.Tensor) -> torch.Tensor:
        # no knots: the darkest tissue may be as dark as air in the target, and bright in the source
        return target * torch.rand(())

    def _draw_levels(self, knots: list[float]) -> torch.Tensor:
        """Draw the new intensities of the knots. The brightest class gets 1, so that air stays dark beside it."""
        count = len(knots) - 2
        levels = torch.linspace(0.15, 0.85, count)[torch.randperm(count)] + self.level_std * torch.randn(count)
        if count > 1 and torch.rand(()) < self.overlap_prob:
            moved, other = torch.randperm(count)[:2]
            levels[moved] = torch.lerp(levels[moved], levels[other], 1.4 * torch.rand(()))
        ends = torch.rand(2)
        contrast = torch.rand(()) * 0.8 + 0.2
        levels = torch.cat([ends[:1], levels, ends[1:]]).clamp(0.02, 1)
        levels = limit_gain(levels, torch.tensor(knots), self.max_gain)
        levels = levels * contrast + (1 - contrast) * torch.rand(())
        return levels / levels[1:-1].max() if count else levels


def limit_gain(levels: torch.Tensor, knots: torch.Tensor, gain: float) -> torch.Tensor:
    """Bring the levels (n,) of neighbouring knots (n,) closer, to `gain` times the distance of the knots at most.

    The level in the middle stays, unless all levels have to be raised for the lowest one to be positive.
    """
    largest = gain * knots.diff()
    steps = torch.minimum(torch.maximum(levels.diff(), -largest), largest)
    limited = torch.cat([steps.new_zeros(1), steps.cumsum(0)])
    middle = len(levels) // 2
    limited = limited - limited[middle] + levels[middle]
    return limited + (0.02 - limited.min()).clamp(min=0)


def class_knots(target: torch.Tensor, regions: torch.Tensor) -> list[float]:
    """Knots of a slab (1, 1, X, Y, Z): 0, the mean intensity of each class in it, and 1, at least `KNOT_GAP` apart."""
    inside = regions != Region.OUTSIDE
    classes, values = regions[inside].long(), target[inside].double()
    counts, sums = classes.bincount(), classes.bincount(values)
    means = (sums[counts > 0] / counts[counts > 0]).sort().values.tolist()
    knots = [0.0]
    for mean in means:
        if knots[-1] + KNOT_GAP <= mean <= 1 - KNOT_GAP:
            knots.append(mean)
    return [*knots, 1.0]
