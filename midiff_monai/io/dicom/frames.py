"""DICOM frames: the position of each slice in space, and whether the slices of a series form a volume."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from math import atan, degrees, isfinite
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from midiff_monai.errors import InputError
from midiff_monai.io.affines import SHEAR_TOLERANCE

SPACING_TOLERANCE = 0.05
"""Largest deviation of a slice from even spacing, as a fraction of the spacing. Positions are stored rounded."""

ROUNDING_TOLERANCE = 0.01
"""Largest error in the lengths and angles of direction vectors that are stored with few digits."""

DUPLICATE_MM = 1e-3
"""Slices closer than this are at the same position, in millimetres."""

SeriesErrorFactory = Callable[[str, str], InputError]
"""Makes an error for a series from a fault and a hint."""


@dataclass(frozen=True, eq=False)
class Frame:
    """A slice of a series.

    Attributes:
        dataset: The DICOM image that contains the frame.
        index: Index of the frame in a multi-frame image, otherwise 0.
        matrix: Number of rows and number of columns.
        position: (3,), centre of the first pixel in LPS millimetres (ImagePositionPatient).
        orientation: (2, 3), unit vectors along the rows and along the columns (ImageOrientationPatient).
        spacing: (2,), distance between rows and between columns in millimetres (PixelSpacing).
        rescaling: Dataset with RescaleSlope and RescaleIntercept, if the frame has them.
        echo_time: In milliseconds. 0 if the header lacks it.
        image_type: From the third value of ImageType or FrameType on, such as "W" of a water image. May be empty.
        is_magnitude: Whether the frame is not known to be a phase, real or imaginary image.
    """

    dataset: Dataset
    index: int
    matrix: tuple[int, int]
    position: NDArray[np.float64]
    orientation: NDArray[np.float64]
    spacing: NDArray[np.float64]
    rescaling: Dataset
    echo_time: float
    image_type: str
    is_magnitude: bool

    @property
    def path(self) -> Path:
        """The file of the frame."""
        return Path(str(self.dataset.filename))

    @property
    def name(self) -> str:
        """The file name, or the frame number (from 1) in a multi-frame image."""
        return f"frame {self.index + 1}" if "PerFrameFunctionalGroupsSequence" in self.dataset else self.path.name

    @property
    def normal(self) -> NDArray[np.float64]:
        """(3,), unit vector perpendicular to the slice."""
        normal = np.cross(*self.orientation)
        return normal / np.linalg.norm(normal)


def list_frames(dataset: Dataset) -> list[Frame]:
    """List the frames of an image.

    Raises:
        InputError: The image is in colour, is a mosaic of slices, or lacks its position in space.
    """
    path = Path(str(dataset.filename))
    if not str(dataset.get("PhotometricInterpretation")).startswith("MONOCHROME"):
        raise InputError(path, "is not a greyscale image", "Choose a series of scalar images")
    if "MOSAIC" in (dataset.get("ImageType") or ()):  # its position is not that of a slice
        hint = "Convert it with dcm2niix, and give one of the volumes"
        raise InputError(path, "is a Siemens mosaic, which shows all slices of a time point in one image", hint)
    try:
        if "PerFrameFunctionalGroupsSequence" not in dataset:
            return [_frame(dataset, 0, lambda keyword: dataset)]
        described, declared = len(dataset.PerFrameFunctionalGroupsSequence), int(dataset.get("NumberOfFrames") or 1)
        if described != declared:
            raise InputError(path, f"declares {declared} frames, but describes {described}", "Export it again")
        return [_multiframe_frame(dataset, k) for k in range(described)]
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        hint = "Choose an acquired series, not a screen capture"
        raise InputError(path, f"has no usable position in space ({error})", hint) from error


def sort_slices(frames: list[Frame], error: SeriesErrorFactory) -> list[Frame]:
    """Sort frames along their normal and check that they form a volume.

    Raises:
        InputError: Made by `error`. There are fewer than two frames; they differ in frame of reference, matrix, pixel
            spacing or orientation; two are at the same position; or they are unevenly spaced or shifted sideways.
    """
    if len(frames) < 2:
        raise error("holds a single slice", "Give a series of at least 2 slices")
    _check_consistent(frames, error)
    normal = frames[0].normal
    frames = sorted(frames, key=lambda frame: float(normal @ frame.position))
    _check_spacing(frames, error)
    _check_gantry_tilt(frames, error)
    return frames


def affine_from_frames(frames: list[Frame]) -> NDArray[np.float64]:
    """Return the affine (4, 4) from (column, row, slice) to RAS mm for frames in slice order (PS3.3 C.7.6.2.1.1)."""
    first, last = frames[0], frames[-1]
    affine = np.eye(4)
    affine[:3, :2] = (first.orientation * first.spacing[::-1, None]).T
    affine[:3, 2] = (last.position - first.position) / (len(frames) - 1)
    affine[:3, 3] = first.position
    affine[:2] *= -1  # LPS to RAS
    return affine


def shared_groups(dataset: Dataset) -> Dataset:
    """Return the functional groups that all frames of an image share. They may be missing."""
    return (dataset.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]


def functional_group(own: Dataset, shared: Dataset, keyword: str) -> Dataset:
    """Return a functional group of a frame: its own, otherwise the shared one, otherwise an empty dataset."""
    items = own.get(keyword) or shared.get(keyword) or [Dataset()]
    return items[0]


def _multiframe_frame(dataset: Dataset, index: int) -> Frame:
    own = dataset.PerFrameFunctionalGroupsSequence[index]
    return _frame(dataset, index, partial(functional_group, own, shared_groups(dataset)))


def _frame(dataset: Dataset, index: int, group: Callable[[str], Dataset]) -> Frame:
    directions = _numbers(group("PlaneOrientationSequence"), "ImageOrientationPatient", 6).reshape(2, 3)
    if not np.allclose(directions @ directions.T, np.eye(2), atol=ROUNDING_TOLERANCE):
        raise ValueError("ImageOrientationPatient does not hold two perpendicular unit vectors")
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    spacing = _numbers(group("PixelMeasuresSequence"), "PixelSpacing", 2)
    if spacing.min() <= 0:
        raise ValueError("PixelSpacing is not positive")
    return Frame(
        dataset,
        index,
        matrix=(int(dataset.Rows), int(dataset.Columns)),
        position=_numbers(group("PlanePositionSequence"), "ImagePositionPatient", 3),
        orientation=directions,
        spacing=spacing,
        rescaling=group("PixelValueTransformationSequence"),
        echo_time=echo_time(group("MREchoSequence")),
        image_type=image_type(group("MRImageFrameTypeSequence")),
        is_magnitude=is_magnitude(group("MRImageFrameTypeSequence")),
    )


def echo_time(dataset: Dataset) -> float:
    """Return the echo time in milliseconds, rounded to microseconds. 0 if the dataset lacks it."""
    return round(optional_number(dataset, "EffectiveEchoTime") or optional_number(dataset, "EchoTime"), 3)


def image_type(dataset: Dataset) -> str:
    """Return the values of FrameType or ImageType from the third on, such as "M_SE". Empty if there are none."""
    values = values_of(dataset, "FrameType") or values_of(dataset, "ImageType")
    return "_".join(value for value in values[2:] if value != "NONE")


def values_of(dataset: Dataset, keyword: str) -> list[str]:
    """Return the values of an attribute of text. pydicom gives a single value without a list."""
    found = dataset.get(keyword) or []
    return [found] if isinstance(found, str) else [str(value) for value in found]


def is_magnitude(dataset: Dataset) -> bool:
    """Return whether a frame is not known to be a phase, real or imaginary image."""
    return dataset.get("ComplexImageComponent") not in ("PHASE", "REAL", "IMAGINARY")


def optional_number(dataset: Dataset, keyword: str, missing: float = 0.0) -> float:
    """Return the number of an attribute, or `missing` if it is absent, not a number, or not finite."""
    with suppress(TypeError, ValueError, OverflowError):
        number = float(dataset.get(keyword))  # type: ignore[arg-type]
        return number if isfinite(number) else missing
    return missing


def _numbers(dataset: Dataset, keyword: str, count: int) -> NDArray[np.float64]:
    if keyword not in dataset:
        raise ValueError(f"{keyword} is missing")
    numbers = np.array(dataset[keyword].value, dtype=np.float64)
    if numbers.shape != (count,) or not np.isfinite(numbers).all():
        raise ValueError(f"{keyword} does not hold {count} numbers")
    return numbers


def _check_consistent(frames: list[Frame], error: SeriesErrorFactory) -> None:
    first = frames[0]
    for frame in frames[1:]:
        if frame.matrix != first.matrix:
            what, hint = "matrix sizes", "Export the images of one acquisition"
        elif frame.dataset.get("FrameOfReferenceUID") != first.dataset.get("FrameOfReferenceUID"):
            what, hint = "frames of reference", "Export the images of one examination"
        elif not np.allclose(frame.orientation, first.orientation, rtol=0, atol=SHEAR_TOLERANCE):
            what, hint = "orientations", "Choose a series of parallel slices, not a localizer"
        elif not np.allclose(frame.spacing, first.spacing, rtol=SHEAR_TOLERANCE, atol=0):
            what, hint = "pixel spacings", "Export the images of one acquisition"
        else:
            continue
        raise error(f"mixes {what} ({first.name} and {frame.name} differ)", hint)


def _check_spacing(frames: list[Frame], error: SeriesErrorFactory) -> None:
    distances = np.array([frames[0].normal @ frame.position for frame in frames])
    gaps = np.diff(distances)
    closest, widest = gaps.argmin(), gaps.argmax()
    if gaps[closest] < DUPLICATE_MM:
        pair = f"{frames[closest].name} and {frames[closest + 1].name}"
        hint = "Keep one copy of each image, and one volume of a time series, diffusion series or multi-echo series"
        raise error(f"has several images at one position ({pair})", hint)
    even = np.linspace(distances[0], distances[-1], len(frames))
    if np.abs(distances - even).max() > SPACING_TOLERANCE * gaps.mean():
        between = f"{frames[widest].name} and {frames[widest + 1].name}"
        fault = f"has slices {gaps.min():.4g} to {gaps.max():.4g} mm apart, the widest gap between {between}"
        raise error(fault, "Export every slice. If none is missing, resample the volume to an even spacing")


def _check_gantry_tilt(frames: list[Frame], error: SeriesErrorFactory) -> None:
    offsets = np.array([frame.position - frames[0].position for frame in frames])
    along = offsets @ frames[0].normal
    sideways = np.linalg.norm(offsets - along[:, None] * frames[0].normal, axis=1).max()
    if sideways > SHEAR_TOLERANCE * along[-1]:
        angle = degrees(atan(sideways / along[-1]))
        fault = (
            f"has slices that are shifted sideways by up to {sideways:.3g} mm ({angle:.1f} degrees, a tilted gantry)"
        )
        raise error(fault, "Correct the tilt first, for example with dcm2niix, and give its NIfTI file")
