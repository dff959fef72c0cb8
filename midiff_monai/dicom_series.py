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
from pydicom import Dataset

from midiff_monai.dicom import DicomSeries, read_file, unreadable
from midiff_monai.dicom_frames import DUPLICATE_MM

ANATOMICAL = ("MR", "CT")
"""The modalities whose images show anatomy."""

FEW_SLICES = 8
"""A series of fewer is passed over beside one of twice as many: at 6 mm they do not cover half of a brain."""

STACK_COSINE = 0.9
"""Normals that meet at less are those of slices in several planes; at more, of a stack that may have a fault."""

_HEADER_KEYWORDS = (
    *("Modality", "ImageType", "Rows", "NumberOfFrames", "ImagePositionPatient", "ImageOrientationPatient"),
    *("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "EchoNumbers"),
)


class _Image(NamedTuple):
    """What the header of a file tells of its series; images of one volume have the first four in common.

    Attributes:
        multiframe: SOPInstanceUID if the image has several frames, else empty.
        unfit: why it is no image of anatomy, else empty.
        normal: across the slice; zeros without a place of its own.
        distance: how far along its normal the slice lies; 0 without a place of its own, where there is none to sort.
    """

    series: str
    echo: str
    multiframe: str
    unfit: str
    path: Path
    study: str
    frames: int
    mosaic: bool
    normal: tuple[float, ...]
    distance: float
    number: int
    modality: str
    description: str


def find_series(files: Iterable[Path]) -> list[DicomSeries]:
    """Find every image series among DICOM files, in the order of their names.

    A series is told by its SeriesInstanceUID. Echoes that share a series, such as PD and T2 of a dual echo, and
    multi-frame images that do, become one `DicomSeries` each. Segmentations are no images. A file that cannot be read
    becomes a `DicomSeries` with a fault.

    Series are `unfit` whose modality is neither MR nor CT, and localizers, by their ImageType; beside a volume of the
    same study also those that have few slices, or slices in several planes, as scouts have, and time and diffusion
    series. Where a study holds nothing better, its reader tells what is the matter with such a series.
    """
    found: list[DicomSeries] = []
    volumes: dict[tuple[str, ...], list[_Image]] = defaultdict(list)
    echoes: dict[str, set[str]] = defaultdict(set)
    for path in sorted(files):
        try:
            image = _read_header(path)
        except Exception as error:  # whatever pydicom's parsers trip over: their own errors, KeyError, struct.error
            refusal = unreadable(path, error)
            found.append(DicomSeries((path,), "", "", "", path.name, refusal.fault, refusal.mend))
            continue
        if image is not None:
            volumes[image[:4]].append(image)
            echoes[image.series].add(image.echo)
    found += [_series(volume, len(echoes[volume[0].series]) > 1) for volume in volumes.values()]
    return sorted(_named_apart(_without_lesser(found)), key=lambda series: (series.name, series.uid))


def _without_lesser(found: list[DicomSeries]) -> list[DicomSeries]:
    """Call unfit what is no volume beside the longest series of its study."""
    longest: dict[str, int] = defaultdict(int)
    for series in found:
        if not series.unfit and not series.repeated:
            longest[series.study] = max(longest[series.study], series.slices)
    return [
        series if series.unfit else replace(series, unfit=_why_lesser(series, longest[series.study]))
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
    namesakes = Counter((series.folder, series.name) for series in found if not series.unfit)
    return [
        replace(series, name=f"{series.name}_{series.digest}") if namesakes[series.folder, series.name] > 1 else series
        for series in found
    ]


def _read_header(path: Path) -> _Image | None:
    """Read what tells series apart; None if the file is no image to segment."""
    header = read_file(path, stop_before_pixels=True, specific_tags=list(_HEADER_KEYWORDS))
    if "Rows" not in header or header.get("Modality") == "SEG":
        return None
    normal, distance = _place(header)
    frames = int(header.get("NumberOfFrames") or 1)
    return _Image(
        series=str(header.get("SeriesInstanceUID")),
        echo=str(header.get("EchoNumbers") or ""),
        multiframe=str(header.get("SOPInstanceUID")) if frames > 1 else "",
        unfit=_why_unfit(header),
        path=path,
        study=str(header.get("StudyInstanceUID") or header.get("SeriesInstanceUID")),
        frames=frames,
        mosaic="MOSAIC" in (header.get("ImageType") or ()),
        normal=normal,
        distance=distance,
        number=int(header.get("SeriesNumber") or 0),
        modality=str(header.get("Modality") or ""),
        description=str(header.get("SeriesDescription") or ""),
    )


def _why_unfit(header: Dataset) -> str:
    if header.get("Modality") and header.Modality not in ANATOMICAL:
        return f"is of modality {header.Modality!r}, neither MR nor CT"
    return "is a localizer" if "LOCALIZER" in (header.get("ImageType") or ()) else ""


def _place(header: Dataset) -> tuple[tuple[float, ...], float]:
    """The normal of a slice, and how far along it the slice lies."""
    if "ImagePositionPatient" not in header or "ImageOrientationPatient" not in header:
        return (0.0, 0.0, 0.0), 0.0
    row, column = np.array(header.ImageOrientationPatient, dtype=float).reshape(2, 3)
    normal = np.cross(row, column)
    return tuple(normal.tolist()), float(normal @ np.array(header.ImagePositionPatient, dtype=float))


def _is_stack(images: list[_Image]) -> bool:
    normals = np.array([image.normal for image in images])
    lengths = np.linalg.norm(normals, axis=1)
    return bool((np.abs(normals @ normals[0]) >= STACK_COSINE * lengths * lengths[0]).all())


def _why_repeated(images: list[_Image]) -> str:
    if images[0].mosaic:
        return "is a mosaic, as time and diffusion series are"
    # all positions alike: one that is there twice is a fault, of which the reader tells
    times = set(Counter(round(image.distance / DUPLICATE_MM) for image in images).values())
    if len(times) > 1 or times == {1} or times == {len(images)}:
        return ""
    return f"has {times.pop()} images at every position, as time and diffusion series have"


def _series(images: list[_Image], is_one_of_several_echoes: bool) -> DicomSeries:
    first = images[0]
    files = tuple(image.path for image in sorted(images, key=lambda image: image.distance))
    parts = [f"{first.number:03d}", first.description, f"echo{first.echo}" if is_one_of_several_echoes else ""]
    name = re.sub(r"[^A-Za-z0-9+-]+", "_", " ".join(filter(None, parts))).strip("_")
    digest = hashlib.sha256(repr((first.series, first.echo, first.multiframe)).encode()).hexdigest()[:8]
    return DicomSeries(
        *(files, first.series, first.modality, first.description, name),
        digest=digest,
        study=first.study,
        slices=sum(image.frames for image in images) if _is_stack(images) else 0,
        repeated=_why_repeated(images),
        unfit=first.unfit,
    )
