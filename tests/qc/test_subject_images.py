"""The images of a subject that the page of a study shows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from small_study import draw_nothing, only

from midiff_monai.io.dicom.reader import read_series
from midiff_monai.io.inputs import find_jobs
from midiff_monai.io.manifest import RunReport
from midiff_monai.io.outputs import output_paths
from midiff_monai.io.volumes import read_volume
from midiff_monai.pipeline.result import Result


def test_images_of_a_contradictory_header_are_on_one_grid(tmp_path: Path) -> None:
    """The sform is scaled, and the qform is used. The results have both."""
    scanner = np.array([[-2, 0, 0, 9], [0, 2, 0, -9], [0, 0, 3, 5], [0, 0, 0, 1.0]])
    image = nib.Nifti1Image(np.random.default_rng(0).random((6, 7, 8), dtype=np.float32), scanner)
    image.set_qform(scanner, 1)
    image.set_sform(np.diag([1.2, 1.2, 1.2, 1]) @ scanner, 4)
    image.header["pixdim"][1:4] = 2, 2, 3
    nib.save(image, tmp_path / "scan.nii")
    source = read_volume(tmp_path / "scan.nii")
    report = RunReport("segment", tmp_path / "scan.nii", {"seed": 0})
    segmentation = np.full(source.shape, 3, np.int16)
    (tmp_path / "out").mkdir()
    paths = output_paths("scan.nii", tmp_path / "out")
    Result(source, report, image.get_fdata(), None, segmentation, paths=paths, render=draw_nothing).write()
    subject = only(tmp_path / "out")
    np.testing.assert_allclose(subject._read("segmentation", []).affine, scanner, atol=1e-4)  # type: ignore[union-attr]
    np.testing.assert_allclose(subject.images()[0].affine, scanner, atol=1e-4)  # type: ignore[union-attr]
    assert subject.volumes()[0][3] == pytest.approx(6 * 7 * 8 * 12 / 1000)


def test_a_dicom_series_can_be_shown(write_dicom: Callable[..., list[Path]], tmp_path: Path) -> None:
    voxels = np.random.default_rng(0).integers(1, 900, (8, 6, 4))
    write_dicom(tmp_path / "in", voxels, np.diag([1, 1, 3, 1]))
    (job,) = find_jobs([tmp_path / "in"], tmp_path / "out")
    assert job.series is not None
    source = read_series(job.series)
    report = RunReport("segment", job.source, {}, files=job.files)
    Result(source, report, np.zeros(source.shape), paths=job.paths).write()
    images, _ = only(tmp_path / "out").images()
    assert images is not None and images.source is not None
    np.testing.assert_array_equal(images.source, np.asarray(source.dataobj))


def test_a_volume_in_two_files_is_shown_until_its_voxels_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    voxels = np.random.default_rng(0).random((6, 7, 8), dtype=np.float32)
    nib.save(nib.Nifti1Pair(voxels, np.eye(4)), tmp_path / "x.hdr")
    (job,) = find_jobs([tmp_path / "x.hdr"], tmp_path / "out")
    report = RunReport("segment", job.source, {}, files=job.files)
    Result(read_volume(job.source), report, voxels, paths=job.paths, render=draw_nothing).write()
    images, _ = only(tmp_path / "out").images()
    assert images is not None and images.source is not None
    np.testing.assert_array_equal(images.source, voxels)
    nib.save(nib.Nifti1Pair(voxels[::-1], np.eye(4)), tmp_path / "x.hdr")
    images, _ = only(tmp_path / "out").images()
    assert images is not None and images.source is None
