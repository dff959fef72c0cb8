"""Finds the DICOM series among files, and which of them are volumes of anatomy.

Needs the extra `dicom`. Attributes are named by their DICOM keywords; PS3.3 defines them.
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
from midiff_monai.io.dicom.reader import DicomSeries, read_file, unreadable

ANATOMICAL = ("MR", "CT")
"""The modalities whose images show anatomy."""

FEW_SLICES = 8
"""A series of fewer is passed over beside one of twice as many: at 6 mm they do not cover half of a brain."""

STACK_COSINE = 0.9
"""Normals that meet at less are those of slices in several planes; at more, of a stack that may have a fault."""

_HEADER_KEYWORDS = (
    *("Modality", "ImageType", "Rows", "NumberOfFrames", "ImagePositionPatient", "ImageOrientationPatient"),
    *("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "EchoNumbers"),
    *("EchoTime", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
)


class _Image(NamedTuple):
    """What the header of a file tells of its series; images of one volume have the first four in common.

    Attributes:
        multiframe: SOPInstanceUID if the image has several frames, else empty.
        exclusion_reason: why it is no image of anatomy, else empty.
        uid: SOPInstanceUID.
        places: (frames, 4), as `_places`.
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
    places: NDArray[np.float64]
    number: int
    modality: str
    description: str


def find_series(files: Iterable[Path]) -> list[DicomSeries]:
    """Find every image series among DICOM files, in the order of their names.

    A series is told by its SeriesInstanceUID. Echoes that share a series, such as PD and T2 of a dual echo, and
    multi-frame images that do, become one `DicomSeries` each. Segmentations are no images. A file that cannot be read
    becomes a `DicomSeries` with a fault.

    Series are `exclusion_reason` whose modality is neither MR nor CT, and localizers, by their ImageType; beside a volume of the
    same study and modality also those that have few slices, or slices in several planes, as scouts have, and time and
    diffusion series. Where a study holds nothing better, its reader tells what is the matter with such a series.
    """
    found: list[DicomSeries] = []
    volumes: dict[tuple[str, ...], list[_Image]] = defaultdict(list)
    echoes: dict[str, set[str]] = defaultdict(set)
    for path in sorted(files):
        try:
            image = _read_header(path)
        except Exception as error:  # whatever pydicom's parsers trip over: their own errors, KeyError, struct.error
            refusal = unreadable(path, error)
            found.append(DicomSeries((path,), "", "", "", path.name, refusal.fault, refusal.hint))
            continue
        if image is not None:
            volumes[image[:4]].append(image)
            echoes[image.series].add(image.echo)
    found += [_series(volume, len(echoes[volume[0].series]) > 1) for volume in volumes.values()]
    return sorted(_named_apart(_without_lesser(found)), key=lambda series: (series.name, series.uid))


def _without_lesser(found: list[DicomSeries]) -> list[DicomSeries]:
    """Call exclusion_reason what is no volume beside the longest series of its study and modality."""
    longest: dict[tuple[str, str], int] = defaultdict(int)
    for series in found:
        if not series.exclusion_reason and not series.repeated:
            kind = series.study, series.modality
            longest[kind] = max(longest[kind], series.slices)
    return [
        series
        if series.exclusion_reason
        else replace(series, exclusion_reason=_why_lesser(series, longest[series.study, series.modality]))
        for series in found
    ]


def _why_lesser(series: DicomSeries, longest: int) -> str:
    if longest < 2:
        return ""
    if series.repeated:
        return series.repeated
    if not series.slices:
        return "has slices of several orientations"
    if series.slices < FEW_SLICES and 2 * series.slices <= longest:
        return f"has few slices ({series.slices}, another series of its study {longest})"
    return ""


def _named_apart(found: list[DicomSeries]) -> list[DicomSeries]:
    """Lengthen the names that series of one folder share, by what only the images of one have.

    What is passed over writes nothing, and lengthens no name.
    """
    namesakes = Counter((series.folder, series.name) for series in found if not series.exclusion_reason)
    return [
        replace(series, name=f"{series.name}_{series.digest}") if namesakes[series.folder, series.name] > 1 else series
        for series in found
    ]


def _read_header(path: Path) -> _Image | None:
    """Read what tells series apart; None if the file is no image to segment."""
    header = read_file(path, stop_before_pixels=True, specific_tags=list(_HEADER_KEYWORDS))
    if "Rows" not in header or header.get("Modality") == "SEG":
        return None
    uid = str(header.get("SOPInstanceUID"))
    return _Image(
        series=str(header.get("SeriesInstanceUID")),
        echo=str(header.get("EchoNumbers") or ""),
        multiframe=uid if int(header.get("NumberOfFrames") or 1) > 1 else "",
        exclusion_reason=_why_unfit(header),
        path=path,
        study=str(header.get("StudyInstanceUID") or header.get("SeriesInstanceUID")),
        uid=uid,
        echo_time=str(header.get("EchoTime") or ""),
        mosaic="MOSAIC" in (header.get("ImageType") or ()),
        places=_places(header),
        number=int(header.get("SeriesNumber") or 0),
        modality=str(header.get("Modality") or ""),
        description=str(header.get("SeriesDescription") or ""),
    )


def _why_unfit(header: Dataset) -> str:
    if header.get("Modality") and header.Modality not in ANATOMICAL:
        return f"is of modality {header.Modality!r}, neither MR nor CT"
    return "is a localizer" if "LOCALIZER" in (header.get("ImageType") or ()) else ""


def _places(header: Dataset) -> NDArray[np.float64]:
    """The normal of every slice of an image, and how far along it the slice lies, (frames, 4); zeros if not told."""
    frames = header.get("PerFrameFunctionalGroupsSequence")
    if not frames:
        return np.array([_place(header, header)])
    shared = header.SharedFunctionalGroupsSequence[0]
    groups = ("PlanePositionSequence", "PlaneOrientationSequence")
    return np.array([_place(*(functional_group(frame, shared, group) for group in groups)) for frame in frames])


def _place(position: Dataset, orientation: Dataset) -> tuple[float, ...]:
    if "ImagePositionPatient" not in position or "ImageOrientationPatient" not in orientation:
        return (0.0,) * 4
    row, column = np.array(orientation.ImageOrientationPatient, dtype=float).reshape(2, 3)
    normal = np.cross(row, column)
    return (*normal.tolist(), float(normal @ np.array(position.ImagePositionPatient, dtype=float)))


def _images_by_position(images: list[_Image]) -> list[int]:
    """How many images or frames there are at each position along the slices' normal; empty if they have several."""
    places = np.concatenate([image.places for image in images])
    normals = places[:, :3]
    lengths = np.linalg.norm(normals, axis=1)
    if (np.abs(normals @ normals[0]) < STACK_COSINE * lengths * lengths[0]).any():
        return []
    return list(Counter(np.round(places[:, 3] / DUPLICATE_MM).tolist()).values())


def _why_repeated(images: list[_Image], by_position: list[int]) -> str:
    if images[0].mosaic:
        return "is a mosaic, as time and diffusion series are"
    # a position that is there twice, a copy of the whole, and two echoes in one are faults, of which the reader tells
    one_acquisition = len({image.echo_time for image in images}) == 1
    no_copies = len({image.uid for image in images}) == len(images)
    if len(by_position) > 1 and min(by_position) > 1 and one_acquisition and no_copies:
        return f"has up to {max(by_position)} images at a position, as time and diffusion series have"
    return ""


def _series(images: list[_Image], is_one_of_several_echoes: bool) -> DicomSeries:
    first = images[0]
    files = tuple(image.path for image in sorted(images, key=lambda image: float(image.places[0, 3])))
    by_position = _images_by_position(images)
    parts = [f"{first.number:03d}", first.description, f"echo{first.echo}" if is_one_of_several_echoes else ""]
    name = re.sub(r"[^A-Za-z0-9+-]+", "_", " ".join(filter(None, parts))).strip("_")
    digest = hashlib.sha256(repr((first.series, first.echo, first.multiframe)).encode()).hexdigest()[:8]
    return DicomSeries(
        *(files, first.series, first.modality, first.description, name),
        digest=digest,
        study=first.study,
        slices=len(by_position),
        repeated=_why_repeated(images, by_position),
        exclusion_reason=first.exclusion_reason,
    )
