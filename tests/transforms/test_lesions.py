"""Lesions at known places in a brain of nested balls: white matter around a ventricle, in a shell of cortex."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from synthetic_images import distance_to

from midiff_monai.transforms.lesions import (
    BRIGHT_CSF,
    DARK_CORTEX,
    NO_TISSUE,
    count_lesions,
    find_lesions,
    label_as_white_matter,
)

SIDE = 48
SPACING = (2.0, 2.0, 2.0)
SHAPE = (SIDE, SIDE, SIDE)
CENTRE = (SIDE - 1) / 2
RADII = 2 * distance_to(CENTRE, SHAPE)

CONTRASTS = {  # CSF, grey matter, white matter, lesion
    "FLAIR": (60.0, 430.0, 400.0, 640.0),
    "FLAIR of an old brain": (60.0, 390.0, 400.0, 640.0),
    "T2w": (1000.0, 500.0, 350.0, 620.0),
    "PD": (700.0, 670.0, 560.0, 840.0),
    "T1w": (150.0, 480.0, 700.0, 450.0),
}

FLAIRS = [contrast for contrast in CONTRASTS if contrast.startswith("FLAIR")]


class Brain(NamedTuple):
    """A simulated scan, its true labels, and its true lesions."""

    image: NDArray[np.float32]
    labels: NDArray[np.int16]
    lesions: NDArray[np.bool_]


def ball(x: float, y: float, z: float, radius: float) -> NDArray[np.bool_]:
    """A ball at a place in mm from the centre."""
    steps = np.indices(SHAPE) * 2.0 - 2 * CENTRE - np.array([x, y, z]).reshape(3, 1, 1, 1)
    return np.linalg.norm(steps, axis=0) < radius


LESIONS = ball(22, 0, 0, 6) | ball(-20, 12, 6, 5) | ball(0, -24, -8, 7)


def brain(contrast: str, lesions: NDArray[np.bool_] = LESIONS, bias: float = 0.2, noise: float = 12.0) -> Brain:
    csf, grey, white, lesion = CONTRASTS[contrast]
    left = np.indices(SHAPE)[0] < CENTRE
    tissue = np.select([RADII < 12, RADII < 38, RADII < 44], [1, 3, 2], 0)
    ids = np.array([[0, 0], [43, 4], [42, 3], [41, 2]])
    labels = ids[tissue, left.astype(int)].astype(np.int16)
    lesions = lesions & (tissue == 3)
    clean = np.where(lesions, lesion, np.array([0, csf, grey, white])[tissue])
    field = 1 + bias * np.cos(np.pi * np.indices(SHAPE)[1] / SIDE)
    blurred = ndimage.gaussian_filter(clean, 0.4) * field + np.random.default_rng(0).normal(scale=noise, size=SHAPE)
    return Brain((blurred * (tissue > 0)).astype(np.float32), labels, lesions)


def dice(found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    return float(2 * (found & truth).sum() / (found.sum() + truth.sum()))


@pytest.mark.parametrize("contrast", FLAIRS)
def test_lesions_are_found_in_spite_of_a_bias_field(contrast: str) -> None:
    simulated = brain(contrast)
    found = find_lesions(simulated.image, simulated.labels, SPACING)
    assert found.mask is not None and found.reason == ""
    assert dice(found.mask, simulated.lesions) > 0.8
    assert count_lesions(found.mask) == count_lesions(simulated.lesions) == 3


@pytest.mark.parametrize("contrast", FLAIRS)
def test_a_brain_without_lesions_has_none(contrast: str) -> None:
    simulated = brain(contrast, np.zeros(SHAPE, dtype=bool))
    found = find_lesions(simulated.image, simulated.labels, SPACING)
    assert found.mask is not None and not found.mask.any()


@pytest.mark.parametrize("contrast, reason", [("T1w", DARK_CORTEX), ("T2w", BRIGHT_CSF), ("PD", BRIGHT_CSF)])
def test_other_contrasts_have_a_reason_and_no_mask(contrast: str, reason: str) -> None:
    simulated = brain(contrast)
    assert find_lesions(simulated.image, simulated.labels, SPACING) == (None, reason)


@pytest.mark.parametrize("missing", [(2, 41), (3, 42), (4, 43), tuple(range(1, 100))])
def test_without_one_of_the_tissues_there_is_nothing_to_compare_with(missing: tuple[int, ...]) -> None:
    simulated = brain("FLAIR")
    labels = np.where(np.isin(simulated.labels, missing), 0, simulated.labels)
    assert find_lesions(simulated.image, labels, SPACING) == (None, NO_TISSUE)


@pytest.mark.parametrize("level", [0, 1])
def test_a_constant_image_shows_nothing(level: int) -> None:
    image = np.full(SHAPE, level, np.float32)
    assert find_lesions(image, brain("FLAIR").labels, SPACING) == (None, NO_TISSUE)


def test_scale_and_orientation_do_not_matter() -> None:
    simulated = brain("FLAIR")
    expected = find_lesions(simulated.image, simulated.labels, SPACING).mask
    assert expected is not None
    scaled = find_lesions(simulated.image * np.float32(0.25), simulated.labels, SPACING).mask
    np.testing.assert_array_equal(scaled, expected)
    image, labels = (np.flip(np.moveaxis(x, 0, 2), 1) for x in simulated[:2])
    turned = find_lesions(image, labels, SPACING).mask  # type: ignore[arg-type]
    assert turned is not None and dice(np.moveaxis(np.flip(turned, 1), 2, 0), expected) > 0.99


def test_bright_cortex_is_no_lesion() -> None:
    """Thick slices: most of the cortex is darkened by CSF, and a part of the rest is labelled white matter."""
    image, labels, _ = brain("FLAIR", lesions=np.zeros(SHAPE, bool), bias=0.0, noise=1.0)
    cortex = (RADII >= 38) & (RADII < 44)
    image[cortex & (RADII > 40)] *= 0.85
    labels[cortex & (RADII <= 40) & ball(44, 0, 0, 20)] = 2
    found = find_lesions(image, labels, SPACING)
    assert found.mask is not None and not found.mask.any()


def test_thick_slices_show_lesions() -> None:
    simulated = brain("FLAIR")
    thick = simulated.image.reshape(SIDE, SIDE, SIDE // 2, 2).mean(axis=3)
    found = find_lesions(thick, simulated.labels[:, :, ::2], (2.0, 2.0, 4.0)).mask
    assert found is not None and dice(found, simulated.lesions[:, :, ::2]) > 0.65


@pytest.mark.parametrize("wrong", [(3, 42), (11, 50), (4, 43), (24, 24), (0, 0)])
def test_a_lesion_that_the_segmenter_took_for_something_else_is_white_matter(wrong: tuple[int, int]) -> None:
    """The inner part of each lesion has a wrong label, as the segmenter gives it."""
    simulated = brain("FLAIR")
    labels = simulated.labels.copy()
    inner = ndimage.binary_erosion(simulated.lesions)
    labels[inner] = np.where(simulated.labels[inner] == 2, *wrong)
    found = find_lesions(simulated.image, labels, SPACING).mask
    assert found is not None and dice(found, simulated.lesions) > 0.8
    relabelled = label_as_white_matter(labels, found)
    assert (relabelled[inner] == simulated.labels[inner]).mean() > 0.95
    np.testing.assert_array_equal(relabelled[~inner], simulated.labels[~inner])


def test_labels_without_lesions_are_returned_as_they_are() -> None:
    labels = brain("PD").labels
    assert label_as_white_matter(labels, np.zeros(SHAPE, dtype=bool)) is labels
