"""Reading and writing volumes: whatever nibabel or ITK reads becomes one validated NIfTI image in memory."""

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
    PLACED,
    check_size,
    load_with_itk,
    load_with_nibabel,
    scanner_nifti,
)

MOST_NEGATIVE = 0.1
"""A volume with more of its voxels below 0 is no image of magnitudes; correcting a bias field leaves a few."""

DENSE_HU, MOST_DENSE = 700, 0.15
"""Bone takes a tenth of a head; with 1024 added, as unsigned numbers need, all of a head is as dense."""

VOXEL_SIDES_MM = (0.1, 20.0)
"""Smallest and largest voxel side of a plausible scan of a human head."""

MAX_LITRES = 200
"""The largest field of view: head, neck and chest take half as much. What is larger has a wrong voxel size."""

MAX_BYTES = 8 * MAX_VOXELS
"""The most that a compressed file may expand to."""

UNREADABLE = (ImageFileError, WrapStructError, OSError, EOFError, zlib.error)
"""What nibabel raises for a file that is damaged, or no image at all."""

GZIP_MAGIC = b"\x1f\x8b"
STORED_SHAPE = "stored shape"
"""In the `extra` of an image: its shape in the file, which may end in axes of length 1 that it has not in memory."""

GRID_FIELDS = (
    *("sform_code", "srow_x", "srow_y", "srow_z"),
    *("qform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    "xyzt_units",
)
"""Fields of a NIfTI header that, with pixdim, place its voxels in space."""


def read_volume(path: str | Path) -> nib.Nifti1Image:
    """Read a scalar volume and check that a model can be run on it.

    Returns:
        An image (X, Y, Z) in memory: float32 with scale factors applied, finite, not constant; an affine without shear.
        A NIfTI-1 header is kept but for shape and data type; other formats get one with the affine in millimetres.

    Raises:
        InputError: the file cannot be read to its end, or does not hold one such volume.
    """
    path = Path(path)
    check_file(path)
    _check_compression(path)
    image = load_with_itk(path) if path.suffix.lower() in ITK_SUFFIXES else load_with_nibabel(path)
    return checked_volume(path, image)


def checked_volume(path: Path, image: SpatialImage) -> nib.Nifti1Image:
    """Check that an image is a scalar volume that a model can be run on, and bring it into the form of `read_volume`.

    Raises:
        InputError: it is not; the error names `path`.
    """
    _check_kind(path, image)
    _check_grid(path, image)
    data = _read_data(path, image).reshape(image.shape[:3])
    _check_intensities(path, data)
    volume = _as_nifti1(data, image)
    volume.extra.update(image.extra, **{STORED_SHAPE: image.shape})
    return volume


def check_scale(image: nib.Nifti1Image, name: str | Path, modality: str | None) -> None:
    """Check that grey values can be what they are taken for: Hounsfield units of a CT, else magnitudes.

    Raises:
        InputError: of what is not 0 more than `MOST_NEGATIVE` is below 0, or of a CT more than `MOST_DENSE` is as dense
            as bone; of other modalities nothing is known.
    """
    data = np.asarray(image.dataobj)
    something = (data != 0).sum()
    if modality is None and (share := (data < 0).sum() / something) > MOST_NEGATIVE:
        fault = f"has {share:.0%} of its voxels below 0, where a magnetic resonance image has none"
        hint = "Raise all but the air, which is 0, until none is below it; of another modality, name the --modality"
        raise InputError(name, fault, hint)
    if modality == "CT" and (share := (data > DENSE_HU).sum() / something) > MOST_DENSE:
        fault = f"has {share:.0%} of its voxels above {DENSE_HU}, where of Hounsfield units only those of bone are"
        raise InputError(name, fault, "Take off what was added to them, most often 1024")


def tells_sides(image: nib.Nifti1Image) -> bool:
    """Whether the header of a volume placed its voxels in space; if not, as in ANALYZE, sides are a convention."""
    return image.extra.get(PLACED, True) and bool(image.header["sform_code"] or image.header["qform_code"])


def write_like(data: NDArray, reference: nib.Nifti1Image, path: Path, dtype: DTypeLike) -> None:
    """Write a volume on the grid of another, with its sform, qform and units and an otherwise fresh header.

    Args:
        data: (X, Y, Z), of the shape of the reference.
        reference: an image from `read_volume`; if it was stored as a series of one frame, so is the volume.
        path: where to write; must end in .nii or .nii.gz.
        dtype: data type of the file; integers are stored exactly, without scale factors.

    Raises:
        ValueError: the shapes differ, or an integer `dtype` cannot hold the values.
    """
    if data.shape != reference.shape:
        raise ValueError(f"data of shape {data.shape} is not on the grid of the reference, {reference.shape}")
    stored = data.astype(dtype)
    if np.issubdtype(stored.dtype, np.integer) and not np.array_equal(stored, data):
        raise ValueError(f"{stored.dtype} cannot hold values of {data.dtype} between {data.min()} and {data.max()}")
    nib.save(_on_grid_of(stored.reshape(reference.extra.get(STORED_SHAPE, data.shape)), reference), path)


def check_file(path: Path) -> None:
    """Check that a file is there, is not empty and may be read; raises InputError."""
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
    # nibabel stops at the last voxel and so never meets the checksum behind it, the only trace of a flipped byte.
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


def _check_kind(path: Path, image: SpatialImage) -> None:
    dtype = image.get_data_dtype()
    if dtype.names is not None:
        raise InputError(path, "holds colours (RGB)", "Export it as a scalar volume")
    if dtype.kind == "c":
        raise InputError(path, "holds complex numbers", "Export the magnitude")
    shape = image.shape
    check_size(path, math.prod(shape[:3]))
    if (frames := math.prod(shape[3:])) != 1:
        hint = "Extract the frame to use, for example the first with `fslroi IN OUT 0 1`"
        raise InputError(path, f"holds {frames} frames (shape {_by(shape)})", hint)
    if len(shape) < 3 or min(shape[:3]) < 2:
        hint = "Give a volume of at least 2 slices along each axis"
        raise InputError(path, f"holds a single slice (shape {_by(shape)})", hint)


def _check_grid(path: Path, image: SpatialImage) -> None:
    try:
        check_affine(image.affine)
    except GridError as error:
        hint = "Resample it to a grid with right angles" if "shear" in str(error) else "Export it again from the scan"
        raise InputError(path, f"has a {error}", hint) from error
    sides = nib.affines.voxel_sizes(image.affine)
    smallest, largest = VOXEL_SIDES_MM
    if sides.min() < smallest or sides.max() > largest:
        fault = f"has voxels of {_by(f'{side:.4g}' for side in sides)} mm, outside {smallest:g}-{largest:g} mm"
        raise InputError(path, fault, "Correct the voxel size in its header; lengths must be in millimetres")
    litres = float(np.prod(sides)) * math.prod(image.shape[:3]) / 1e6
    if litres > MAX_LITRES:
        fault = f"covers {litres:.3g} litres, more than {MAX_LITRES}"
        raise InputError(path, fault, "Correct the voxel size in its header, or crop it")


def _read_data(path: Path, image: SpatialImage) -> NDArray[np.float32]:
    try:
        with np.errstate(over="ignore"):  # becomes infinite, which `_check_intensities` reports
            return np.array(image.get_fdata(dtype=np.float32, caching="unchanged"))  # a copy, no map of the file
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
    if isinstance(image, nib.Nifti1Pair):  # NIfTI-2, or a header and an image file: the same fields
        return _on_grid_of(data, image)
    if isinstance(image, nib.AnalyzeImage) and np.allclose(image.affine, image.header.get_best_affine()):
        image.extra[PLACED] = False  # by a matrix beside it, as SPM writes; its origin alone tells no side
        return nib.Nifti1Image(data, image.affine, nib.Nifti1Header.from_header(image.header))
    return scanner_nifti(data, image.affine)


def _on_grid_of(data: NDArray, reference: nib.Nifti1Pair) -> nib.Nifti1Image:
    header = nib.Nifti1Header()
    sizes = slice(1 + data.ndim)  # pixdim[0] is the handedness of the qform
    header["pixdim"][sizes] = reference.header["pixdim"][sizes]
    for field in GRID_FIELDS:
        header[field] = reference.header[field]
    header.set_data_dtype(data.dtype)
    return nib.Nifti1Image(data, reference.affine, header)


def _by(values: Iterable[object]) -> str:
    return " x ".join(map(str, values))
