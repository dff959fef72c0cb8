"""Inputs of bundle runs, against MONAI's own reader and with files that cannot be read."""

from __future__ import annotations

import logging
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.transforms import LoadImaged

from midiff_monai.bundle.loading import InputVolumes, LoadVolumed
from midiff_monai.errors import InputError

AFFINE = np.array([[0, -0.9, 0, 40], [0.9, 0, 0, -50], [0, 0, 3, -20], [0, 0, 0, 1]])


def volume(path: Path) -> Path:
    nib.save(nib.Nifti1Image(np.random.default_rng(0).random((6, 7, 8), dtype=np.float32), AFFINE), path)
    return path


def entries(folder: Path) -> list[dict[str, str]]:
    return [{"image": str(path)} for path in sorted(folder.glob("*.nii.gz"))]


def test_a_volume_is_loaded_as_by_monai(tmp_path: Path) -> None:
    path = str(volume(tmp_path / "a.nii.gz"))
    found = LoadVolumed("image")({"image": path})["image"]
    expected = LoadImaged("image", image_only=True, ensure_channel_first=True)({"image": path})["image"]
    assert found.shape == expected.shape and found.dtype == expected.dtype
    np.testing.assert_array_equal(found.numpy(), expected.numpy())
    np.testing.assert_allclose(found.affine, expected.affine)
    for name in ("original_affine", "spatial_shape"):
        np.testing.assert_allclose(found.meta[name], expected.meta[name])
    assert found.meta["filename_or_obj"] == expected.meta["filename_or_obj"]


def test_a_contradictory_header_is_read_as_by_the_command(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    image = nib.Nifti1Image(np.random.default_rng(0).random((6, 7, 8), dtype=np.float32), np.diag([1.0, 1, 3, 1]))
    image.header.set_qform(image.affine, code=1)
    image.header.set_sform(np.diag([1.15, 1.1, 3.6, 1]), code=4)
    image = nib.Nifti1Image(image.dataobj, None, image.header)
    image.header["pixdim"][1:4] = 1, 1, 3
    nib.save(image, tmp_path / "a.nii.gz")
    with caplog.at_level(logging.WARNING):
        found = LoadVolumed("image")({"image": tmp_path / "a.nii.gz"})["image"]
    np.testing.assert_allclose(found.pixdim, [1, 1, 3], rtol=1e-5)
    assert "disagree" in caplog.text


def test_unreadable_volumes_are_left_out_and_reported_at_the_end(tmp_path: Path) -> None:
    volume(tmp_path / "a.nii.gz")
    (tmp_path / "b.nii.gz").write_bytes((tmp_path / "a.nii.gz").read_bytes()[:300])
    volume(tmp_path / "c.nii.gz")
    volumes = InputVolumes(entries(tmp_path), tmp_path)
    volumes.check()
    assert [Path(entry["image"]).name for entry in volumes.readable] == ["a.nii.gz", "c.nii.gz"]
    with pytest.raises(InputError, match="cannot be read: b.nii.gz"):
        volumes.report()


def test_a_run_of_readable_volumes_reports_nothing(tmp_path: Path) -> None:
    volume(tmp_path / "a.nii.gz")
    volumes = InputVolumes(entries(tmp_path), tmp_path)
    volumes.check()
    volumes.report()


def test_a_run_without_volumes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        InputVolumes([], tmp_path / "mistyped").check()
    with pytest.raises(InputError, match="holds no volume"):
        InputVolumes([], tmp_path).check()
    (tmp_path / "a.nii.gz").write_bytes(b"")
    with pytest.raises(InputError, match="is empty"):
        InputVolumes(entries(tmp_path), tmp_path).check()
