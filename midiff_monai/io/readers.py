"""The formats of volumes: what nibabel or ITK reads of each, and whether its header tells where the voxels lie."""

from __future__ import annotations

import math
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from nibabel.spatialimages import SpatialImage
from numpy.typing import ArrayLike, NDArray

from midiff_monai.errors import InputError, in_one_line

ITK_SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")
"""Formats that ITK reads and nibabel does not."""

MAX_VOXELS = 2**29
"""The largest volume that is read, ten times a head at 0.5 mm: a header may promise any number."""

SCANNER_CODE = 1  # NIFTI_XFORM_SCANNER_ANAT

PLACED = "placed"
"""In the `extra` of an image: whether its header, of another format, told of axes; ITK makes some up where none are."""

METAIMAGE_AXES = re.compile(rb"^(TransformMatrix|Rotation|Orientation)\s*=", re.MULTILINE)


def load_with_nibabel(path: Path) -> SpatialImage:
    """Load what nibabel reads; raises InputError where that is no image."""
    try:
        image = nib.load(path)
    except Exception as error:  # whatever nibabel's parsers trip over: their own errors, KeyError, OverflowError
        raise InputError(path, f"cannot be read as an image ({in_one_line(error)})", "Convert it to NIfTI") from error
    if not isinstance(image, SpatialImage):
        raise InputError(path, f"holds no volume but a {type(image).__name__}", "Convert it to a NIfTI volume")
    if isinstance(image, nib.MGHImage):
        image.extra[PLACED] = _is_placed_mgh(path)
    return image


def _is_placed_mgh(path: Path) -> bool:
    """Whether the flag `goodRASFlag` is set, which nibabel sets itself along with axes of its own if it is not."""
    with nib.openers.Opener(str(path)) as file:
        return any(file.read(30)[28:])


def load_with_itk(path: Path) -> nib.Nifti1Image:
    """Load a scalar image of `ITK_SUFFIXES`; raises InputError where it cannot be read."""
    reader = sitk.ImageFileReader()
    try:
        reader.SetFileName(str(path).encode().decode())
    except UnicodeEncodeError as error:  # over which ITK would end the process
        raise InputError(path, "has a name or folder that is not Unicode", "Rename it") from error
    try:
        reader.ReadImageInformation()
        check_size(path, math.prod(reader.GetSize()) * reader.GetNumberOfComponents())
        image = reader.Execute()
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise InputError(path, f"is truncated or cannot be read as an image ({reason})", "Export it again") from error
    if image.GetNumberOfComponentsPerPixel() > 1:
        raise InputError(path, "has several values a voxel", "Export one channel as a scalar volume")
    volume = _nifti_from_itk(image)
    if path.suffix.lower() in (".nrrd", ".nhdr"):
        volume.extra[PLACED] = _names_sides(reader)
    else:
        volume.extra[PLACED] = _is_placed_metaimage(path)
    return volume


def _names_sides(reader: sitk.ImageFileReader) -> bool:
    """Whether the space of an NRRD is one of anatomy, such as left-posterior-superior, and not just right-handed."""
    key = "NRRD_space"
    return key in reader.GetMetaDataKeys() and "superior" in reader.GetMetaData(key)


def _is_placed_metaimage(path: Path) -> bool:
    with path.open("rb") as file:
        return METAIMAGE_AXES.search(file.read(4096)) is not None


def _nifti_from_itk(image: sitk.Image) -> nib.Nifti1Image:
    dimension = image.GetDimension()
    axes = np.reshape(image.GetDirection(), (dimension, dimension)) * image.GetSpacing()
    spatial = min(dimension, 3)
    affine = np.eye(4)
    affine[:spatial, :spatial] = axes[:spatial, :spatial]
    affine[:spatial, 3] = image.GetOrigin()[:spatial]
    affine[:2] *= -1  # ITK's world axes point to the left and the back (LPS), NIfTI's to the right and the front (RAS)
    return scanner_nifti(sitk.GetArrayFromImage(image).T, affine)


def scanner_nifti(data: NDArray, affine: ArrayLike) -> nib.Nifti1Image:
    """Make an image whose affine (4, 4) in millimetres leads to the coordinates of a scanner."""
    image = nib.Nifti1Image(data, affine, dtype=data.dtype)
    image.set_sform(affine, SCANNER_CODE)
    image.set_qform(affine, SCANNER_CODE)
    image.header.set_xyzt_units("mm")
    return image


def check_size(path: Path, voxels: int) -> None:
    """Refuse a volume of more than `MAX_VOXELS`; raises InputError."""
    if voxels > MAX_VOXELS:
        raise InputError(path, f"has {voxels:.3g} voxels, more than {MAX_VOXELS:.3g}", "Crop or downsample it")
