"""The phantom of a pelvis, compared with Hounsfield units and the signal equation of a spin echo."""

from __future__ import annotations

from math import exp

import numpy as np
import pytest
from numpy.typing import NDArray
from pelvis_phantom import HOUNSFIELD, SHAPE, SPACING_MM, Part, Pelvis, make_pelvis
from scipy.ndimage import binary_erosion

REPETITION_MS, ECHO_MS = 4000, 60


@pytest.fixture(scope="module")
def pelvis() -> Pelvis:
    return make_pelvis(3, noise=0.0, bias=0.0)


def inner(pelvis: Pelvis, part: Part) -> NDArray[np.bool_]:
    """Voxels of a part whose neighbours are of the same part: no partial volume."""
    return binary_erosion(np.asarray(pelvis.parts.dataobj) == part)


@pytest.mark.parametrize("part", [Part.AIR, Part.FAT, Part.MUSCLE, Part.FLUID, Part.MARROW])
def test_parts_have_their_hounsfield_units(part: Part, pelvis: Pelvis) -> None:
    assert np.asarray(pelvis.ct.dataobj)[inner(pelvis, part)].mean() == pytest.approx(HOUNSFIELD[part], abs=3)


def test_the_contrast_of_the_t2w_is_that_of_a_spin_echo(pelvis: Pelvis) -> None:
    """Fat and muscle: T1 343 and 856 ms, T2 58 and 27 ms, proton density 0.9 and 0.8."""
    t2 = np.asarray(pelvis.t2.dataobj)
    fat = 0.9 * (1 - exp(-REPETITION_MS / 343)) * exp(-ECHO_MS / 58)
    muscle = 0.8 * (1 - exp(-REPETITION_MS / 856)) * exp(-ECHO_MS / 27)
    measured = t2[inner(pelvis, Part.FAT)].mean() / t2[inner(pelvis, Part.MUSCLE)].mean()
    assert measured == pytest.approx(fat / muscle, rel=1e-4)


def test_cortical_bone_is_bright_in_ct_and_dark_in_t2w(pelvis: Pelvis) -> None:
    bone = np.asarray(pelvis.parts.dataobj) == Part.CORTICAL
    muscle = np.asarray(pelvis.parts.dataobj) == Part.MUSCLE
    ct, t2 = np.asarray(pelvis.ct.dataobj), np.asarray(pelvis.t2.dataobj)
    assert ct[bone].mean() > ct[muscle].mean() + 400 and t2[bone].mean() < t2[muscle].mean()


def test_scans_share_a_grid(pelvis: Pelvis) -> None:
    for volume in pelvis:
        assert volume.shape == SHAPE
        np.testing.assert_allclose(volume.affine, np.diag([SPACING_MM] * 3 + [1.0]))


def test_left_and_right_differ(pelvis: Pelvis) -> None:
    parts = np.asarray(pelvis.parts.dataobj)
    assert (parts != parts[::-1]).mean() > 0.01


def test_every_person_has_another_anatomy() -> None:
    first, again, other = (np.asarray(make_pelvis(seed).parts.dataobj) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).mean() > 0.02
