"""The tables of the volumes of parcels, of a scan and of a study."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from small_study import draw_nothing, write_single_result

from midiff_monai.io.manifest import RunReport
from midiff_monai.io.outputs import output_paths
from midiff_monai.io.volumes import read_volume
from midiff_monai.parcels import PARCELS
from midiff_monai.pipeline.result import Result
from midiff_monai.qc.parcels import write_parcels_table


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_single_result(tmp_path)


def write_result(folder: Path, parcels: np.ndarray | None) -> Result:
    source = folder.parent / "in" / "sub-01_PDw.nii.gz"
    known = {"segmentation": np.full((6, 7, 8), 3, np.int16), "parcels": parcels, "render": draw_nothing}
    report = RunReport("segment", source, {})
    result = Result(read_volume(source), report, paths=output_paths(source, folder), **known)  # type: ignore[arg-type]
    result.write()
    return result


def test_tables_and_label_map_belong_together(folder: Path) -> None:
    parcels = np.full((6, 7, 8), 101, np.uint8)
    parcels[:2] = 102
    paths = write_result(folder, parcels).paths
    image = nib.Nifti1Image.from_filename(paths.parcels)
    np.testing.assert_array_equal(image.dataobj, parcels)
    labels = pd.read_csv(paths.parcel_table, sep="\t", keep_default_na=False).set_index("index")
    assert labels.loc[[0, 101, 102], "name"].tolist() == [
        "Background",
        "AnteriorCingulateGyrus_L",
        "AnteriorInsula_R",
    ]
    assert labels.loc[[81, 95, 101], "lobe"].tolist() == ["white matter", "white matter", "cingulate"]
    volumes = pd.read_csv(paths.parcel_volumes).set_index("id")["volume_ml"]
    voxel_ml = np.prod(image.header.get_zooms()) / 1000
    assert volumes[volumes > 0].to_dict() == pytest.approx({101: 4 * 56 * voxel_ml, 102: 2 * 56 * voxel_ml}, abs=1e-4)


def test_a_study_with_parcels_has_a_table_of_them(folder: Path) -> None:
    assert write_parcels_table(folder) is None
    result = write_result(folder, np.full((6, 7, 8), 207, np.uint8))
    path = write_parcels_table(folder)
    assert path is not None
    (row,) = pd.read_csv(path).to_dict("records")
    single = pd.read_csv(result.paths.parcel_volumes).set_index("name")["volume_ml"]
    assert list(row) == ["input", *(parcel.name for parcel in PARCELS)]
    assert {name: row[name] for name in single.index} == pytest.approx(single.to_dict())
    assert row["TransverseTemporalGyrus_L"] > 0


@pytest.mark.parametrize("text", ["", "id;name;volume_ml\n101;A;3.5\n"])
def test_a_damaged_table_is_left_out(text: str, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_result(folder, np.full((6, 7, 8), 207, np.uint8)).paths.parcel_volumes.write_text(text)
    assert write_parcels_table(folder) is None
    assert [message.count("_volumes.csv: cannot be read") for message in caplog.messages] == [1]


def test_parcels_of_an_earlier_run_are_removed(folder: Path) -> None:
    paths = write_result(folder, np.full((6, 7, 8), 207, np.uint8)).paths
    write_result(folder, None)
    assert not any(path.exists() for path in (paths.parcels, paths.parcel_table, paths.parcel_volumes))
