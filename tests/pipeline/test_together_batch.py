"""Batches and BIDS data sets whose scans are translated together, one result for each person."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from bids_validator import VALIDATOR, validated

from midiff_monai import translate
from midiff_monai.cli.main import main
from midiff_monai.evaluation.phantom import make_phantom
from midiff_monai.io.volumes import read_volume
from midiff_monai.pipeline.bids import find_jobs
from midiff_monai.qc.study import read_study

THIN = (slice(None, None, 2), slice(None, None, 2), slice(30, 36))

QUICKLY = ["--together", "--translate-only", "--fast", "--steps", "1", "--workers", "0", "-q"]


@pytest.fixture(scope="module")
def phantoms() -> dict[str, nib.Nifti1Image]:
    """A thin piece of the phantom as PD and T2w, both in one image, and something else."""
    images = {contrast: make_phantom(contrast).image.slicer[THIN] for contrast in ("PD", "T2")}
    images["both"] = nib.concat_images(list(images.values()))
    noise = np.random.default_rng(0).random(images["PD"].shape).astype(np.float32) * (images["PD"].get_fdata() > 0)
    return images | {"other": nib.Nifti1Image(noise, images["PD"].affine)}


def save(folder: Path, phantoms: dict[str, nib.Nifti1Image], files: dict[str, str]) -> Path:
    for name, phantom in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        nib.save(phantoms[phantom], folder / f"{name}.nii.gz")
    return folder


def rows(output: Path) -> dict[str, dict[str, Any]]:
    """The batch report by the name of the first scan."""
    table = pd.read_csv(output / "batch_report.csv", keep_default_na=False)
    return {Path(row["input"]).name: row for row in table.to_dict("records")}


def statuses(output: Path) -> list[str]:
    return [row["status"] for row in rows(output).values()]


def test_a_batch_of_people(phantoms: dict[str, nib.Nifti1Image], tmp_path: Path) -> None:
    """One has two scans, one has scans that do not fit, one a scan with two frames, and one a single scan."""
    files = {"a_PD": "PD", "a_T2": "T2", "b_PD": "PD", "b_T2": "other", "c": "both", "d_T2": "T2"}
    scans, output = save(tmp_path / "in", phantoms, files), tmp_path / "out"
    assert main(["batch", str(scans), "-o", str(output), *QUICKLY]) == 1
    found = rows(output)
    assert statuses(output) == ["done", "failed", "done", "done"]
    assert "b_T2.nii.gz: does not show the head of" in found["b_PD.nii.gz"]["error"]
    assert "No other scan of this person" in found["d_T2.nii.gz"]["warnings"]
    assert "No other scan" not in found["a_PD.nii.gz"]["warnings"] + found["c.nii.gz"]["warnings"]

    shown, unreadable = next(subject for subject in read_study(output) if subject.name == "c").images()
    assert shown is not None and not unreadable
    np.testing.assert_array_equal(shown.source, phantoms["PD"].get_fdata(dtype=np.float32))

    inputs = [scans / "a_PD.nii.gz", scans / "a_T2.nii.gz"]
    (single,) = translate(inputs, tmp_path / "single", together=True, fast=True, steps=1)
    for name in ("a_PD", "c"):
        voxels = np.asarray(nib.Nifti1Image.from_filename(output / f"{name}_synthT1w.nii.gz").dataobj)
        np.testing.assert_allclose(voxels, single.synthetic, atol=1e-6)

    shutil.copy(scans / "a_T2.nii.gz", scans / "b_T2.nii.gz")
    assert main(["batch", str(scans), "-o", str(output), *QUICKLY]) == 0
    assert statuses(output) == ["skipped", "done", "skipped", "skipped"]
    nib.save(phantoms["T2"].slicer[:, :, 1:], scans / "a_T2.nii.gz")
    assert main(["batch", str(scans), "-o", str(output), *QUICKLY]) == 0
    assert statuses(output) == ["done", "skipped", "skipped", "skipped"], "a further scan of the first has changed"


def test_a_bids_data_set_of_people(phantoms: dict[str, nib.Nifti1Image], tmp_path: Path) -> None:
    files = {
        "sub-01/anat/sub-01_PDw": "PD",
        "sub-01/anat/sub-01_T2w": "T2",
        "sub-01/anat/sub-01_T1w": "other",
        "sub-02/ses-a/anat/sub-02_ses-a_T2w": "T2",
        "sub-02/ses-b/anat/sub-02_ses-b_PDT2": "both",
    }
    raw, output = save(tmp_path / "raw", phantoms, files), tmp_path / "out"
    (raw / "dataset_description.json").write_text(json.dumps({"Name": "x", "BIDSVersion": "1.9.0"}))
    command = ["bids", str(raw), str(output), "participant", *QUICKLY, "--suffix", "T2w", "PDw", "PDT2"]
    assert main(command) == 0
    found = {path.relative_to(output).as_posix(): path for path in output.rglob("*_T1w.nii.gz")}
    expected = {
        "sub-01/anat/sub-01_desc-synthetic_T1w.nii.gz": ["sub-01/anat/sub-01_T2w", "sub-01/anat/sub-01_PDw"],
        "sub-02/ses-a/anat/sub-02_ses-a_desc-synthetic_T1w.nii.gz": ["sub-02/ses-a/anat/sub-02_ses-a_T2w"],
        "sub-02/ses-b/anat/sub-02_ses-b_desc-synthetic_T1w.nii.gz": ["sub-02/ses-b/anat/sub-02_ses-b_PDT2"],
    }
    assert found.keys() == expected.keys()
    for name, sources in expected.items():
        sidecar = json.loads((output / name.replace(".nii.gz", ".json")).read_text())
        assert sidecar["Sources"] == [f"bids:raw:{source}.nii.gz" for source in sources]
        assert sidecar["SpatialReference"] == (sidecar["Sources"][0] if len(sources) > 1 else "orig")
    contrasts = {subject.name: subject.scans for subject in read_study(output)}
    assert [len(scans) for _, scans in sorted(contrasts.items())] == [2, 1, 2]
    if VALIDATOR:
        assert validated(output) == []
    assert main(command) == 0
    assert statuses(output) == ["skipped"] * 3


def test_scans_of_one_suffix_in_two_formats_are_refused(
    phantoms: dict[str, nib.Nifti1Image], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = save(tmp_path / "raw", phantoms, {"sub-01/anat/sub-01_PDw": "PD", "sub-01/anat/sub-01_T2w": "T2"})
    nib.save(phantoms["PD"], raw / "sub-01/anat/sub-01_PDw.nii")
    command = ["bids", str(raw), str(tmp_path / "out"), "participant", "--skip-bids-validation", *QUICKLY]
    assert main(command) == 2
    assert "would write the same files" in capsys.readouterr().err


def test_results_of_one_scan_become_those_of_several(phantoms: dict[str, nib.Nifti1Image], tmp_path: Path) -> None:
    """The name without a suffix was that of the only scan. A second scan was added later."""
    raw = save(tmp_path / "raw", phantoms, {"sub-01/anat/sub-01_T2w": "T2"})
    command = ["bids", str(raw), str(tmp_path / "out"), "participant", "--skip-bids-validation"]
    assert main([*command, *QUICKLY]) == 0
    save(raw, phantoms, {"sub-01/anat/sub-01_PDw": "PD"})
    (job,) = find_jobs(raw, tmp_path / "out", together=True)
    assert main([*command, *QUICKLY]) == 0
    manifest = json.loads(job.paths.report.read_text())
    assert [Path(file).name for file in manifest["input"]["files"]] == ["sub-01_PDw.nii.gz", "sub-01_T2w.nii.gz"]
    assert read_volume(job.paths.synthetic).shape == phantoms["PD"].shape


def test_together_has_no_effect_without_translation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a_PD.nii").touch()
    assert main(["batch", str(tmp_path), "-o", str(tmp_path / "out"), "--together", "--no-translate"]) == 2
    assert "--together: has no effect without translation" in capsys.readouterr().err
