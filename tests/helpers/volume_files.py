"""Volumes in files, and the check that they are read as they were written."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from midiff_monai.io.volumes import read_volume

OBLIQUE = nib.affines.from_matvec(
    Rotation.from_euler("xyz", [10, -7, 15], degrees=True).as_matrix() @ np.diag([-0.9, 1.1, 3.0]), [40, -50, -20]
)


def save(path: Path, data: NDArray, affine: NDArray[np.float64] = OBLIQUE) -> Path:
    nib.save(nib.Nifti1Image(data, affine, dtype=data.dtype), path)
    return path


def assert_reads_as(path: Path, data: NDArray, affine: NDArray[np.float64]) -> None:
    image = read_volume(path)
    assert type(image) is nib.Nifti1Image and image.shape == data.shape
    assert image.get_data_dtype() == np.float32 and image.get_fdata(dtype=np.float32).dtype == np.float32
    np.testing.assert_array_equal(image.get_fdata(), data)
    np.testing.assert_allclose(image.affine, affine, atol=1e-4)
