"""The intracranial volume of solids of known volume, and of label maps of whole heads."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from midiff_monai.transforms.intracranial import intracranial_ml

RADIUS = 60.0
BALL_ML = 4 / 3 * np.pi * RADIUS**3 / 1000


def coordinates(spacing: tuple[float, float, float]) -> NDArray[np.float64]:
    """Positions (3, X, Y, Z) in mm relative to the centre of a cube of 160 mm."""
    axes = [np.arange(int(160 / side)) * side for side in spacing]
    return np.stack(np.meshgrid(*(axis - axis.mean() for axis in axes), indexing="ij"))


def ball(positions: NDArray[np.float64]) -> NDArray[np.int16]:
    return np.where(np.linalg.norm(positions, axis=0) < RADIUS, 24, 0).astype(np.int16)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.8, 2.0, 0.8), (1.0, 5.0, 1.0)])
def test_sulci_sinuses_and_holes_are_within_the_skull(spacing: tuple[float, float, float]) -> None:
    positions = coordinates(spacing)
    labels = ball(positions)
    labels[np.abs(positions[0]) < 3] = 0  # a cleft of 6 mm
    labels[np.linalg.norm(positions - np.array([30, 0, 0]).reshape(3, 1, 1, 1), axis=0) < 12] = 0
    assert labels.astype(bool).sum() * np.prod(spacing) / 1000 < 0.94 * BALL_ML
    assert intracranial_ml(labels, np.diag([*spacing, 1])) == pytest.approx(BALL_ML, rel=0.02)


def test_a_wide_gap_is_outside() -> None:
    """The ball becomes two caps, 40 mm apart."""
    positions = coordinates((2.0, 2.0, 2.0))
    labels = ball(positions)
    labels[np.abs(positions[0]) < 20] = 0
    assert intracranial_ml(labels, np.diag([2, 2, 2, 1])) == pytest.approx((labels > 0).sum() * 0.008, rel=0.01)


def test_a_brain_that_the_volume_cuts_ends_at_its_face() -> None:
    labels = ball(coordinates((1.0, 1.0, 1.0)))[80:]
    assert intracranial_ml(labels, np.eye(4)) == pytest.approx(BALL_ML / 2, rel=0.01)


@pytest.mark.parametrize("axcodes", ["RAS", "LPI", "SAR"])
def test_the_spinal_canal_does_not_count(axcodes: str) -> None:
    """A ball of brain and CSF, with a canal of 20 mm width, 20 mm long, below it."""
    positions = coordinates((2.0, 2.0, 2.0))
    labels = ball(positions)
    labels[np.linalg.norm(positions, axis=0) < RADIUS - 3] = 3
    canal = (np.hypot(*positions[:2]) < 10) & (positions[2] < 0) & (labels == 0)
    without = nib.Nifti1Image(labels, np.diag([2, 2, 2, 1]))
    with_canal = nib.Nifti1Image(np.where(canal, 24, labels).astype(np.int16), without.affine)
    turn = nib.orientations.ornt_transform(nib.io_orientation(np.eye(4)), nib.orientations.axcodes2ornt(axcodes))
    expected, found = (
        intracranial_ml(np.asarray(image.dataobj), image.affine) for image in (without, with_canal.as_reoriented(turn))
    )
    assert found == pytest.approx(expected, rel=0.003) and canal.sum() * 0.008 > 0.005 * expected
