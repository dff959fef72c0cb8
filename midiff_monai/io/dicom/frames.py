"""DICOM frames in space: where each slice of a series lies, and whether together they make up a volume."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import atan, degrees
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from midiff_monai.errors import InputError
from midiff_monai.io.affines import SHEAR_TOLERANCE

SPACING_TOLERANCE = 0.05
"""Largest distance of a slice from its even place, as a part of the slice spacing; positions are stored rounded."""

ROUNDING_TOLERANCE = 0.01
"""Largest error of lengths and angles of directions that are stored with few digits."""

DUPLICATE_MM = 1e-3
"""Slices nearer than this lie at one position."""

ErrorOfSeries = Callable[[str, str], InputError]
"""Makes an error of a fault and a mend."""


@dataclass(frozen=True, eq=False)
class Frame:
    """A slice of a series.

    Attributes:
        dataset: the image that holds it.
        index: its place in a multi-frame image, else 0.
        matrix: its numbers of rows and columns.
        position: (3,), centre of its first pixel in LPS millimetres (ImagePositionPatient).
        orientation: (2, 3), directions of its rows and of its columns (ImageOrientationPatient).
        spacing: (2,), distance of its rows and of its columns in millimetres (PixelSpacing).
        rescaling: where its RescaleSlope and RescaleIntercept stand, if it has them.
    """

    dataset: Dataset
    index: int
    matrix: tuple[int, int]
    position: NDArray[np.float64]
    orientation: NDArray[np.float64]
    spacing: NDArray[np.float64]
    rescaling: Dataset

    @property
    def path(self) -> Path:
        """The file it was read from."""
        return Path(str(self.dataset.filename))

    @property
    def name(self) -> str:
        """The file name, and the number of the frame from 1 on if there are several."""
        return f"frame {self.index + 1}" if "PerFrameFunctionalGroupsSequence" in self.dataset else self.path.name

    @property
    def normal(self) -> NDArray[np.float64]:
        """(3,), the unit vector across the slice."""
        normal = np.cross(*self.orientation)
        return normal / np.linalg.norm(normal)


def frames_of(dataset: Dataset) -> list[Frame]:
    """List the frames of an image that was read from a file.

    Raises:
        InputError: it is not greyscale, tiles slices, or lacks its place in space.
    """
    path = Path(str(dataset.filename))
    if not str(dataset.get("PhotometricInterpretation")).startswith("MONOCHROME"):
        raise InputError(path, "is no greyscale image", "Choose a series of scalar images")
    if "MOSAIC" in (dataset.get("ImageType") or ()):  # its one position is that of no slice
        hint = "Convert it with dcm2niix, and give one of the volumes"
        raise InputError(path, "is a Siemens mosaic, which tiles the slices of a time or diffusion series", hint)
    try:
        if "PerFrameFunctionalGroupsSequence" not in dataset:
            return [_frame(dataset, 0, dataset, dataset, dataset, dataset)]
        return [_frame_of_multiframe(dataset, k) for k in range(len(dataset.PerFrameFunctionalGroupsSequence))]
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        hint = "Choose an acquired series; a screen capture is none"
        raise InputError(path, f"does not say where it lies in space ({error})", hint) from error


def in_slice_order(frames: list[Frame], error: ErrorOfSeries) -> list[Frame]:
    """Sort frames along their normal, and check that they are the slices of a volume.

    Raises:
        InputError: made by `error`. The frames are fewer than two, differ in frame of reference, matrix, pixel spacing
            or orientation, lie at one position, are spaced unevenly, or shifted against each other.
    """
    if len(frames) < 2:
        raise error("holds a single slice", "Give a series of at least 2 slices")
    _check_alike(frames, error)
    normal = frames[0].normal
    frames = sorted(frames, key=lambda frame: float(normal @ frame.position))
    _check_spacing(frames, error)
    _check_tilt(frames, error)
    return frames


def affine_of(frames: list[Frame]) -> NDArray[np.float64]:
    """The affine (4, 4) from (column, row, slice) to RAS millimetres, of frames in slice order (PS3.3 C.7.6.2.1.1)."""
    first, last = frames[0], frames[-1]
    affine = np.eye(4)
    affine[:3, :2] = (first.orientation * first.spacing[::-1, None]).T
    affine[:3, 2] = (last.position - first.position) / (len(frames) - 1)
    affine[:3, 3] = first.position
    affine[:2] *= -1  # from LPS
    return affine


def functional_group(own: Dataset, shared: Dataset, keyword: str) -> Dataset:
    """What a frame of a multi-frame image has of a kind of its own, or in common with all; empty if it has none."""
    items = own.get(keyword) or shared.get(keyword) or [Dataset()]
    return items[0]


def _frame_of_multiframe(dataset: Dataset, index: int) -> Frame:
    own, shared = dataset.PerFrameFunctionalGroupsSequence[index], dataset.SharedFunctionalGroupsSequence[0]
    group = partial(functional_group, own, shared)

    return _frame(
        dataset,
        index,
        position=group("PlanePositionSequence"),
        orientation=group("PlaneOrientationSequence"),
        measures=group("PixelMeasuresSequence"),
        rescaling=group("PixelValueTransformationSequence"),
    )


def _frame(
    dataset: Dataset, index: int, position: Dataset, orientation: Dataset, measures: Dataset, rescaling: Dataset
) -> Frame:
    directions = _numbers(orientation, "ImageOrientationPatient", 6).reshape(2, 3)
    if not np.allclose(directions @ directions.T, np.eye(2), atol=ROUNDING_TOLERANCE):
        raise ValueError("ImageOrientationPatient holds no two unit vectors at right angles")
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    corner, spacing = _numbers(position, "ImagePositionPatient", 3), _numbers(measures, "PixelSpacing", 2)
    return Frame(dataset, index, (int(dataset.Rows), int(dataset.Columns)), corner, directions, spacing, rescaling)


def _numbers(dataset: Dataset, keyword: str, count: int) -> NDArray[np.float64]:
    if keyword not in dataset:
        raise ValueError(f"{keyword} is missing")
    numbers = np.array(dataset[keyword].value, dtype=np.float64)
    if numbers.shape != (count,) or not np.isfinite(numbers).all():
        raise ValueError(f"{keyword} does not hold {count} numbers")
    return numbers


def _check_alike(frames: list[Frame], error: ErrorOfSeries) -> None:
    first = frames[0]
    for frame in frames[1:]:
        if frame.matrix != first.matrix:
            what, hint = "matrix sizes", "Export the images of one acquisition"
        elif frame.dataset.get("FrameOfReferenceUID") != first.dataset.get("FrameOfReferenceUID"):
            what, hint = "frames of reference", "Export the images of one examination"
        elif not np.allclose(frame.orientation, first.orientation, rtol=0, atol=SHEAR_TOLERANCE):
            what, hint = "orientations", "Choose a series of parallel slices; a localizer is none"
        elif not np.allclose(frame.spacing, first.spacing, rtol=SHEAR_TOLERANCE, atol=0):
            what, hint = "pixel spacings", "Export the images of one acquisition"
        else:
            continue
        raise error(f"mixes {what} ({first.name} and {frame.name} differ)", hint)


def _check_spacing(frames: list[Frame], error: ErrorOfSeries) -> None:
    distances = np.array([frames[0].normal @ frame.position for frame in frames])
    gaps = np.diff(distances)
    closest, widest = gaps.argmin(), gaps.argmax()
    if gaps[closest] < DUPLICATE_MM:
        pair = f"{frames[closest].name} and {frames[closest + 1].name}"
        hint = "Keep one copy of each image and one volume of a time series, diffusion series or multiple echo"
        raise error(f"has several images at one position ({pair})", hint)
    even = np.linspace(distances[0], distances[-1], len(frames))
    if np.abs(distances - even).max() > SPACING_TOLERANCE * gaps.mean():
        between = f"{frames[widest].name} and {frames[widest + 1].name}"
        fault = f"has slices {gaps.min():.4g} to {gaps.max():.4g} mm apart, the widest gap between {between}"
        raise error(fault, "Export every slice; if none is missing, resample it to an even spacing")


def _check_tilt(frames: list[Frame], error: ErrorOfSeries) -> None:
    offsets = np.array([frame.position - frames[0].position for frame in frames])
    along = offsets @ frames[0].normal
    sideways = np.linalg.norm(offsets - along[:, None] * frames[0].normal, axis=1).max()
    if sideways > SHEAR_TOLERANCE * along[-1]:
        angle = degrees(atan(sideways / along[-1]))
        fault = (
            f"has slices that are shifted sideways by up to {sideways:.3g} mm ({angle:.1f} degrees, a tilted gantry)"
        )
        raise error(fault, "Undo the tilt first, for example with dcm2niix, and give its NIfTI file")
