"""Unusable files are refused with a specific reason."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import DTypeLike, NDArray

from midiff_monai.errors import InputError
from midiff_monai.io.volumes import read_volume


def save(path: Path, data: NDArray, affine: NDArray[np.float64] | None = None) -> Path:
    nib.save(nib.Nifti1Image(data, np.eye(4) if affine is None else affine, dtype=data.dtype), path)
    return path


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
    np.testing.assert_array_less(
        0, np.abs(nib.Nifti1Image.from_filename(path).get_fdata()).max()
    )  # nibabel alone sees no fault
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


def latin_name(folder: Path) -> Path:
    path = folder / "a.nrrd"
    sitk.WriteImage(sitk.GetImageFromArray(np.arange(60.0).reshape(3, 4, 5)), str(path))
    return path.rename(folder / "\udce9.nrrd")


def surface(folder: Path) -> Path:
    nib.save(nib.gifti.GiftiImage(), folder / "a.gii")
    return folder / "a.gii"


def of_shape(*shape: int, dtype: DTypeLike = np.int16) -> Callable[[Path], Path]:
    return lambda folder: save(folder / "a.nii", np.arange(np.prod(shape)).reshape(shape).astype(dtype))


def filled(value: float, size: int | None = None) -> Callable[[Path], Path]:
    """A volume whose first `size` voxels (by default all) have the given value."""

    def make(folder: Path) -> Path:
        data = np.arange(60, dtype=np.float32)
        data[:size] = value
        return save(folder / "a.nii", data.reshape(3, 4, 5))

    return make


def placed(affine: NDArray[np.float64]) -> Callable[[Path], Path]:
    return lambda folder: save(folder / "a.nii", np.arange(60, dtype=np.int16).reshape(3, 4, 5), affine)


def wide(folder: Path) -> Path:
    data = np.arange(32**3, dtype=np.int16).reshape(32, 32, 32) // 2
    return save(folder / "a.nii", data, np.diag([20.0, 20, 19.53125, 1]))


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
        pytest.param(text("a.nii"), "is a text file, not a volume", id="text nii"),
        pytest.param(text("a.nii.gz"), "cannot be read as an image", id="text nii.gz"),
        pytest.param(text("a.mgz"), "cannot be read as an image", id="text mgz"),
        pytest.param(text("a.mha"), "cannot be read as an image", id="text mha"),
        pytest.param(text("a.docx"), "cannot be read as an image", id="docx"),
        pytest.param(renamed("a.nii", "a.nii.gz"), "is not compressed", id="gz by name only"),
        pytest.param(renamed("a.nii.gz", "b.nii"), "is compressed but not named .gz", id="gz by content only"),
        pytest.param(surface, "holds a GiftiImage, not a volume", id="surface"),
        pytest.param(of_shape(3, 4, 5, 6), r"holds 6 frames \(shape 3 x 4 x 5 x 6\)", id="4-D"),
        pytest.param(of_shape(3, 4, 5, 1, 3), "holds 3 frames", id="vectors"),
        pytest.param(of_shape(3, 4), "holds a single slice", id="2-D"),
        pytest.param(of_shape(3, 1, 4), "holds a single slice", id="singleton axis"),
        pytest.param(of_shape(3, 4, 5, dtype=np.complex64), "holds complex numbers", id="complex"),
        pytest.param(colours, "holds colours", id="RGB"),
        pytest.param(itk_vector, "has several values per voxel", id="ITK vectors"),
        pytest.param(latin_name, "has a name or folder that is not Unicode", id="ITK name"),
        pytest.param(itk_slice, "holds a single slice", id="ITK 2-D"),
        pytest.param(filled(0), "is constant: every voxel is 0", id="zeros"),
        pytest.param(filled(7), "is constant: every voxel is 7", id="constant"),
        pytest.param(filled(np.nan, 4), r"has voxels that are NaN or infinite \(4\)", id="NaN"),
        pytest.param(filled(-np.inf, 1), r"has voxels that are NaN or infinite \(1\)", id="infinite"),
        pytest.param(singular, "has a singular affine", id="singular"),
        pytest.param(placed(SHEARED), r"axes 0 and 1 meet at 78\.69 degrees", id="sheared"),
        pytest.param(placed(np.diag([1e-3, 1e-3, 3e-3, 1])), "voxels of 0.001 x 0.001 x 0.003 mm", id="metres"),
        pytest.param(placed(np.diag([1.0, 1, 80, 1])), "voxels of 1 x 1 x 80 mm", id="huge voxels"),
        pytest.param(wide, "covers 256 litres, more than 200", id="huge field of view"),
    ],
)
def test_unusable_file_is_refused(tmp_path: Path, make: Callable[[Path], Path], fault: str) -> None:
    path = make(tmp_path)
    with pytest.raises(InputError, match=fault) as caught:
        read_volume(path)
    assert caught.value.path == path and caught.value.hint and "\n" not in str(caught.value)
