"""The published method from training to a translation, as a user would, with a small network on small volumes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from small_published import copy_small
from small_targets import write_targets, write_volume

from midiff_monai.bundle.resources import read_metadata
from midiff_monai.cli.main import main
from midiff_monai.provenance import sha256

SMALL = {"max_epochs": 1, "epoch_length": 2, "volumes_per_batch": 2, "val_steps": 2, "val_interval": 1}


def run(*command: str) -> None:
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the bundle after two training steps."""
    folder = tmp_path_factory.mktemp("trained")
    data, root = write_targets(folder / "data", "T1w"), copy_small(folder / "copy")
    small = [part for name, value in SMALL.items() for part in (f"--{name}", str(value))]
    run("midiff_monai", "train", str(root), "--dataset_dir", f"{data}/*_T1w.nii.gz", *small)
    return root


def test_training_records_its_weights(trained: Path) -> None:
    digest = sha256(trained / "models" / "model.pt")
    assert read_metadata(trained)["weights_sha256"] == digest
    assert read_metadata(trained)["version"].endswith(f"+{digest[:7]}")


def test_the_command_and_monai_give_the_same_result(trained: Path, tmp_path: Path) -> None:
    scan = write_volume(tmp_path / "scans" / "new_PDw.nii.gz", seed=9)
    assert main(["translate", "--bundle", str(trained), str(scan), "-o", str(tmp_path / "out")]) == 0
    configs = trained / "configs"
    arguments = ["--config_file", str(configs / "inference.yaml"), "--bundle_root", str(trained)]
    arguments += ["--dataset_dir", str(tmp_path / "scans"), "--output_dir", str(tmp_path / "monai")]
    run("monai.bundle", "run", *arguments)
    paths = [tmp_path / folder / "new_PDw_synthT1w.nii.gz" for folder in ("out", "monai")]
    by_command, by_monai = (np.asarray(nib.Nifti1Image.from_filename(path).dataobj) for path in paths)
    np.testing.assert_allclose(by_monai, by_command, atol=1e-4)
    filled = np.asarray(nib.Nifti1Image.from_filename(scan).dataobj) != 0
    assert (by_command[~filled] == 0).all() and by_command[filled].std() > 0.01 and by_command.max() <= 1
