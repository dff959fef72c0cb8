"""The table of the volumes of a study."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from small_study import draw_nothing, write_single_result

from midiff_monai.io.manifest import RunReport
from midiff_monai.io.outputs import output_paths
from midiff_monai.io.volumes import read_volume
from midiff_monai.labels import STRUCTURES
from midiff_monai.pipeline.result import Result
from midiff_monai.qc.study import write_volumes_table

LESION_COLUMNS = ["white_matter_lesions", "lesion_count"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_single_result(tmp_path)


@pytest.mark.parametrize("whole_head", [True, False])
def test_the_table_has_the_totals_and_the_intracranial_volume_of_heads(folder: Path, whole_head: bool) -> None:
    source = folder.parent / "in" / "sub-01_PDw.nii.gz"
    report = RunReport("segment", source, {})
    segmentation = np.zeros((6, 7, 8), np.int16)
    segmentation[1:5, 1:3, 1:6], segmentation[1:5, 4:6, 1:6] = 2, 24
    known = {"segmentation": segmentation, "whole_head": whole_head, "render": draw_nothing}
    known |= {"intracranial_ml": 0.8} if whole_head else {}
    result = Result(read_volume(source), report, paths=output_paths(source, folder), **known)  # type: ignore[arg-type]
    result.write()
    table = pd.read_csv(write_volumes_table(folder))
    names = ["intracranial", "brain", "grey_matter", "white_matter", "total_csf"]
    last = ["white_matter_lesions", "lesion_count", "quality", "brain_parenchymal_fraction"]
    assert list(table.columns[-10:]) == ["Right-VentralDC", *names, *last]
    row = table.iloc[0]
    assert row[names[1:5]].tolist() == pytest.approx([0.32, 0, 0.32, 0.32])
    assert row["intracranial"] == pytest.approx(0.8 if whole_head else np.nan, nan_ok=True)
    expected = 0.32 / row["intracranial"]
    assert row["brain_parenchymal_fraction"] == pytest.approx(expected, abs=1e-4, nan_ok=True)
    single = pd.read_csv(result.paths.volumes).set_index("name")
    assert single["percent_of_intracranial"]["CSF"] == pytest.approx(100 * expected, rel=1e-3, nan_ok=True)


def test_the_table_has_lesions_where_the_contrast_shows_them_and_the_quality(folder: Path) -> None:
    assert pd.read_csv(write_volumes_table(folder))[LESION_COLUMNS].isna().all(axis=None)
    source = folder.parent / "in" / "sub-01_PDw.nii.gz"
    report = RunReport("segment", source, {}, lesions={"volume_ml": 1.25, "count": 3}, quality={"score": 0.71})
    labels = np.full((6, 7, 8), 2, np.int16)
    paths = output_paths(source, folder)
    Result(read_volume(source), report, segmentation=labels, paths=paths, render=draw_nothing).write()
    table = pd.read_csv(write_volumes_table(folder))
    assert table[[*LESION_COLUMNS, "quality"]].values.tolist() == [[1.25, 3, 0.71]]


def test_tables_of_earlier_versions_have_no_intracranial_volume(folder: Path) -> None:
    path = folder / "sub-01_PDw_volumes.csv"
    pd.read_csv(path).dropna(subset="id").astype({"id": int})[["id", "name", "volume_ml"]].to_csv(path, index=False)
    row = pd.read_csv(write_volumes_table(folder)).iloc[0]
    assert np.isnan(row["intracranial"]) and row["brain"] == pytest.approx(2.688)


def write_more(folder: Path, **inputs: np.ndarray | None) -> None:
    """Write results in one folder for each input name, with these labels or without a segmentation."""
    source = read_volume(folder.parent / "in" / "sub-01_PDw.nii.gz")
    for name, labels in inputs.items():
        path = folder.parent / "in" / f"{name.replace('sub_', 'sub-').replace('ses_', 'ses-')}.nii.gz"
        shutil.copy(folder.parent / "in" / "sub-01_PDw.nii.gz", path)
        (folder / name).mkdir()
        report = RunReport("segment", path, {})
        paths = output_paths(path, folder / name)
        Result(source, report, np.zeros(source.shape), None, labels, paths=paths, render=draw_nothing).write()


def test_the_table_of_volumes_has_one_row_for_each_segmented_input(folder: Path) -> None:
    shape = read_volume(folder.parent / "in" / "sub-01_PDw.nii.gz").shape
    write_more(folder, b=np.where(np.indices(shape)[0] < 2, 17, 0).astype(np.int16), c=None)
    (folder / "batch_report.json").write_text("{}")
    table = pd.read_csv(write_volumes_table(folder))
    structures = [structure.name for structure in STRUCTURES[1:]]
    assert table.columns.tolist()[:-9] == ["input", "participant_id", "suffix", *structures]
    assert table[["participant_id", "suffix"]].fillna("").values.tolist() == [["", ""], ["sub-01", "PDw"]]
    # 2 x 7 x 8 voxels of 8 µl of one structure, and all 336 voxels of another
    assert table["Left-Hippocampus"].tolist() == pytest.approx([0.896, 0])
    assert table["Left-Cerebral-Cortex"].tolist() == pytest.approx([0, 2.688])


def test_the_table_distinguishes_the_scans_of_a_participant(folder: Path) -> None:
    labels = np.full(read_volume(folder.parent / "in" / "sub-01_PDw.nii.gz").shape, 3, np.int16)
    write_more(folder, **dict.fromkeys(("sub_01_ses_a_T2w", "sub_02", "sub_03_ses_b"), labels))
    table = pd.read_csv(write_volumes_table(folder)).fillna("")
    assert table[["participant_id", "session_id", "suffix"]].values.tolist() == [
        ["sub-01", "", "PDw"],
        ["sub-01", "ses-a", "T2w"],
        ["sub-02", "", ""],
        ["sub-03", "ses-b", ""],
    ]


def test_a_folder_without_results_has_an_empty_table(tmp_path: Path) -> None:
    assert pd.read_csv(write_volumes_table(tmp_path)).empty
