"""Background that is not exactly 0: dust, constant padding, offsets, noise and ripples are set to 0."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from numpy.typing import NDArray
from scipy import ndimage

from midiff_monai.transforms.foreground import air_level
from midiff_monai.transforms.meta import Data, as_plain_tensor, with_meta_of
from midiff_monai.transforms.skull import shows_skull, solid_object

TOLERANCE = 2e-4
"""Half width of a constant background; the noise of air varies more. This and the limits below, unless they are counts
of voxels, are shares of the range of intensities."""

MIN_SHELL_SHARE = 0.4
"""Least share of the outermost voxels of a volume that a constant background occupies."""

MIN_FRAME_SHARE = 0.01
"""Least share of the outermost voxels that negative padding occupies, such as a frame that a resampling added."""

MAX_SHARE_BELOW = 0.02
"""Largest share of the other voxels that may be darker than a background for it to be an offset of all intensities."""

MIN_PADDING = 0.05
"""Least value of padding that is brighter than parts of the object. A lower one may be the air noise of a head."""

MIN_EDGE_SHARE = 0.9
"""Least share of an edge of the volume that bright padding occupies if it lies on one side or in the corners only."""

MAX_DUST = 2.0**-9
"""Upper bound of dust. The noise of the air of a head is above it."""

MIN_AIR_OFFSET, MAX_AIR_RANGE = 0.05, 0.15
"""An offset of a head is at least so large, and the darkest third of its air varies at most so much."""

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
    object), the noise around a skull-stripped brain, or the ripples of an interpolation. Where an interpolation faded
    the surface of a brain, those of its voxels that lie for the most part outside of it become background too.

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
        if np.median(_shell(voxels)) <= MAX_AIR_HU:
            return voxels
        voxels = _without_padding(voxels)
    limit = _dust_limit(voxels)
    if limit:
        voxels = np.where(np.abs(voxels) <= limit, np.float32(0), voxels)
    if absolute:
        return voxels
    cleared = _without_noise(voxels, spacing)
    return cleared if cleared is not voxels else _without_faded_surface(voxels, spacing)


def _without_padding(voxels: NDArray) -> NDArray:
    """Subtract the offset of all intensities, or set constant padding to 0."""
    lowest, shell = voxels.min(), _shell(voxels)
    if lowest < 0 and (shell == lowest).mean() > MIN_FRAME_SHARE and not ((voxels < 0) & (voxels > lowest)).any():
        return np.where(voxels == lowest, np.float32(0), voxels)
    scale = float(np.percentile(voxels, 99.5) - np.percentile(voxels, 0.5))
    level, share = _constant_level(shell, TOLERANCE * scale)
    if share < MIN_SHELL_SHARE or abs(level) <= TOLERANCE * scale:
        voxels = _without_padded_edges(voxels, scale)
        return voxels if share >= MIN_SHELL_SHARE else _without_air_offset(voxels, scale)
    padding = np.abs(voxels - level) <= TOLERANCE * scale
    darker = (voxels < level - TOLERANCE * scale).sum() / max(1, (~padding).sum())
    if darker <= MAX_SHARE_BELOW:
        return voxels - np.float32(level)
    if abs(level) < MIN_PADDING * scale:
        return voxels
    return np.where(_connected_to_border(padding), np.float32(0), voxels)


def _without_padded_edges(voxels: NDArray, scale: float) -> NDArray:
    """Set bright constant padding of one side, or of the corners as a rotation leaves them, to 0."""
    for edge in _edges(voxels):
        level, share = _constant_level(edge, TOLERANCE * scale)
        if share >= MIN_EDGE_SHARE and level > MIN_PADDING * scale:
            padding = _connected_to_border(np.abs(voxels - level) <= TOLERANCE * scale)
            voxels = np.where(padding, np.float32(0), voxels)
    return voxels


def _edges(voxels: NDArray) -> Iterator[NDArray]:
    """The voxels along each of the twelve edges of a volume."""
    for axis in range(3):
        for ends in product((0, -1), repeat=2):
            yield np.moveaxis(voxels, axis, -1)[ends]


def _without_air_offset(voxels: NDArray, scale: float) -> NDArray:
    """Subtract an offset of all intensities of a head, if its air lies far from 0 and varies little."""
    shell = _shell(voxels)
    air, lowest = np.percentile(shell, [30, 0.1])
    if min(abs(lowest), abs(air)) < MIN_AIR_OFFSET * scale or lowest * air < 0:
        return voxels
    if air - lowest > MAX_AIR_RANGE * scale:
        return voxels
    darker = (voxels < lowest).mean()
    return voxels - np.float32(lowest) if darker < MAX_SHARE_BELOW else voxels


def _shell(voxels: NDArray) -> NDArray:
    """The voxels on the six faces of a volume."""
    faces = (voxels.take(end, axis).ravel() for axis in range(3) for end in (0, -1))
    return np.concatenate(list(faces))


def _constant_level(values: NDArray, tolerance: float) -> tuple[float, float]:
    """The value with the most values within a tolerance, and their share."""
    ordered = np.sort(values)
    last = np.searchsorted(ordered, ordered + 2 * tolerance, side="right")
    counts = last - np.arange(ordered.size)
    first = int(counts.argmax())
    return float(ordered[first + counts[first] // 2]), float(counts[first] / ordered.size)


def _connected_to_border(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The components of a mask that reach a face of the volume."""
    components, count = ndimage.label(mask)
    at_border = np.zeros(count + 1, dtype=bool)
    at_border[_shell(components)] = True
    at_border[0] = False
    return at_border[components]


def _dust_limit(voxels: NDArray) -> float:
    """Magnitude below which voxels are dust, or 0. Dust is separated from the object by a gap of magnitudes."""
    magnitudes = np.abs(voxels[voxels != 0])
    if not magnitudes.size:
        return 0.0
    scale = float(np.percentile(magnitudes[:: max(1, magnitudes.size // 100_000)], 99.5))
    octaves = np.clip(np.floor(np.log2(magnitudes.astype(np.float64) / scale)), -OCTAVES, 0).astype(int) + OCTAVES
    counts = np.bincount(octaves, minlength=OCTAVES + 1)
    below = np.cumsum(counts)
    for top in range(OCTAVES + int(np.log2(MAX_DUST))):
        gap = below[min(top + GAP_OCTAVES, OCTAVES)] - below[top]
        if counts[top] and below[top] >= MIN_DUST_SHARE * voxels.size and gap <= MAX_GAP_SHARE * below[top]:
            return scale * 2.0 ** (top + 1 - OCTAVES)
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
    limit = NOISE_MARGIN * float(np.percentile(np.abs(far), 99.9))
    if ripples:
        limit = max(limit, NOISE_MARGIN * float(np.percentile(-near[near < 0], 99)))
    limit = min(limit, air_level(voxels[voxels > 0]))
    # clefts between the parts of a brain belong to the background, but ventricles of a FLAIR must stay
    reach = max(1, round(CLEFT_MM / min(spacing)))
    background = ndimage.binary_dilation(outside & (voxels <= limit), iterations=reach, mask=voxels <= limit)
    cleared = np.where(background, np.float32(0), voxels)
    return _without_partial_surface(cleared, voxels) if ripples else cleared


def _without_partial_surface(cleared: NDArray, rippled: NDArray) -> NDArray:
    """Set those voxels of the surface of an interpolated object to 0 that lie for the most part outside of it.

    Between a voxel of the object and one of the background, an interpolation makes one of some intensity in between.
    The object would grow by all of them.

    Args:
        cleared: (X, Y, Z), with a background of 0.
        rippled: the same volume with the ripples around the object.
    """
    core, tissue = _tissue_within(cleared)
    overshoot = -ndimage.minimum_filter(rippled, footprint=ndimage.generate_binary_structure(3, 1))
    faint = (cleared < MAX_FAINT * tissue) & (overshoot > MIN_OVERSHOOT * tissue)
    return np.where(faint & ~core, np.float32(0), cleared)


def _without_faded_surface(voxels: NDArray, spacing: Sequence[float]) -> NDArray:
    """Do as `_without_partial_surface` for a skull-stripped brain that was interpolated without ripples."""
    (box,) = ndimage.find_objects((voxels > 0).astype(np.uint8)) or (None,)
    if box is None:
        return voxels
    inner = voxels[box]
    core, tissue = _tissue_within(inner)
    surface = (inner > 0) & ~core
    faint, trace = (surface & (inner < share * tissue) for share in (MAX_FAINT, MAX_TRACE))
    if faint.sum() < MIN_FADED_SHARE * surface.sum() or trace.sum() < MIN_TRACE_SHARE * surface.sum():
        return voxels
    if not core.any() or shows_skull(voxels, spacing):
        return voxels
    cleared = voxels.copy()
    cleared[box][faint] = 0
    return cleared


def _tissue_within(voxels: NDArray) -> tuple[NDArray[np.bool_], NDArray]:
    """The object without its surface, and the mean intensity of that among the 27 neighbours of each voxel."""
    core = ndimage.binary_erosion(voxels > 0)
    near = ndimage.uniform_filter(core.astype(np.float32), 3)
    return core, ndimage.uniform_filter(np.where(core, voxels, np.float32(0)), 3) / np.maximum(near, 1e-3)


def _is_substantially_negative(voxels: NDArray) -> bool:
    """Whether negative intensities are larger than the ripples of an interpolation, as after a z-score."""
    negative = -voxels[voxels < 0]
    return bool(negative.size) and np.percentile(negative, 95) > MAX_RIPPLE * np.percentile(voxels[voxels > 0], 95)
