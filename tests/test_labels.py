from __future__ import annotations

import csv
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nibabel.affines import apply_affine

from midiff_monai.labels import (
    FREESURFER_IDS,
    GROUPS,
    MIRRORED,
    STRUCTURES,
    TOTALS,
    structure_volumes,
    with_totals,
    write_label_table,
)
from midiff_monai.training.muse import MUSE_MIDLINE, MUSE_TO_FREESURFER, freesurfer_from_muse

NAME_OF = {structure.id: structure.name for structure in STRUCTURES}

MUSE_NAME_OF_FREESURFER = {
    "3rd-Ventricle": "3rdVentricle",
    "4th-Ventricle": "4thVentricle",
    "Brain-Stem": "BrainStem",
    "Thalamus": "ThalamusProper",
    "Accumbens-area": "AccumbensArea",
    "Inf-Lat-Vent": "InfLatVentricle",
    "Lateral-Ventricle": "LateralVentricle",
    "Cerebellum-White-Matter": "Cerebellum_WM",
    "Cerebellum-Cortex": "CerebellumExterior",
    **{name: name for name in ("Caudate", "Putamen", "Pallidum", "Hippocampus", "Amygdala", "VentralDC")},
}


@pytest.fixture(scope="module")
def muse_names(shared_data: Path) -> dict[int, str]:
    with (shared_data / "ixi-t1" / "muse_rois.csv").open() as table:
        return {int(row["Index"]): row["Name"] for row in csv.DictReader(table)}


def load(path: Path) -> nib.Nifti1Image:
    image = nib.load(path)
    assert isinstance(image, nib.Nifti1Image)
    return image


@pytest.fixture(scope="module")
def parcellation(shared_data: Path) -> nib.Nifti1Image:
    return load(min((shared_data / "ixi-t1").glob("*_DLMUSE.nii.gz")))


def test_ids_are_those_of_the_label_maps(shared_data: Path) -> None:
    lines = (shared_data / "label-maps" / "labels_table.txt").read_text().splitlines()
    documented = {int(line.split()[0]) for line in lines if line.split() and line.split()[0].isdigit()}
    assert set(FREESURFER_IDS) == documented
    assert len(FREESURFER_IDS) == 33 and list(FREESURFER_IDS) == sorted(FREESURFER_IDS)


def test_every_structure_has_its_own_name_and_pairs_are_complete() -> None:
    names = {structure.name for structure in STRUCTURES}
    assert len(names) == len(STRUCTURES)
    left = {name.removeprefix("Left-") for name in names if name.startswith("Left-")}
    assert left == {name.removeprefix("Right-") for name in names if name.startswith("Right-")}


def test_groups_hold_ids_of_the_table_once_and_both_sides() -> None:
    for ids in GROUPS.values():
        assert len(set(ids)) == len(ids)
        names = {NAME_OF[identifier] for identifier in ids}
        left = {name.removeprefix("Left-") for name in names if name.startswith("Left-")}
        assert left == {name.removeprefix("Right-") for name in names if name.startswith("Right-")}


def test_every_muse_structure_is_mapped(muse_names: dict[int, str]) -> None:
    assert muse_names.keys() <= MUSE_TO_FREESURFER.keys() | MUSE_MIDLINE.keys()
    assert not MUSE_TO_FREESURFER.keys() & MUSE_MIDLINE.keys()
    assert {side for sides in MUSE_MIDLINE.values() for side in sides} <= set(FREESURFER_IDS)
    assert set(MUSE_TO_FREESURFER.values()) == set(FREESURFER_IDS)


def test_muse_sides_agree_with_names(muse_names: dict[int, str]) -> None:
    sides = {"R": "Right-", "L": "Left-"}
    for value, name in muse_names.items():
        if name[-2:] in ("_R", "_L"):
            assert NAME_OF[MUSE_TO_FREESURFER[value]].startswith(sides[name[-1]]), name


def test_muse_structures_agree_with_names(muse_names: dict[int, str]) -> None:
    for value, name in muse_names.items():
        if value in MUSE_MIDLINE:
            continue
        mapped = NAME_OF[MUSE_TO_FREESURFER[value]].removeprefix("Left-").removeprefix("Right-")
        stem = name.removesuffix("_R").removesuffix("_L")
        if 100 <= value <= 207:
            assert mapped == "Cerebral-Cortex", name
        elif mapped == "Cerebral-White-Matter":
            assert "_WM" in name or stem in ("Fornix", "AnteriorLimbInternalCapsule", "PosteriorLimbInternalCapsule")
        elif stem != "BasalForebrain":
            assert stem == MUSE_NAME_OF_FREESURFER[mapped]


def test_every_value_in_the_data_is_mapped(shared_data: Path) -> None:
    for path in sorted((shared_data / "ixi-t1").glob("*_DLMUSE.nii.gz"))[:10]:
        values = set(np.unique(np.asarray(load(path).dataobj)).tolist())
        assert values <= MUSE_TO_FREESURFER.keys() | MUSE_MIDLINE.keys(), path.name


def test_right_structures_lie_to_the_right(parcellation: nib.Nifti1Image) -> None:
    """World x increases towards the right of the patient."""
    segmentation = freesurfer_from_muse(np.asarray(parcellation.dataobj))
    x = {
        identifier: apply_affine(parcellation.affine, np.argwhere(segmentation == identifier))[:, 0].mean()
        for identifier in FREESURFER_IDS
    }
    names = {name: identifier for identifier, name in NAME_OF.items()}
    pairs = [(names[name.replace("Left-", "Right-")], i) for i, name in NAME_OF.items() if name.startswith("Left-")]
    assert len(pairs) == 14
    assert all(x[right] > x[left] for right, left in pairs)


def test_midline_structures_are_split_between_the_hemispheres(parcellation: nib.Nifti1Image) -> None:
    values = np.asarray(parcellation.dataobj)
    segmentation = freesurfer_from_muse(values)
    for value, (left, right) in MUSE_MIDLINE.items():
        on_left, on_right = (
            apply_affine(parcellation.affine, np.argwhere((values == value) & (segmentation == side)))[:, 0]
            for side in (left, right)
        )
        assert len(on_left) + len(on_right) == (values == value).sum()
        assert 0.5 < len(on_right) / len(on_left) < 2
        assert on_right.mean() > on_left.mean() + 2  # a voxel is 2 mm wide


def test_muse_midline_voxel_takes_the_nearest_side() -> None:
    parcellation = np.array([[[82, 95, 95, 95, 0, 81]]])
    np.testing.assert_array_equal(freesurfer_from_muse(parcellation), [[[2, 2, 2, 41, 0, 41]]])


def test_unknown_muse_value_is_refused() -> None:
    with pytest.raises(ValueError, match="200[89]"):
        freesurfer_from_muse(np.full((2, 2, 2), 2008))


def test_label_table_reads_back(tmp_path: Path) -> None:
    write_label_table(tmp_path / "dseg.tsv")
    table = pd.read_csv(tmp_path / "dseg.tsv", sep="\t")
    assert list(table.columns) == ["index", "name", "color"]
    assert tuple(table["index"]) == FREESURFER_IDS
    colours = dict(zip(table["name"], table["color"], strict=True))
    assert colours["Left-Cerebral-Cortex"] == "#cd3e4e" and colours["Brain-Stem"] == "#779fb0"


def test_volumes_are_voxel_counts_in_millilitres() -> None:
    segmentation = np.random.default_rng(0).choice([0, 2, 42, 60], size=(7, 8, 9)).astype(np.int16)
    table = structure_volumes(segmentation, voxel_volume_ml=0.008)
    assert list(table.columns) == ["id", "name", "volume_ml"]
    assert tuple(table["id"]) == FREESURFER_IDS[1:]
    for row in table.itertuples():
        assert row.volume_ml == pytest.approx((segmentation == row.id).sum() * 0.008)


def test_volumes_refuse_ids_outside_the_table() -> None:
    with pytest.raises(ValueError, match=r"\[6, 77\]"):
        structure_volumes(np.array([[[0, 6, 77]]]), voxel_volume_ml=1)


def test_every_structure_counts_in_one_tissue() -> None:
    counted = sorted([*TOTALS["grey_matter"], *TOTALS["white_matter"], *TOTALS["total_csf"]])
    assert counted == sorted(FREESURFER_IDS[1:])
    assert sorted(TOTALS["brain"]) == sorted([*TOTALS["grey_matter"], *TOTALS["white_matter"]])
    csf = {NAME_OF[identifier] for identifier in TOTALS["total_csf"]}
    assert csf == {name for name in NAME_OF.values() if "Vent" in name and "DC" not in name} | {"CSF"}


@pytest.mark.parametrize("intracranial", [1500.0, np.nan])
def test_totals_follow_the_structures_without_ids(intracranial: float, tmp_path: Path) -> None:
    segmentation = np.repeat([0, 2, 42, 16, 24, 4], [5, 100, 200, 30, 40, 50]).reshape(5, 5, 17).astype(np.int16)
    structures = structure_volumes(segmentation, voxel_volume_ml=1)
    with_totals(structures, intracranial, 1.5, 7).to_csv(tmp_path / "volumes.csv", index=False)
    table = pd.read_csv(tmp_path / "volumes.csv", dtype={"id": "Int64"})
    pd.testing.assert_frame_equal(table.iloc[:32, :3], structures, check_dtype=False)
    totals = table[table["id"].isna()].set_index("name")["volume_ml"]
    expected = {"brain": 330, "grey_matter": 200, "white_matter": 130, "total_csf": 90, "white_matter_lesions": 1.5}
    assert totals.to_dict() == pytest.approx({"intracranial": intracranial} | expected, nan_ok=True)
    percent = table.set_index("name")["percent_of_intracranial"]
    assert percent["Brain-Stem"] == pytest.approx(2 if intracranial == 1500 else np.nan, nan_ok=True)
    assert table["count"].dropna().tolist() == [7] and table["count"].iloc[-1] == 7
    assert "id,name,volume_ml,percent_of_intracranial,count\n2,Left" in (tmp_path / "volumes.csv").read_text()


def test_lesions_that_a_scan_cannot_show_have_no_volume_and_no_count() -> None:
    row = with_totals(structure_volumes(np.full((2, 2, 2), 2), voxel_volume_ml=1), 10.0).set_index("name")
    assert row.loc["white_matter_lesions", ["volume_ml", "count"]].isna().all()


def test_mirrored_classes_equal_the_published_table() -> None:
    """The expected pairs of FreeSurfer ids are written out."""
    right = {2: 41, 3: 42, 4: 43, 5: 44, 7: 46, 8: 47, 10: 49, 11: 50, 12: 51, 13: 52, 17: 53, 18: 54, 26: 58, 28: 60}
    expected = right | {value: key for key, value in right.items()}
    for structure, other in zip(FREESURFER_IDS, MIRRORED, strict=True):
        assert FREESURFER_IDS[other] == expected.get(structure, structure)
