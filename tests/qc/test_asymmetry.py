"""Whether the sides of a brain differ, on a brain of a shell and balls with painted lesions."""

from __future__ import annotations

import numpy as np
import pytest
from ball_brain import ball_brain
from numpy.typing import NDArray

from midiff_monai.qc.asymmetry import Asymmetry, measure_asymmetry
from midiff_monai.qc.flags import MAX_ASYMMETRY_ML, quality_flags
from midiff_monai.qc.measures import Measures, measure

LEVELS = {2: 100.0, 3: 70.0, 4: 20.0, 10: 80.0, 11: 72.0, 12: 75.0, 17: 70.0, 7: 95.0, 8: 68.0, 16: 90.0}
"""Intensity by FreeSurfer id on the left side: a T1w. Other structures have that of cortex."""

SIDES = {"left": -1, "right": 1}
PLACES_MM = {
    "frontal": (38, 30, 25),
    "parietal": (35, -28, 25),
    "temporal": (40, -14, -24),
    "occipital": (28, -50, -18),
}
SPACING_MM = 3.0


@pytest.fixture(scope="module")
def brain() -> tuple[NDArray[np.int16], NDArray[np.float64]]:
    return ball_brain(SPACING_MM)


def places_mm(shape: tuple[int, ...], affine: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.moveaxis(np.indices(shape), 0, -1) @ affine[:3, :3].T + affine[:3, 3]


def scan(labels: NDArray[np.int16]) -> NDArray[np.float64]:
    """Intensities of the tissues, with noise."""
    image = np.full(labels.shape, LEVELS[3])
    for left, level in LEVELS.items():
        image[np.isin(labels, (left, {2: 41, 3: 42, 4: 43, 7: 46, 8: 47}.get(left, left + 39)))] = level
    noise = np.random.default_rng(0).normal(scale=12, size=labels.shape)
    return np.where(labels > 0, image + noise, 0)


def ball(
    brain: tuple[NDArray[np.int16], NDArray[np.float64]], place: tuple[float, ...], size_ml: float
) -> NDArray[np.bool_]:
    labels, affine = brain
    radius = (3000 * size_ml / (4 * np.pi)) ** (1 / 3)
    return (np.linalg.norm(places_mm(labels.shape, affine) - place, axis=-1) < radius) & (labels > 0)


def flags(found: Asymmetry | None) -> list[str]:
    return [flag.kind for flag in quality_flags(Measures({}, {}, asymmetry=found))]


def test_equal_sides(brain: tuple) -> None:
    labels, affine = brain
    assert measure_asymmetry(scan(labels), labels, affine) == Asymmetry(0.0)


@pytest.mark.parametrize("direction", [(1, 0, 0), (0.6, -0.7, 0.4), (-0.5, 0.5, 0.7)])
def test_bias_fields_are_no_difference(brain: tuple, direction: tuple[float, ...]) -> None:
    labels, affine = brain
    ramp = np.exp(places_mm(labels.shape, affine) @ direction / 160)  # a factor of 2 to 3 across the brain
    found = measure_asymmetry(scan(labels) * ramp, labels, affine)
    assert found is not None and found.volume_ml < MAX_ASYMMETRY_ML


@pytest.mark.parametrize(
    "region, side, size_ml",
    [("frontal", "left", 15), ("parietal", "right", 25), ("temporal", "left", 25), ("occipital", "right", 40)],
)
def test_side_region_and_volume_of_a_lesion(brain: tuple, region: str, side: str, size_ml: float) -> None:
    labels, affine = brain
    lesion = ball(brain, (SIDES[side] * PLACES_MM[region][0], *PLACES_MM[region][1:]), size_ml)
    found = measure_asymmetry(scan(labels) - 30 * lesion, labels, affine)
    assert found is not None and (found.side, found.brighter) == (side, False)
    assert found.volume_ml == pytest.approx(lesion.sum() * SPACING_MM**3 / 1000, rel=0.5)
    assert found.region.startswith(region)
    assert flags(found) == ["asymmetry"]


def test_a_bright_lesion_among_negative_intensities(brain: tuple) -> None:
    labels, affine = brain
    lesion = ball(brain, (-38, 30, 25), 20)
    standardised = (scan(labels) + 30 * lesion - 80) / 15
    found = measure_asymmetry(np.where(labels > 0, standardised, 0), labels, affine)
    assert found is not None and (found.side, found.brighter) == ("left", True)
    assert found.volume_ml == pytest.approx(20, rel=0.5)


@pytest.mark.parametrize("axes, flips", [((0, 1, 2), (0,)), ((2, 0, 1), ()), ((1, 2, 0), (1, 2))])
def test_the_storage_order_does_not_matter(brain: tuple, axes: tuple[int, ...], flips: tuple[int, ...]) -> None:
    labels, affine = brain
    image = scan(labels) - 30 * ball(brain, (38, 30, 25), 20)
    turned = affine[:, [*axes, 3]]
    image, labels = image.transpose(axes), labels.transpose(axes)
    for axis in flips:
        turned[:3, 3] += turned[:3, axis] * (labels.shape[axis] - 1)
        turned[:3, axis] *= -1
    found = measure_asymmetry(np.flip(image, flips), np.flip(labels, flips), turned)
    assert found is not None and (found.side, found.region) == ("right", "frontal")


def test_the_same_lesion_on_both_sides_is_no_difference(brain: tuple) -> None:
    labels, affine = brain
    lesions = ball(brain, (-38, 30, 25), 20) | ball(brain, (38, 30, 25), 20)
    found = measure_asymmetry(scan(labels) - 30 * lesions, labels, affine)
    assert found is not None and not flags(found)


def test_a_wider_ventricle_is_no_difference(brain: tuple) -> None:
    labels, affine = brain
    wider = np.where(ball(brain, (-16, 10, 0), 15), np.int16(4), labels)
    found = measure_asymmetry(scan(wider), wider, affine)
    assert found is not None and not flags(found)


@pytest.mark.parametrize("axis, start, stop", [(2, 20, 26), (2, 20, 21), (0, 30, 52), (1, 0, 12)])
def test_slabs_slices_and_single_hemispheres_are_not_compared(brain: tuple, axis: int, start: int, stop: int) -> None:
    labels, affine = brain
    box = tuple(slice(start, stop) if number == axis else slice(None) for number in range(3))
    shifted = affine.copy()
    shifted[:3, 3] += affine[:3, axis] * start
    assert measure_asymmetry(scan(labels)[box], labels[box], shifted) is None


def test_what_has_no_cerebrum_or_no_contrast_is_not_compared(brain: tuple) -> None:
    labels, affine = brain
    assert measure_asymmetry(scan(labels), np.zeros_like(labels), affine) is None
    assert measure_asymmetry(np.ones(labels.shape), labels, affine) is None


def test_the_flag_tells_side_region_and_volume(brain: tuple) -> None:
    labels, affine = brain
    image = scan(labels) - 30 * ball(brain, (38, 30, 25), 20)
    (flag,) = [
        flag for flag in quality_flags(measure(image, None, None, labels, {}, affine)) if flag.kind == "asymmetry"
    ]
    assert flag.value == pytest.approx(20, rel=0.5)
    assert f"{flag.value:.0f} ml of the right frontal region are darker than the other side" in flag.text


def test_a_small_difference_has_no_flag() -> None:
    assert not flags(Asymmetry(MAX_ASYMMETRY_ML, "left", "frontal", True, 2.0))
    assert not flags(None)
