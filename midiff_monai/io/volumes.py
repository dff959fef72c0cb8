"""Reading and writing volumes. Every format becomes a validated NIfTI image in memory."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import SpatialImage
from nibabel.wrapstruct import WrapStructError
from numpy.typing import DTypeLike, NDArray

from midiff_monai.errors import InputError, in_one_line
from midiff_monai.io.affines import GridError, check_affine
from midiff_monai.io.headers import VOXEL_SIZE_RANGE_MM, choose_affine, times, undeclared_voxels_warning
from midiff_monai.io.integrity import check_files
from midiff_monai.io.placeholders import COPY_AGAIN
from midiff_monai.io.readers import (
    ITK_SUFFIXES,
    READING_WARNINGS,
    STATES_ORIENTATION,
    check_size,
    load_with_itk,
    load_with_nibabel,
    scanner_nifti,
)

MAX_NEGATIVE_FRACTION, NEGATIVE_MARGIN = 0.1, 0.02
"""Largest fraction of negative voxels in a magnitude image. Bias field correction leaves a few. Voxels that are less
than a margin below 0, as a share of the 99th percentile, are ripples of an interpolation and do not count."""

BONE_HU, MAX_BONE_FRACTION = 700, 0.15
"""Above 700 HU lies bone, a tenth of a head. If 1024 was added to make values unsigned, the whole head lies above."""

MAX_FIELD_OF_VIEW_LITRES = 200
"""Largest plausible field of view. Head, neck and chest need half of it. A larger one has a wrong voxel size."""

UNREADABLE = (ImageFileError, WrapStructError, OSError, EOFError, zlib.error)
"""Errors that nibabel raises for a damaged file or a file that is not an image."""

GRID_HEADER = "grid header"
"""Key in `image.extra`: header of the file, if its own choice between sform and qform is not the one of `headers`."""

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
        shear in millimetres. `headers` has the rule for contradictory NIfTI headers. A NIfTI-1 header keeps everything
        but shape and data type. Other formats get a new header. `reading_warnings` returns what the user must check.

    Raises:
        InputError: The file cannot be read completely, or is not such a volume.
    """
    return validate_volume(Path(path), load_image(Path(path)))


def load_image(path: Path) -> SpatialImage:
    """Load an image of any shape, with the sentences for the report about its file.

    Raises:
        InputError: The file is not intact, or not an image.
    """
    size = check_files(path)
    image = load_with_itk(path) if path.suffix.lower() in ITK_SUFFIXES else load_with_nibabel(path)
    image.extra[READING_WARNINGS] = [*reading_warnings(image), *undeclared_voxels_warning(image, size)]
    return image


def validate_volume(path: Path, image: SpatialImage) -> nib.Nifti1Image:
    """Check that an image is a scalar volume, and convert it to the form of `read_volume`.

    Raises:
        InputError: The image is not a usable scalar volume. The error names `path`.
    """
    _check_scalar_volume(path, image)
    affine, warnings = choose_affine(image)
    _check_grid(path, affine, image.shape)
    data = _read_data(path, image).reshape(image.shape[:3])
    check_intensities(path, data)
    volume = _as_nifti1(data, affine, image)
    volume.extra.update(image.extra)
    volume.extra[READING_WARNINGS] = [*image.extra.get(READING_WARNINGS, ()), *warnings]
    return volume


def reading_warnings(image: SpatialImage) -> list[str]:
    """Return sentences for the report about the file and the header of an image from `read_volume`."""
    return list(image.extra.get(READING_WARNINGS, ()))


def check_intensity_range(image: nib.Nifti1Image, name: str | Path, modality: str) -> None:
    """Check the intensities against the DICOM modality: Hounsfield units for "CT", magnitudes for "MR".

    Other modalities are not checked.

    Raises:
        InputError: More than `MAX_NEGATIVE_FRACTION` of the nonzero voxels of an MR image are substantially negative,
            as in a z-scored brain. Or more than `MAX_BONE_FRACTION` of the nonzero voxels of a CT are above `BONE_HU`.
    """
    data = np.asarray(image.dataobj)
    something = (data != 0).sum()
    lowest = -NEGATIVE_MARGIN * np.percentile(data[data > 0], 99) if (data > 0).any() else 0.0
    if modality == "MR" and (share := (data < lowest).sum() / max(1, something)) > MAX_NEGATIVE_FRACTION:
        fault = f"has {share:.0%} of its voxels below 0, but MR magnitudes are never negative"
        hint = (
            "If it was normalised to a mean of 0, use the volume before that step, or add a constant to all voxels"
            " except the background. Name a modality that has negative values with --modality"
        )
        raise InputError(name, fault, hint)
    if modality == "CT" and (share := (data > BONE_HU).sum() / something) > MAX_BONE_FRACTION:
        fault = f"has {share:.0%} of its voxels above {BONE_HU} HU, but only bone is that dense"
        raise InputError(name, fault, "Subtract the constant that was added to the Hounsfield units, usually 1024")


def with_voxels(image: nib.Nifti1Image, data: NDArray[np.float32], warning: str) -> nib.Nifti1Image:
    """Return an image from `read_volume` with other voxels (X, Y, Z), and a further sentence for the report."""
    changed = nib.Nifti1Image(data, image.affine, image.header)
    changed.extra.update(image.extra)
    changed.extra[READING_WARNINGS] = [*reading_warnings(image), warning]
    return changed


def states_orientation(image: nib.Nifti1Image) -> bool:
    """Return whether the header states the orientation. If not (ANALYZE), left and right follow a convention."""
    header = image.extra.get(GRID_HEADER, image.header)
    return image.extra.get(STATES_ORIENTATION, True) and bool(header["sform_code"] or header["qform_code"])


def write_like(data: NDArray, reference: nib.Nifti1Image, path: Path, dtype: DTypeLike) -> None:
    """Write `image_like` to a file, which must end in .nii or .nii.gz."""
    nib.save(_without_affine(data, reference, dtype), path)


def write_shares(data: NDArray, reference: nib.Nifti1Image, path: Path) -> None:
    """Write values in [0, 1] as bytes with a scale factor of 1/255; the rest is as in `image_like`."""
    image = _without_affine(np.rint(255 * data), reference, np.uint8)
    image.header.set_slope_inter(1 / 255, 0)
    nib.save(image, path)


def image_like(data: NDArray, reference: nib.Nifti1Image, dtype: DTypeLike) -> nib.Nifti1Image:
    """Make a 3-D image with the sform, qform and units of a reference file. The rest of the header is new.

    Args:
        data: Voxels (X, Y, Z) in the shape of the reference.
        reference: An image from `read_volume`.
        dtype: Data type of the image. Integers are stored exactly, without scale factors.

    Raises:
        ValueError: The shapes differ, or an integer `dtype` cannot represent the values.
    """
    image = _without_affine(data, reference, dtype)
    return nib.Nifti1Image(image.dataobj, image.header.get_best_affine(), image.header)


def _without_affine(data: NDArray, reference: nib.Nifti1Image, dtype: DTypeLike) -> nib.Nifti1Image:
    """`image_like` with its header alone: nibabel changes the sform if it gets an affine that is not that of it."""
    if data.shape != reference.shape:
        raise ValueError(f"data of shape {data.shape} is not on the grid of the reference, {reference.shape}")
    stored = data.astype(dtype)
    if np.issubdtype(stored.dtype, np.integer) and not np.array_equal(stored, data):
        raise ValueError(f"{stored.dtype} cannot hold values of {data.dtype} between {data.min()} and {data.max()}")
    header = _grid_only(reference.extra.get(GRID_HEADER, reference.header))
    header.set_data_dtype(stored.dtype)
    return nib.Nifti1Image(stored, None, header)


def _check_scalar_volume(path: Path, image: SpatialImage) -> None:
    dtype = image.get_data_dtype()
    if dtype.names is not None:
        raise InputError(path, "holds colours (RGB)", "Export it as a scalar volume")
    if dtype.kind == "c":
        raise InputError(path, "holds complex numbers", "Export the magnitude")
    shape = image.shape
    check_size(path, math.prod(shape[:3]))
    if (frames := math.prod(shape[3:])) != 1:
        hint = "Extract one, for example with `fslroi IN OUT 0 1`; --together takes several contrasts of one person"
        raise InputError(path, f"holds {frames} frames (shape {times(shape)})", hint)
    if len(shape) < 3 or min(shape[:3]) < 2:
        hint = "Give a volume of at least 2 slices along each axis"
        raise InputError(path, f"holds a single slice (shape {times(shape)})", hint)


def _check_grid(path: Path, affine: NDArray[np.float64], shape: Sequence[int]) -> None:
    try:
        check_affine(affine)
    except GridError as error:
        hint = "Resample it to a grid with right angles" if "shear" in str(error) else "Export it again from the scan"
        raise InputError(path, f"has a {error}", hint) from error
    sizes = nib.affines.voxel_sizes(affine)
    smallest, largest = VOXEL_SIZE_RANGE_MM
    if sizes.min() < smallest or sizes.max() > largest:
        fault = f"has voxels of {times(sizes)} mm, outside {smallest:g}-{largest:g} mm"
        raise InputError(path, fault, "Correct the voxel size in its header; lengths must be in millimetres")
    litres = float(np.prod(sizes)) * math.prod(shape[:3]) / 1e6
    if litres > MAX_FIELD_OF_VIEW_LITRES:
        fault = f"covers {litres:.3g} litres, more than {MAX_FIELD_OF_VIEW_LITRES}"
        raise InputError(path, fault, "Correct the voxel size in its header, or crop it")


def _read_data(path: Path, image: SpatialImage) -> NDArray[np.float32]:
    try:
        with np.errstate(over="ignore"):  # an overflow becomes infinite, which `check_intensities` reports
            # A copy: a memory map would change with the file. NIfTI stores X first; NumPy and SciPy are several times
            # faster with Z first.
            return np.array(image.get_fdata(dtype=np.float32, caching="unchanged"), order="C")
    except (EOFError, OSError, ValueError, OverflowError) as error:
        fault = f"cannot be read to its end ({in_one_line(error)})"
        raise InputError(path, fault, COPY_AGAIN) from error


def check_intensities(path: Path, data: NDArray[np.float32]) -> None:
    """Raise InputError for voxels that are not finite, all the same, or nowhere positive."""
    if not_finite := int(data.size - np.isfinite(data).sum()):
        raise InputError(path, f"has voxels that are NaN or infinite ({not_finite})", "Replace them, for example by 0")
    if data.min() == data.max():
        raise InputError(path, f"is constant: every voxel is {data.flat[0]:g}", "Check the step that made the file")
    if data.max() <= 0:
        raise InputError(path, "has no positive voxel", "Add a constant, or check the step that made the file")


def _as_nifti1(data: NDArray[np.float32], affine: NDArray[np.float64], image: SpatialImage) -> nib.Nifti1Image:
    if isinstance(image, nib.Nifti1Pair):
        return _nifti1_with_affine(data, affine, _nifti1_header(image.header))
    if isinstance(image, nib.AnalyzeImage) and np.allclose(affine, image.header.get_best_affine()):
        # Only a .mat file of SPM states the orientation. The origin in the header does not.
        image.extra[STATES_ORIENTATION] = False
        return nib.Nifti1Image(data, affine, nib.Nifti1Header.from_header(image.header))
    return scanner_nifti(data, affine)


def _nifti1_with_affine(
    data: NDArray[np.float32], affine: NDArray[np.float64], header: nib.Nifti1Header
) -> nib.Nifti1Image:
    header.set_data_dtype(data.dtype)
    volume = nib.Nifti1Image(data, affine, header)
    if not np.allclose(affine, header.get_best_affine()):
        volume.extra[GRID_HEADER] = header  # nibabel changed the sform in its own copy
    return volume


def _nifti1_header(header: nib.Nifti1Header) -> nib.Nifti1Header:
    """Return a copy of a NIfTI-1 header. Of NIfTI-2 and of pairs, only the grid is copied."""
    return header.copy() if type(header) is nib.Nifti1Header else _grid_only(header)


def _grid_only(header: nib.Nifti1Header) -> nib.Nifti1Header:
    copy = nib.Nifti1Header()
    copy["pixdim"][:4] = header["pixdim"][:4]  # pixdim[0] holds the handedness of the qform
    for field in GRID_FIELDS:
        copy[field] = header[field]
    return copy
