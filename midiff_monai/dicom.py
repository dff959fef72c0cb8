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
from typing import NamedTuple

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.pixels import apply_modality_lut, pixel_array

from midiff_monai.dicom_frames import Frame, affine_of, frames_of, in_slice_order
from midiff_monai.errors import InputError, in_one_line
from midiff_monai.volumes import MAX_VOXELS, checked_volume, scanner_nifti

EXPORT_AGAIN = "Copy or export it again"

_HEADER_KEYWORDS = (
    *("Modality", "ImageType", "Rows", "NumberOfFrames", "ImagePositionPatient", "ImageOrientationPatient"),
    *("SOPInstanceUID", "SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "EchoNumbers"),
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
        digest: eight characters that no other series, echo or multi-frame image has.
    """

    files: tuple[Path, ...]
    uid: str
    modality: str
    description: str
    name: str
    fault: str = ""
    digest: str = ""

    @property
    def folder(self) -> Path:
        """The folder of the first file."""
        return self.files[0].parent

    def error(self, fault: str, mend: str) -> InputError:
        """An error that names the folder and, since that may hold others, the series."""
        return InputError(self.folder, f"series {self.name} {fault}", mend)


class _Image(NamedTuple):
    """What the header of a file tells of its series; images of one volume have series, echo and multiframe in common.

    Attributes:
        multiframe: SOPInstanceUID if the image has several frames, else empty.
        distance: how far along its normal the slice lies; 0 without a place of its own, where there is none to sort.
    """

    path: Path
    series: str
    echo: str
    multiframe: str
    distance: float
    number: int
    modality: str
    description: str


def find_series(files: Iterable[Path]) -> list[DicomSeries]:
    """Find every image series among DICOM files, in the order of their names.

    A series is told by its SeriesInstanceUID. Echoes that share a series, such as PD and T2 of a dual echo, and
    multi-frame images that do, become one `DicomSeries` each. Segmentations are no images, and localizers, by their
    ImageType, are passed over. A file that cannot be read becomes a `DicomSeries` with a fault.
    """
    found: list[DicomSeries] = []
    volumes: dict[tuple[str, str, str], list[_Image]] = defaultdict(list)
    echoes: dict[str, set[str]] = defaultdict(set)
    for path in sorted(files):
        try:
            image = _read_header(path)
        except Exception as error:  # whatever pydicom's parsers trip over: their own errors, KeyError, struct.error
            found.append(DicomSeries((path,), "", "", "", path.name, _unreadable(path, error).fault))
            continue
        if image is not None:
            volumes[image.series, image.echo, image.multiframe].append(image)
            echoes[image.series].add(image.echo)
    found += [_series(volume, len(echoes[volume[0].series]) > 1) for volume in volumes.values()]
    return sorted(_named_apart(found), key=lambda series: (series.name, series.uid))


def _named_apart(found: list[DicomSeries]) -> list[DicomSeries]:
    """Lengthen the names that series of one folder share, by what only the images of one have."""
    namesakes = Counter((series.folder, series.name) for series in found)
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
        raise InputError(series.files[0], series.fault, EXPORT_AGAIN)
    frames = [frame for path in series.files for frame in _open(path, with_pixels)]
    frames = in_slice_order(frames, series.error)
    if (promised := len(frames) * prod(frames[0].matrix)) > MAX_VOXELS:
        raise series.error(f"promises {promised} voxels, more than {MAX_VOXELS}", "Export it again")
    return frames


def _read_header(path: Path) -> _Image | None:
    """Read what tells series apart; None if the file is no image to segment."""
    header = dcmread(path, stop_before_pixels=True, specific_tags=list(_HEADER_KEYWORDS))
    if "Rows" not in header or header.get("Modality") == "SEG" or "LOCALIZER" in (header.get("ImageType") or ()):
        return None
    return _Image(
        path,
        series=str(header.get("SeriesInstanceUID")),
        echo=str(header.get("EchoNumbers") or ""),
        multiframe=str(header.get("SOPInstanceUID")) if int(header.get("NumberOfFrames") or 1) > 1 else "",
        distance=_distance(header),
        number=int(header.get("SeriesNumber") or 0),
        modality=str(header.get("Modality") or ""),
        description=str(header.get("SeriesDescription") or ""),
    )


def _distance(header: Dataset) -> float:
    if "ImagePositionPatient" not in header or "ImageOrientationPatient" not in header:
        return 0.0
    row, column = np.array(header.ImageOrientationPatient, dtype=float).reshape(2, 3)
    return float(np.cross(row, column) @ np.array(header.ImagePositionPatient, dtype=float))


def _series(images: list[_Image], is_one_of_several_echoes: bool) -> DicomSeries:
    first = images[0]
    files = tuple(image.path for image in sorted(images, key=lambda image: image.distance))
    parts = [f"{first.number:03d}", first.description, f"echo{first.echo}" if is_one_of_several_echoes else ""]
    name = re.sub(r"[^A-Za-z0-9+-]+", "_", " ".join(filter(None, parts))).strip("_")
    digest = hashlib.sha256(repr((first.series, first.echo, first.multiframe)).encode()).hexdigest()[:8]
    return DicomSeries(files, first.series, first.modality, first.description, name, digest=digest)


def _open(path: Path, with_pixels: bool) -> list[Frame]:
    try:
        return list(frames_of(dcmread(path, stop_before_pixels=not with_pixels)))
    except InputError:
        raise
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
    return InputError(path, f"cannot be read as DICOM ({in_one_line(error)})", EXPORT_AGAIN)
