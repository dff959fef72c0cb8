"""Images and arrays in memory become the volumes that the same data give as a file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from midiff_monai.errors import InputError
from midiff_monai.io.images import name_of, volume_in_memory
from midiff_monai.io.volumes import image_like, read_volume, reading_warnings, states_orientation

AFFINE = np.array([[0, -2, 0, 30], [1.5, 0, 0, -20], [0, 0, 3, 5], [0, 0, 0, 1.0]])
VOXELS = np.random.default_rng(0).integers(0, 900, (6, 7, 8)).astype(np.int16)


@pytest.mark.parametrize("suffix", [".nii.gz", ".mgz"])
def test_a_loaded_image_is_read_as_its_file_is(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    image_class = nib.MGHImage if suffix == ".mgz" else nib.Nifti1Image
    nib.save(image_class(VOXELS, AFFINE), path)
    image = nib.load(path)
    expected, found = read_volume(path), volume_in_memory(image)  # type: ignore[arg-type]
    np.testing.assert_array_equal(found.dataobj, expected.dataobj)
    np.testing.assert_array_equal(found.affine, expected.affine)
    assert reading_warnings(found) == reading_warnings(expected) and name_of(image) == path.name
    assert states_orientation(found) == states_orientation(expected) is True


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float16, np.float64, np.longdouble, bool])
def test_an_array_with_its_affine_is_an_image(dtype: Any) -> None:
    array = (VOXELS % 2).astype(dtype)
    volume = volume_in_memory(array, AFFINE.tolist())
    np.testing.assert_array_equal(np.asarray(volume.dataobj), VOXELS % 2)
    np.testing.assert_allclose(volume.affine, AFFINE)
    assert volume.get_data_dtype() == np.float32 and name_of(array) == "image"


def test_the_image_is_not_changed() -> None:
    image = nib.Nifti1Image(VOXELS.astype(np.float32), AFFINE)
    volume = volume_in_memory(image)
    np.asarray(volume.dataobj)[:] = 0
    np.testing.assert_array_equal(image.dataobj, VOXELS)


def test_a_result_has_the_codes_and_units_of_its_image() -> None:
    image = nib.Nifti1Image(VOXELS, AFFINE)
    image.set_qform(AFFINE, 1)
    image.set_sform(AFFINE, 4)
    image.header.set_xyzt_units("mm")
    made = image_like(VOXELS % 3, volume_in_memory(image), np.int16)
    for field in ("sform_code", "qform_code", "xyzt_units", "pixdim"):
        np.testing.assert_array_equal(made.header[field], image.header[field])
    np.testing.assert_allclose(made.affine, AFFINE)


def test_a_name_that_is_not_unicode_can_be_shown() -> None:
    image = nib.Nifti1Image(VOXELS, AFFINE)
    image.set_filename(os.fsdecode(b"caf\xe9.nii"))
    assert name_of(image) == "caf\ufffd.nii"


SHEARED = AFFINE @ np.array([[1, 0.5, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
UNUSABLE: list[tuple[Any, Any, str]] = [
    ("scan.nii.gz", None, "scan.nii.gz: is a path, not an image. Load it with"),
    (VOXELS, None, "image: is an array without an affine"),
    (VOXELS, np.eye(3), r"affine: has the shape \(3, 3\)"),
    (VOXELS, "abc", "affine: is no matrix"),
    (VOXELS, np.full((4, 4), np.nan), "affine: is a non-finite affine"),
    (VOXELS, np.diag([2, 2, 0, 1]), "affine: is a singular affine"),
    (VOXELS, SHEARED, "affine: is a sheared affine"),
    (VOXELS.astype(complex), AFFINE, "image: is an array of complex128"),
    (None, AFFINE, "image: is an array of object"),
    (VOXELS[0], AFFINE, "image: holds a single slice"),
    (np.stack([VOXELS] * 2, -1), AFFINE, "image: holds 2 frames"),
    (VOXELS * 0, AFFINE, "image: is constant"),
    (nib.Nifti1Image(VOXELS, AFFINE), AFFINE, "image: has an affine of its own"),
]


@pytest.mark.parametrize(("image", "affine", "message"), UNUSABLE, ids=[message for *_, message in UNUSABLE])
def test_what_cannot_be_used_is_named(image: Any, affine: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}"):
        volume_in_memory(image, affine)
