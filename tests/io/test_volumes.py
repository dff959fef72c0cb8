from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray
from volume_files import OBLIQUE, assert_reads_as, save

from midiff_monai.errors import InputError
from midiff_monai.io.volumes import (
    check_intensity_range,
    read_volume,
    write_like,
    write_shares,
)


@pytest.fixture
def voxels() -> NDArray[np.int16]:
    return np.random.default_rng(0).integers(-50, 2000, (12, 10, 8)).astype(np.int16)


def reload(path: Path) -> nib.Nifti1Image:
    image = nib.load(path)
    assert isinstance(image, nib.Nifti1Image)
    return image


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.hdr", "a.img", "a.mgz", "a.mgh"])
def test_nibabel_formats_read_alike(tmp_path: Path, voxels: NDArray[np.int16], name: str) -> None:
    image: nib.spatialimages.SpatialImage
    if name.endswith(("mgz", "mgh")):
        image = nib.MGHImage(voxels, OBLIQUE.astype(np.float32))
    else:
        image = (nib.Nifti1Image if ".nii" in name else nib.Nifti1Pair)(voxels, OBLIQUE)
    nib.save(image, tmp_path / name)
    assert_reads_as(tmp_path / name, voxels, OBLIQUE)


def test_nifti2_keeps_its_codes(tmp_path: Path, voxels: NDArray[np.int16]) -> None:
    image = nib.Nifti2Image(voxels, OBLIQUE)
    image.set_sform(OBLIQUE, 4)
    image.set_qform(OBLIQUE, 1)
    nib.save(image, tmp_path / "a.nii")
    assert_reads_as(tmp_path / "a.nii", voxels, OBLIQUE)
    header = read_volume(tmp_path / "a.nii").header
    assert (int(header["sform_code"]), int(header["qform_code"])) == (4, 1)


@pytest.mark.parametrize("frames", [(1,), (1, 1)])
def test_single_frame_is_squeezed_and_the_header_kept(
    tmp_path: Path, voxels: NDArray[np.int16], frames: tuple[int, ...]
) -> None:
    image = nib.Nifti1Image(voxels.reshape(voxels.shape + frames), OBLIQUE)
    image.set_sform(OBLIQUE, 3)
    image.header["descrip"] = b"acquired"
    nib.save(image, tmp_path / "a.nii.gz")
    assert_reads_as(tmp_path / "a.nii.gz", voxels, OBLIQUE)
    header = read_volume(tmp_path / "a.nii.gz").header
    assert header["descrip"] == b"acquired" and header["sform_code"] == 3 and header.get_data_shape() == voxels.shape


@pytest.mark.parametrize("frames", [(), (1,), (1, 1)])
def test_written_volume_has_three_axes(tmp_path: Path, voxels: NDArray[np.int16], frames: tuple[int, ...]) -> None:
    nib.save(nib.Nifti1Image(voxels.reshape(voxels.shape + frames), OBLIQUE), tmp_path / "in.nii.gz")
    write_like(voxels + 1, read_volume(tmp_path / "in.nii.gz"), tmp_path / "out.nii.gz", np.int16)
    written = reload(tmp_path / "out.nii.gz")
    assert written.shape == voxels.shape
    np.testing.assert_array_equal(written.get_fdata(), voxels + 1)
    np.testing.assert_allclose(written.affine, OBLIQUE, atol=1e-5)


def test_scale_factors_are_applied(tmp_path: Path, voxels: NDArray[np.int16]) -> None:
    image = nib.Nifti1Image(voxels, OBLIQUE)
    image.header.set_slope_inter(0.5, 10)
    nib.save(image, tmp_path / "a.nii")
    stored = np.frombuffer((tmp_path / "a.nii").read_bytes()[352:], np.int16).reshape(voxels.shape, order="F")
    assert_reads_as(tmp_path / "a.nii", stored * 0.5 + 10, OBLIQUE)


def test_volume_outlives_its_file(tmp_path: Path, voxels: NDArray[np.int16]) -> None:
    path = save(tmp_path / "a.nii", voxels.astype(np.float32))
    image = read_volume(path)
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    np.testing.assert_array_equal(image.get_fdata(), voxels)


def assert_same_space(written: nib.Nifti1Image, original: nib.Nifti1Image) -> None:
    np.testing.assert_array_equal(written.affine, original.affine)
    for get in ("get_sform", "get_qform"):
        (matrix, code), (expected, expected_code) = (getattr(image, get)(coded=True) for image in (written, original))
        assert code == expected_code
        if code:
            np.testing.assert_array_equal(matrix, expected)
    assert written.header.get_xyzt_units() == original.header.get_xyzt_units()
    np.testing.assert_array_equal(written.header.get_zooms(), original.header.get_zooms()[:3])


@pytest.mark.parametrize(("sform_code", "qform_code"), [(0, 0), (0, 1), (2, 0), (4, 1)])
@pytest.mark.parametrize("units", ["unknown", "mm"])
def test_written_volume_has_the_space_of_the_reference(
    tmp_path: Path, voxels: NDArray[np.int16], sform_code: int, qform_code: int, units: str
) -> None:
    image = nib.Nifti1Image(voxels, None)
    image.header.set_zooms((0.9, 1.1, 3.0))
    image.set_qform(OBLIQUE if qform_code else None, qform_code)
    image.set_sform(OBLIQUE if sform_code else None, sform_code)
    image.header.set_xyzt_units(units)
    nib.save(image, tmp_path / "in.nii.gz")

    labels = (voxels > 500).astype(np.int64) * 60
    write_like(labels, read_volume(tmp_path / "in.nii.gz"), tmp_path / "out.nii.gz", np.int16)
    written = reload(tmp_path / "out.nii.gz")
    assert_same_space(written, reload(tmp_path / "in.nii.gz"))
    assert written.get_data_dtype() == np.int16
    np.testing.assert_array_equal(np.asarray(written.dataobj), labels)


def test_written_header_is_fresh(tmp_path: Path, voxels: NDArray[np.int16]) -> None:
    image = nib.Nifti1Image(voxels, OBLIQUE)
    image.header.set_slope_inter(0.25, 3)
    image.header["cal_max"], image.header["descrip"] = 1000, b"acquired"
    nib.save(image, tmp_path / "in.nii")
    write_like(voxels, read_volume(tmp_path / "in.nii"), tmp_path / "out.nii", np.int16)
    written = reload(tmp_path / "out.nii")
    scaling = np.frombuffer((tmp_path / "out.nii").read_bytes(), np.float32, count=2, offset=112)  # nibabel hides it
    assert np.isnan(scaling).all() or tuple(scaling) == (1, 0)
    assert written.header["cal_max"] == 0 and written.header["descrip"] == b""
    np.testing.assert_array_equal(np.asarray(written.dataobj), voxels)


def test_floats_are_written_unscaled(tmp_path: Path, voxels: NDArray[np.int16]) -> None:
    reference = read_volume(save(tmp_path / "in.nii", voxels))
    data = np.random.default_rng(1).normal(size=voxels.shape)
    write_like(data, reference, tmp_path / "out.nii.gz", np.float32)
    np.testing.assert_array_equal(np.asarray(reload(tmp_path / "out.nii.gz").dataobj), data.astype(np.float32))


@pytest.mark.parametrize("value", [70_000, -40_000, 0.5])
def test_inexact_integers_are_refused(tmp_path: Path, voxels: NDArray[np.int16], value: float) -> None:
    reference = read_volume(save(tmp_path / "in.nii", voxels))
    with pytest.raises(ValueError, match="int16 cannot hold"):
        write_like(np.full(voxels.shape, value), reference, tmp_path / "out.nii", np.int16)


def test_other_shape_is_refused(tmp_path: Path, voxels: NDArray[np.int16]) -> None:
    reference = read_volume(save(tmp_path / "in.nii", voxels))
    with pytest.raises(ValueError, match="not on the grid"):
        write_like(voxels[1:], reference, tmp_path / "out.nii", np.int16)


@pytest.mark.parametrize(
    ("name", "orientation"),
    [
        ("multicontrast/301D00252_PD.nii.gz", "LPS"),  # 4-D with one frame, units unknown
        ("open-ms/mni-patient07_T2.nii.gz", "LAS"),  # qform only
        ("open-ms/raw-patient01_FLAIR.nii.gz", "LPS"),
        ("ixi-t1/IXI132-HH-1415_T1.nii.gz", "PSR"),
    ],
)
def test_real_volume_comes_back_in_its_own_space(
    shared_data: Path, tmp_path: Path, name: str, orientation: str
) -> None:
    original, volume = reload(shared_data / name), read_volume(shared_data / name)
    assert "".join(nib.aff2axcodes(volume.affine)) == orientation
    in_file = original.get_fdata(dtype=np.float32).reshape(original.shape[:3])
    np.testing.assert_array_equal(np.asarray(volume.dataobj), in_file)
    write_like(np.asarray(volume.dataobj), volume, tmp_path / "out.nii.gz", np.float32)
    assert_same_space(reload(tmp_path / "out.nii.gz"), original)

    seen_by_itk = [sitk.ReadImage(str(path)) for path in (tmp_path / "out.nii.gz", shared_data / name)]
    written, expected = (image if image.GetDimension() == 3 else image[..., 0] for image in seen_by_itk)
    assert written.GetSize() == expected.GetSize()
    np.testing.assert_array_equal(written.GetDirection(), expected.GetDirection())
    np.testing.assert_array_equal(written.GetOrigin(), expected.GetOrigin())


def test_shares_are_stored_as_scaled_bytes(tmp_path: Path, voxels: NDArray[np.int16]) -> None:
    reference = read_volume(save(tmp_path / "in.nii.gz", voxels))
    shares = np.random.default_rng(0).random(voxels.shape)
    shares[0, 0, :2] = 0, 1
    write_shares(shares, reference, tmp_path / "out.nii.gz")
    image = reload(tmp_path / "out.nii.gz")
    assert image.get_data_dtype() == np.uint8
    np.testing.assert_allclose(image.get_fdata(), shares, atol=0.5 / 255 + 1e-6)
    np.testing.assert_allclose(image.get_fdata()[0, 0, :2], [0, 1], atol=1e-6)
    np.testing.assert_allclose(image.affine, reference.affine, atol=1e-4)


def test_negative_magnitudes_are_refused() -> None:
    data = np.zeros((4, 5, 6), np.float32)
    data[0], data[1, 0] = 1, -1
    image = nib.Nifti1Image(data, np.eye(4))
    with pytest.raises(InputError, match="a.nii: has 17% of its voxels below 0"):
        check_intensity_range(image, "a.nii", "MR")
    check_intensity_range(image, "a.nii", "CT")


def test_ripples_below_0_are_no_negative_magnitudes() -> None:
    """Their number does not count, but their size."""
    data = np.full((4, 5, 6), -0.5, np.float32)
    data[0] = 100
    check_intensity_range(nib.Nifti1Image(data, np.eye(4)), "a.nii", "MR")


def test_a_brain_with_a_mean_of_0_is_refused_with_the_step_before_as_hint() -> None:
    data = np.zeros((10, 10, 10), np.float32)
    data[2:8] = np.random.default_rng(0).normal(size=(6, 10, 10))
    with pytest.raises(InputError, match="below 0.* mean of 0, use the volume before that step"):
        check_intensity_range(nib.Nifti1Image(data, np.eye(4)), "a.nii", "MR")


@pytest.mark.parametrize("air", [-1000.0, 0.0], ids=["head", "stripped"])
def test_ct_must_be_in_hounsfield_units(air: float) -> None:
    """Half is air, a tenth is bone. Scanners store CT unsigned, and some converters forget to subtract the offset."""
    data = np.full((10, 10, 10), air, np.float32)
    data[5:], data[9] = 35, 900 if air else 35
    check_intensity_range(nib.Nifti1Image(data, np.eye(4)), "a.nii", "CT")
    with pytest.raises(InputError, match="% of its voxels above 700 HU, .* 1024"):
        check_intensity_range(nib.Nifti1Image(data + 1024, np.eye(4)), "a.nii", "CT")
