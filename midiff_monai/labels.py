"""The label table: FreeSurfer ids, names and colours, the MUSE parcellation in those ids, tables of labels and volumes.

Ids, names and colours are those of FreeSurferColorLUT.txt (FreeSurfer 7). The choice of 32 structures is that of
SynthSeg (Billot et al., Medical Image Analysis 86:102789, 2023).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt


@dataclass(frozen=True)
class Structure:
    """A segmented structure: its FreeSurfer id, its FreeSurfer name, its colour as red, green and blue in 0-255."""

    id: int
    name: str
    colour: tuple[int, int, int]

    @property
    def hex_colour(self) -> str:
        """The colour as #rrggbb."""
        return f"#{bytes(self.colour).hex()}"


STRUCTURES: tuple[Structure, ...] = (
    Structure(0, "Background", (0, 0, 0)),
    Structure(2, "Left-Cerebral-White-Matter", (245, 245, 245)),
    Structure(3, "Left-Cerebral-Cortex", (205, 62, 78)),
    Structure(4, "Left-Lateral-Ventricle", (120, 18, 134)),
    Structure(5, "Left-Inf-Lat-Vent", (196, 58, 250)),
    Structure(7, "Left-Cerebellum-White-Matter", (220, 248, 164)),
    Structure(8, "Left-Cerebellum-Cortex", (230, 148, 34)),
    Structure(10, "Left-Thalamus", (0, 118, 14)),
    Structure(11, "Left-Caudate", (122, 186, 220)),
    Structure(12, "Left-Putamen", (236, 13, 176)),
    Structure(13, "Left-Pallidum", (12, 48, 255)),
    Structure(14, "3rd-Ventricle", (204, 182, 142)),
    Structure(15, "4th-Ventricle", (42, 204, 164)),
    Structure(16, "Brain-Stem", (119, 159, 176)),
    Structure(17, "Left-Hippocampus", (220, 216, 20)),
    Structure(18, "Left-Amygdala", (103, 255, 255)),
    Structure(24, "CSF", (60, 60, 60)),
    Structure(26, "Left-Accumbens-area", (255, 165, 0)),
    Structure(28, "Left-VentralDC", (165, 42, 42)),
    Structure(41, "Right-Cerebral-White-Matter", (245, 245, 245)),
    Structure(42, "Right-Cerebral-Cortex", (205, 62, 78)),
    Structure(43, "Right-Lateral-Ventricle", (120, 18, 134)),
    Structure(44, "Right-Inf-Lat-Vent", (196, 58, 250)),
    Structure(46, "Right-Cerebellum-White-Matter", (220, 248, 164)),
    Structure(47, "Right-Cerebellum-Cortex", (230, 148, 34)),
    Structure(49, "Right-Thalamus", (0, 118, 14)),
    Structure(50, "Right-Caudate", (122, 186, 220)),
    Structure(51, "Right-Putamen", (236, 13, 176)),
    Structure(52, "Right-Pallidum", (13, 48, 255)),
    Structure(53, "Right-Hippocampus", (220, 216, 20)),
    Structure(54, "Right-Amygdala", (103, 255, 255)),
    Structure(58, "Right-Accumbens-area", (255, 165, 0)),
    Structure(60, "Right-VentralDC", (165, 42, 42)),
)
"""The classes of the segmentation network, in the order of its output channels."""

FREESURFER_IDS: tuple[int, ...] = tuple(structure.id for structure in STRUCTURES)
"""Class index → FreeSurfer id."""


def _other_side(name: str) -> str:
    sides = {"Left": "Right", "Right": "Left"}
    side, dash, rest = name.partition("-")
    return sides.get(side, side) + dash + rest


_NAMES = [structure.name for structure in STRUCTURES]

MIRRORED: tuple[int, ...] = tuple(_NAMES.index(_other_side(name)) for name in _NAMES)
"""Class index → class index of the same structure on the other side, or of itself if it has none."""

_CORTEX = (3, 42)
_DEEP_GREY_MATTER = (10, 11, 12, 13, 17, 18, 26, 49, 50, 51, 52, 53, 54, 58)
_LATERAL_VENTRICLES = (4, 5, 43, 44)

GROUPS: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {
        "white matter": (2, 41),
        "grey matter": (*_CORTEX, *_DEEP_GREY_MATTER),
        "cortex": _CORTEX,
        "deep grey matter": _DEEP_GREY_MATTER,
        "lateral ventricles": _LATERAL_VENTRICLES,
        "cerebrospinal fluid": (*_LATERAL_VENTRICLES, 14, 15, 24),
        "cerebellum": (7, 8, 46, 47),
    }
)
"""Tissue → FreeSurfer ids, for evaluation; grey and white matter are those of the cerebrum, and tissues may overlap."""


def _muse_to_freesurfer() -> dict[int, int]:
    # MUSE gives the left side the even number of a pair in the white matter and the odd one in the cortex.
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
        (28, 60): ((62, 75), (61, 76)),  # the basal forebrain, 75 and 76, has the ventral DC as its nearest namesake
    }
    # 46 is fluid of the midline behind the third ventricle, 69 a few voxels at the optic chiasm: neither is in MUSE.
    table = {0: 0, 4: 14, 11: 15, 35: 16, 1: 24, 46: 24, 69: 24}
    for sides, values_of_sides in pairs.items():
        table |= {value: side for side, values in zip(sides, values_of_sides, strict=True) for value in values}
    return table


MUSE_TO_FREESURFER: Mapping[int, int] = MappingProxyType(_muse_to_freesurfer())
"""MUSE value → FreeSurfer id, for every value but those of `MUSE_MIDLINE`."""

MUSE_MIDLINE: Mapping[int, tuple[int, int]] = MappingProxyType({95: (2, 41), 71: (8, 47), 72: (8, 47), 73: (8, 47)})
"""MUSE value of an unpaired structure (corpus callosum, vermis) → left and right FreeSurfer ids that share it."""


def freesurfer_from_muse(parcellation: NDArray[np.integer]) -> NDArray[np.int16]:
    """Translate a MUSE parcellation (Doshi et al., NeuroImage 127:186, 2016) into the ids of `STRUCTURES`.

    A voxel of the corpus callosum or the vermis takes the side of the nearest voxel of a paired structure.

    Args:
        parcellation: (X, Y, Z), MUSE values; the voxels are taken as isotropic.

    Returns:
        (X, Y, Z), FreeSurfer ids.

    Raises:
        ValueError: a value is in neither `MUSE_TO_FREESURFER` nor `MUSE_MIDLINE`.
    """
    present = np.unique(parcellation)
    if unknown := set(present.tolist()) - MUSE_TO_FREESURFER.keys() - MUSE_MIDLINE.keys():
        raise ValueError(f"MUSE has no values {sorted(unknown)}")
    ids = np.array([MUSE_TO_FREESURFER.get(value, 0) for value in present.tolist()], dtype=np.int16)
    translated = ids[np.searchsorted(present, parcellation)]
    on_right = _nearest_side_is_right(translated)
    for value, (left, right) in MUSE_MIDLINE.items():
        midline = parcellation == value
        translated[midline] = np.where(on_right[midline], right, left)
    return translated


def _nearest_side_is_right(segmentation: NDArray[np.int16]) -> NDArray[np.bool_]:
    left = np.isin(segmentation, [structure.id for structure in STRUCTURES if structure.name.startswith("Left-")])
    right = np.isin(segmentation, [structure.id for structure in STRUCTURES if structure.name.startswith("Right-")])
    nearest = distance_transform_edt(~(left | right), return_distances=False, return_indices=True)
    return right[tuple(nearest)]


def write_label_table(path: Path) -> None:
    """Write the table of labels as a BIDS `_dseg.tsv`: columns index, name, color (#rrggbb)."""
    rows = [(structure.id, structure.name, structure.hex_colour) for structure in STRUCTURES]
    pd.DataFrame(rows, columns=["index", "name", "color"]).to_csv(path, sep="\t", index=False, lineterminator="\n")


def structure_volumes(segmentation: NDArray[np.integer], voxel_volume_ml: float) -> pd.DataFrame:
    """Measure every structure, in the order of `STRUCTURES` without the background.

    Args:
        segmentation: (X, Y, Z), FreeSurfer ids.
        voxel_volume_ml: volume of a voxel in millilitres.

    Returns:
        Columns id, name, volume_ml; a structure that is absent has a volume of 0.

    Raises:
        ValueError: the segmentation holds an id that is not in `STRUCTURES`.
    """
    counts = np.bincount(segmentation.ravel(), minlength=max(FREESURFER_IDS) + 1)
    if unknown := set(np.flatnonzero(counts).tolist()) - set(FREESURFER_IDS):
        raise ValueError(f"the label table has no ids {sorted(unknown)}")
    rows = [(structure.id, structure.name, counts[structure.id] * voxel_volume_ml) for structure in STRUCTURES[1:]]
    return pd.DataFrame(rows, columns=["id", "name", "volume_ml"])
