"""The label table of the parcels agrees with MUSE's."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from midiff_monai.labels import FREESURFER_IDS
from midiff_monai.parcels import LOBES, PARCELS, REGIONS, WHITE_MATTER
from midiff_monai.training.muse import MUSE_MIDLINE, MUSE_TO_FREESURFER


def test_ids_and_names_are_those_of_muse(shared_data: Path) -> None:
    muse = pd.read_csv(shared_data / "ixi-t1" / "muse_rois.csv").set_index("Index")["Name"]
    assert {parcel.id: parcel.name for parcel in PARCELS} == muse[muse.index > 80].to_dict()


def test_sides_and_tissues_are_those_of_the_segmentation() -> None:
    for region in REGIONS:
        left, right = (2, 41) if region.lobe == WHITE_MATTER else (3, 42)
        known = [MUSE_TO_FREESURFER.get(label) for label in (region.left, region.right)]
        assert known == [left, right] or MUSE_MIDLINE[region.left] == (left, right)


def test_no_id_is_that_of_a_structure() -> None:
    ids = [parcel.id for parcel in PARCELS]
    assert ids == sorted(set(ids)) == sorted(LOBES)
    assert not set(ids) & set(FREESURFER_IDS)
    assert max(ids) < 256, "a byte"
