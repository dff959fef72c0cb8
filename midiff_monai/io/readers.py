"""Loading volumes with nibabel or ITK, and whether the header states the orientation of the voxels."""

from __future__ import annotations

import math
import re
from contextlib import suppress
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from nibabel.filebasedimages import FileBasedImage
from nibabel.spatialimages import SpatialImage
from numpy.typing import ArrayLike, NDArray

from midiff_monai.errors import InputError, in_one_line
from midiff_monai.io.affines import GridError, check_affine
from midiff_monai.io.headers import SIZE_TOLERANCE, check_analyze_header, load_nifti, times

ITK_SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")
"""Formats that ITK reads but nibabel does not."""

MAX_VOXELS = 2**29
"""Largest accepted volume, ten times a head at 0.5 mm. A damaged header may declare any number."""

SCANNER_CODE = 1  # NIFTI_XFORM_SCANNER_ANAT

STATES_ORIENTATION = "states orientation"
"""Key in `image.extra`: whether a header that is not NIfTI stated the axes. ITK invents axes where they are missing."""

READING_WARNINGS = "reading warnings"
"""Key in `image.extra`: sentences for the report about the file and its header."""

NIFTI_CLASSES = (nib.Nifti1Pair, nib.Nifti1Image, nib.Nifti2Pair, nib.Nifti2Image)

ITK_VOXEL_SIZE = re.compile(rb"^(ElementSpacing\s*=|ElementSize\s*=|spacings:|space directions:)", re.MULTILINE)
"""The line of a MetaImage or NRRD header with the voxel size."""

NRRD_DIRECTIONS = re.compile(rb"^space directions:(.*)$", re.MULTILINE)
"""The vectors of an NRRD from voxel to voxel. An axis without one has "none"."""

NO_VOXEL_SIZE = (
    "The header does not state the voxel size of every axis, 1 mm is used where it is missing: check the voxel size."
)

METAIMAGE_ORIENTATION = re.compile(rb"^(TransformMatrix|Rotation|Orientation)\s*=", re.MULTILINE)


def load_with_nibabel(path: Path) -> SpatialImage:
    """Load an image with nibabel. Raises InputError if the file is not an image."""
    try:
        image = _load(path)
    except GridError as error:
        raise InputError(path, f"has a {error}", "Correct the voxel size in its header") from error
    except Exception as error:  # nibabel's parsers raise their own errors, KeyError and OverflowError
        raise InputError(
            path, f"cannot be read as an image ({in_one_line(error)})", "Export it again as NIfTI"
        ) from error
    if not isinstance(image, SpatialImage):
        raise InputError(path, f"holds a {type(image).__name__}, not a volume", "Convert it to a NIfTI volume")
    if isinstance(image, nib.MGHImage):
        image.extra[STATES_ORIENTATION] = _mgh_states_orientation(path)
    return image


def _load(path: Path) -> FileBasedImage:
    for image_class in NIFTI_CLASSES:
        if image_class.path_maybe_image(str(path))[0]:
            nifti, warnings = load_nifti(path, image_class)
            nifti.extra[READING_WARNINGS] = warnings
            return nifti
    image = nib.load(path)
    if isinstance(image, nib.AnalyzeImage):
        check_analyze_header(path, type(image))
    return image


def _mgh_states_orientation(path: Path) -> bool:
    """Return whether `goodRASFlag` is set in the file. nibabel sets it together with default axes if it is not."""
    with nib.openers.Opener(str(path)) as file:
        return any(file.read(30)[28:])


def load_with_itk(path: Path) -> nib.Nifti1Image:
    """Load a scalar image of `ITK_SUFFIXES` with ITK. Raises InputError if it cannot be read."""
    reader = sitk.ImageFileReader()
    image = _read_with_itk(reader, path)
    if image.GetNumberOfComponentsPerPixel() > 1:
        raise InputError(path, "has several values per voxel", "Export one channel as a scalar volume")
    _check_directions(path, image)
    volume = _nifti_from_itk(image)
    volume.extra[READING_WARNINGS] = [] if _states_voxel_size(path) else [NO_VOXEL_SIZE]
    if path.suffix.lower() in (".nrrd", ".nhdr"):
        volume.extra[STATES_ORIENTATION] = _nrrd_states_orientation(reader)
    else:
        volume.extra[STATES_ORIENTATION] = _metaimage_states_orientation(path)
    return volume


def _read_with_itk(reader: sitk.ImageFileReader, path: Path) -> sitk.Image:
    try:
        reader.SetFileName(str(path).encode().decode())
    except UnicodeEncodeError as error:  # ITK would end the process
        raise InputError(path, "has a name or folder that is not Unicode", "Rename it") from error
    try:
        reader.ReadImageInformation()
        check_size(path, math.prod(reader.GetSize()) * reader.GetNumberOfComponents())
        return reader.Execute()
    except RuntimeError as error:
        # the last line is of the operating system, about something else
        reason = [line for line in str(error).strip().splitlines() if not line.startswith("Reason:")][-1]
        raise InputError(path, f"is truncated or cannot be read as an image ({reason})", "Export it again") from error


def _check_directions(path: Path, image: sitk.Image) -> None:
    """Check that the axes have the length 1. ITK multiplies the voxel size with any other length."""
    dimension = image.GetDimension()
    lengths = np.linalg.norm(np.reshape(image.GetDirection(), (dimension, dimension)), axis=0)
    if not np.allclose(lengths, 1, atol=SIZE_TOLERANCE):
        fault = f"has axes of the lengths {times(lengths)} beside its voxel size, instead of unit vectors"
        raise InputError(path, fault, "Correct the TransformMatrix in its header")


def _states_voxel_size(path: Path) -> bool:
    """Return whether a MetaImage or NRRD header has the voxel size of all three axes."""
    with path.open("rb") as file:
        header = file.read(4096)
    directions = NRRD_DIRECTIONS.search(header)
    return ITK_VOXEL_SIZE.search(header) is not None and (directions is None or directions[1].count(b"(") >= 3)


def _nrrd_states_orientation(reader: sitk.ImageFileReader) -> bool:
    """Return whether an NRRD names an anatomical space, such as left-posterior-superior, and not just a handedness."""
    key = "NRRD_space"
    return key in reader.GetMetaDataKeys() and "superior" in reader.GetMetaData(key)


def _metaimage_states_orientation(path: Path) -> bool:
    with path.open("rb") as file:
        return METAIMAGE_ORIENTATION.search(file.read(4096)) is not None


def _nifti_from_itk(image: sitk.Image) -> nib.Nifti1Image:
    dimension = image.GetDimension()
    axes = np.reshape(image.GetDirection(), (dimension, dimension)) * image.GetSpacing()
    spatial = min(dimension, 3)
    affine = np.eye(4)
    affine[:spatial, :spatial] = axes[:spatial, :spatial]
    affine[:spatial, 3] = image.GetOrigin()[:spatial]
    affine[:2] *= -1  # ITK's world axes point left and back (LPS), NIfTI's point right and front (RAS)
    return scanner_nifti(sitk.GetArrayFromImage(image).T, affine)


def scanner_nifti(data: NDArray, affine: ArrayLike) -> nib.Nifti1Image:
    """Make an image from data and an affine (4, 4) to scanner coordinates in RAS millimetres."""
    image = nib.Nifti1Image(data, affine, dtype=data.dtype)
    image.set_sform(affine, SCANNER_CODE)
    with suppress(GridError):  # a qform cannot hold a shear, and would hide it
        check_affine(affine)
        image.set_qform(affine, SCANNER_CODE)
    image.header.set_xyzt_units("mm")
    return image


def check_size(path: Path, voxels: int) -> None:
    """Raise InputError for a volume of more than `MAX_VOXELS` voxels."""
    if voxels > MAX_VOXELS:
        raise InputError(path, f"has {voxels:.3g} voxels, more than {MAX_VOXELS:.3g}", "Crop or downsample it")
