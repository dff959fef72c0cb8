"""NIfTI headers that contradict themselves: repairs, the choice between sform and qform, units, and warnings.

A NIfTI header describes the grid up to three times: by the sform, the qform and the voxel size (pixdim). The rule:

1. The sform is used if its code is not 0, otherwise the qform if its code is not 0, otherwise pixdim alone.
2. The qform replaces the sform if the sform is sheared or singular, or if the sform leads to a standard space
   (code 2 or more) with other voxel sizes than pixdim. The qform is the geometry of the scanner then.
3. Lengths in metres or microns (xyzt_units) are converted to millimetres if that gives plausible voxel sizes.

Every contradiction gives a warning for the report.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.arrayproxy import ArrayProxy
from nibabel.spatialimages import SpatialImage
from numpy.typing import NDArray

from midiff_monai.io.affines import GridError, check_affine

VOXEL_SIZE_RANGE_MM = (0.1, 20.0)
"""Smallest and largest plausible voxel size of a head scan, in millimetres."""

SIZE_TOLERANCE = 0.01
"""Largest relative difference between two voxel sizes that counts as rounding."""

MILLIMETRES_PER_UNIT = {1: 1000.0, 3: 0.001}
"""Length unit of xyzt_units (its lowest three bits) → millimetres. Other codes mean millimetres or unknown."""

UNIT_NAMES = {1: "metres", 3: "microns"}

ALIGNED_CODE, LARGEST_CODE = 2, 5
"""Codes of sform and qform: aligned to another scan, and the last one of the standard, another template."""

IDENTITY_AFFINE = (
    "The affine of the header is the identity, which software writes when voxel size and orientation are unknown: "
    "check the voxel size, and which side is left."
)

UNIT_VOXEL_SIZE = (
    "The header states a voxel size of 1 x 1 x 1 and no orientation, as software writes it when both are unknown: "
    "check the voxel size."
)

_silent = logging.getLogger(f"{__name__}.silent")
_silent.addHandler(logging.NullHandler())
_silent.propagate = False


def load_nifti(path: Path, image_class: type[nib.Nifti1Pair]) -> tuple[nib.Nifti1Pair, list[str]]:
    """Load a NIfTI file with a header that nibabel alone may refuse or misread.

    Returns:
        The image without an affine, which `choose_affine` gives, and one warning per repair that may change the result.

    Raises:
        GridError: The header has neither a voxel size nor an sform.
    """
    files = image_class.filespec_to_file_map(str(path))
    with files.get("header", files["image"]).get_prepare_fileobj("rb") as file:
        size = image_class.header_class.template_dtype.itemsize
        header = image_class.header_class(
            file.read(size), check=False
        )  # header extensions may be damaged: none is read
    warnings = repair_header(header)
    header.check_fix(logger=_silent)
    voxels = image_class.ImageArrayProxy(files["image"].filename, header.copy())
    return image_class(voxels, None, header), warnings


def check_analyze_header(path: Path, image_class: type[nib.AnalyzeImage]) -> None:
    """Raise GridError if an ANALYZE header has no voxel size. nibabel would read 1 mm."""
    with image_class.filespec_to_file_map(str(path))["header"].get_prepare_fileobj("rb") as file:
        sizes = np.array(image_class.header_class.from_fileobj(file, check=False)["pixdim"][1:4], dtype=np.float64)
    if not np.isfinite(sizes).all() or (sizes == 0).any():
        raise GridError(f"voxel size of {times(sizes)}")


def repair_header(header: nib.Nifti1Header) -> list[str]:
    """Repair a header, as read, in place where the NIfTI library of FSL and AFNI reads it and nibabel does not.

    Raises:
        GridError: The header has neither a voxel size nor an sform.
    """
    return [
        *_repair_dimensions(header),
        *_repair_codes(header),
        *_repair_voxel_size(header),
        *_repair_quaternion(header),
        *_repair_offset(header),
        *_repair_intercept(header),
    ]


def _repair_dimensions(header: nib.Nifti1Header) -> Iterable[str]:
    header["dim"][4:][header["dim"][4:] <= 0] = 1  # an unused axis
    return ()


def _repair_codes(header: nib.Nifti1Header) -> Iterable[str]:
    for name in ("sform_code", "qform_code"):
        if (code := int(header[name])) > LARGEST_CODE:  # nibabel would take it for 0, which states no orientation
            header[name] = ALIGNED_CODE
            yield f"The header has an unknown {name} of {code}: {ALIGNED_CODE} is used."


def _repair_voxel_size(header: nib.Nifti1Header) -> Iterable[str]:
    sizes = np.array(header["pixdim"][1:4], dtype=np.float64)
    missing = ~np.isfinite(sizes) | (sizes == 0)
    if not missing.any():
        header["pixdim"][1:4] = np.abs(sizes)
        return
    if header["sform_code"] <= 0:
        raise GridError(f"voxel size of {times(sizes)}")
    rows = np.array([header[f"srow_{axis}"][:3] for axis in "xyz"], dtype=np.float64)
    header["pixdim"][1:4] = np.where(missing, np.linalg.norm(rows, axis=0), np.abs(sizes))
    yield f"The header has a voxel size (pixdim) of {times(sizes)}: the voxel size of the sform is used."


def _repair_quaternion(header: nib.Nifti1Header) -> Iterable[str]:
    names = "quatern_b", "quatern_c", "quatern_d"
    vector = np.array([header[name] for name in names], dtype=np.float64)
    length = np.linalg.norm(vector)
    if not length > 1 or not np.isfinite(length):
        return
    for name, value in zip(names, vector / length, strict=True):
        # Towards zero: the length of the rounded values must not exceed 1.
        header[name] = np.nextafter(header[name].dtype.type(value), 0)
    if length > 1 + SIZE_TOLERANCE and header["qform_code"] > 0:
        yield f"The quaternion of the qform has length {length:.3g} instead of 1: it was normalised."


def _repair_offset(header: nib.Nifti1Header) -> Iterable[str]:
    offset, smallest = float(header["vox_offset"]), header.single_vox_offset
    if header["magic"].item() == header.single_magic and not offset >= smallest:  # it may be NaN
        header["vox_offset"] = smallest
        yield f"The header says that the voxels start at byte {offset:g}: they are read from byte {smallest}."


def undeclared_voxels_warning(image: SpatialImage, stored_bytes: int) -> list[str]:
    """Return a warning if a file in one piece holds at least one slice more than its header declares.

    Args:
        image: As loaded from the file.
        stored_bytes: Size of the file, decompressed.
    """
    voxels = image.dataobj
    if not isinstance(image, nib.Nifti1Image) or not isinstance(voxels, ArrayProxy) or len(image.shape) < 3:
        return []
    bytes_per_voxel = image.get_data_dtype().itemsize
    surplus = stored_bytes - voxels.offset - math.prod(image.shape) * bytes_per_voxel
    slices = surplus // (math.prod(image.shape[:2]) * bytes_per_voxel or 1)
    return (
        [f"The file holds {slices} slices more than its header declares: check its dimensions."] if slices > 0 else []
    )


def _repair_intercept(header: nib.Nifti1Header) -> Iterable[str]:
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if np.isfinite(slope) and slope and not np.isfinite(intercept):
        header["scl_inter"] = 0
        yield f"The header has an intercept (scl_inter) of {intercept}: 0 is used."


def choose_affine(image: SpatialImage) -> tuple[NDArray[np.float64], list[str]]:
    """Choose the affine (4, 4) of an image in RAS millimetres by the rule of this module.

    Returns:
        The affine, and one warning per contradiction in the header.
    """
    shape = image.shape[:3]
    if not isinstance(image, nib.Nifti1Pair):
        affine, warnings = image.affine, [*_matrix_file_warnings(image), *_default_warnings(image, image.affine)]
    else:
        with np.errstate(invalid="ignore"):  # of numbers that are not finite, which give a warning or are refused
            stored, warnings = _sform_or_qform(image.header, shape)
        affine, converted = _in_millimetres(stored, int(image.header["xyzt_units"]) & 7)
        warnings = [*warnings, *converted, *_default_warnings(image, stored)]
    return np.asarray(affine, dtype=np.float64), warnings


def _default_warnings(image: SpatialImage, affine: NDArray[np.float64]) -> list[str]:
    """Return a warning if the affine looks like the default of a program that knows no geometry."""
    if np.array_equal(np.abs(affine), np.eye(4)):
        return [IDENTITY_AFFINE]
    codes = [image.header[f"{form}_code"] for form in ("sform", "qform")] if isinstance(image, nib.Nifti1Pair) else [1]
    return [UNIT_VOXEL_SIZE] if not any(codes) and np.array_equal(voxel_sizes(affine), np.ones(3)) else []


def _matrix_file_warnings(image: SpatialImage) -> list[str]:
    """Compare the .mat file of SPM with the voxel size of the ANALYZE header."""
    if not isinstance(image, nib.AnalyzeImage) or not _sizes_differ(
        affine_sizes := voxel_sizes(image.affine), sizes := image.header.get_zooms()[:3]
    ):
        return []
    return [
        f"The voxel sizes of the header ({times(sizes)} mm) and of its .mat file ({times(affine_sizes)} mm) differ."
    ]


def _sform_or_qform(header: nib.Nifti1Header, shape: Sequence[int]) -> tuple[NDArray[np.float64], list[str]]:
    (sform, sform_code), (qform, qform_code) = header.get_sform(coded=True), header.get_qform(coded=True)
    if sform is None:
        return header.get_best_affine(), []
    pixdim = np.array(header["pixdim"][1:4], dtype=np.float64)
    sizes_differ = _sizes_differ(voxel_sizes(sform), pixdim)
    sizes = f"voxel sizes of {times(voxel_sizes(sform))} and {times(pixdim)}"
    if qform is None:
        warning = f"The sform and pixdim of the header disagree: {sizes}. The sform is used."
        return sform, [warning] if sizes_differ else []
    differences = ([sizes] if sizes_differ else []) + _differences(sform, qform, shape)
    reason = _reason_against(sform, sform_code, sizes_differ)
    if not differences and not reason:
        return sform, []
    used = f"The qform is used, because {reason}" if reason else "The sform is used"
    text = "; ".join(differences) or "a different shape"
    heading = f"The sform (code {sform_code}) and the qform (code {qform_code}) of the header disagree"
    return qform if reason else sform, [f"{heading}: {text}. {used}."]


def _differences(sform: NDArray[np.float64], qform: NDArray[np.float64], shape: Sequence[int]) -> list[str]:
    found = []
    if np.linalg.det(sform[:3, :3]) * np.linalg.det(qform[:3, :3]) < 0:
        found.append("they are mirror images, so left and right may be swapped")
    if (voxels := _largest_shift(sform, qform, shape)) > 1:
        found.append(f"positions that differ by up to {voxels:.3g} voxels")
    return found


def _reason_against(sform: NDArray[np.float64], code: int, sizes_differ: bool) -> str:
    try:
        check_affine(sform)
    except GridError as error:
        return f"the sform has a {str(error).partition(':')[0]}"
    if code > 1 and sizes_differ:
        return "the sform leads to a standard space"
    return ""


def _in_millimetres(affine: NDArray[np.float64], unit: int) -> tuple[NDArray[np.float64], list[str]]:
    if unit not in MILLIMETRES_PER_UNIT:
        return affine, []
    converted = np.diag([MILLIMETRES_PER_UNIT[unit]] * 3 + [1.0]) @ affine
    if _plausible(affine) and not _plausible(converted):
        warning = f"The header gives lengths in {UNIT_NAMES[unit]}, but voxels of {times(voxel_sizes(affine))}"
        return affine, [f"{warning}: they are taken as millimetres."]
    return converted, []


def _plausible(affine: NDArray[np.float64]) -> bool:
    sizes = voxel_sizes(affine)
    return bool(VOXEL_SIZE_RANGE_MM[0] <= sizes.min() and sizes.max() <= VOXEL_SIZE_RANGE_MM[1])


def _sizes_differ(first: Sequence[float] | NDArray, second: Sequence[float] | NDArray) -> bool:
    return not np.allclose(first, second, rtol=SIZE_TOLERANCE, atol=0)


def _largest_shift(first: NDArray[np.float64], second: NDArray[np.float64], shape: Sequence[int]) -> float:
    """Return the largest displacement of a corner voxel between two affines, in voxels of the second."""
    corners = np.array([(*corner, 1) for corner in product(*((0, size - 1) for size in shape))])
    try:
        displaced = corners @ (np.linalg.inv(second) @ first).T
    except np.linalg.LinAlgError:
        return 0.0
    return float(np.abs(displaced - corners)[:, :3].max())


def times(values: Iterable[object]) -> str:
    """Join values with an x. Numbers are rounded to four digits."""
    return " x ".join(f"{value:.4g}" if isinstance(value, float | np.floating) else str(value) for value in values)
