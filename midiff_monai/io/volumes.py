"""Reading and writing volumes. Every format becomes a validated NIfTI image in memory."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Iterable
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import SpatialImage
from nibabel.wrapstruct import WrapStructError
from numpy.typing import DTypeLike, NDArray

from midiff_monai.errors import InputError, in_one_line
from midiff_monai.io.affines import GridError, check_affine
from midiff_monai.io.readers import (
    ITK_SUFFIXES,
    MAX_VOXELS,
    STATES_ORIENTATION,
    check_size,
    load_with_itk,
    load_with_nibabel,
    scanner_nifti,
)

MAX_NEGATIVE_FRACTION = 0.1
"""Largest fraction of negative voxels in a magnitude image. Bias field correction leaves a few."""

BONE_HU, MAX_BONE_FRACTION = 700, 0.15
"""Above 700 HU lies bone, a tenth of a head. If 1024 was added to make values unsigned, the whole head lies above."""

VOXEL_SIZE_RANGE_MM = (0.1, 20.0)
"""Smallest and largest plausible voxel size of a head scan, in millimetres."""

MAX_FIELD_OF_VIEW_LITRES = 200
"""Largest plausible field of view. Head, neck and chest need half of it. A larger one has a wrong voxel size."""

MAX_BYTES = 8 * MAX_VOXELS
"""Largest accepted size of a decompressed file."""

UNREADABLE = (ImageFileError, WrapStructError, OSError, EOFError, zlib.error)
"""Errors that nibabel raises for a damaged file or a file that is not an image."""

GZIP_MAGIC = b"\x1f\x8b"
STORED_SHAPE = "stored shape"
"""Key in `image.extra`: shape in the file. It may have trailing axes of length 1, which are dropped in memory."""

GRID_FIELDS = (
    *("sform_code", "srow_x", "srow_y", "srow_z"),
    *("qform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    "xyzt_units",
)
"""NIfTI header fields that, together with pixdim, define the position of the voxels in space."""


def read_volume(path: str | Path) -> nib.Nifti1Image:
    """Read a scalar volume and check that the networks can process it.

    Returns:
        An image (X, Y, Z) in memory: float32, scale factors applied, finite, not constant, with an affine without
        shear. A NIfTI-1 header keeps everything but shape and data type. Other formats get a new header with the affine
        in millimetres.

    Raises:
        InputError: The file cannot be read completely, or is not such a volume.
    """
    path = Path(path)
    check_file(path)
    _check_compression(path)
    image = load_with_itk(path) if path.suffix.lower() in ITK_SUFFIXES else load_with_nibabel(path)
    return validate_volume(path, image)


def validate_volume(path: Path, image: SpatialImage) -> nib.Nifti1Image:
    """Check that an image is a scalar volume, and convert it to the form of `read_volume`.

    Raises:
        InputError: The image is not a usable scalar volume. The error names `path`.
    """
    _check_scalar_volume(path, image)
    _check_grid(path, image)
    data = _read_data(path, image).reshape(image.shape[:3])
    _check_intensities(path, data)
    volume = _as_nifti1(data, image)
    volume.extra.update(image.extra, **{STORED_SHAPE: image.shape})
    return volume


def check_intensity_range(image: nib.Nifti1Image, name: str | Path, modality: str | None) -> None:
    """Check the intensities against the modality: Hounsfield units for CT, magnitudes by default.

    Other modalities are not checked.

    Raises:
        InputError: More than `MAX_NEGATIVE_FRACTION` of the nonzero voxels of an MR image are negative, or more than
            `MAX_BONE_FRACTION` of the nonzero voxels of a CT are above `BONE_HU`.
    """
    data = np.asarray(image.dataobj)
    something = (data != 0).sum()
    if modality is None and (share := (data < 0).sum() / something) > MAX_NEGATIVE_FRACTION:
        fault = f"has {share:.0%} of its voxels below 0, but MR magnitudes are never negative"
        hint = "Add a constant to all voxels except the background, or name the modality with --modality"
        raise InputError(name, fault, hint)
    if modality == "CT" and (share := (data > BONE_HU).sum() / something) > MAX_BONE_FRACTION:
        fault = f"has {share:.0%} of its voxels above {BONE_HU} HU, but only bone is that dense"
        raise InputError(name, fault, "Subtract the constant that was added to the Hounsfield units, usually 1024")


def states_orientation(image: nib.Nifti1Image) -> bool:
    """Return whether the header states the orientation. If not (ANALYZE), left and right follow a convention."""
    return image.extra.get(STATES_ORIENTATION, True) and bool(image.header["sform_code"] or image.header["qform_code"])


def write_like(data: NDArray, reference: nib.Nifti1Image, path: Path, dtype: DTypeLike) -> None:
    """Write a volume on the grid of a reference, with its sform, qform and units. The rest of the header is new.

    Args:
        data: Voxels (X, Y, Z) in the shape of the reference.
        reference: An image from `read_volume`. If its file has trailing axes of length 1, so has the written file.
        path: File to write. Must end in .nii or .nii.gz.
        dtype: Data type of the file. Integers are stored exactly, without scale factors.

    Raises:
        ValueError: The shapes differ, or an integer `dtype` cannot represent the values.
    """
    if data.shape != reference.shape:
        raise ValueError(f"data of shape {data.shape} is not on the grid of the reference, {reference.shape}")
    stored = data.astype(dtype)
    if np.issubdtype(stored.dtype, np.integer) and not np.array_equal(stored, data):
        raise ValueError(f"{stored.dtype} cannot hold values of {data.dtype} between {data.min()} and {data.max()}")
    nib.save(_image_on_grid_of(stored.reshape(reference.extra.get(STORED_SHAPE, data.shape)), reference), path)


def check_file(path: Path) -> None:
    """Raise InputError if a file does not exist, is empty or cannot be opened."""
    if not path.exists():
        raise InputError(path, "does not exist", "Check the path for typing errors")
    if path.is_dir():
        raise InputError(path, "is a folder, not a volume", "Name the volume inside it")
    if path.stat().st_size == 0:
        raise InputError(path, "is empty", "Copy or export it again")
    try:
        path.open("rb").close()
    except OSError as error:
        raise InputError(path, f"cannot be opened ({error.strerror})", "Check its permissions") from error


def _check_compression(path: Path) -> None:
    with path.open("rb") as file:
        compressed = file.read(2) == GZIP_MAGIC
    if path.suffix.lower() == ".gz" and not compressed:
        raise InputError(path, "is named .gz but is not compressed", "Rename it without .gz, or compress it with gzip")
    if path.suffix.lower() == ".nii" and compressed:
        raise InputError(path, "is compressed but not named .gz", "Rename it to end in .nii.gz")
    if compressed:
        _check_gzip(path)


def _check_gzip(path: Path) -> None:
    # nibabel stops at the last voxel and never reads the checksum behind it, which alone reveals a flipped byte.
    size = 0
    try:
        with gzip.open(path) as file:
            while piece := file.read(2**24):
                size += len(piece)
                if size > MAX_BYTES:
                    raise InputError(path, f"expands to more than {MAX_BYTES >> 30} GiB", "Crop or downsample it")
    except EOFError as error:
        raise InputError(path, "is truncated", "Copy or export it again") from error
    except (zlib.error, gzip.BadGzipFile) as error:
        raise InputError(path, f"is corrupt ({error})", "Copy or export it again") from error


def _check_scalar_volume(path: Path, image: SpatialImage) -> None:
    dtype = image.get_data_dtype()
    if dtype.names is not None:
        raise InputError(path, "holds colours (RGB)", "Export it as a scalar volume")
    if dtype.kind == "c":
        raise InputError(path, "holds complex numbers", "Export the magnitude")
    shape = image.shape
    check_size(path, math.prod(shape[:3]))
    if (frames := math.prod(shape[3:])) != 1:
        hint = "Extract the frame to use, for example the first with `fslroi IN OUT 0 1`"
        raise InputError(path, f"holds {frames} frames (shape {_times(shape)})", hint)
    if len(shape) < 3 or min(shape[:3]) < 2:
        hint = "Give a volume of at least 2 slices along each axis"
        raise InputError(path, f"holds a single slice (shape {_times(shape)})", hint)


def _check_grid(path: Path, image: SpatialImage) -> None:
    try:
        check_affine(image.affine)
    except GridError as error:
        hint = "Resample it to a grid with right angles" if "shear" in str(error) else "Export it again from the scan"
        raise InputError(path, f"has a {error}", hint) from error
    sides = nib.affines.voxel_sizes(image.affine)
    smallest, largest = VOXEL_SIZE_RANGE_MM
    if sides.min() < smallest or sides.max() > largest:
        fault = f"has voxels of {_times(f'{side:.4g}' for side in sides)} mm, outside {smallest:g}-{largest:g} mm"
        raise InputError(path, fault, "Correct the voxel size in its header; lengths must be in millimetres")
    litres = float(np.prod(sides)) * math.prod(image.shape[:3]) / 1e6
    if litres > MAX_FIELD_OF_VIEW_LITRES:
        fault = f"covers {litres:.3g} litres, more than {MAX_FIELD_OF_VIEW_LITRES}"
        raise InputError(path, fault, "Correct the voxel size in its header, or crop it")


def _read_data(path: Path, image: SpatialImage) -> NDArray[np.float32]:
    try:
        with np.errstate(over="ignore"):  # an overflow becomes infinite, which `_check_intensities` reports
            # A copy: a memory map would change with the file.
            return np.array(image.get_fdata(dtype=np.float32, caching="unchanged"))
    except (EOFError, OSError, ValueError, OverflowError) as error:
        fault = f"cannot be read to its end ({in_one_line(error)})"
        raise InputError(path, fault, "Copy or export it again") from error


def _check_intensities(path: Path, data: NDArray[np.float32]) -> None:
    if not_finite := int(data.size - np.isfinite(data).sum()):
        raise InputError(path, f"has {not_finite} voxels that are NaN or infinite", "Replace them, for example by 0")
    if data.min() == data.max():
        raise InputError(path, f"is constant: every voxel is {data.flat[0]:g}", "Check the step that made the file")
    if data.max() <= 0:
        raise InputError(path, "has no positive voxel", "Add a constant, or check the step that made the file")


def _as_nifti1(data: NDArray[np.float32], image: SpatialImage) -> nib.Nifti1Image:
    if type(image) is nib.Nifti1Image:
        header = image.header.copy()
        header.set_data_dtype(np.float32)
        return nib.Nifti1Image(data, image.affine, header)
    if isinstance(image, nib.Nifti1Pair):  # NIfTI-2 and pairs of header and image file have the same fields
        return _image_on_grid_of(data, image)
    if isinstance(image, nib.AnalyzeImage) and np.allclose(image.affine, image.header.get_best_affine()):
        # Only a .mat file of SPM states the orientation. The origin in the header does not.
        image.extra[STATES_ORIENTATION] = False
        return nib.Nifti1Image(data, image.affine, nib.Nifti1Header.from_header(image.header))
    return scanner_nifti(data, image.affine)


def _image_on_grid_of(data: NDArray, reference: nib.Nifti1Pair) -> nib.Nifti1Image:
    header = nib.Nifti1Header()
    sizes = slice(1 + data.ndim)  # pixdim[0] holds the handedness of the qform
    header["pixdim"][sizes] = reference.header["pixdim"][sizes]
    for field in GRID_FIELDS:
        header[field] = reference.header[field]
    header.set_data_dtype(data.dtype)
    return nib.Nifti1Image(data, reference.affine, header)


def _times(values: Iterable[object]) -> str:
    return " x ".join(map(str, values))
