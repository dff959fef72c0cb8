"""The part of the page on accepted inputs that concerns DICOM series, made by reading a small folder of each kind."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from midiff_monai.errors import InputError
from midiff_monai.io.dicom.reader import read_series
from midiff_monai.io.inputs import Job, find_jobs

STUDY = generate_uid(entropy_srcs=["study"])
SLICES = 20


class SeriesCase(NamedTuple):
    """One kind of DICOM series.

    Attributes:
        kind: what it is, in a few words.
        write: writes an example into a folder.
    """

    kind: str
    write: Callable[[Path], object]


class SeriesReading(NamedTuple):
    """What a run says about a case: its outcome, and the message."""

    kind: str
    outcome: str
    message: str


def series_reading(case: SeriesCase, folder: Path) -> SeriesReading:
    """Write the example of a case beside an ordinary series of the same study, and read it as a run does."""
    write_series(folder / "in" / "ordinary", "ordinary")
    case.write(folder / "in" / "case")
    jobs = [job for job in find_jobs(folder / "in", folder / "out") if "ordinary" not in job.source.name]
    if len(jobs) > 1:
        names = " and ".join(f"`{job.source.name}`" for job in jobs)
        return SeriesReading(case.kind, "read, as several volumes", f"named {names}")
    return SeriesReading(case.kind, *_outcome(jobs[0], folder))


def _outcome(job: Job, folder: Path) -> tuple[str, str]:
    if job.exclusion_reason:
        return "excluded", job.exclusion_reason
    assert job.series is not None
    try:
        read_series(job.series)
    except InputError as error:
        return "refused", str(error).replace(str(job.source), "SERIES").replace(str(folder), "FOLDER")
    warnings = " ".join(job.series.warnings).replace(str(folder), "FOLDER")
    return ("read, with a warning" if warnings else "read"), warnings


def write_series(folder: Path, name: str, count: int = SLICES, **attributes: Any) -> list[Path]:
    """Write a series of axial MR images, one file a slice, and return the files in the order of the slices."""
    folder.mkdir(parents=True, exist_ok=True)
    series = generate_uid(entropy_srcs=[name, str(attributes)])
    paths = [folder / f"{name}_{len(list(folder.iterdir())) + index:03d}.dcm" for index in range(count)]
    for index, path in enumerate(paths):
        image = _image(series, name, index)
        for keyword, value in attributes.items():
            setattr(image, keyword, value)
        image.save_as(path, enforce_file_format=True)
    return paths


def _image(series: str, name: str, index: int) -> Dataset:
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    facts: dict[str, Any] = {"SOPClassUID": MRImageStorage, "SOPInstanceUID": generate_uid(), "Modality": "MR"}
    facts |= {"StudyInstanceUID": STUDY, "SeriesInstanceUID": series, "SeriesDescription": name}
    facts |= {"SeriesNumber": 1, "InstanceNumber": index + 1, "ImageType": ["ORIGINAL", "PRIMARY", "M"]}
    facts |= {"Rows": 8, "Columns": 9, "PixelSpacing": [1, 1], "SliceThickness": 5, "SamplesPerPixel": 1}
    facts |= {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "ImagePositionPatient": [0, 0, 5 * index]}
    facts |= {"BitsAllocated": 16, "BitsStored": 16, "HighBit": 15, "PixelRepresentation": 1}
    facts |= {"PhotometricInterpretation": "MONOCHROME2"}
    for keyword, value in facts.items():
        setattr(image, keyword, value)
    image.PixelData = (np.arange(72, dtype="<i2") + index).tobytes()
    return image


def _without_preamble(folder: Path) -> None:
    for path in write_series(folder, "case"):
        path.write_bytes(path.read_bytes()[132:])


def _compressed(folder: Path) -> None:
    for path in write_series(folder, "case"):
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()


def _empty_at_the_end(folder: Path) -> None:
    for path in write_series(folder, "case")[-4:]:
        path.write_bytes(b"")


def _with_a_hole(folder: Path) -> None:
    for path in write_series(folder, "case")[8:12]:
        path.unlink()


def _two_echoes(folder: Path) -> None:
    uid = generate_uid(entropy_srcs=["two echoes"])
    for time in (20, 90):
        write_series(folder, "case", EchoTime=time, SeriesInstanceUID=uid)


def _time_series(folder: Path) -> None:
    uid = generate_uid(entropy_srcs=["time series"])
    for _ in range(3):
        write_series(folder, "case", SeriesInstanceUID=uid)


DICOM_CASES = [
    SeriesCase("a complete series", lambda folder: write_series(folder, "case")),
    SeriesCase("files without the preamble of part 10", _without_preamble),
    SeriesCase("files compressed with gzip", _compressed),
    SeriesCase("two echoes in one series", _two_echoes),
    SeriesCase("empty files at the end", _empty_at_the_end),
    SeriesCase("missing slices", _with_a_hole),
    SeriesCase(
        "a localizer", lambda folder: write_series(folder, "case", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    ),
    SeriesCase(
        "projections, maps of diffusion, and phase, real or imaginary images",
        lambda folder: write_series(folder, "case", ImageType=["DERIVED", "PRIMARY", "DIFFUSION", "ADC"]),
    ),
    SeriesCase("few slices beside a full series", lambda folder: write_series(folder, "case", count=3)),
    SeriesCase("another modality", lambda folder: write_series(folder, "case", Modality="PT")),
    SeriesCase("CT without `--modality CT`", lambda folder: write_series(folder, "case", Modality="CT")),
    SeriesCase("a time series", _time_series),
]
