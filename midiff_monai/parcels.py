"""Label table of the parcels: regions of the cerebral cortex and of the cerebral white matter.

Ids and names are those of MUSE (Doshi et al., NeuroImage 127:186, 2016). They share no id with `labels.STRUCTURES`.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from midiff_monai.labels import STRUCTURES, Structure, count_volumes, label_table, write_label_table


@dataclass(frozen=True)
class Region:
    """A region of one hemisphere.

    Attributes:
        name: name of MUSE, without the side.
        lobe: lobe of the cortex; "white matter" for a region of the white matter.
        left: id on the left side.
        right: id on the right side; that of the left side for the corpus callosum.
    """

    name: str
    lobe: str
    left: int
    right: int

    @property
    def labels(self) -> dict[int, str]:
        """Id → name with the side."""
        if self.left == self.right:
            return {self.left: self.name}
        return {self.left: f"{self.name}_L", self.right: f"{self.name}_R"}


WHITE_MATTER = "white matter"

_CORTEX = {
    "frontal": (
        (104, "AnteriorOrbitalGyrus"),
        (112, "CentralOperculum"),
        (118, "FrontalOperculum"),
        (120, "FrontalPole"),
        (124, "GyrusRectus"),
        (136, "LateralOrbitalGyrus"),
        (140, "MedialFrontalCortex"),
        (142, "MiddleFrontalGyrus"),
        (146, "MedialOrbitalGyrus"),
        (150, "PrecentralGyrusMedialSegment"),
        (152, "SuperiorFrontalGyrusMedialSegment"),
        (162, "OpercularPartInferiorFrontalGyrus"),
        (164, "OrbitalPartInferiorFrontalGyrus"),
        (178, "PosteriorOrbitalGyrus"),
        (182, "PrecentralGyrus"),
        (186, "SubcallosalArea"),
        (190, "SuperiorFrontalGyrus"),
        (192, "SupplementaryMotorCortex"),
        (204, "TriangularPartInferiorFrontalGyrus"),
    ),
    "parietal": (
        (106, "AngularGyrus"),
        (148, "PostcentralGyrusMedialSegment"),
        (168, "Precuneus"),
        (174, "ParietalOperculum"),
        (176, "PostcentralGyrus"),
        (194, "SupramarginalGyrus"),
        (198, "SuperiorParietalLobule"),
    ),
    "temporal": (
        (116, "EntorhinalArea"),
        (122, "FusiformGyrus"),
        (132, "InferiorTemporalGyrus"),
        (154, "MiddleTemporalGyrus"),
        (170, "ParahippocampalGyrus"),
        (180, "PlanumPolare"),
        (184, "PlanumTemporale"),
        (200, "SuperiorTemporalGyrus"),
        (202, "TemporalPole"),
        (206, "TransverseTemporalGyrus"),
    ),
    "occipital": (
        (108, "CalcarineCortex"),
        (114, "Cuneus"),
        (128, "InferiorOccipitalGyrus"),
        (134, "LingualGyrus"),
        (144, "MiddleOccipitalGyrus"),
        (156, "OccipitalPole"),
        (160, "OccipitalFusiformGyrus"),
        (196, "SuperiorOccipitalGyrus"),
    ),
    "cingulate": (
        (100, "AnteriorCingulateGyrus"),
        (138, "MiddleCingulateGyrus"),
        (166, "PosteriorCingulateGyrus"),
    ),
    "insula": (
        (102, "AnteriorInsula"),
        (172, "PosteriorInsula"),
    ),
}
"""Lobe → ids on the right side and names. On the left side, ids of the cortex are greater by one."""

CORTEX_REGIONS: tuple[Region, ...] = tuple(
    sorted(
        (Region(name, lobe, right + 1, right) for lobe, regions in _CORTEX.items() for right, name in regions),
        key=lambda region: region.right,
    )
)
"""Regions of the cortex, in the order of their ids."""

WHITE_MATTER_REGIONS: tuple[Region, ...] = tuple(
    Region(name, WHITE_MATTER, left, right)
    for left, right, name in (
        (82, 81, "Frontal_WM"),
        (84, 83, "Occipital_WM"),
        (86, 85, "Parietal_WM"),
        (88, 87, "Temporal_WM"),
        (90, 89, "Fornix"),
        (92, 91, "AnteriorLimbInternalCapsule"),
        (94, 93, "PosteriorLimbInternalCapsule"),
        (95, 95, "CorpusCallosum"),
    )
)
"""Regions of the white matter, in the order of their ids."""

REGIONS = (*CORTEX_REGIONS, *WHITE_MATTER_REGIONS)
"""Regions of a hemisphere, in the order of the channels of the parcellation network."""


def _colour(index: int, region: Region) -> tuple[int, int, int]:
    # Multiples of the golden ratio spread the hues. Neighbours in the order of the ids get very different ones.
    saturation = 0.25 if region.lobe == WHITE_MATTER else 0.75
    rgb = colorsys.hsv_to_rgb(index * 0.618034 % 1, saturation, 0.95 - 0.15 * (index % 3))
    red, green, blue = (round(255 * value) for value in rgb)
    return red, green, blue


PARCELS: tuple[Structure, ...] = tuple(
    sorted(
        (
            Structure(label, name, _colour(index, region))
            for index, region in enumerate(REGIONS)
            for label, name in region.labels.items()
        ),
        key=lambda parcel: parcel.id,
    )
)
"""Parcels of both hemispheres, in the order of their ids. A region has one colour on both sides."""

LOBES: dict[int, str] = {label: region.lobe for region in REGIONS for label in region.labels}
"""Id of a parcel → its lobe."""


def write_parcel_table(path: Path) -> None:
    """Write the label table as a BIDS `_dseg.tsv` with the columns index, name, color (#rrggbb) and lobe."""
    lobes = ["n/a", *(LOBES[parcel.id] for parcel in PARCELS)]
    write_label_table(path, label_table((STRUCTURES[0], *PARCELS)).assign(lobe=lobes))


def parcel_volumes(parcels: NDArray[np.integer], voxel_volume_ml: float, intracranial_ml: float) -> pd.DataFrame:
    """Measure the volume of every parcel.

    Args:
        parcels: ids of `PARCELS`, 0 elsewhere, shape (X, Y, Z).
        voxel_volume_ml: volume of a voxel in millilitres.
        intracranial_ml: intracranial volume in millilitres; NaN where it is not known.

    Returns:
        Columns id, name, lobe, volume_ml and percent_of_intracranial. An absent parcel has volume 0.
    """
    counts = np.bincount(parcels.ravel(), minlength=PARCELS[-1].id + 1)
    table = count_volumes(counts, PARCELS, voxel_volume_ml)
    table.insert(2, "lobe", [LOBES[parcel.id] for parcel in PARCELS])
    return table.assign(percent_of_intracranial=100 * table["volume_ml"] / intracranial_ml)
