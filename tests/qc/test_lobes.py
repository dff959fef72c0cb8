"""Names of the lobes of places in template space."""

from __future__ import annotations

import numpy as np
import pytest

from midiff_monai.qc.lobes import POINTS, names_of, nearest_lobes
from midiff_monai.transforms.hemispheres import TEMPLATE_CENTROIDS


@pytest.mark.parametrize(
    "place, lobe",
    [
        ((25, 70, 5), "frontal"),
        ((30, -25, 40), "parietal"),
        ((45, 10, -40), "temporal"),
        ((12, -80, -10), "occipital"),
        ((33, 20, -8), "insular"),
    ],
)
def test_places_that_nobody_disputes(place: tuple[int, ...], lobe: str) -> None:
    assert nearest_lobes(np.array([place], dtype=float)) == [lobe]


@pytest.mark.parametrize("structure", [10, 11, 12, 13])
def test_thalamus_and_basal_ganglia_are_deep(structure: int) -> None:
    x, y, z = TEMPLATE_CENTROIDS[structure]
    assert nearest_lobes(np.array([[-x, y, z]])) == ["deep"]


def test_the_largest_share_comes_first_and_small_shares_are_left_out() -> None:
    frontal, parietal, insular = (POINTS[lobe][0] for lobe in ("frontal", "parietal", "insular"))
    assert names_of(np.array(10 * [frontal], dtype=float)) == "frontal"
    assert names_of(np.array(3 * [frontal] + 6 * [parietal] + [insular], dtype=float)) == "parietal and frontal"
    several = 3 * [insular] + 2 * [parietal] + 4 * [frontal]
    assert names_of(np.array(several, dtype=float)) == "frontal, insular and parietal"
