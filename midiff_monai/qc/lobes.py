"""Names of the lobes in which places of template space lie, by the nearest of a few points of each lobe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

Point = Sequence[int]

POINTS: Mapping[str, Sequence[Point]] = MappingProxyType(
    {
        "frontal": ((18, 1, 33), (18, 44, 27), (21, 57, -4), (40, 23, 10)),
        "parietal": ((18, -45, 9), (21, -32, 29), (26, -8, 7), (49, -18, 11)),
        "temporal": ((26, -13, -21), (36, 27, -33), (41, -30, -18), (52, 0, -23)),
        "occipital": ((10, -60, -22), (28, -46, -31), (29, -56, -7)),
        "insular": ((34, 23, -9),),
        "deep": ((12, 0, -9), (16, 27, -3), (20, 13, -6)),
    }
)
"""Lobe → points of the right hemisphere in the template space of `midiff_monai.transforms.hemispheres`, in mm.

`evaluation/lobe_points.py` makes them, from 26 people. In 14 others, 86 % of the voxels get the right lobe. "deep"
stands for thalamus, basal ganglia and internal capsule.
"""

MIN_SHARE = 0.2
"""Share of a region that a lobe holds at least to be named, unless it holds the most."""


def nearest_lobes(places: NDArray[np.float64], points: Mapping[str, Sequence[Point]] = POINTS) -> NDArray[np.str_]:
    """Return the lobe (N,) of the point that is nearest to each place (N, 3) of the right hemisphere, in mm."""
    names = np.array([lobe for lobe, of_lobe in points.items() for _ in of_lobe])
    tree = KDTree([point for of_lobe in points.values() for point in of_lobe])
    return names[tree.query(places)[1]]


def names_of(places: NDArray[np.float64]) -> str:
    """Name the lobes of a region, such as "frontal and insular", the largest share first.

    Args:
        places: (N, 3), template space, mm, right hemisphere; one at least.
    """
    lobes, counts = np.unique(nearest_lobes(places), return_counts=True)
    order = np.argsort(-counts)
    *others, last = [lobes[i].item() for i in order if i == order[0] or counts[i] >= MIN_SHARE * len(places)]
    return f"{', '.join(others)} and {last}" if others else last
