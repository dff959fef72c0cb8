from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import DTypeLike, NDArray
from scipy.spatial.transform import Rotation

from midiff_monai.errors import InputError
from midiff_monai.volumes import read_volume, write_like

OBLIQUE = nib.affines.from_matvec(
    Rotation.from_euler("xyz", [10, -7, 15], degrees=True).as_matrix() @ np.diag([-0.9, 1.1, 3.0]), [40, -50, -20]
)


@pytest.fixture
def voxels() -> NDArray[np.int16]:
    return np.random.default_rng(0).integers(-50, 2000, (12, 10, 8)).astype(np.int16)


def save(path: Path, data: NDArray, affine: NDArray[np.float64] = OBLIQUE) -> Path:
    nib.save(nib.Nifti1Image(data, affine, dtype=data.dtype), path)
    return path


def reload(path: Path) -> nib.Nifti1Image:
    image = nib.load(path)
    assert isinstance(image, nib.Nifti1Image)
    return image


def assert_reads_as(path: Path, data: NDArray, affine: NDArray[np.float64]) -> None:
    image = read_volume(path)
    assert type(image) is nib.Nifti1Image and image.shape == data.shape
    assert image.get_data_dtype() == np.float32 and image.get_fdata(dtype=np.float32).dtype == np.float32
    np.testing.assert_array_equal(image.get_fdata(), data)
    np.testing.assert_allclose(image.affine, affine, atol=1e-4)


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


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha", "a.mhd"])
def test_itk_formats_read_as_their_nifti_twin(tmp_path: Path, voxels: NDArray[np.int16], name: str) -> None:
    """ITK converts the NIfTI it reads to LPS itself, hence independently of the conversion back."""
    twin = save(tmp_path / "twin.nii", voxels)
    sitk.WriteImage(sitk.ReadImage(str(twin)), str(tmp_path / name))
    assert_reads_as(tmp_path / name, voxels, OBLIQUE)
    assert read_volume(tmp_path / name).header.get_xyzt_units()[0] == "mm"


def test_itk_single_frame_is_squeezed(tmp_path: Path, voxels: NDArray[np.int16]) -> None:
    sitk.WriteImage(sitk.JoinSeries(sitk.ReadImage(str(save(tmp_path / "a.nii", voxels)))), str(tmp_path / "a.nrrd"))
    assert sitk.ReadImage(str(tmp_path / "a.nrrd")).GetDimension() == 4
    assert_reads_as(tmp_path / "a.nrrd", voxels, OBLIQUE)


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


def missing(path: Path) -> Path:
    return path / "no.nii.gz"


def folder(path: Path) -> Path:
    return path


def empty(path: Path) -> Path:
    (path / "a.nii.gz").touch()
    return path / "a.nii.gz"


def cut(name: str, part: float = 0.6) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        twin = save(folder / "twin.nii.gz", np.random.default_rng(0).integers(0, 255, (9, 9, 9)).astype(np.uint8))
        if ".nii" in name:
            nib.save(nib.load(twin), folder / name)
        else:
            sitk.WriteImage(sitk.ReadImage(str(twin)), str(folder / name))
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(part * len(content))])
        return folder / name

    return make


def flipped_byte(folder: Path) -> Path:
    path = save(folder / "a.nii.gz", np.random.default_rng(0).normal(size=(9, 9, 9)).astype(np.float32))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    return path


def wrong_checksum(folder: Path) -> Path:
    path = save(folder / "a.nii.gz", np.random.default_rng(0).normal(size=(9, 9, 9)).astype(np.float32))
    content = bytearray(path.read_bytes())
    content[-8] ^= 0xFF
    path.write_bytes(content)
    np.testing.assert_array_less(0, np.abs(reload(path).get_fdata()).max())  # nibabel alone sees no fault
    return path


def text(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(gzip.compress(b"no image" * 99) if name.endswith("gz") else b"no image" * 99)
        return folder / name

    return make


def renamed(before: str, after: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        return save(folder / before, np.arange(60, dtype=np.int16).reshape(3, 4, 5)).rename(folder / after)

    return make


def surface(folder: Path) -> Path:
    nib.save(nib.gifti.GiftiImage(), folder / "a.gii")
    return folder / "a.gii"


def of_shape(*shape: int, dtype: DTypeLike = np.int16) -> Callable[[Path], Path]:
    return lambda folder: save(folder / "a.nii", np.arange(np.prod(shape)).reshape(shape).astype(dtype))


def filled(value: float, size: int | None = None) -> Callable[[Path], Path]:
    """A volume whose first `size` voxels, or all, hold a value."""

    def make(folder: Path) -> Path:
        data = np.arange(60, dtype=np.float32)
        data[:size] = value
        return save(folder / "a.nii", data.reshape(3, 4, 5))

    return make


def placed(affine: NDArray[np.float64]) -> Callable[[Path], Path]:
    return lambda folder: save(folder / "a.nii", np.arange(60, dtype=np.int16).reshape(3, 4, 5), affine)


def singular(folder: Path) -> Path:
    path = save(folder / "a.nii", np.arange(60, dtype=np.int16).reshape(3, 4, 5))
    content = bytearray(path.read_bytes())
    content[280:296] = content[296:312]  # nibabel writes no such affine: srow_x becomes srow_y
    path.write_bytes(content)
    return path


def colours(folder: Path) -> Path:
    return save(folder / "a.nii", np.zeros((3, 4, 5), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")]))


def itk_vector(folder: Path) -> Path:
    sitk.WriteImage(sitk.Image([4, 4, 4], sitk.sitkVectorUInt8, 3), str(folder / "a.nrrd"))
    return folder / "a.nrrd"


def itk_slice(folder: Path) -> Path:
    sitk.WriteImage(sitk.Image([4, 4], sitk.sitkUInt8), str(folder / "a.mha"))
    return folder / "a.mha"


def lost_image_of_pair(folder: Path) -> Path:
    nib.save(nib.Nifti1Pair(np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.eye(4)), folder / "a.img")
    (folder / "a.img").unlink()
    return folder / "a.hdr"


SHEARED = nib.affines.from_matvec([[1, 0.2, 0], [0, 1, 0], [0, 0, 1]])


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        pytest.param(missing, "does not exist", id="missing"),
        pytest.param(folder, "is a folder", id="folder"),
        pytest.param(empty, "is empty", id="empty"),
        pytest.param(cut("a.nii"), "cannot be read to its end", id="cut nii"),
        pytest.param(cut("a.nii", 0.1), "cannot be read as an image", id="cut nii header"),
        pytest.param(cut("a.nii.gz"), "is truncated", id="cut nii.gz"),
        pytest.param(cut("a.nrrd"), "is truncated or cannot be read", id="cut nrrd"),
        pytest.param(cut("a.mha"), "is truncated or cannot be read", id="cut mha"),
        pytest.param(flipped_byte, "is corrupt", id="flipped byte"),
        pytest.param(wrong_checksum, "is corrupt", id="wrong checksum"),
        pytest.param(text("a.nii"), "cannot be read as an image", id="text nii"),
        pytest.param(text("a.nii.gz"), "cannot be read as an image", id="text nii.gz"),
        pytest.param(text("a.mgz"), "cannot be read as an image", id="text mgz"),
        pytest.param(text("a.mha"), "cannot be read as an image", id="text mha"),
        pytest.param(text("a.docx"), "cannot be read as an image", id="docx"),
        pytest.param(renamed("a.nii", "a.nii.gz"), "is not compressed", id="gz by name only"),
        pytest.param(renamed("a.nii.gz", "b.nii"), "is compressed but not named .gz", id="gz by content only"),
        pytest.param(lost_image_of_pair, "cannot be read to its end", id="header without image"),
        pytest.param(surface, "holds no volume", id="surface"),
        pytest.param(of_shape(3, 4, 5, 6), r"holds 6 frames \(shape 3 x 4 x 5 x 6\)", id="4-D"),
        pytest.param(of_shape(3, 4, 5, 1, 3), "holds 3 frames", id="vectors"),
        pytest.param(of_shape(3, 4), "holds a single slice", id="2-D"),
        pytest.param(of_shape(3, 1, 4), "holds a single slice", id="singleton axis"),
        pytest.param(of_shape(3, 4, 5, dtype=np.complex64), "holds complex numbers", id="complex"),
        pytest.param(colours, "holds colours", id="RGB"),
        pytest.param(itk_vector, "has several values a voxel", id="ITK vectors"),
        pytest.param(itk_slice, "holds a single slice", id="ITK 2-D"),
        pytest.param(filled(0), "is constant: every voxel is 0", id="zeros"),
        pytest.param(filled(7), "is constant: every voxel is 7", id="constant"),
        pytest.param(filled(np.nan, 4), "has 4 voxels that are NaN or infinite", id="NaN"),
        pytest.param(filled(-np.inf, 1), "has 1 voxels that are NaN or infinite", id="infinite"),
        pytest.param(singular, "has a singular affine", id="singular"),
        pytest.param(placed(SHEARED), r"axes 0 and 1 meet at 78\.69 degrees", id="sheared"),
        pytest.param(placed(np.diag([1e-3, 1e-3, 3e-3, 1])), "voxels of 0.001 x 0.001 x 0.003 mm", id="metres"),
        pytest.param(placed(np.diag([1.0, 1, 80, 1])), "voxels of 1 x 1 x 80 mm", id="huge voxels"),
    ],
)
def test_unusable_file_is_refused(tmp_path: Path, make: Callable[[Path], Path], fault: str) -> None:
    path = make(tmp_path)
    with pytest.raises(InputError, match=fault) as caught:
        read_volume(path)
    assert caught.value.path == path and caught.value.mend and "\n" not in str(caught.value)


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
