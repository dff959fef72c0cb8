"""The table of the asymmetries: its rows and their segmentations follow the weights. Segmentation is faked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import asymmetry
import nibabel as nib
import numpy as np
import pytest
import table
from ball_brain import ball_brain
from small_study import draw_nothing

from midiff_monai.io.manifest import RunReport
from midiff_monai.io.outputs import output_paths
from midiff_monai.io.volumes import read_volume
from midiff_monai.pipeline.result import Result

BUNDLE = "t1_brain_segmentation"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the volumes that are segmented, with the weights that `install` names."""
    names: list[str] = []

    def segment(volumes: list[Path], folder: Path, **settings: Any) -> None:
        (volume,) = volumes
        names.append(volume.name)
        folder.mkdir(exist_ok=True)
        report = RunReport("segment", volume, {}, table.installed_weights())
        result = Result(read_volume(volume), report, paths=output_paths(volume, folder), render=draw_nothing)
        result.segmentation = ball_brain()[0]
        result.write()

    monkeypatch.setattr(asymmetry, "segment", segment)
    install("a", monkeypatch)
    return names


def install(weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "installed_weights", lambda: {BUNDLE: weights * 64})


def fill(folder: Path, planned: asymmetry.Planned) -> table.Table:
    """Add the row of a scan to the table on disk, unless it is there."""
    filled = table.Table(folder / "asymmetry.csv", ("scan", "blob"))
    if not filled.has(planned.key):
        filled.add(asymmetry.row(planned, folder / "segmentations"))
    return filled


def test_a_scan_is_segmented_and_measured_again_after_a_change_of_the_weights(
    calls: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels, affine = ball_brain()
    nib.save(nib.Nifti1Image(np.float32(100 * (labels > 0)), affine), tmp_path / "a_PD.nii.gz")
    scan = asymmetry.Planned(tmp_path / "a_PD.nii.gz")
    for weights, count in (("a", 1), ("a", 1), ("b", 2)):
        install(weights, monkeypatch)
        (found,) = fill(tmp_path, scan).rows().to_dict("records")
        assert found[f"{BUNDLE}_sha256"] == 12 * weights and found["commit"]
        assert len(calls) == count
    fill(tmp_path, asymmetry.Planned(scan.volume, 20))
    assert len(calls) == 2, "a blob is painted into the scan that is segmented already"


def test_rows_without_hashes_are_kept(calls: list[str], tmp_path: Path) -> None:
    (tmp_path / "asymmetry.csv").write_text("scan,blob,flagged\na_PD,none,True\n")
    assert len(fill(tmp_path, asymmetry.Planned(tmp_path / "a_PD.nii.gz")).rows()) == 1
    assert not calls
