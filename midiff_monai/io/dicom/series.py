"""Finding DICOM series among files, and which of them are anatomical volumes.

Needs the extra `dicom`. Attribute names are DICOM keywords, as defined in PS3.3.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from types import MappingProxyType

import numpy as np

from midiff_monai.io.dicom.completeness import completeness_warnings, missing_images
from midiff_monai.io.dicom.frames import DUPLICATE_MM
from midiff_monai.io.dicom.header import ImageHeader, TruncatedHeaderError, read_header
from midiff_monai.io.dicom.reader import DicomSeries, quiet, unreadable_file_error
from midiff_monai.io.placeholders import COPY_AGAIN

FEW_SLICES = 8
"""A series with fewer slices is excluded beside one with twice as many. Seven slices of 6 mm cover no half brain."""

STACK_COSINE = 0.9
"""Smallest cosine between the normals of slices in one stack. At a smaller one, the slices lie in several planes."""


def find_series(files: Iterable[Path], left_out: Mapping[Path, str] = MappingProxyType({})) -> list[DicomSeries]:
    """Find all image series among DICOM files, sorted by name.

    SeriesInstanceUID and SeriesNumber identify a series. Echoes that share a series (PD and T2 of a dual echo) become
    one `DicomSeries` each. EchoNumbers or the echo time tell them apart. So do image types that show the same slices,
    such as water and fat, and multi-frame images. Several multi-frame images of one series that show the same slices
    are a time or diffusion series, and excluded. Segmentations are ignored. A file that cannot be read becomes a
    `DicomSeries` with a fault.

    Series with a modality other than MR and CT are excluded, and by their ImageType localizers, projections, maps of
    diffusion, and phase, real and imaginary images.
    Beside a volume of the same study and modality, these are excluded too: series with few slices, scouts with slices
    in several planes, and time and diffusion series. If a study has no such volume, they stay, and reading them
    reports the fault.

    Args:
        files: DICOM files.
        left_out: Other files in their folders that should have been DICOM, and why they are not, as a verb phrase.
    """
    images, left_out, found = _read_headers(files, left_out)
    volumes: dict[tuple[object, ...], list[ImageHeader]] = defaultdict(list)
    series: dict[tuple[object, ...], list[ImageHeader]] = defaultdict(list)
    for image in images:
        volumes[image[:5]].append(image)
        series[image[:2]].append(image)
    parts = [part for volume in volumes.values() for echo in _split_echoes(volume) for part in _split_image_types(echo)]
    parts = _merge_time_series(parts)
    echoes = {key: {part[0].echo for part in parts if part[0][:2] == key} for key in series}
    missing = {key: missing_images(members) for key, members in series.items()}
    warnings = {key: tuple(completeness_warnings(members, left_out)) for key, members in series.items()}
    for part in parts:
        key = part[0][:2]
        made = _make_series(part, has_other_echoes=len(echoes[key]) > 1)
        found.append(replace(made, missing=missing[key], warnings=warnings[key]))
    return sorted(_with_unique_names(_exclude_minor_series(found)), key=lambda series: (series.name, series.uid))


def series_named(name: str, files: Iterable[Path]) -> DicomSeries:
    """Find the series with the name that an earlier run gave it, among the files that this run read.

    The files may also hold other echoes, and the name may have a digest that is not needed among these files alone.
    """
    found = find_series(files)
    named = [series for series in found if name in (series.name, f"{series.name}_{series.digest}")] or found
    return replace(named[0], name=name, missing="")


def _read_headers(
    files: Iterable[Path], left_out: Mapping[Path, str]
) -> tuple[list[ImageHeader], dict[Path, str], list[DicomSeries]]:
    """Read all headers. Returns the images, the files that were left out, and the files that cannot be read."""
    images, faults, damaged = [], [], dict(left_out)
    for path in sorted(files):
        try:
            with quiet():
                image = read_header(path)
        except TruncatedHeaderError as error:
            damaged[path] = error.fault
        except Exception as error:  # pydicom's parsers raise their own errors, KeyError and struct.error
            refusal = unreadable_file_error(path, error)
            faults.append(_fault_series(path, refusal.fault, refusal.hint))
        else:
            images += [image] if image is not None else []
    folders = {image.path.parent for image in images}
    lost = [path for path in damaged if path not in left_out and path.parent not in folders]
    faults += [_fault_series(path, damaged[path], COPY_AGAIN) for path in lost]
    return images, damaged, faults


def _fault_series(path: Path, fault: str, hint: str) -> DicomSeries:
    return DicomSeries((path,), "", "", "", path.name, fault, hint)


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


def _count_frames_per_position(images: Sequence[ImageHeader]) -> list[int]:
    """Count the frames at each position along the normal of the slices. Empty if the slices have several normals."""
    positions = np.concatenate([image.positions for image in images])
    normals = positions[:, :3]
    lengths = np.linalg.norm(normals, axis=1)
    if (np.abs(normals @ normals[0]) < STACK_COSINE * lengths * lengths[0]).any():
        return []
    return list(Counter(np.round(positions[:, 3] / DUPLICATE_MM).tolist()).values())


def _repetition_reason(images: Sequence[ImageHeader], frames_per_position: list[int]) -> str:
    if images[0].mosaic:
        return "is a mosaic, as time and diffusion series are"
    # One duplicate position, a copy of all images, and two echoes in one series are faults that reading reports.
    one_acquisition = len({echo_time for image in images for echo_time in image.echo_times.tolist()}) == 1
    no_copies = len({image.uid for image in images}) == len(images)
    if len(frames_per_position) > 1 and min(frames_per_position) > 1 and one_acquisition and no_copies:
        return f"has up to {max(frames_per_position)} images at a position, as time and diffusion series have"
    return ""


def _split_echoes(images: list[ImageHeader]) -> list[list[ImageHeader]]:
    """Split images by echo time. Every part gets an echo number."""
    parts = _split(images, "echo_times")
    if len(parts) == 1:
        return parts
    prefix = f"{images[0].echo}-" if images[0].echo else ""
    return [[image._replace(echo=f"{prefix}{k}") for image in part] for k, part in enumerate(parts, start=1)]


def _split_image_types(images: list[ImageHeader]) -> list[list[ImageHeader]]:
    """Split images by image type, such as the water and the fat images of a Dixon series."""
    parts = _split(images, "image_types")
    if len(parts) == 1:
        return parts
    return [[image._replace(image_type=str(part[0].image_types[0])) for image in part] for part in parts]


def _split(images: list[ImageHeader], field: str) -> list[list[ImageHeader]]:
    """Split images by a property of their frames, in the order of its values.

    Images are split only if some frames with different values show the same slice. Otherwise, they are one volume.
    """
    values = sorted({value for image in images for value in getattr(image, field).tolist()})
    masks = [[(image, getattr(image, field) == value) for image in images] for value in values]
    parts = [[image.select(chosen) for image, chosen in part if chosen.any()] for part in masks]
    positions = [{tuple(row) for image in part for row in np.round(image.positions, 3).tolist()} for part in parts]
    overlaps = any(first & second for first, second in combinations(positions, 2))
    return parts if overlaps else [images]


def _merge_time_series(parts: list[list[ImageHeader]]) -> list[list[ImageHeader]]:
    """Merge multi-frame images of one series and echo at the same positions into one part, which is then excluded."""
    merged: dict[tuple[object, ...], list[list[ImageHeader]]] = defaultdict(list)
    for part in parts:
        positions = sorted(row for image in part for row in np.round(image.positions, 3).tolist())
        key = part[0].multiframe and (*part[0][:3], part[0].image_type, part[0].echo_times[0], repr(positions))
        merged[key or (id(part),)].append(part)
    return [
        part for similar in merged.values() for part in ([_as_time_series(similar)] if _differ(similar) else similar)
    ]


def _differ(parts: list[list[ImageHeader]]) -> bool:
    """Return whether there are several parts, and their headers differ in number or time, as those of copies do not."""
    return len(parts) > 1 and len({(part[0].instance, *part[0].acquisition) for part in parts}) == len(parts)


def _as_time_series(parts: list[list[ImageHeader]]) -> list[ImageHeader]:
    """Exclude the images of several multi-frame files at the same positions, as those of a time series."""
    reason = f"has {len(parts)} multi-frame images at the same positions, as time and diffusion series have"
    return [image._replace(exclusion_reason=image.exclusion_reason or reason) for part in parts for image in part]


def _make_series(images: Sequence[ImageHeader], has_other_echoes: bool) -> DicomSeries:
    first = images[0]
    files = tuple(image.path for image in sorted(images, key=lambda image: float(image.positions[0, 3])))
    frames_per_position = _count_frames_per_position(images)
    echo_times = {time for image in images for time in image.echo_times.tolist()}
    echo = f"echo{first.echo}" if has_other_echoes else ""
    parts = [f"{first.number:03d}", first.description, echo, first.image_type]
    name = re.sub(r"[^A-Za-z0-9+-]+", "_", " ".join(filter(None, parts))).strip("_")
    digest = hashlib.sha256(
        repr((first.series, first.echo, first.multiframe, *filter(None, [first.image_type]))).encode()
    ).hexdigest()[:8]
    return DicomSeries(
        *(files, first.series, first.modality, first.description, name),
        digest=digest,
        study=first.study,
        slice_count=len(frames_per_position),
        repetition_reason=_repetition_reason(images, frames_per_position),
        exclusion_reason=first.exclusion_reason,
        echo_time=echo_times.pop() if has_other_echoes and len(echo_times) == 1 else 0.0,
        image_type=first.image_type,
    )
