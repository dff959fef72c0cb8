"""Background that is not exactly 0: dust, constant padding, offsets, noise and ripples are set to 0."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from numpy.typing import NDArray
from scipy import ndimage

from midiff_monai.transforms.bright_noise import without_bright_noise
from midiff_monai.transforms.foreground import air_level
from midiff_monai.transforms.meta import Data, as_plain_tensor, with_meta_of
from midiff_monai.transforms.padding import outermost, without_padding
from midiff_monai.transforms.skull import shows_skull, solid_object

MAX_DUST = 2.0**-9
"""Upper bound of dust. The noise of the air of a head is above it. This and the limits below are shares, unless their
names have a unit: of a number of voxels, or of the intensities of the object."""

OCTAVES = 40
"""Number of octaves of magnitude that are counted below the 99.5th percentile."""

GAP_OCTAVES, MAX_GAP_SHARE, MIN_DUST_SHARE = 3, 1e-3, 0.005
"""Dust is separated from the object by so many octaves with hardly a voxel, and is a fair share of the volume."""

NEAR_MM = 6.0
"""Distance from the object within which ripples of an interpolation are strong. Beyond it there is noise only."""

CLEFT_MM = 15.0
"""Depth to which the background reaches into clefts of the object."""

MIN_DISTURBED_SHARE = 0.2
"""Least share of voxels far from the object that are not 0, if the background is disturbed. Remnants have less."""

MIN_NEGATIVE_SHARE = 0.1
"""Least share of negative voxels near the object if they are ripples."""

NOISE_MARGIN = 1.25
"""Factor from the 99.9th percentile of the noise, or from the 99th of the ripples, to its maximum."""

MIN_OVERSHOOT, MAX_FAINT = 0.08, 0.5
"""An interpolation makes voxels beside a sharp surface negative by so large a share of the tissue within. A voxel of
that surface with at most so large a share of the intensity of the tissue lies for the most part outside of it."""

MIN_FADED_SHARE = 0.48
"""Least share of the surface that is faint if a brain was interpolated linearly. In development scans that were not it
is at most 0.43; dark CSF around the brain is faint too. After a shift by half a voxel it is at least 0.49."""

MAX_TRACE, MIN_TRACE_SHARE = 0.1, 0.03
"""Such a surface has voxels of at most so large a share of the intensity of the tissue, and they are so large a share
of it. Where ripples or noise were cleared there are none."""

MAX_RIPPLE = 0.25
"""Largest negative overshoot of an interpolation. More means that the object has negative intensities itself."""

MAX_AIR_HU = -900.0
"""Upper bound of air in Hounsfield units. A volume that is surrounded by such values is a CT, not a padded MR."""

MAX_RIPPLE_TAIL = 5e-4
"""Largest median magnitude far from the object if its disturbance comes from ripples. The air of a head has more."""


class ClearBackgroundd(MapTransform):
    """Set the background of images to exactly 0, as `clear_background` does.

    Args:
        keys: keys of MetaTensors (1, X, Y, Z).
        absolute: intensities have an absolute scale, such as Hounsfield units.
    """

    def __init__(self, keys: KeysCollection, absolute: bool = False) -> None:
        super().__init__(keys)
        self.absolute = absolute

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        """Clear the background of the images of a sample."""
        result = dict(data)
        for key in self.key_iterator(result):
            image = result[key]
            voxels = as_plain_tensor(image)[0].numpy().astype(np.float32)
            cleared = clear_background(voxels, image.pixdim.tolist(), self.absolute)
            result[key] = with_meta_of(torch.from_numpy(cleared)[None], image)
        return result


def clear_background(voxels: NDArray[np.float32], spacing: Sequence[float], absolute: bool = False) -> NDArray:
    """Set the background of a volume to exactly 0.

    The background may be a constant other than 0, an offset of all intensities, dust (values far below those of the
    object), the noise around a skull-stripped brain, air as bright as tissue (`without_bright_noise`), or the ripples
    of an interpolation. Where an interpolation faded the surface of a brain, those of its voxels that lie for the most
    part outside of it become background too.

    A volume whose background is 0 is returned as it is, and so are a head with the noise of its air, a CT, an object
    with negative intensities, and a single slice, whose shell shows the object.

    Args:
        voxels: (X, Y, Z).
        spacing: voxel size in mm.
        absolute: intensities have an absolute scale: no offset is subtracted, and only dust around 0 is removed.

    Returns:
        (X, Y, Z), the same array if there is nothing to clear.
    """
    if min(voxels.shape) == 1:
        return voxels
    if not absolute:
        if np.median(outermost(voxels)) <= MAX_AIR_HU:
            return voxels
        voxels = without_bright_noise(without_padding(voxels))
    limit = _dust_limit(voxels)
    if limit:
        voxels = np.where(np.abs(voxels) <= limit, np.float32(0), voxels)
    if absolute:
        return voxels
    cleared = _without_noise(voxels, spacing)
    return cleared if cleared is not voxels else _without_faded_surface(voxels, spacing)


def _dust_limit(voxels: NDArray) -> float:
    """Magnitude below which voxels are dust, or 0. Dust is separated from the object by a gap of magnitudes."""
    magnitudes = np.abs(voxels[voxels != 0])
    if not magnitudes.size:
        return 0.0
    scale = float(np.percentile(magnitudes[:: max(1, magnitudes.size // 100_000)], 99.5))
    limits = scale * 2.0 ** np.arange(1 - OCTAVES, 1)
    below = np.array([*(np.count_nonzero(magnitudes < np.float32(limit)) for limit in limits), magnitudes.size])
    counts = np.diff(below, prepend=0)
    for top in range(OCTAVES + int(np.log2(MAX_DUST))):
        gap = below[min(top + GAP_OCTAVES, OCTAVES)] - below[top]
        if counts[top] and below[top] >= MIN_DUST_SHARE * voxels.size and gap <= MAX_GAP_SHARE * below[top]:
            return float(limits[top])
    return 0.0


def _without_noise(voxels: NDArray, spacing: Sequence[float]) -> NDArray:
    """Set the noise and the ripples around an object to 0. The air noise of a head stays."""
    if (voxels == 0).sum() > (1 - MIN_DISTURBED_SHARE) * voxels.size or not (voxels > 0).any():
        return voxels
    if _is_substantially_negative(voxels):
        return voxels
    head = shows_skull(voxels, spacing)
    if head and (voxels < 0).mean() < MIN_NEGATIVE_SHARE / 2:
        return voxels
    outside = ~solid_object(voxels)
    distance = ndimage.distance_transform_edt(outside, sampling=spacing)
    near, far = voxels[(distance > 0) & (distance <= NEAR_MM)], voxels[distance > NEAR_MM]
    if not far.size or (far != 0).mean() < MIN_DISTURBED_SHARE:
        return voxels
    ripples = (near < 0).mean() > MIN_NEGATIVE_SHARE
    only_ripples = ripples and np.median(np.abs(far)) < MAX_RIPPLE_TAIL * np.percentile(voxels, 99.5)
    if head and not only_ripples:
        return voxels
    limit = min(_disturbance(far, near if ripples else None), air_level(voxels[voxels > 0]))
    # clefts between the parts of a brain belong to the background, but ventricles of a FLAIR must stay
    reach = max(1, round(CLEFT_MM / min(spacing)))
    background = ndimage.binary_dilation(outside & (voxels <= limit), iterations=reach, mask=voxels <= limit)
    cleared = np.where(background, np.float32(0), voxels)
    return _without_partial_surface(cleared, voxels) if ripples else cleared


def _disturbance(far: NDArray, rippled: NDArray | None) -> float:
    """The largest magnitude of the noise of voxels far from an object, and of the ripples of voxels near it."""
    noise = NOISE_MARGIN * float(np.percentile(np.abs(far), 99.9))
    if rippled is None:
        return noise
    return max(noise, NOISE_MARGIN * float(np.percentile(-rippled[rippled < 0], 99)))


def _without_partial_surface(cleared: NDArray, rippled: NDArray) -> NDArray:
    """Set those voxels of the surface of an interpolated object to 0 that lie for the most part outside of it.

    Between a voxel of the object and one of the background, an interpolation makes one of some intensity in between.
    The object would grow by all of them.

    Args:
        cleared: (X, Y, Z), with a background of 0.
        rippled: the same volume with the ripples around the object.
    """
    surface, tissue = _surface(cleared)
    overshoot = -ndimage.minimum_filter(rippled, footprint=ndimage.generate_binary_structure(3, 1))[surface]
    faint = (cleared[surface] < MAX_FAINT * tissue) & (overshoot > MIN_OVERSHOOT * tissue)
    return _with_zeros(cleared, surface, faint)


def _without_faded_surface(voxels: NDArray, spacing: Sequence[float]) -> NDArray:
    """Do as `_without_partial_surface` for a skull-stripped brain that was interpolated without ripples."""
    surface, tissue = _surface(voxels)
    levels = voxels[surface]
    faint, trace = (levels < share * tissue for share in (MAX_FAINT, MAX_TRACE))
    if not tissue.any() or faint.mean() < MIN_FADED_SHARE or trace.mean() < MIN_TRACE_SHARE:
        return voxels
    return voxels if shows_skull(voxels, spacing) else _with_zeros(voxels, surface, faint)


def _surface(voxels: NDArray) -> tuple[tuple[NDArray, ...], NDArray]:
    """The outermost voxels of an object, and the mean intensity of the deeper ones among the 26 neighbours of each.

    Returns:
        Indices of the voxels along each axis, (N,) each. The means (N,), 0 where no neighbour lies deeper.
    """
    core = ndimage.binary_erosion(voxels > 0)
    surface = ((voxels > 0) & ~core).nonzero()
    total, count = np.zeros((2, surface[0].size), dtype=np.float32)
    for step in product((-1, 0, 1), repeat=3):
        neighbour = tuple((at + by).clip(0, size - 1) for at, by, size in zip(surface, step, voxels.shape, strict=True))
        deeper = core[neighbour]
        total += np.where(deeper, voxels[neighbour], 0)
        count += deeper
    return surface, total / count.clip(min=1)


def _with_zeros(voxels: NDArray, places: tuple[NDArray, ...], chosen: NDArray[np.bool_]) -> NDArray:
    """A copy of a volume with 0 at the chosen ones of some places."""
    changed = voxels.copy()
    changed[tuple(index[chosen] for index in places)] = 0
    return changed


def _is_substantially_negative(voxels: NDArray) -> bool:
    """Whether negative intensities are larger than the ripples of an interpolation, as after a z-score."""
    negative = -voxels[voxels < 0]
    return bool(negative.size) and np.percentile(negative, 95) > MAX_RIPPLE * np.percentile(voxels[voxels > 0], 95)
