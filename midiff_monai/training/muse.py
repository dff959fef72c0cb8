"""Conversion of MUSE parcellations to FreeSurfer ids."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from midiff_monai.labels import nearest_side_is_right


def _muse_to_freesurfer() -> dict[int, int]:
    # In a MUSE pair, the left side has the even value in white matter and the odd value in cortex.
    pairs = {  # (left, right) FreeSurfer ids: left MUSE values, right MUSE values
        (2, 41): (range(82, 95, 2), range(81, 94, 2)),  # lobar white matter, fornix, internal capsule
        (3, 42): (range(101, 208, 2), range(100, 207, 2)),
        (4, 43): ((52,), (51,)),
        (5, 44): ((50,), (49,)),
        (7, 46): ((41,), (40,)),
        (8, 47): ((39,), (38,)),
        (10, 49): ((60,), (59,)),
        (11, 50): ((37,), (36,)),
        (12, 51): ((58,), (57,)),
        (13, 52): ((56,), (55,)),
        (17, 53): ((48,), (47,)),
        (18, 54): ((32,), (31,)),
        (26, 58): ((30,), (23,)),
        (28, 60): ((62, 75), (61, 76)),  # the basal forebrain, 75 and 76, counts as ventral DC
    }
    # 46 is CSF in the midline behind the third ventricle, 69 a few voxels at the optic chiasm. MUSE lists neither.
    table = {0: 0, 4: 14, 11: 15, 35: 16, 1: 24, 46: 24, 69: 24}
    for sides, values_of_sides in pairs.items():
        table |= {value: side for side, values in zip(sides, values_of_sides, strict=True) for value in values}
    return table


MUSE_TO_FREESURFER: Mapping[int, int] = MappingProxyType(_muse_to_freesurfer())
"""MUSE value → FreeSurfer id, for all values except those of `MUSE_MIDLINE`."""


MUSE_MIDLINE: Mapping[int, tuple[int, int]] = MappingProxyType({95: (2, 41), 71: (8, 47), 72: (8, 47), 73: (8, 47)})
"""MUSE value of an unpaired structure (corpus callosum, vermis) → the left and right FreeSurfer ids that divide it."""


def freesurfer_from_muse(parcellation: NDArray[np.integer]) -> NDArray[np.int16]:
    """Convert a MUSE parcellation (Doshi et al., NeuroImage 127:186, 2016) to the ids of `STRUCTURES`.

    Voxels of the corpus callosum and the vermis get the side of the nearest voxel of a paired structure.

    Args:
        parcellation: (X, Y, Z), MUSE values on an isotropic grid.

    Returns:
        (X, Y, Z), FreeSurfer ids.

    Raises:
        ValueError: a value is neither in `MUSE_TO_FREESURFER` nor in `MUSE_MIDLINE`.
    """
    present = np.unique(parcellation)
    if unknown := set(present.tolist()) - MUSE_TO_FREESURFER.keys() - MUSE_MIDLINE.keys():
        raise ValueError(f"MUSE has no values {sorted(unknown)}")
    ids = np.array([MUSE_TO_FREESURFER.get(value, 0) for value in present.tolist()], dtype=np.int16)
    translated = ids[np.searchsorted(present, parcellation)]
    on_right = nearest_side_is_right(translated)
    for value, (left, right) in MUSE_MIDLINE.items():
        midline = parcellation == value
        translated[midline] = np.where(on_right[midline], right, left)
    return translated
