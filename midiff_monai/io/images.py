"""Images and arrays in memory, in the form in which volumes are read from files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.spatialimages import SpatialImage
from numpy.typing import ArrayLike, NDArray

from midiff_monai.errors import InputError
from midiff_monai.io.affines import GridError, check_affine
from midiff_monai.io.paths import readable_name
from midiff_monai.io.volumes import validate_volume

REAL_NUMBERS = "buif"
"""Kinds of NumPy's data types that hold one real number."""


def name_of(image: Any) -> str:
    """Return the name of the file that an image was loaded from, as valid Unicode, or "image"."""
    file = image.get_filename() if isinstance(image, SpatialImage) else None
    return readable_name(Path(file)) if file else "image"


def volume_in_memory(image: SpatialImage | ArrayLike, affine: ArrayLike | None = None) -> nib.Nifti1Image:
    """Check an image, or an array with its affine, and convert it to the form of `volumes.read_volume`.

    Args:
        image: A nibabel image of any format, or an array (X, Y, Z). It is not changed.
        affine: (4, 4), from voxel indices of the array to RAS millimetres. For an array only.

    Raises:
        InputError: It is not a usable scalar volume, or the affine is missing, superfluous or unusable.
    """
    name = Path(name_of(image))
    if isinstance(image, SpatialImage):
        if affine is not None:
            raise InputError(name, "has an affine of its own", "Leave the other affine out, or give its array")
        return validate_volume(name, image)
    return validate_volume(name, _image_of(image, affine))


def _image_of(array: ArrayLike, affine: ArrayLike | None) -> nib.Nifti1Image:
    if isinstance(array, str | Path):
        raise InputError(array, "is a path, not an image", "Load it with `nibabel.load`, or use `segment`")
    voxels = np.asarray(array)
    if voxels.dtype.kind not in REAL_NUMBERS:
        fault = f"is an array of {voxels.dtype}, not of real numbers"
        raise InputError("image", fault, "Give a nibabel image, or an array of numbers")
    if affine is None:
        raise InputError("image", "is an array without an affine", "Give its affine as the second argument")
    return nib.Nifti1Image(voxels.astype(np.float32), _checked(affine))


def _checked(affine: ArrayLike) -> NDArray[np.float64]:
    hint = "Give a matrix from voxel indices to RAS millimetres"
    try:
        matrix = np.asarray(affine, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError("affine", f"is no matrix ({error})", hint) from error
    if matrix.shape != (4, 4):
        raise InputError("affine", f"has the shape {matrix.shape}, not (4, 4)", hint)
    try:
        check_affine(matrix)
    except GridError as error:
        raise InputError("affine", f"is a {error}", hint) from error
    return matrix
