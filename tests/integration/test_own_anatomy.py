"""A prior of anatomy that is no brain, from init to a translation: the CT of phantoms of a pelvis."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigParser
from pelvis_phantom import Part, make_pelvis
from scipy.ndimage import binary_erosion

from midiff_monai.bundle.bundle import open_bundle
from midiff_monai.bundle.resources import read_metadata
from midiff_monai.cli.main import main

SMALL = {"max_epochs": 1, "epoch_length": 2, "volumes_per_batch": 1, "slices_per_volume": 1, "val_steps": 1}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle for CT after two steps on three people, with voxels of 6 mm."""
    folder = tmp_path_factory.mktemp("trained")
    for person in range(3):
        nib.save(make_pelvis(person).ct, folder / f"person-{person}_CT.nii.gz")
    command = ["init", str(folder / "ct"), "--target", "CT", "--data", f"{folder}/*_CT.nii.gz"]
    assert main([*command, "--anatomy", "any", "--window", "-1000", "1500", "--spacing", "6"]) == 0
    small = [part for name, value in SMALL.items() for part in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "midiff_monai", "train", str(folder / "ct"), *small, "--val_interval", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return folder / "ct"


def test_a_t2w_of_a_pelvis_becomes_a_ct_in_hounsfield_units(trained: Path, tmp_path: Path) -> None:
    pelvis = make_pelvis(7)
    nib.save(pelvis.t2, tmp_path / "person-7_T2w.nii.gz")
    assert (
        main(["translate", "--bundle", str(trained), str(tmp_path / "person-7_T2w.nii.gz"), "-o", str(tmp_path)]) == 0
    )
    made = nib.Nifti1Image.from_filename(tmp_path / "person-7_T2w_synthCT.nii.gz")
    np.testing.assert_allclose(made.affine, pelvis.t2.affine)
    voxels, air = np.asarray(made.dataobj), np.asarray(pelvis.parts.dataobj) == Part.AIR
    assert made.shape == pelvis.t2.shape and voxels.min() == -1000 and -500 < voxels.max() <= 1500
    assert np.median(voxels[binary_erosion(air)]) == -1000
    assert np.ptp(voxels[~air]) > 100


def test_left_and_right_are_not_taken_for_alike(trained: Path) -> None:
    """In training nothing is mirrored, and results are not averaged with those of the mirror image."""
    config = ConfigParser.load_config_file(trained / "configs" / "train.yaml")
    assert open_bundle(trained).setting("mirror") is False and config["mirror"] is False
    assert read_metadata(trained)["anatomy"] == "any"
