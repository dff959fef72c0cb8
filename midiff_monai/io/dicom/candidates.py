"""The DICOM series among the files of a folder. This module needs no pydicom, unless there is a DICOM image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from midiff_monai.errors import InputError
from midiff_monai.io.dicom.files import is_dicom, lost_images

if TYPE_CHECKING:
    from midiff_monai.io.dicom.reader import DicomSeries


def series_among(files: Sequence[Path], modality: str) -> tuple[list[DicomSeries], list[Path]]:
    """Find the DICOM series among files.

    Args:
        files: whatever lies in a folder.
        modality: DICOM modality of the series to take. All others are excluded, and PET and ultrasound in any case.

    Returns:
        The series, excluded ones among them, and the files that are no DICOM images, sorted.

    Raises:
        InputError: there is a DICOM image, and a package to read it is missing.
    """
    images = [file for file in files if is_dicom(file)]
    others = sorted(set(files) - set(images))
    found = _find_series(images, lost_images(others, images)) if images else []
    return [_excluding_other_modality(each, modality) for each in found], others


def _find_series(images: list[Path], absent: Mapping[Path, str]) -> list[DicomSeries]:
    # highdicom writes the DICOM SEG. A missing package is better reported now than after the computation.
    if any(find_spec(package) is None for package in ("pydicom", "highdicom")):
        fault = "is DICOM, which needs the packages pydicom and highdicom"
        raise InputError(images[0], fault, "Install them: pip install 'midiff-monai[dicom]'")
    from midiff_monai.io.dicom.series import find_series

    return find_series(images, absent)


def _excluding_other_modality(series: DicomSeries, modality: str) -> DicomSeries:
    """Return the series, excluded if its modality is another one. CT and MR need different preprocessing."""
    if series.exclusion_reason or series.modality in ("", modality):
        return series
    hint = "; that takes --modality CT" if series.modality == "CT" else f" and not {modality!r}"
    return replace(series, exclusion_reason=f"is of modality {series.modality!r}{hint}")
