"""Whether a scan lies as its header says, and whether it shows a head: mutual information with an average head.

The average head has the fractions of nine classes of tissue, from the 20 label maps of SynthSeg (Billot et al., Medical
Image Analysis 86:102789, 2023; Apache-2.0). `evaluation/average_anatomy.py` makes it. The comparison needs no knowledge
of the contrast. A head is nearly symmetric, so left and right cannot be told apart.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import permutations, product
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.orientations import io_orientation, ornt2axcodes
from numpy.typing import NDArray
from scipy import ndimage

from midiff_monai.transforms.joint_histogram import mutual_information_bits

FILE = Path(__file__).parent / "average_head.npz"

CLASSES = (
    *("air", "bone", "soft tissue", "CSF", "cortex", "white matter", "ventricles"),
    *("deep grey matter", "cerebellum and brain stem"),
)

VOXEL_MM = 6

SHAPE = (35, 43, 43)
"""Voxels of the average head to the right, front and top. The centroid of the brain is in the middle."""

MIN_FIELD_MM = 110
"""Shortest field of view in which the orientation can be told. The slabs of the development scans have up to 102 mm."""

MAX_VOXEL_MM = 4
"""Longest sides of the pixels of a slice with which the orientation can be told. The slices may be thicker."""

AIR_LEVEL = 0.1
"""Share of the range of intensities up to which a voxel is air."""

BINS = 8
"""Bins of the intensities above air, each with the same number of voxels."""

MARGIN, REACH = 4, 24
"""Voxels around the foreground, and the radius around the brain's centroid, within which voxels are compared."""

CANDIDATES = 4
"""Number of orientations that are compared with that of the header at full resolution."""

COARSE_SHIFT, FINE_SHIFT = 2, 6
"""Largest shift of the scan along an axis, in voxels of 12 and 6 mm."""

ORIENTATIONS = tuple(
    matrix
    for axes in permutations(range(3))
    for signs in product((1, -1), repeat=3)
    if np.linalg.det(matrix := np.eye(3, dtype=int)[list(axes)] * signs) > 0
)
"""The 24 rotations by right angles; the first is none. A mirrored head is compared as the rotated head next to it."""

FLIPS = {(1, -1, -1): "upside down and back to front", (-1, 1, -1): "upside down", (-1, -1, 1): "back to front"}
"""Diagonal of a rotation → what it does to a head that is the same on both sides."""

Shift = tuple[int, int, int]


class Orientation(NamedTuple):
    """How well a scan fits the average head.

    Attributes:
        bits: mutual information of intensities and classes, as the header says.
        best_bits: the largest of all orientations.
        axes: directions of the array axes by the header, such as "LAS".
        best_axes: the same by the orientation that fits best. Left and right are as in the header, or a guess.
        change: how the head lies by the header if it fits better otherwise, such as "upside down"; else empty.
    """

    bits: float
    best_bits: float
    axes: str
    best_axes: str
    change: str

    @property
    def gain(self) -> float:
        """Bits by which the best orientation is better than that of the header."""
        return self.best_bits - self.bits

    @property
    def mirrored_axes(self) -> str:
        """The best axes with left and right exchanged, which fit as well."""
        return self.best_axes.translate(str.maketrans("LR", "RL"))


def measure_orientation(
    volume: NDArray, affine: NDArray[np.float64], segmentation: NDArray[np.integer]
) -> Orientation | None:
    """Compare a scan with the average head, in 24 orientations and with small shifts.

    Args:
        volume: (X, Y, Z), any contrast.
        affine: voxel to RAS mm, any orientation.
        segmentation: (X, Y, Z), FreeSurfer ids. Where it has any, their centroid is that of the brain.

    Returns:
        None if the volume is constant, or if its field of view is too short or its voxels are too large to tell.
    """
    sides = voxel_sizes(affine)
    if (sides * volume.shape).min() < MIN_FIELD_MM or np.sort(sides)[1] > MAX_VOXEL_MM or np.ptp(volume) == 0:
        return None
    scan, labelled = (_coarse(image, affine) for image in (volume, (segmentation > 0).astype(np.float32)))
    foreground = _above_air(scan)
    centre = np.array(ndimage.center_of_mass(labelled if labelled.any() else foreground))
    region = ndimage.binary_dilation(foreground, iterations=MARGIN) & (_distance(scan.shape, centre) <= REACH)
    average, middle = average_head(), (np.array(SHAPE) - 1) / 2
    coarse = _matcher(_halved(scan), _halved(region) >= 0.5, (centre - 0.5) / 2, _halved(average), (middle - 0.5) / 2)
    shifts = [_climb(coarse, number, (0, 0, 0), COARSE_SHIFT) for number in range(len(ORIENTATIONS))]
    ranked = sorted(range(1, len(ORIENTATIONS)), key=lambda number: -coarse(number, shifts[number]))
    fine = _matcher(scan, region, centre, average, middle)
    bits = {number: _best_bits(fine, number, shifts[number]) for number in (0, *ranked[:CANDIDATES])}
    return _described(bits, affine)


def _described(bits: dict[int, float], affine: NDArray[np.float64]) -> Orientation:
    best = max(bits, key=lambda number: bits[number])
    rotation, stored = ORIENTATIONS[best], io_orientation(affine)
    seen = [(int(abs(rotation[:, axis]).argmax()), flip * rotation[:, axis].sum()) for axis, flip in stored.astype(int)]
    axes, best_axes = ("".join(ornt2axcodes(codes)) for codes in (stored, seen))
    change = FLIPS.get(tuple(np.diag(rotation).tolist()), "with exchanged axes") if best else ""
    return Orientation(bits[0], bits[best], axes, best_axes, change)


@cache
def average_head() -> NDArray[np.float32]:
    """The fractions (C, *SHAPE) of `CLASSES` in the average head, in RAS."""
    return np.load(FILE)["fractions"].astype(np.float32) / 255


def _coarse(volume: NDArray, affine: NDArray[np.float64]) -> NDArray[np.float32]:
    """Average a volume over voxels of about `VOXEL_MM`, with its axes in the order of RAS."""
    image = nib.as_closest_canonical(nib.Nifti1Image(volume, affine))
    sides = voxel_sizes(image.affine)
    steps = np.maximum(VOXEL_MM // sides, 1).astype(int)
    means = _block_means(np.asarray(image.dataobj), steps)
    return ndimage.zoom(means, steps * sides / VOXEL_MM, order=1, grid_mode=True, mode="nearest")


def _block_means(volume: NDArray, steps: NDArray[np.integer]) -> NDArray[np.float32]:
    """Average (…, X, Y, Z) over blocks of some voxels. What is left over at the end is dropped."""
    outer, sizes = volume.shape[:-3], np.array(volume.shape[-3:]) // steps
    x, y, z = sizes * steps
    cut = volume[..., :x, :y, :z]
    blocks = cut.reshape([*outer, *np.stack([sizes, steps], axis=1).ravel()])
    return blocks.mean(axis=(-5, -3, -1), dtype=np.float32)


def _halved(volume: NDArray) -> NDArray[np.float32]:
    return _block_means(volume, np.array([2, 2, 2]))


def _distance(shape: tuple[int, ...], centre: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance of each voxel from a centre, in voxels."""
    axes = np.ogrid[tuple(slice(size) for size in shape)]
    return np.sqrt(sum((axis - place) ** 2 for axis, place in zip(axes, centre, strict=True)))


def _above_air(scan: NDArray[np.float32]) -> NDArray[np.bool_]:
    """The voxels above `AIR_LEVEL`. Air can be negative, as in a CT."""
    low, high = np.percentile(scan[scan != 0], (1, 99))
    low = min(low, 0.0)
    return scan > low + AIR_LEVEL * (high - low)


def _bins(scan: NDArray[np.float32]) -> NDArray[np.int64]:
    """The bin of each voxel; 0 is air."""
    foreground = _above_air(scan)
    limits = np.quantile(scan[foreground], np.linspace(0, 1, BINS + 1)[1:-1])
    return np.where(foreground, 1 + np.searchsorted(limits, scan), 0)


def _matcher(
    scan: NDArray[np.float32],
    region: NDArray[np.bool_],
    centre: NDArray[np.float64],
    average: NDArray[np.float32],
    middle: NDArray[np.float64],
) -> Callable[[int, Shift], float]:
    """Prepare the mutual information of a scan, rotated about its centre and shifted, and the average head.

    Args:
        scan: (X, Y, Z) in RAS.
        region: (X, Y, Z), voxels to compare.
        centre: of the brain, in voxels.
        average: (C, X', Y', Z'), voxels of the same size. Beyond its faces it goes on as at the face.
        middle: of its brain, in voxels.

    Returns:
        A function of the number of an orientation and a shift, in bits.
    """
    bins = _bins(scan)[region]
    order = bins.argsort(kind="stable")
    points, starts = np.argwhere(region)[order] - centre, np.unique(bins[order], return_index=True)[1]
    size = np.array(average.shape[1:])
    classes = np.ascontiguousarray(average.reshape(len(average), -1).T)

    @cache
    def rotated(number: int) -> NDArray[np.int64]:
        return np.rint(points @ ORIENTATIONS[number].T + middle).astype(np.int64)

    @cache
    def bits(number: int, shift: Shift) -> float:
        x, y, z = (rotated(number) + shift).clip(0, size - 1).T
        joint = np.add.reduceat(classes[(x * size[1] + y) * size[2] + z], starts, axis=0)
        return mutual_information_bits(joint / joint.sum())

    return bits


def _climb(bits: Callable[[int, Shift], float], number: int, start: Shift, limit: int) -> Shift:
    """Shift by one voxel along an axis, as long as that adds bits."""
    best = start
    while True:
        steps = (tuple(np.array(best) + sign * step) for step in np.eye(3, dtype=int) for sign in (1, -1))
        near = [best, *(shift for shift in steps if max(map(abs, shift)) <= limit)]
        winner = max(near, key=lambda shift: bits(number, shift))
        if winner == best:
            return best
        best = winner


def _best_bits(fine: Callable[[int, Shift], float], number: int, coarse_shift: Shift) -> float:
    x, y, z = coarse_shift
    return fine(number, _climb(fine, number, (2 * x, 2 * y, 2 * z), FINE_SHIFT))
