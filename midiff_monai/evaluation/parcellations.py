"""Conversion of parcellations that other programs made to the ids of `labels.STRUCTURES`."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from midiff_monai.evaluation.simulation import brain_structures
from midiff_monai.labels import nearest_side_is_right

APARC_CORTEX: Mapping[int, range] = MappingProxyType({3: range(1000, 2000), 42: range(2000, 3000)})
"""FreeSurfer id of the cortex → labels of its areas in aparc+aseg, left and right."""

APARC_MERGED: Mapping[int, int] = MappingProxyType({31: 4, 63: 43, 78: 2, 79: 41})
"""Label of a choroid plexus, or of hypointensities of white matter → id of the surrounding structure."""

APARC_MIDLINE = (77, *range(251, 256))
"""White matter of no stated side in aparc+aseg: hypointensities, and the five parts of the corpus callosum."""

WHITE_MATTER = (2, 41)
"""FreeSurfer ids, left and right."""

NOT_SCORED = -1
"""Label of voxels whose structure is not certain. They do not count in a score."""


def _gif_to_freesurfer() -> dict[int, int]:
    pairs = {  # (left, right) FreeSurfer ids: left GIF values, right GIF values
        (2, 41): (range(89, 95), range(81, 87)),  # by lobe
        (3, 42): (range(102, 209, 2), range(101, 208, 2)),
        (4, 43): ((53,), (52,)),
        (5, 44): ((51,), (50,)),
        (7, 46): ((42,), (41,)),
        (8, 47): ((40,), (39,)),
        (10, 49): ((61,), (60,)),
        (11, 50): ((38,), (37,)),
        (12, 51): ((59,), (58,)),
        (13, 52): ((57,), (56,)),
        (17, 53): ((49,), (48,)),
        (18, 54): ((33,), (32,)),
        (26, 58): ((31,), (24,)),
        (28, 60): ((63, 76), (62, 77)),  # the basal forebrain, 76 and 77, counts as ventral DC
    }
    table = {0: 0, 1: 0, 2: 0, 3: 0, 4: 0, 5: 14, 12: 15, 35: 16, 36: 16}  # 1 to 4 are outside the brain
    for sides, values_of_sides in pairs.items():
        table |= {value: side for side, values in zip(sides, values_of_sides, strict=True) for value in values}
    return table


GIF_TO_FREESURFER: Mapping[int, int] = MappingProxyType(_gif_to_freesurfer())
"""GIF value → FreeSurfer id, for the values whose structure is certain and has a side or needs none.

No table came with the labels. Structures have the value of the Neuromorphometrics protocol, which MUSE also uses, plus
1. White matter differs, and was found by its position. The lining of the ventricles (66, 67), what lies between putamen
and insula (96, 97), vessels and the chiasm are not certain."""

GIF_MIDLINE: Mapping[int, tuple[int, int]] = MappingProxyType({87: (2, 41), 72: (8, 47), 73: (8, 47), 74: (8, 47)})
"""GIF value of an unpaired structure (corpus callosum, vermis) → left and right FreeSurfer ids that divide it."""


def freesurfer_from_aparc(parcellation: NDArray[np.integer]) -> NDArray[np.int16]:
    """Convert FreeSurfer's aparc+aseg to the ids of `labels.STRUCTURES`, as `labels.MERGED` does for label maps.

    White matter of no stated side gets the side of the nearest voxel of a paired structure.

    Args:
        parcellation: labels of aparc+aseg (X, Y, Z) on an isotropic grid.

    Returns:
        FreeSurfer ids (X, Y, Z). A structure that the segmenter does not know is 0.
    """
    structures = parcellation.astype(np.int16)
    for cortex, areas in APARC_CORTEX.items():
        structures[(parcellation >= areas.start) & (parcellation < areas.stop)] = cortex
    for label, into in APARC_MERGED.items():
        structures[parcellation == label] = into
    structures = brain_structures(structures)
    midline = np.isin(parcellation, APARC_MIDLINE)
    left, right = WHITE_MATTER
    structures[midline] = np.where(nearest_side_is_right(structures)[midline], right, left)
    return structures


def freesurfer_from_gif(parcellation: NDArray[np.integer]) -> NDArray[np.int16]:
    """Convert a GIF parcellation (Cardoso et al., IEEE TMI 34:1976, 2015) to the ids of `labels.STRUCTURES`.

    Args:
        parcellation: GIF values (X, Y, Z) on an isotropic grid.

    Returns:
        FreeSurfer ids (X, Y, Z), or `NOT_SCORED`. Fluid outside the ventricles is 0.
    """
    values, place = np.unique(parcellation, return_inverse=True)
    ids = np.array([GIF_TO_FREESURFER.get(value, NOT_SCORED) for value in values.tolist()], dtype=np.int16)
    structures = ids[place].reshape(parcellation.shape)
    on_right = nearest_side_is_right(structures)
    for value, (left, right) in GIF_MIDLINE.items():
        midline = parcellation == value
        structures[midline] = np.where(on_right[midline], right, left)
    return structures
