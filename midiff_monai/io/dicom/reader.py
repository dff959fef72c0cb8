"""A DICOM series in, as a volume.

Needs the extra `dicom`. Attributes are named by their DICOM keywords; PS3.3 defines them.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.filereader import read_file_meta_info
from pydicom.pixels import apply_modality_lut, pixel_array
from pydicom.uid import DeflatedExplicitVRLittleEndian

from midiff_monai.errors import InputError, in_one_line
from midiff_monai.io.dicom.frames import Frame, affine_of, frames_of, in_slice_order
from midiff_monai.io.volumes import MAX_VOXELS, checked_volume, scanner_nifti

EXPORT_AGAIN = "Copy or export it again"


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
        slices: at how many positions it has images or frames; 0 if they lie in several planes.
        repeated: why it is a time or diffusion series and no single volume, as a clause, else empty.
        exclusion_reason: why it is no volume of anatomy and passed over among others, as a clause, else empty.
    """

    files: tuple[Path, ...]
    uid: str
    modality: str
    description: str
    name: str
    fault: str = ""
    hint: str = EXPORT_AGAIN
    digest: str = ""
    study: str = ""
    slices: int = 0
    repeated: str = ""
    exclusion_reason: str = ""

    @property
    def folder(self) -> Path:
        """The folder of the first file."""
        return self.files[0].parent

    def error(self, fault: str, hint: str) -> InputError:
        """An error that names the folder and, since that may hold others, the series."""
        return InputError(self.folder, f"series {self.name} {fault}", hint)


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
        raise InputError(series.files[0], series.fault, series.hint)
    frames = [frame for path in series.files for frame in _open(path, with_pixels)]
    frames = in_slice_order(frames, series.error)
    if (promised := len(frames) * prod(frames[0].matrix)) > MAX_VOXELS:
        raise series.error(f"promises {promised} voxels, more than {MAX_VOXELS}", "Export it again")
    return frames


def read_file(path: Path, **options: Any) -> Dataset:
    """As `dcmread`, but for files that it would inflate whole, whatever they expand to, even for their header."""
    if read_file_meta_info(path).get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        fault = "is deflated DICOM, which may expand to any size"
        raise InputError(path, fault, "Decompress it first, for example with dcmconv +te")
    return dcmread(path, **options)


def _open(path: Path, with_pixels: bool) -> list[Frame]:
    try:
        return list(frames_of(read_file(path, stop_before_pixels=not with_pixels)))
    except Exception as error:  # as in `dicom_series.find_series`
        raise unreadable(path, error) from error


def _values(frame: Frame) -> NDArray[np.float32]:
    """The values (X, Y) of a frame; stored integers become what they stand for."""
    try:
        stored = pixel_array(frame.dataset, index=frame.index)
        return np.asarray(apply_modality_lut(stored, frame.rescaling), dtype=np.float32).T
    except Exception as error:  # whatever one of several decoders trips over
        raise unreadable(frame.path, error) from error


def unreadable(path: Path, error: Exception) -> InputError:
    """What to tell of a file that could not be read; an error that tells it already is left as it is."""
    if isinstance(error, InputError):
        return error
    return InputError(path, f"cannot be read as DICOM ({in_one_line(error)})", EXPORT_AGAIN)
