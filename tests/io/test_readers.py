"""Volumes in the formats of ITK, ANALYZE and FreeSurfer: their voxels, voxel sizes and orientations."""

from __future__ import annotations

import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray
from volume_files import OBLIQUE, assert_reads_as, save

from midiff_monai.errors import InputError
from midiff_monai.io.volumes import read_volume, reading_warnings, states_orientation


@pytest.fixture
def voxels() -> NDArray[np.int16]:
    return np.random.default_rng(0).integers(-50, 2000, (12, 10, 8)).astype(np.int16)


def write_itk(path: Path, voxels: NDArray[np.int16], *replaced: tuple[bytes, bytes]) -> Path:
    """Write voxels of 1 mm with ITK, and replace bytes of the header."""
    sitk.WriteImage(sitk.GetImageFromArray(voxels), str(path))
    content = path.read_bytes()
    for old, new in replaced:
        content = content.replace(old, new)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha", "a.mhd"])
def test_itk_formats_read_as_their_nifti_twin(tmp_path: Path, voxels: NDArray[np.int16], name: str) -> None:
    """ITK itself converts the NIfTI to LPS, so the conversion back to RAS is tested independently."""
    twin = save(tmp_path / "twin.nii", voxels)
    sitk.WriteImage(sitk.ReadImage(str(twin)), str(tmp_path / name))
    assert_reads_as(tmp_path / name, voxels, OBLIQUE)
    assert read_volume(tmp_path / name).header.get_xyzt_units()[0] == "mm"


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha", "a.mhd"])
def test_an_itk_header_without_axes_states_no_orientation(tmp_path: Path, voxels: NDArray[np.int16], name: str) -> None:
    path = tmp_path / name
    sitk.WriteImage(sitk.GetImageFromArray(voxels), str(path))
    assert states_orientation(read_volume(path))
    axes = rb"(TransformMatrix|AnatomicalOrientation) = .*\n|space: .*\n|space origin: .*\n"
    bare = re.sub(axes, b"", path.read_bytes())
    path.write_bytes(re.sub(rb"space directions: .*\n", b"spacings: 1 1 1\n", bare))
    image = read_volume(path)
    np.testing.assert_array_equal(image.get_fdata(), voxels.T)
    assert not states_orientation(image)


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha", "a.mhd"])
def test_an_itk_header_without_voxel_size_gives_a_warning(tmp_path: Path, voxels: NDArray[np.int16], name: str) -> None:
    path = tmp_path / name
    image = sitk.GetImageFromArray(voxels)
    image.SetOrigin((1, 2, 3))
    sitk.WriteImage(image, str(path))
    assert reading_warnings(read_volume(path)) == []
    path.write_bytes(re.sub(rb"(ElementSpacing = |space).*\n", b"", path.read_bytes()))
    warning = reading_warnings(read_volume(path))[0]
    assert warning.startswith("The header does not state the voxel size of every axis, 1 mm is used")


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha"])
def test_a_sheared_itk_image_is_refused(tmp_path: Path, voxels: NDArray[np.int16], name: str) -> None:
    """A qform cannot hold the shear. Read by way of it, the image would be straightened."""
    directions = b"space directions: (1,0,0)", b"space directions: (0.8,0.6,0)"
    matrix = b"TransformMatrix = 1 0 0", b"TransformMatrix = 0.8 0.6 0"
    path = write_itk(tmp_path / name, voxels, directions, matrix)
    with pytest.raises(InputError, match=r"has a sheared affine: voxel axes 0 and 1 meet at"):
        read_volume(path)


def test_a_metaimage_whose_axes_have_a_length_is_refused(tmp_path: Path, voxels: NDArray[np.int16]) -> None:
    path = write_itk(tmp_path / "a.mha", voxels, (b"1 0 0 0 1 0 0 0 1", b"2 0 0 0 2 0 0 0 2"))
    with pytest.raises(InputError, match=r"has axes of the lengths 2 x 2 x 2 beside its voxel size"):
        read_volume(path)


def test_an_nrrd_with_an_axis_without_direction_gives_a_warning(tmp_path: Path, voxels: NDArray[np.int16]) -> None:
    path = write_itk(tmp_path / "a.nrrd", voxels, (b"directions: (1,0,0)", b"directions: none"))
    assert "does not state the voxel size of every axis" in reading_warnings(read_volume(path))[0]


def test_itk_single_frame_is_squeezed(tmp_path: Path, voxels: NDArray[np.int16]) -> None:
    sitk.WriteImage(sitk.JoinSeries(sitk.ReadImage(str(save(tmp_path / "a.nii", voxels)))), str(tmp_path / "a.nrrd"))
    assert sitk.ReadImage(str(tmp_path / "a.nrrd")).GetDimension() == 4
    assert_reads_as(tmp_path / "a.nrrd", voxels, OBLIQUE)


def test_analyze_states_no_orientation(tmp_path: Path, voxels: NDArray[np.int16]) -> None:
    nib.save(nib.AnalyzeImage(voxels, None), tmp_path / "a.img")
    expected = nib.AnalyzeImage.from_filename(tmp_path / "a.img")
    image = read_volume(tmp_path / "a.img")
    np.testing.assert_allclose(image.affine, expected.affine)
    np.testing.assert_array_equal(image.get_fdata(), voxels)
    assert not states_orientation(image)
    assert states_orientation(read_volume(save(tmp_path / "a.nii", voxels)))


def test_analyze_of_spm_states_no_orientation_without_its_mat_file(tmp_path: Path, voxels: NDArray[np.int16]) -> None:
    image = nib.Spm99AnalyzeImage(voxels, OBLIQUE)
    image.header["origin"][:3] = (2, 3, 4)
    nib.save(image, tmp_path / "a.img")
    assert states_orientation(read_volume(tmp_path / "a.img"))
    (tmp_path / "a.mat").unlink()
    moved = read_volume(tmp_path / "a.img")
    assert not states_orientation(moved)
    np.testing.assert_array_equal(moved.affine, nib.Spm99AnalyzeImage.from_filename(tmp_path / "a.img").affine)


def test_mgh_without_good_ras_flag_states_no_orientation(tmp_path: Path, voxels: NDArray[np.int16]) -> None:
    path = tmp_path / "a.mgh"
    nib.save(nib.MGHImage(voxels, OBLIQUE), path)
    assert states_orientation(read_volume(path))
    stored = bytearray(path.read_bytes())
    stored[28:30] = b"\0\0"  # goodRASFlag
    path.write_bytes(stored)
    assert not states_orientation(read_volume(path))


def test_nrrd_with_handedness_only_states_no_orientation(tmp_path: Path, voxels: NDArray[np.int16]) -> None:
    path = write_itk(tmp_path / "a.nrrd", voxels, (b"left-posterior-superior", b"3D-right-handed"))
    assert not states_orientation(read_volume(path))


def test_metaimage_with_an_orientation_that_itk_ignores_states_no_orientation(
    tmp_path: Path, voxels: NDArray[np.int16]
) -> None:
    path = tmp_path / "a.mha"
    sitk.WriteImage(sitk.GetImageFromArray(voxels), str(path))
    path.write_bytes(re.sub(rb"TransformMatrix = .*\n", b"", path.read_bytes()))
    assert b"AnatomicalOrientation" in path.read_bytes()
    assert not states_orientation(read_volume(path))
