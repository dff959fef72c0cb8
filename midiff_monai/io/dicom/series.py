"""Finding DICOM series among files, and which of them are anatomical volumes.

Needs the extra `dicom`. Attribute names are DICOM keywords, as defined in PS3.3.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from midiff_monai.io.dicom.frames import DUPLICATE_MM, functional_group
from midiff_monai.io.dicom.reader import DicomSeries, read_file, unreadable_file_error

ANATOMICAL = ("MR", "CT")
"""Modalities whose images show anatomy."""

FEW_SLICES = 8
"""A series with fewer slices is excluded beside one with twice as many. Seven slices of 6 mm cover no half brain."""

STACK_COSINE = 0.9
"""Smallest cosine between the normals of slices in one stack. At a smaller one, the slices lie in several planes."""

_HEADER_KEYWORDS = (
    *("Modality", "ImageType", "Rows", "NumberOfFrames", "ImagePositionPatient", "ImageOrientationPatient"),
    *("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "EchoNumbers"),
    *("EchoTime", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
)


class _Image(NamedTuple):
    """Header fields of an image that identify its series. Images of one volume share the first four fields.

    Attributes:
        multiframe: SOPInstanceUID if the image has several frames, otherwise empty.
        exclusion_reason: Why it is not an anatomical image, otherwise empty.
        uid: SOPInstanceUID.
        positions: (frames, 4), from `_slice_positions`.
    """

    series: str
    echo: str
    multiframe: str
    exclusion_reason: str
    path: Path
    study: str
    uid: str
    echo_time: str
    mosaic: bool
    positions: NDArray[np.float64]
    number: int
    modality: str
    description: str


def find_series(files: Iterable[Path]) -> list[DicomSeries]:
    """Find all image series among DICOM files, sorted by name.

    SeriesInstanceUID identifies a series. Echoes that share a series (PD and T2 of a dual echo) become one
    `DicomSeries` each, and so do multi-frame images. Segmentations are ignored. A file that cannot be read becomes a
    `DicomSeries` with a fault.

    Series with a modality other than MR and CT are excluded, and localizers, by their ImageType. Beside a volume of the
    same study and modality, these are excluded too: series with few slices, scouts with slices in several planes, and
    time and diffusion series. If a study has no such volume, they stay, and reading them reports the fault.
    """
    found: list[DicomSeries] = []
    volumes: dict[tuple[str, ...], list[_Image]] = defaultdict(list)
    echoes: dict[str, set[str]] = defaultdict(set)
    for path in sorted(files):
        try:
            image = _read_header(path)
        except Exception as error:  # pydicom's parsers raise their own errors, KeyError and struct.error
            refusal = unreadable_file_error(path, error)
            found.append(DicomSeries((path,), "", "", "", path.name, refusal.fault, refusal.hint))
            continue
        if image is not None:
            volumes[image[:4]].append(image)
            echoes[image.series].add(image.echo)
    found += [_make_series(volume, len(echoes[volume[0].series]) > 1) for volume in volumes.values()]
    return sorted(_with_unique_names(_exclude_minor_series(found)), key=lambda series: (series.name, series.uid))


def _exclude_minor_series(found: list[DicomSeries]) -> list[DicomSeries]:
    """Exclude series that are not a volume, compared with the longest series of their study and modality."""
    longest: dict[tuple[str, str], int] = defaultdict(int)
    for series in found:
        if not series.exclusion_reason and not series.repetition_reason:
            kind = series.study, series.modality
            longest[kind] = max(longest[kind], series.slice_count)
    return [
        series
        if series.exclusion_reason
        else replace(series, exclusion_reason=_minor_series_reason(series, longest[series.study, series.modality]))
        for series in found
    ]


def _minor_series_reason(series: DicomSeries, longest: int) -> str:
    if longest < 2:
        return ""
    if series.repetition_reason:
        return series.repetition_reason
    if not series.slice_count:
        return "has slices of several orientations"
    if series.slice_count < FEW_SLICES and 2 * series.slice_count <= longest:
        return f"has few slices ({series.slice_count}, another series of its study {longest})"
    return ""


def _with_unique_names(found: list[DicomSeries]) -> list[DicomSeries]:
    """Append the digest to names that several series of a folder share.

    Excluded series do not count, because they write no files.
    """
    namesakes = Counter((series.folder, series.name) for series in found if not series.exclusion_reason)
    return [
        replace(series, name=f"{series.name}_{series.digest}") if namesakes[series.folder, series.name] > 1 else series
        for series in found
    ]


def _read_header(path: Path) -> _Image | None:
    """Read the header fields that identify a series. Returns None if the file is not an image, or a segmentation."""
    header = read_file(path, stop_before_pixels=True, specific_tags=list(_HEADER_KEYWORDS))
    if "Rows" not in header or header.get("Modality") == "SEG":
        return None
    uid = str(header.get("SOPInstanceUID"))
    return _Image(
        series=str(header.get("SeriesInstanceUID")),
        echo=str(header.get("EchoNumbers") or ""),
        multiframe=uid if int(header.get("NumberOfFrames") or 1) > 1 else "",
        exclusion_reason=_header_exclusion_reason(header),
        path=path,
        study=str(header.get("StudyInstanceUID") or header.get("SeriesInstanceUID")),
        uid=uid,
        echo_time=str(header.get("EchoTime") or ""),
        mosaic="MOSAIC" in (header.get("ImageType") or ()),
        positions=_slice_positions(header),
        number=int(header.get("SeriesNumber") or 0),
        modality=str(header.get("Modality") or ""),
        description=str(header.get("SeriesDescription") or ""),
    )


def _header_exclusion_reason(header: Dataset) -> str:
    if header.get("Modality") and header.Modality not in ANATOMICAL:
        return f"is of modality {header.Modality!r}, neither MR nor CT"
    return "is a localizer" if "LOCALIZER" in (header.get("ImageType") or ()) else ""


def _slice_positions(header: Dataset) -> NDArray[np.float64]:
    """Return the normal of each slice and its distance along the normal, (frames, 4). Zeros if they are missing."""
    frames = header.get("PerFrameFunctionalGroupsSequence")
    if not frames:
        return np.array([_slice_position(header, header)])
    shared = header.SharedFunctionalGroupsSequence[0]
    groups = ("PlanePositionSequence", "PlaneOrientationSequence")
    return np.array(
        [_slice_position(*(functional_group(frame, shared, group) for group in groups)) for frame in frames]
    )


def _slice_position(position: Dataset, orientation: Dataset) -> tuple[float, ...]:
    if "ImagePositionPatient" not in position or "ImageOrientationPatient" not in orientation:
        return (0.0,) * 4
    row, column = np.array(orientation.ImageOrientationPatient, dtype=float).reshape(2, 3)
    normal = np.cross(row, column)
    return (*normal.tolist(), float(normal @ np.array(position.ImagePositionPatient, dtype=float)))


def _count_frames_per_position(images: list[_Image]) -> list[int]:
    """Count the frames at each position along the normal of the slices. Empty if the slices have several normals."""
    positions = np.concatenate([image.positions for image in images])
    normals = positions[:, :3]
    lengths = np.linalg.norm(normals, axis=1)
    if (np.abs(normals @ normals[0]) < STACK_COSINE * lengths * lengths[0]).any():
        return []
    return list(Counter(np.round(positions[:, 3] / DUPLICATE_MM).tolist()).values())


def _repetition_reason(images: list[_Image], frames_per_position: list[int]) -> str:
    if images[0].mosaic:
        return "is a mosaic, as time and diffusion series are"
    # One duplicate position, a copy of all images, and two echoes in one series are faults that reading reports.
    one_acquisition = len({image.echo_time for image in images}) == 1
    no_copies = len({image.uid for image in images}) == len(images)
    if len(frames_per_position) > 1 and min(frames_per_position) > 1 and one_acquisition and no_copies:
        return f"has up to {max(frames_per_position)} images at a position, as time and diffusion series have"
    return ""


def _make_series(images: list[_Image], has_other_echoes: bool) -> DicomSeries:
    first = images[0]
    files = tuple(image.path for image in sorted(images, key=lambda image: float(image.positions[0, 3])))
    frames_per_position = _count_frames_per_position(images)
    parts = [f"{first.number:03d}", first.description, f"echo{first.echo}" if has_other_echoes else ""]
    name = re.sub(r"[^A-Za-z0-9+-]+", "_", " ".join(filter(None, parts))).strip("_")
    digest = hashlib.sha256(repr((first.series, first.echo, first.multiframe)).encode()).hexdigest()[:8]
    return DicomSeries(
        *(files, first.series, first.modality, first.description, name),
        digest=digest,
        study=first.study,
        slice_count=len(frames_per_position),
        repetition_reason=_repetition_reason(images, frames_per_position),
        exclusion_reason=first.exclusion_reason,
    )
