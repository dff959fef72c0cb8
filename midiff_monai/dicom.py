"""DICOM series in: finds the series among files, and reads one as a volume.

Needs the extra `dicom`. Attributes are named by their DICOM keywords; PS3.3 defines them.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.filereader import read_file_meta_info
from pydicom.pixels import apply_modality_lut, pixel_array
from pydicom.uid import DeflatedExplicitVRLittleEndian

from midiff_monai.dicom_frames import Frame, affine_of, frames_of, in_slice_order
from midiff_monai.errors import InputError, in_one_line
from midiff_monai.volumes import MAX_VOXELS, checked_volume, scanner_nifti

EXPORT_AGAIN = "Copy or export it again"

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


@dataclass(frozen=True)
class DicomSeries:
    """The images of one volume: a series, or one echo of it, or one multi-frame image.

    Attributes:
        files: in slice order, along the normal of the slices; a multi-frame image is one file.
        uid: SeriesInstanceUID.
        modality: "MR", "CT" …
        description: SeriesDescription, perhaps empty.
        name: a file name without suffix, made of number, description and echo ("004_PD_T2_TSE_echo1"), and where that
            is not unique in the folder of `digest`.
        fault: why its header cannot be read, else empty.
        mend: what to do about that.
        digest: eight characters that no other series, echo or multi-frame image has.
        study: StudyInstanceUID.
        slices: how many images or frames it has; 0 if they lie in several planes.
        unfit: why it is no volume of anatomy and passed over among others, as a clause, else empty.
    """

    files: tuple[Path, ...]
    uid: str
    modality: str
    description: str
    name: str
    fault: str = ""
    mend: str = EXPORT_AGAIN
    digest: str = ""
    study: str = ""
    slices: int = 0
    unfit: str = ""

    @property
    def folder(self) -> Path:
        """The folder of the first file."""
        return self.files[0].parent

    def error(self, fault: str, mend: str) -> InputError:
        """An error that names the folder and, since that may hold others, the series."""
        return InputError(self.folder, f"series {self.name} {fault}", mend)


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
    same study also those that have few slices, or slices in several planes, as scouts have. Where a study holds nothing
    better, its reader tells what is the matter with such a series.
    """
    found: list[DicomSeries] = []
    volumes: dict[tuple[str, ...], list[_Image]] = defaultdict(list)
    echoes: dict[str, set[str]] = defaultdict(set)
    for path in sorted(files):
        try:
            image = _read_header(path)
        except Exception as error:  # whatever pydicom's parsers trip over: their own errors, KeyError, struct.error
            refusal = _unreadable(path, error)
            found.append(DicomSeries((path,), "", "", "", path.name, refusal.fault, refusal.mend))
            continue
        if image is not None:
            volumes[image[:4]].append(image)
            echoes[image.series].add(image.echo)
    found += [_series(volume, len(echoes[volume[0].series]) > 1) for volume in volumes.values()]
    return sorted(_named_apart(_without_scouts(found)), key=lambda series: (series.name, series.uid))


def _without_scouts(found: list[DicomSeries]) -> list[DicomSeries]:
    """Call unfit what is no volume beside the longest series of its study."""
    longest: dict[str, int] = defaultdict(int)
    for series in found:
        if not series.unfit:
            longest[series.study] = max(longest[series.study], series.slices)
    return [
        series if series.unfit else replace(series, unfit=_why_scout(series.slices, longest[series.study]))
        for series in found
    ]


def _why_scout(slices: int, longest: int) -> str:
    if longest < 2:
        return ""
    if not slices:
        return "has slices of several orientations"
    if slices < FEW_SLICES and 2 * slices <= longest:
        return f"has few slices ({slices}, another series of its study {longest})"
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


def read_series(series: DicomSeries) -> nib.Nifti1Image:
    """Read a series as a volume, like `volumes.read_volume`.

    Returns:
        (X, Y, Z) in memory: float32, RescaleSlope and RescaleIntercept applied; X runs along the rows, Y down the
        columns, Z along the normal of the slices, as ITK has it. The affine leads to RAS millimetres of the scanner.

    Raises:
        InputError: the series is no single volume of parallel, evenly spaced slices, or its voxels cannot be read.
    """
    frames = ordered_frames(series, with_pixels=True)
    voxels = np.stack([_values(frame) for frame in frames], axis=-1)
    return checked_volume(series.folder, scanner_nifti(voxels, affine_of(frames)))


def ordered_frames(series: DicomSeries, with_pixels: bool = False) -> list[Frame]:
    """Open the frames of a series in slice order, and check that they make up a volume.

    Raises:
        InputError: they do not.
    """
    if series.fault:
        raise InputError(series.files[0], series.fault, series.mend)
    frames = [frame for path in series.files for frame in _open(path, with_pixels)]
    frames = in_slice_order(frames, series.error)
    if (promised := len(frames) * prod(frames[0].matrix)) > MAX_VOXELS:
        raise series.error(f"promises {promised} voxels, more than {MAX_VOXELS}", "Export it again")
    return frames


def _read_header(path: Path) -> _Image | None:
    """Read what tells series apart; None if the file is no image to segment."""
    header = _read_file(path, stop_before_pixels=True, specific_tags=list(_HEADER_KEYWORDS))
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
        normal=normal,
        distance=distance,
        number=int(header.get("SeriesNumber") or 0),
        modality=str(header.get("Modality") or ""),
        description=str(header.get("SeriesDescription") or ""),
    )


def _read_file(path: Path, **options: Any) -> Dataset:
    """As `dcmread`, but for files that it would inflate whole, whatever they expand to, even for their header."""
    if read_file_meta_info(path).get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        fault = "is deflated DICOM, which may expand to any size"
        raise InputError(path, fault, "Decompress it first, for example with dcmconv +te")
    return dcmread(path, **options)


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
        unfit=first.unfit,
    )


def _open(path: Path, with_pixels: bool) -> list[Frame]:
    try:
        return list(frames_of(_read_file(path, stop_before_pixels=not with_pixels)))
    except Exception as error:  # as in `find_series`
        raise _unreadable(path, error) from error


def _values(frame: Frame) -> NDArray[np.float32]:
    """The values (X, Y) of a frame; stored integers become what they stand for."""
    try:
        stored = pixel_array(frame.dataset, index=frame.index)
        return np.asarray(apply_modality_lut(stored, frame.rescaling), dtype=np.float32).T
    except Exception as error:  # whatever one of several decoders trips over
        raise _unreadable(frame.path, error) from error


def _unreadable(path: Path, error: Exception) -> InputError:
    """What to tell of a file that could not be read; an error that tells it already is left as it is."""
    if isinstance(error, InputError):
        return error
    return InputError(path, f"cannot be read as DICOM ({in_one_line(error)})", EXPORT_AGAIN)
