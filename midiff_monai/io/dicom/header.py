"""Header fields of a DICOM image that identify its series and its place in it.

Needs the extra `dicom`. Attribute names are DICOM keywords, as defined in PS3.3.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from midiff_monai.errors import InputError
from midiff_monai.io.dicom.frames import (
    echo_time,
    functional_group,
    image_type,
    is_magnitude,
    optional_number,
    shared_groups,
    values_of,
)
from midiff_monai.io.dicom.reader import read_file
from midiff_monai.io.placeholders import COPY_AGAIN

ANATOMICAL = ("MR", "CT")
"""Modalities whose images show anatomy."""

NO_MAGNITUDES = {
    **dict.fromkeys(("P", "PHASE", "PHASE MAP"), "holds phase images"),
    **dict.fromkeys(("R", "REAL", "R_SE", "R_FFE", "R_IR"), "holds real parts"),
    **dict.fromkeys(("I", "IMAGINARY", "I_SE", "I_FFE", "I_IR"), "holds imaginary parts"),
}
"""Third value of the ImageType of images that are no magnitudes → why they are excluded."""

NO_ANATOMY = {
    "LOCALIZER": "is a localizer",
    **dict.fromkeys(("PROJECTION IMAGE", "MIP", "MNIP", "MIN_IP"), "holds projections"),
    **dict.fromkeys(("ADC", "FA", "ADC MAP", "FA MAP"), "is a map of diffusion"),
}
"""Value anywhere in the ImageType → why such images are excluded."""

SHORTEST_NAME = 3
"""Parts of a patient's name or id with fewer characters are not looked for in descriptions."""

_KEYWORDS = (
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "ConcatenationUID"),
    *("Modality", "ImageType", "ComplexImageComponent", "Rows", "NumberOfFrames", "SeriesNumber", "SeriesDescription"),
    *("PatientName", "PatientID", "ImagePositionPatient", "ImageOrientationPatient", "EchoNumbers", "EchoTime"),
    *("InstanceNumber", "AcquisitionNumber", "AcquisitionDateTime", "ImagesInAcquisition", "SliceThickness"),
    *("SpacingBetweenSlices", "InConcatenationTotalNumber"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
)


class TruncatedHeaderError(InputError):
    """A file ends inside the header of an image."""


class ImageHeader(NamedTuple):
    """Header fields of an image. Images of one volume share the first five fields.

    Attributes:
        series: SeriesInstanceUID, or the folder of the file if the header lacks it.
        number: SeriesNumber. Tools that anonymise may give several series one SeriesInstanceUID.
        echo: EchoNumbers, or empty.
        multiframe: ConcatenationUID or SOPInstanceUID if the image has several frames, otherwise empty.
        exclusion_reason: Why it is not an anatomical image, otherwise empty.
        study: StudyInstanceUID.
        uid: SOPInstanceUID.
        mosaic: Whether the image shows all slices of a time point.
        positions: (frames, 4), normal of each slice and its distance along the normal in millimetres. Zeros if the
            header lacks them.
        echo_times: (frames,), in milliseconds. 0 if the header lacks them.
        image_types: (frames,), as `frames.image_type` returns them.
        image_type: The image type of the volume, if the series has several at the same positions, otherwise empty.
        description: SeriesDescription without the name and the id of the patient.
        instance: InstanceNumber, or None.
        acquisition: What differs between acquisitions in one series: number and time.
        declared_images: ImagesInAcquisition, or 0.
        declared_spacing: SpacingBetweenSlices in millimetres, or 0.
        thickness: SliceThickness in millimetres, or 0.
        declared_parts: InConcatenationTotalNumber, or 0.
    """

    series: str
    number: int
    echo: str
    multiframe: str
    exclusion_reason: str
    path: Path
    study: str
    uid: str
    mosaic: bool
    positions: NDArray[np.float64]
    echo_times: NDArray[np.float64]
    image_types: NDArray[np.str_]
    modality: str
    description: str
    instance: int | None
    acquisition: tuple[str, ...]
    declared_images: int
    declared_spacing: float
    thickness: float
    declared_parts: int
    image_type: str = ""

    def select(self, chosen: NDArray[np.bool_]) -> ImageHeader:
        """Return the header with the chosen frames (frames,) only."""
        return self._replace(
            positions=self.positions[chosen],
            echo_times=self.echo_times[chosen],
            image_types=self.image_types[chosen],
        )


def read_header(path: Path) -> ImageHeader | None:
    """Read the header of a file. Returns None if the file is not an image, or a segmentation.

    Raises:
        TruncatedHeaderError: The file ends inside the header of an image.
    """
    header = read_file(path, stop_before_pixels=True, specific_tags=list(_KEYWORDS))
    if header.get("Modality") == "SEG" or ("Rows" not in header and not _is_image_class(header)):
        return None
    if "Rows" not in header:
        raise TruncatedHeaderError(path, "is truncated", COPY_AGAIN)
    positions, echo_times, image_types, magnitudes = _frames(header)
    uid = str(header.get("SOPInstanceUID"))
    is_multiframe = int(header.get("NumberOfFrames") or 1) > 1
    image = ImageHeader(
        series=str(header.get("SeriesInstanceUID") or path.parent),
        number=int(header.get("SeriesNumber") or 0),
        echo=str(header.get("EchoNumbers") or ""),
        multiframe=str(header.get("ConcatenationUID") or uid) if is_multiframe else "",
        exclusion_reason=_exclusion_reason(header, bool(magnitudes.any())),
        path=path,
        study=str(header.get("StudyInstanceUID") or header.get("SeriesInstanceUID")),
        uid=uid,
        mosaic="MOSAIC" in (header.get("ImageType") or ()),
        positions=positions,
        echo_times=echo_times,
        image_types=image_types,
        modality=str(header.get("Modality") or ""),
        description=_anonymous_description(header),
        instance=_instance_number(header),
        acquisition=tuple(str(header.get(keyword)) for keyword in ("AcquisitionNumber", "AcquisitionDateTime")),
        declared_images=int(optional_number(header, "ImagesInAcquisition")),
        declared_spacing=optional_number(header, "SpacingBetweenSlices"),
        thickness=optional_number(header, "SliceThickness"),
        declared_parts=int(optional_number(header, "InConcatenationTotalNumber")),
    )
    return image.select(magnitudes) if magnitudes.any() else image


def _is_image_class(header: Dataset) -> bool:
    """Return whether the SOP class is one of MR or CT images, or missing as in a truncated file."""
    class_uid = header.file_meta.get("MediaStorageSOPClassUID") or header.get("SOPClassUID")  # type: ignore[attr-defined]
    return class_uid is None or bool(re.search(r"(MR|CT) (Color )?Image Storage", class_uid.name))


def _exclusion_reason(header: Dataset, has_magnitudes: bool) -> str:
    image_type = values_of(header, "ImageType")
    if header.get("Modality") and header.Modality not in ANATOMICAL:
        return f"is of modality {header.Modality!r}, neither MR nor CT"
    found = [NO_ANATOMY[kind] for kind in image_type if kind in NO_ANATOMY]
    found += [NO_MAGNITUDES[kind] for kind in image_type[2:3] if kind in NO_MAGNITUDES]
    return found[0] if found else "" if has_magnitudes else "holds phase images"


def _instance_number(header: Dataset) -> int | None:
    number = int(optional_number(header, "InstanceNumber", missing=-1))
    return None if number < 0 else number


def _anonymous_description(header: Dataset) -> str:
    """Return the SeriesDescription, which becomes a file name, without the name and the id of the patient."""
    parts = [*re.split(r"[\^=\s,]+", str(header.get("PatientName") or "")), str(header.get("PatientID") or "")]
    names = "|".join(re.escape(part) for part in parts if len(part) >= SHORTEST_NAME)
    description = str(header.get("SeriesDescription") or "")
    return re.sub(rf"(?i)(?<![^\W_])({names})(?![^\W_])", "", description) if names else description


def _frames(
    header: Dataset,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.str_], NDArray[np.bool_]]:
    """Return positions (frames, 4), echo times, image types and whether frames are magnitude images, (frames,) each."""
    frames = header.get("PerFrameFunctionalGroupsSequence")
    shared = shared_groups(header)
    groups: list[Callable[[str], Dataset]]
    groups = [partial(functional_group, frame, shared) for frame in frames] if frames else [lambda keyword: header]
    return (
        np.array([_position(group("PlanePositionSequence"), group("PlaneOrientationSequence")) for group in groups]),
        np.array([echo_time(group("MREchoSequence")) for group in groups]),
        np.array([image_type(group("MRImageFrameTypeSequence")) for group in groups]),
        np.array([is_magnitude(group("MRImageFrameTypeSequence")) for group in groups]),
    )


def _position(position: Dataset, orientation: Dataset) -> tuple[float, ...]:
    if "ImagePositionPatient" not in position or "ImageOrientationPatient" not in orientation:
        return (0.0,) * 4
    row, column = np.array(orientation.ImageOrientationPatient, dtype=float).reshape(2, 3)
    normal = np.cross(row, column)
    return (*normal.tolist(), float(normal @ np.array(position.ImagePositionPatient, dtype=float)))
