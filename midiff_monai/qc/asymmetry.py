"""Large abnormalities of one hemisphere, found in the source: its two sides are compared, whatever the contrast.

Both hemispheres are sampled on one grid of template space, the right one mirrored. Around each point, the difference of
their mean intensities is divided by the standard deviation of the calmer side: an effect size. Folds, which differ
between the sides of every brain, spread the intensities there, and so count little.

A difference must show twice, with the same sign: in the intensities, and in what is left of them after the median of
each voxel's tissue is taken off. The first ignores the labels, which a lesion may spoil. The second ignores a ventricle
that is wider than the other one. A smooth bias field changes neither.
"""

from __future__ import annotations

from itertools import combinations_with_replacement
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from midiff_monai.qc.lobes import names_of
from midiff_monai.transforms.foreground import largest_component
from midiff_monai.transforms.hemispheres import (
    CEREBRUM,
    HEMISPHERE_SHAPE,
    SIDES,
    SPACING_MM,
    grid_affine,
    ids_of_side,
    sample_labels,
    template_to_world,
)

COMPARED: tuple[tuple[int, ...], ...] = (
    (2,),  # white matter
    (3,),  # cortex
    (10, 28),  # thalamus and ventral DC
    (11, 26),  # caudate and accumbens
    (12, 13),  # putamen and pallidum
    (17, 18),  # hippocampus and amygdala
    (4, 5),  # lateral ventricle
)
"""FreeSurfer ids on the left side of the tissues of a hemisphere. CSF and third ventricle make one more tissue."""

FLUID = (14, 24)

MIDLINE = 5
"""Voxels of the grid of a hemisphere that lie beyond the midline."""

MIDLINE_MM = 8.0
"""Least distance from the midline of the points that are compared. The falx is seldom in the very middle."""

WINDOW_MM = 5.0
"""Standard deviation of the Gaussian window around a point: a ball of 20 ml has a radius of 17 mm."""

SHARED_BIAS_MM, RATIO_BIAS_MM = 20.0, 30.0
"""The same for the bias field that both sides share, and for that of their ratio. Lesions are smaller."""

BIAS_ROUNDS, OUTLIER_ROUNDS = 2, 3

SMALLEST_SPREAD = 0.25
"""Standard deviation that every point has at least, in robust standard deviations of the intensities of the brain."""

CLIP = 6.0
"""Robust standard deviations from the median at which intensities are cut off, so that vessels do not count more."""

OUTLIER = 3.0
"""Robust standard deviations beyond which a difference is not part of the bias field."""

MIN_EFFECT = 0.7
"""Effect size within an abnormality."""

MIN_COVERED = 0.5
"""Weight of the brain in the window of a point that is compared."""

MIN_COMPARED_ML = 350.0
"""Smallest volume of a hemisphere that is compared. Whole brains of the development scans have 455 to 590 ml, slabs
have less than 320 ml."""

MAD_TO_SD, IQR_TO_SD = 1.4826, 1 / 1.349
"""Standard deviation of a normal distribution in units of its median absolute deviation, of its quartiles' distance."""


class Asymmetry(NamedTuple):
    """The largest region in which the hemispheres of a source differ.

    Attributes:
        volume_ml: its volume; 0 if they do not differ.
        side: "left" or "right": the side that is further from what its tissues have elsewhere.
        region: names of the lobes in which it lies, such as "frontal and insular", the largest share first.
        brighter: whether that side is brighter than the other one.
        effect: the largest effect size in the region.
    """

    volume_ml: float
    side: str = ""
    region: str = ""
    brighter: bool = False
    effect: float = 0.0


def measure_asymmetry(
    source: NDArray, segmentation: NDArray[np.integer], affine: NDArray[np.float64]
) -> Asymmetry | None:
    """Find the largest region in which the hemispheres of a source differ.

    Args:
        source: (X, Y, Z), any contrast.
        segmentation: (X, Y, Z), FreeSurfer ids.
        affine: voxel to RAS mm, any orientation.

    Returns:
        None if less than `MIN_COMPARED_ML` of a hemisphere can be compared, or if the source is constant there.
    """
    if not np.isin(segmentation, CEREBRUM).any():
        return None
    mapping = template_to_world(segmentation, affine)
    voxel_ml = float(np.linalg.det(mapping[:3, :3])) * SPACING_MM**3 / 1000
    tissues = np.stack([_tissues(segmentation, affine, mapping, side) for side in SIDES])
    mask = np.stack([_interior(of_side) for of_side in tissues])
    if mask.all(axis=0).sum() * voxel_ml < MIN_COMPARED_ML:
        return None
    image = np.stack([_sampled(source, affine, mapping, side) for side in SIDES])
    flat = _standardised(_without_bias(image, tissues, mask), mask)
    if flat is None:
        return None
    residual = flat - _tissue_levels(flat, tissues, mask)
    effect = _agreeing(_effect_sizes(flat, mask), _effect_sizes(residual, mask))
    region = _largest_region(effect)
    return _described(region, effect, residual, mask, voxel_ml) if region.any() else Asymmetry(0.0)


def _tissues(
    labels: NDArray[np.integer], affine: NDArray[np.float64], mapping: NDArray[np.float64], side: str
) -> NDArray[np.uint8]:
    """The tissue at each voxel of the grid of a hemisphere, counted from 1 as in `COMPARED`; 0 elsewhere."""
    sampled = sample_labels(labels, affine, mapping @ grid_affine(side), HEMISPHERE_SHAPE)
    tissues = np.zeros(HEMISPHERE_SHAPE, dtype=np.uint8)
    for tissue, ids in enumerate(COMPARED, start=1):
        tissues[np.isin(sampled, [*ids_of_side(ids, "left"), *ids_of_side(ids, "right")])] = tissue
    tissues[np.isin(sampled, FLUID)] = len(COMPARED) + 1
    return tissues[MIDLINE:]


def _sampled(
    source: NDArray, affine: NDArray[np.float64], mapping: NDArray[np.float64], side: str
) -> NDArray[np.float32]:
    to_voxels = np.linalg.inv(affine) @ mapping @ grid_affine(side)
    image = ndimage.affine_transform(
        source, to_voxels[:3, :3], to_voxels[:3, 3], HEMISPHERE_SHAPE, output=np.float32, order=1
    )
    return image[MIDLINE:]


def _interior(tissues: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """The brain without the voxels at its surface, where scalp and vessels shine in; the midline is no surface."""
    padded = np.pad(tissues > 0, ((1, 0), (0, 0), (0, 0)), mode="edge")
    return ndimage.binary_erosion(padded)[1:]


def _smooth(values: NDArray, width_mm: float) -> NDArray[np.float32]:
    """Average the last three axes over a Gaussian window. Outside the grid, values are 0."""
    widths = (0,) * (values.ndim - 3) + (width_mm / SPACING_MM,) * 3
    return ndimage.gaussian_filter(values.astype(np.float32), widths, mode="constant", truncate=3.0)


def _without_bias(
    image: NDArray[np.float32], tissues: NDArray[np.uint8], mask: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Divide by the bias field, which is estimated as one that both sides share and one that differs between them."""
    flat = image - min(float(np.percentile(image[mask], 1)), 0.0)
    for _ in range(BIAS_ROUNDS):
        flat = flat / _shared_bias(flat, _tissue_levels(flat, tissues, mask), mask)
        ratio = _ratio_of_sides(flat, _tissue_levels(flat, tissues, mask), mask)
        flat = flat * np.stack([np.exp(-ratio / 2), np.exp(ratio / 2)])
    return flat


def _shared_bias(
    image: NDArray[np.float32], levels: NDArray[np.float32], mask: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """The bias field of both sides together: an abnormality of one side remains a difference of the two."""
    seen, expected = (_smooth((values * mask).sum(axis=0), SHARED_BIAS_MM) for values in (image, levels))
    least = 1e-3 * expected.max()
    return (seen + least) / (expected + least)


def _ratio_of_sides(
    image: NDArray[np.float32], levels: NDArray[np.float32], mask: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """The smooth part of the logarithm of left / right. Outliers, such as lesions, are not part of it."""
    seen, expected = (_smooth(values * mask, WINDOW_MM) for values in (image, levels))
    covered = (_smooth(mask, WINDOW_MM) > MIN_COVERED).all(axis=0)
    least = 1e-2 * expected.max()
    left, right = np.log(np.maximum(seen, least) / np.maximum(expected, least))
    ratio, field = left - right, np.zeros_like(left)
    for _ in range(OUTLIER_ROUNDS):
        rest = np.abs(ratio - field)
        common = covered & (rest <= OUTLIER * MAD_TO_SD * np.median(rest[covered]))
        ramp = _quadratic(ratio, common)
        weight = _smooth(common, RATIO_BIAS_MM)
        field = ramp + _smooth((ratio - ramp) * common, RATIO_BIAS_MM) / np.maximum(weight, 1e-3)
    return field


def _quadratic(values: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Fit a polynomial of the second degree to values (X, Y, Z) in a mask. A local mean would level slopes at edges."""
    axes = np.meshgrid(*(np.linspace(-1, 1, size, dtype=np.float32) for size in values.shape), indexing="ij")
    terms = [np.ones_like(values), *axes, *(one * other for one, other in combinations_with_replacement(axes, 2))]
    inside = np.stack([term[mask] for term in terms])
    weights = np.linalg.solve(inside @ inside.T, inside @ values[mask])
    return sum(weight * term for weight, term in zip(weights, terms, strict=True))


def _tissue_levels(
    image: NDArray[np.float32], tissues: NDArray[np.uint8], mask: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """The median intensity of the tissue of each voxel, over both sides; 0 outside the mask."""
    levels = np.zeros_like(image)
    for tissue in np.unique(tissues[mask]).tolist():
        inside = mask & (tissues == tissue)
        levels[inside] = np.median(image[inside])
    return levels


def _standardised(image: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.float32] | None:
    """Express intensities in robust standard deviations from their median; None if most are the same."""
    low, middle, high = np.percentile(image[mask], (25, 50, 75))
    if not high > low:
        return None
    return np.clip((image - middle) / (IQR_TO_SD * (high - low)), -CLIP, CLIP)


def _effect_sizes(values: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The difference left − right of local means, in local standard deviations of the calmer side; 0 at the edges."""
    weight = _smooth(mask, WINDOW_MM)
    known = np.maximum(weight, 0.05)
    mean, square = (_smooth(moment * mask, WINDOW_MM) / known for moment in (values, values**2))
    spread = np.maximum(square - mean**2, 0).min(axis=0) + SMALLEST_SPREAD**2
    covered = np.all(weight > MIN_COVERED, axis=0)
    covered[: round(MIDLINE_MM / SPACING_MM)] = False
    return np.where(covered, mean[0] - mean[1], 0) / np.sqrt(spread)


def _agreeing(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float32]:
    """The smaller of two effect sizes with the same sign; 0 where their signs differ."""
    smaller = np.where(np.abs(first) < np.abs(second), first, second)
    return np.where(first * second > 0, smaller, 0)


def _largest_region(effect: NDArray[np.float32]) -> NDArray[np.bool_]:
    """The largest connected region of effect sizes of one sign beyond `MIN_EFFECT`; empty if there is none."""
    regions = [largest_component(sign * effect > MIN_EFFECT) for sign in (1, -1)]
    return max(regions, key=np.count_nonzero)


def _described(
    region: NDArray[np.bool_],
    effect: NDArray[np.float32],
    residual: NDArray[np.float32],
    mask: NDArray[np.bool_],
    voxel_ml: float,
) -> Asymmetry:
    """Describe a region (X, Y, Z) of the grid of a hemisphere."""
    totals = [float((values * inside)[region].sum()) for values, inside in zip(residual, mask, strict=True)]
    side = int(abs(totals[1]) > abs(totals[0]))
    brighter = (effect[region].mean() > 0) == (side == 0)
    to_template = grid_affine("right")
    places = (np.argwhere(region) + [MIDLINE, 0, 0]) @ to_template[:3, :3] + to_template[:3, 3]
    strongest = float(np.abs(effect[region]).max())
    return Asymmetry(len(places) * voxel_ml, SIDES[side], names_of(places), bool(brighter), strongest)
