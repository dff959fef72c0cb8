"""Images in memory give the results of the same images in files."""

from __future__ import annotations

import io
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from midiff_monai import ImageResult, segment, segment_image, translate_image
from midiff_monai.errors import InputError
from midiff_monai.evaluation.phantom import make_phantom
from midiff_monai.pipeline import models
from midiff_monai.provenance import sha256


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scans") / "thin_PDw.nii.gz"
    nib.save(make_phantom("PD").image.slicer[::2, ::2, 30:36], path)
    return path


@pytest.fixture(scope="module")
def result(scan: Path) -> ImageResult:
    return segment_image(nib.load(scan), steps=1, samples=2)  # type: ignore[arg-type]


def test_the_results_are_those_of_the_file(scan: Path, result: ImageResult, tmp_path: Path) -> None:
    (expected,) = segment(scan, tmp_path, steps=1, samples=2)
    for role in ("synthetic", "synthetic_std", "segmentation"):
        image, stored = getattr(result, role), nib.Nifti1Image.from_filename(getattr(expected.paths, role))
        np.testing.assert_array_equal(image.dataobj, stored.dataobj)
        np.testing.assert_array_equal(image.affine, stored.affine)
        for field in ("sform_code", "qform_code", "xyzt_units", "pixdim", "datatype"):
            np.testing.assert_array_equal(image.header[field], stored.header[field])
    written = pd.read_csv(expected.paths.volumes, dtype={"id": "Int64", "count": "Int64"})
    pd.testing.assert_frame_equal(result.volumes, written, atol=1e-4)  # type: ignore[arg-type]
    assert result.warnings == expected.report.warnings
    assert [flag._asdict() for flag in result.flags] == expected.report.flags
    for entry in ("command", "settings", "weights", "configurations", "environment"):
        assert result.manifest[entry] == expected.report.to_dict()[entry]


def test_the_picture_is_that_of_the_file(result: ImageResult, tmp_path: Path) -> None:
    picture = np.asarray(Image.open(io.BytesIO(result.picture)))
    result.computation.draw(tmp_path / "a.png", "thin_PDw.nii.gz")
    np.testing.assert_array_equal(picture, np.asarray(Image.open(tmp_path / "a.png")))


def test_a_notebook_shows_warnings_picture_and_volumes(result: ImageResult) -> None:
    page = result._repr_html_()
    assert "data:image/png;base64,iVBOR" in page and "Left-Hippocampus" in page
    assert result.warnings and all(f"<li>{warning}</li>" in page for warning in result.warnings)
    shape = " x ".join(map(str, result.source.shape))
    assert repr(result).startswith(f"<thin_PDw.nii.gz, {shape}: synthetic T1w, segmentation of ")


def test_a_name_cannot_add_tags_to_the_page(result: ImageResult) -> None:
    assert "<script>" not in ImageResult(result.computation, "<script>.nii")._repr_html_()


def test_an_array_is_translated_as_its_image_is(scan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second call uses the models of the first, and gives the same voxels."""
    models.kept_models.cache_clear()
    image = nib.Nifti1Image.from_filename(scan)
    first = translate_image(image, keep_models=True, steps=1)
    monkeypatch.setattr(models, "open_bundle", None)
    second = translate_image(np.asarray(image.dataobj), image.affine, keep_models=True, steps=1)
    assert first.synthetic is not None and second.synthetic is not None
    np.testing.assert_array_equal(first.synthetic.dataobj, second.synthetic.dataobj)
    assert second.segmentation is None and second.volumes is None
    assert "Volumes" not in second._repr_html_()


def test_a_t1w_is_segmented_as_it_is_and_nothing_is_written(
    scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sha256(scan)
    direct = segment_image(nib.load(scan), translated=False, fast=True)  # type: ignore[arg-type]
    assert direct.synthetic is None and direct.segmentation is not None
    assert direct.manifest["input"] == {} and direct.manifest["outputs"] == {}
    assert sha256(scan) == before and not list(tmp_path.iterdir()) and len(list(scan.parent.iterdir())) == 1


def test_what_cannot_be_used_is_named(scan: Path) -> None:
    image = nib.Nifti1Image.from_filename(scan)
    with pytest.raises(InputError, match="--steps: is 0"):
        segment_image(image, steps=0)
    voxels = np.asarray(image.dataobj)
    standardized = np.where(voxels > 0, voxels - voxels[voxels > 0].mean(), 0)  # as many pipelines normalise it
    with pytest.raises(InputError, match="image: has .* of its voxels below 0"):
        segment_image(standardized, image.affine)
