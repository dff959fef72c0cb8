"""Reading a DICOM series as a volume.

Needs the extra `dicom`. Attribute names are DICOM keywords, as defined in PS3.3.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.filereader import read_dataset, read_preamble
from pydicom.pixels import apply_modality_lut, pixel_array
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from midiff_monai.errors import InputError, in_one_line
from midiff_monai.io.dicom.files import open_dicom
from midiff_monai.io.dicom.frames import Frame, affine_from_frames, list_frames, sort_slices
from midiff_monai.io.placeholders import COPY_AGAIN
from midiff_monai.io.readers import MAX_VOXELS, READING_WARNINGS, scanner_nifti
from midiff_monai.io.volumes import validate_volume

INSTALL_DECODER = "Install pylibjpeg and pylibjpeg-openjpeg, or decompress it, for example with `gdcmconv --raw`"


@dataclass(frozen=True)
class DicomSeries:
    """The images of one volume: a series, one echo of a series, or one multi-frame image.

    Attributes:
        files: In slice order, along the normal of the slices. A multi-frame image is one file.
        uid: SeriesInstanceUID.
        modality: "MR", "CT" …
        description: SeriesDescription. May be empty.
        name: A file name without suffix, made of number, description and echo ("004_PD_T2_TSE_echo1"). `digest` is
            appended if the name is not unique in its folder.
        fault: Why the header cannot be read, otherwise empty.
        hint: What to do about the fault.
        digest: Eight characters that identify the series, echo or multi-frame image.
        study: StudyInstanceUID.
        slice_count: Number of different slice positions. 0 if the slices lie in several planes.
        repetition_reason: Why it is a time or diffusion series, as a verb phrase. Empty for a single volume.
        exclusion_reason: Why it is excluded, as a verb phrase. Empty if it is processed.
        echo_time: Echo time of the frames to read, in milliseconds. 0 reads all frames of the files.
        image_type: Image type of the frames to read, as `frames.image_type` returns it. Empty reads all frames.
        missing: Which images are missing, as a verb phrase. Empty if none is known to be missing.
        warnings: Sentences for the report.
    """

    files: tuple[Path, ...]
    uid: str
    modality: str
    description: str
    name: str
    fault: str = ""
    hint: str = COPY_AGAIN
    digest: str = ""
    study: str = ""
    slice_count: int = 0
    repetition_reason: str = ""
    exclusion_reason: str = ""
    echo_time: float = 0.0
    image_type: str = ""
    missing: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def frames(self) -> str:
        """Which frames of its files are the volume, such as an echo. Empty for all."""
        parts = (f"echo time {self.echo_time:g} ms" if self.echo_time else "", self.image_type)
        return ", ".join(filter(None, parts))

    @property
    def folder(self) -> Path:
        """Folder of the first file."""
        return self.files[0].parent

    def error(self, fault: str, hint: str) -> InputError:
        """Return an error that names the folder and the series, because a folder may contain several series."""
        return InputError(self.folder, f"series {self.name} {fault}", hint)


def read_series(series: DicomSeries) -> nib.Nifti1Image:
    """Read a series as a volume, in the form of `volumes.read_volume`.

    Returns:
        An image (X, Y, Z) in memory: float32, RescaleSlope and RescaleIntercept applied. X runs along the rows, Y down
        the columns, Z along the normal of the slices, as in ITK. The affine maps to scanner coordinates in RAS mm.

    Raises:
        InputError: The series is not a volume of parallel, evenly spaced slices, or its pixels cannot be read.
    """
    frames = ordered_frames(series, with_pixels=True)
    voxels = np.stack([_read_pixels(frame) for frame in frames], axis=-1)
    image = scanner_nifti(voxels, affine_from_frames(frames))
    image.extra[READING_WARNINGS] = list(series.warnings)
    return validate_volume(series.folder, image)


def ordered_frames(series: DicomSeries, with_pixels: bool = False) -> list[Frame]:
    """Open the frames of a series in slice order, and check that they form a volume.

    Raises:
        InputError: They do not form a volume, or cannot be read.
    """
    if series.fault:
        raise InputError(series.files[0], series.fault, series.hint)
    frames = [frame for path in series.files for frame in _open_frames(path, with_pixels)]
    frames = _select_frames(frames, series.echo_time, series.image_type)
    if series.repetition_reason:
        raise series.error(series.repetition_reason, "Give one volume of it as NIfTI, for example the mean")
    frames = sort_slices(frames, series.error)
    if series.missing:
        raise series.error(series.missing, "Copy or export the whole series again")
    if (declared := len(frames) * prod(frames[0].matrix)) > MAX_VOXELS:
        raise series.error(f"declares {declared} voxels, more than {MAX_VOXELS}", "Export it again")
    return frames


def read_file(path: Path, **options: Any) -> Dataset:
    """Read a file with `dcmread`. Deflated files are refused: `dcmread` inflates them whole, even for a header."""
    with open_dicom(path) as file, quiet():
        if _transfer_syntax(file) == DeflatedExplicitVRLittleEndian:
            fault = "is deflated DICOM, which may expand to any size"
            raise InputError(path, fault, "Decompress it first, for example with dcmconv +te")
        dataset = dcmread(file, force=True, **options)  # `force` reads files without preamble
    dataset.filename = str(path)
    if "TransferSyntaxUID" not in dataset.file_meta:
        is_implicit, is_little_endian = dataset.original_encoding
        explicit = ExplicitVRLittleEndian if is_little_endian else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if is_implicit else explicit
    return dataset


def _transfer_syntax(file: BinaryIO) -> str | None:
    read_preamble(file, force=True)
    meta = read_dataset(file, is_implicit_VR=False, is_little_endian=True, stop_when=lambda tag, *_: tag.group != 2)
    file.seek(0)
    return meta.get("TransferSyntaxUID")


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress warnings and log messages of pydicom and highdicom, which may contain the name of a patient."""
    logger = logging.getLogger("pydicom")
    disabled = logger.disabled
    logger.disabled = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = disabled


def _select_frames(frames: list[Frame], echo_time: float, image_type: str) -> list[Frame]:
    """Select the frames of an echo and of an image type, and magnitude frames where there are any."""
    frames = [frame for frame in frames if not echo_time or frame.echo_time == echo_time]
    frames = [frame for frame in frames if not image_type or frame.image_type == image_type]
    return [frame for frame in frames if frame.is_magnitude] or frames


def _open_frames(path: Path, with_pixels: bool) -> list[Frame]:
    try:
        with quiet():
            return list(list_frames(read_file(path, stop_before_pixels=not with_pixels)))
    except Exception as error:  # as in `find_series`
        raise unreadable_file_error(path, error) from error


def _read_pixels(frame: Frame) -> NDArray[np.float32]:
    """Return the intensities (X, Y) of a frame, rescaled from the stored integers."""
    try:
        with quiet():
            stored = pixel_array(frame.dataset, index=frame.index)
        return np.asarray(apply_modality_lut(stored, frame.rescaling), dtype=np.float32).T
    except Exception as error:  # each decoder raises errors of its own
        if "missing dependencies" in str(error):
            syntax = UID(frame.dataset.file_meta.TransferSyntaxUID).name
            raise InputError(frame.path, f"needs a package to decompress {syntax}", INSTALL_DECODER) from error
        raise unreadable_file_error(frame.path, error) from error


def unreadable_file_error(path: Path, error: Exception) -> InputError:
    """Convert the error of an unreadable file to an InputError. An InputError is returned unchanged."""
    if isinstance(error, InputError):
        return error
    return InputError(path, f"cannot be read as DICOM ({in_one_line(error)})", COPY_AGAIN)
