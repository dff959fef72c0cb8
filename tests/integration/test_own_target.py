"""A prior for another target modality, from init to a translation, as a user would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from small_targets import write_targets, write_volume

from midiff_monai.bundle.resources import read_metadata
from midiff_monai.cli.main import main
from midiff_monai.provenance import sha256

SMALL = {"max_epochs": 1, "epoch_length": 2, "volumes_per_batch": 1, "slices_per_volume": 1, "val_steps": 1}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle for FLAIR after two training steps."""
    folder = tmp_path_factory.mktemp("trained")
    data = write_targets(folder / "data")
    command = ["init", str(folder / "flair"), "--target", "FLAIR", "--data", f"{data}/*_FLAIR.nii.gz"]
    assert main([*command, "--spacing", "4"]) == 0
    small = [part for name, value in SMALL.items() for part in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "midiff_monai", "train", "flair", *small, "--val_interval", "1"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return folder / "flair"


def test_training_records_its_weights(trained: Path) -> None:
    metadata, digest = read_metadata(trained), sha256(trained / "models" / "model.pt")
    assert metadata["weights_sha256"] == digest and metadata["version"] == f"0.1.0+{digest[:7]}"
    assert metadata["target"] == "FLAIR"


def test_a_scan_is_translated_to_the_target(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scan = write_volume(tmp_path / "new_T1w.nii.gz", seed=9, scale=300.0)
    assert main(["translate", "--bundle", str(trained), str(scan), "-o", str(tmp_path / "out")]) == 0
    synthetic = tmp_path / "out" / "new_T1w_synthFLAIR.nii.gz"
    assert capsys.readouterr().out == f"{synthetic}\n"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        f"new_T1w_{end}" for end in ("synthFLAIR.nii.gz", "qc.png", "report.json")
    }
    source, made = nib.load(scan), nib.load(synthetic)
    np.testing.assert_allclose(made.affine, source.affine)
    voxels, filled = np.asarray(made.dataobj), np.asarray(source.dataobj) != 0
    assert voxels.shape == filled.shape and np.isfinite(voxels).all()
    assert (voxels[~filled] == 0).all() and voxels.max() <= 1 and voxels[filled].std() > 0.01
    report = json.loads((tmp_path / "out" / "new_T1w_report.json").read_text())
    assert report["weights"] == {"flair": read_metadata(trained)["weights_sha256"]}


def test_monai_runs_the_bundle_with_the_same_result(trained: Path, tmp_path: Path) -> None:
    write_volume(tmp_path / "scans" / "new_T1w.nii.gz", seed=9)
    command = [sys.executable, "-m", "monai.bundle", "run"]
    command += ["--config_file", str(trained / "configs" / "inference.yaml"), "--bundle_root", str(trained)]
    command += ["--dataset_dir", str(tmp_path / "scans")]
    done = subprocess.run(
        [*command, "--output_dir", str(tmp_path / "monai")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert main(["translate", "--bundle", str(trained), str(tmp_path / "scans"), "-o", str(tmp_path / "out")]) == 0
    paths = (tmp_path / folder / "new_T1w_synthFLAIR.nii.gz" for folder in ("monai", "out"))
    by_monai, by_command = (np.asarray(nib.load(path).dataobj) for path in paths)
    np.testing.assert_allclose(by_monai, by_command, atol=1e-4)


def test_a_batch_is_translated_and_not_repeated(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scan = write_volume(tmp_path / "in" / "new_T1w.nii.gz", seed=9)
    command = ["batch", "--bundle", str(trained), "--translate-only", str(tmp_path / "in"), "-o", str(tmp_path / "out")]
    for status in ("done", "skipped"):
        assert main(command) == 0
        assert f"{status}\t{scan}" in capsys.readouterr().out
    assert (tmp_path / "out" / "new_T1w_synthFLAIR.nii.gz").is_file()


def test_bids_names_carry_the_target(trained: Path, tmp_path: Path) -> None:
    write_volume(tmp_path / "raw" / "sub-1" / "anat" / "sub-1_T2w.nii.gz", seed=9)
    (tmp_path / "raw" / "dataset_description.json").write_text(json.dumps({"Name": "x", "BIDSVersion": "1.9.0"}))
    command = ["bids", str(tmp_path / "raw"), str(tmp_path / "out"), "participant", "--translate-only"]
    assert main([*command, "--bundle", str(trained)]) == 0
    sidecar = json.loads((tmp_path / "out" / "sub-1" / "anat" / "sub-1_desc-synthetic_FLAIR.json").read_text())
    assert sidecar["Description"].startswith("FLAIR contrast")


@pytest.mark.parametrize("command", ["segment", "batch"])
def test_its_volumes_are_not_segmented_as_t1w(
    command: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scan = write_volume(tmp_path / "new_T1w.nii.gz")
    assert main([command, "--bundle", str(trained), str(scan), "-o", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "makes FLAIR, but t1_brain_segmentation segments T1w" in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_info_describes_it(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--json", "--bundle", str(trained)]) == 0
    facts = json.loads(capsys.readouterr().out)["bundles"][str(trained)]
    assert facts["target"] == "FLAIR" and facts["anatomy"] == "brain" and facts["intact"]
