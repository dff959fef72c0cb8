"""Heads and skull-stripped brains are told apart by the image, whatever part of them it covers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ball_heads import SPACING, brain, head
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion

from midiff_monai.transforms.skull import shows_skull

SLABS: dict[str, Any] = {
    "whole": np.s_[:, :, :],
    "axial": np.s_[:, :, 22:32],
    "coronal": np.s_[:, 30:45],
    "thin sagittal": np.s_[30:36],
}


@pytest.mark.parametrize("slab", SLABS)
@pytest.mark.parametrize("inverted", [False, True])
def test_a_head_shows_its_skull_in_every_slab(slab: str, inverted: bool) -> None:
    volume = head()
    if inverted:  # the brain is darker than the scalp, but not as dark as the skull
        volume = np.where((volume > 90) & (volume < 170), volume / 2, volume)
    assert shows_skull(volume[SLABS[slab]], SPACING)


def test_a_scalp_that_is_not_closed_is_outside_of_the_skull() -> None:
    volume = head(air=0.0)
    volume[22:42, 45:] = 0
    assert shows_skull(volume[:, :, 22:32], SPACING)


@pytest.mark.parametrize("slab", SLABS)
@pytest.mark.parametrize("csf", [0.3, 1.0, 2.0])
def test_a_skull_stripped_brain_shows_none(slab: str, csf: float) -> None:
    volume = with_csf(brain(), csf)
    assert not shows_skull(volume[SLABS[slab]], SPACING)


def with_csf(volume: NDArray[np.float32], intensity: float) -> NDArray[np.float32]:
    """The outermost 4 mm of a brain as CSF, with an intensity relative to that of the brain."""
    rim = (volume > 0) & ~binary_erosion(volume > 0, iterations=2)
    return np.where(rim, volume * intensity, volume).astype(np.float32)


def test_tissue_from_face_to_face_shows_no_skull() -> None:
    assert not shows_skull(np.full((20, 20, 20), 100, np.float32), SPACING)
