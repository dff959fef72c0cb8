"""Label table of the segmented brain structures: FreeSurfer ids, names and colours; tables of labels and volumes.

Ids, names and colours come from FreeSurferColorLUT.txt (FreeSurfer 7). The 32 structures are those of SynthSeg
(Billot et al., Medical Image Analysis 86:102789, 2023).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import nan
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt


@dataclass(frozen=True)
class Structure:
    """A segmented structure: FreeSurfer id, FreeSurfer name, and colour as (red, green, blue) in 0-255."""

    id: int
    name: str
    colour: tuple[int, int, int]

    @property
    def hex_colour(self) -> str:
        """Colour as #rrggbb."""
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
"""Classes of the segmentation network, in the order of its output channels."""

LESIONS = Structure(77, "White-Matter-Lesions", (80, 255, 0))
"""White matter lesions in pictures. In the label map they are white matter. The id is that of FreeSurfer's
WM-hypointensities, as which T1w shows them; its colour is too close to that of a temporal horn."""

FREESURFER_IDS: tuple[int, ...] = tuple(structure.id for structure in STRUCTURES)
"""Class index → FreeSurfer id."""

CSF = 24
"""FreeSurfer id of the CSF around the brain. The ventricles have ids of their own."""

MERGED: Mapping[int, int] = MappingProxyType(
    {25: 2, 57: 41, 30: 2, 62: 41, 72: 14, 85: 24, 136: 4, 137: 5, 163: 43, 164: 44}
)
"""Lesions, vessels, fifth ventricle, chiasm and choroid plexus → FreeSurfer id of the structure that they count as."""


def _other_side(name: str) -> str:
    sides = {"Left": "Right", "Right": "Left"}
    side, dash, rest = name.partition("-")
    return sides.get(side, side) + dash + rest


_NAMES = [structure.name for structure in STRUCTURES]

MIRRORED: tuple[int, ...] = tuple(_NAMES.index(_other_side(name)) for name in _NAMES)
"""Class index → class index of the same structure in the other hemisphere. A midline structure maps to itself."""

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
"""Tissue → FreeSurfer ids, for evaluation. Grey and white matter are those of the cerebrum. Tissues may overlap."""


def nearest_side_is_right(segmentation: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Return where the nearest voxel of a paired structure belongs to the right side.

    Args:
        segmentation: FreeSurfer ids (X, Y, Z) on an isotropic grid, with a voxel of a paired structure at least.
    """
    left = np.isin(segmentation, [structure.id for structure in STRUCTURES if structure.name.startswith("Left-")])
    right = np.isin(segmentation, [structure.id for structure in STRUCTURES if structure.name.startswith("Right-")])
    nearest = distance_transform_edt(~(left | right), return_distances=False, return_indices=True)
    return right[tuple(nearest)]


def label_table(structures: Iterable[Structure]) -> pd.DataFrame:
    """Return the columns index, name and color (#rrggbb) of a BIDS label table, a row for each structure."""
    rows = [(structure.id, structure.name, structure.hex_colour) for structure in structures]
    return pd.DataFrame(rows, columns=["index", "name", "color"])


def write_label_table(path: Path, table: pd.DataFrame | None = None) -> None:
    """Write a label table as a BIDS `_dseg.tsv`; that of `STRUCTURES` without another one."""
    table = label_table(STRUCTURES) if table is None else table
    table.to_csv(path, sep="\t", index=False, lineterminator="\n")


def count_volumes(counts: NDArray[np.integer], structures: Iterable[Structure], voxel_volume_ml: float) -> pd.DataFrame:
    """Return the columns id, name and volume_ml of structures, from the number of voxels by id."""
    rows = [(structure.id, structure.name, counts[structure.id] * voxel_volume_ml) for structure in structures]
    return pd.DataFrame(rows, columns=["id", "name", "volume_ml"])


def structure_volumes(segmentation: NDArray[np.integer], voxel_volume_ml: float) -> pd.DataFrame:
    """Measure the volume of every structure, in the order of `STRUCTURES` without the background.

    Args:
        segmentation: FreeSurfer ids, shape (X, Y, Z).
        voxel_volume_ml: Volume of a voxel in millilitres.

    Returns:
        Columns id, name, volume_ml. An absent structure has volume 0.

    Raises:
        ValueError: The segmentation contains an id that is not in `STRUCTURES`.
    """
    counts = np.bincount(segmentation.ravel(), minlength=max(FREESURFER_IDS) + 1)
    if unknown := set(np.flatnonzero(counts).tolist()) - set(FREESURFER_IDS):
        raise ValueError(f"the segmentation contains ids {sorted(unknown)}, which are not in the label table")
    return count_volumes(counts, STRUCTURES[1:], voxel_volume_ml)


TISSUES = {
    "white matter": (3, (2, 41, 7, 46, 28, 60)),
    "grey matter": (2, (3, 42, 8, 47, 10, 11, 12, 13, 17, 18, 26, 49, 50, 51, 52, 53, 54, 58)),
    "cerebrospinal fluid": (1, (4, 5, 14, 15, 24, 43, 44)),
}
"""Tissue → (label of the tissue in the phantom, FreeSurfer ids of the tissue)."""

_GREY_MATTER = TISSUES["grey matter"][1]

_WHITE_MATTER = (*TISSUES["white matter"][1], 16)

TOTALS: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {
        "brain": (*_GREY_MATTER, *_WHITE_MATTER),
        "grey_matter": _GREY_MATTER,
        "white_matter": _WHITE_MATTER,
        "total_csf": GROUPS["cerebrospinal fluid"],
    }
)
"""Total of the volume tables → FreeSurfer ids. Each structure is in one tissue: grey and white matter are the brain."""

INTRACRANIAL = "intracranial"
"""Name of the intracranial volume in the volume tables."""

WHITE_MATTER_LESIONS = "white_matter_lesions"
"""Name of the volume of the lesions in the volume tables."""


def total_volumes(volumes: Mapping[int, float]) -> dict[str, float]:
    """Add up volumes by FreeSurfer id into `TOTALS`. An id that is missing counts as 0."""
    return {name: sum(volumes.get(label, 0.0) for label in ids) for name, ids in TOTALS.items()}


def with_totals(
    structures: pd.DataFrame, intracranial_ml: float, lesions_ml: float = nan, lesion_count: int | None = None
) -> pd.DataFrame:
    """Append intracranial volume, `TOTALS` and lesions to a table of `structure_volumes`, as rows without an id.

    Args:
        structures: as `structure_volumes` returns it.
        intracranial_ml: millilitres; NaN where it is not known.
        lesions_ml: volume of the white matter lesions in millilitres, which is a part of that of the white matter; NaN
            where it is not known.
        lesion_count: number of the white matter lesions; None where it is not known.

    Returns:
        Columns id, name, volume_ml, percent_of_intracranial, count. The count is that of the lesions alone.
    """
    volumes = dict(zip(structures["id"], structures["volume_ml"], strict=True))
    totals = {INTRACRANIAL: intracranial_ml} | total_volumes(volumes) | {WHITE_MATTER_LESIONS: lesions_ml}
    rows = pd.DataFrame({"id": pd.NA, "name": list(totals), "volume_ml": list(totals.values())})
    table = pd.concat([structures.astype({"id": "Int64"}), rows.astype({"id": "Int64"})], ignore_index=True)
    counts = pd.array([pd.NA] * (len(table) - 1) + [lesion_count], dtype="Int64")
    return table.assign(percent_of_intracranial=100 * table["volume_ml"] / intracranial_ml, count=counts)
