"""The volumes of a run: files, folders, DICOM series, patterns and tables, and what to call what is made of them."""

from __future__ import annotations

import csv
import glob
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from midiff_monai.errors import InputError
from midiff_monai.paths import VOLUME_SUFFIXES, OutputPaths, files_below, named_outputs, output_paths, volume_files

if TYPE_CHECKING:
    from midiff_monai.dicom import DicomSeries

TABLE_SUFFIXES = {".csv": ",", ".tsv": "\t"}


@dataclass(frozen=True)
class Job:
    """One volume of a run.

    Attributes:
        source: the volume to read; of a DICOM series, its folder and name.
        paths: the files to write.
        series: what to read instead if it is a DICOM series.
    """

    source: Path
    paths: OutputPaths
    series: DicomSeries | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that make up the volume."""
        return self.series.files if self.series else volume_files(self.source)


def find_jobs(items: Sequence[str | Path], output: str | Path) -> list[Job]:
    """Find the volumes of a run.

    Args:
        items: each one volume; a folder, whose volumes keep their subfolders in the output, as do the DICOM series of
            those subfolders that hold no volume; a pattern such as `scans/*_PDw.nii.gz` (`**` for all subfolders); or a
            table, .csv or .tsv, with a column `input` of volumes, from the table's folder if they are relative, and, if
            wanted, a column `output` of subfolders.
        output: folder for the results. Volumes in it are passed over.

    Raises:
        InputError: nothing is found, a folder cannot be read, a table lacks the column, a file is no volume by its
            suffix, or two volumes would write the same files.
    """
    output = Path(output)
    jobs = [job for item in items for job in _expand(item, output)]
    return without_duplicates(jobs, mend="Rename one, or give a table with a column `output`")


def without_duplicates(jobs: Sequence[Job], mend: str) -> list[Job]:
    """Drop what is named twice; raises InputError, with this mend, where two volumes would write the same files."""
    by_report: dict[Path, Job] = {}
    for job in jobs:
        first = by_report.setdefault(job.paths.report.resolve(), job)
        if [file.resolve() for file in first.files] != [file.resolve() for file in job.files]:
            raise InputError(job.source, f"would write the same files as {first.source}", mend)
    return list(by_report.values())


def _expand(item: str | Path, output: Path) -> Iterator[Job]:
    """The volumes that an argument stands for."""
    path = Path(item)
    if path.is_dir():
        yield from _jobs_below(path, output)
    elif path.suffix.lower() in TABLE_SUFFIXES:
        yield from (_job(source, folder) for source, folder in _listed(path, output))
    elif not path.exists() and glob.has_magic(str(item)):
        yield from (_job(volume, output) for volume in _matching(str(item), output))
    else:
        yield _job(path, output)


def _job(source: Path, folder: Path) -> Job:
    return Job(source, output_paths(source, folder))


def _jobs_below(folder: Path, output: Path) -> list[Job]:
    if folder.resolve() == output.resolve():
        raise InputError(folder, "is the folder for the results too", "Choose another one with -o")
    files = files_below(folder, passing_over=output)
    volumes = _volumes_among(files, output)
    # where DICOM was converted, the images lie beside what was made of them
    with_volumes = {volume.parent for volume in volumes}
    images = [file for file in files if file.parent not in with_volumes and _is_dicom(file)]
    jobs = [_job(volume, output / volume.parent.relative_to(folder)) for volume in volumes]
    jobs += _series_among(images, folder, output) if images else []
    if not jobs:
        raise InputError(folder, "holds no volume and no DICOM image", "Name the folder of the scans")
    return jobs


def _is_dicom(path: Path) -> bool:
    """Whether a file has the preamble of DICOM part 10, or cannot be opened, of which its reader will tell."""
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return True


def _series_among(images: list[Path], folder: Path, output: Path) -> list[Job]:
    try:
        from midiff_monai.dicom import find_series
    except ImportError:
        fault = "is DICOM; to read it takes another package"
        raise InputError(images[0], fault, "Install it: pip install 'midiff-monai[dicom]'") from None
    return [
        Job(series.folder / series.name, named_outputs(series.name, output / series.folder.relative_to(folder)), series)
        for series in find_series(images)
    ]


def _matching(pattern: str, output: Path) -> list[Path]:
    return _volumes_among([Path(match) for match in glob.glob(pattern, recursive=True)], output) or _nothing(pattern)


def _volumes_among(paths: list[Path], output: Path) -> list[Path]:
    """Those that are volumes by their suffix, sorted; no hidden ones, no results, one of each pair of files."""
    own = output.resolve()
    volumes = [path for path in paths if path.name.lower().endswith(VOLUME_SUFFIXES) and path.name[0] != "."]
    names = set(volumes)
    halves = {path for path in volumes if path.suffix == ".img" and path.with_suffix(".hdr") in names}
    return sorted(path for path in names - halves if own not in path.resolve().parents)


def _nothing(where: str | Path) -> list[Path]:
    raise InputError(where, "holds no volume", f"Volumes end in {' '.join(VOLUME_SUFFIXES)}")


def _listed(table: Path, output: Path) -> Iterator[tuple[Path, Path]]:
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file, delimiter=TABLE_SUFFIXES[table.suffix.lower()]))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(table, f"cannot be read as a table ({error})", "Check the file") from error
    if not rows or not all(row.get("input") for row in rows):
        raise InputError(table, "has no column `input`, or a row without it", "Name one volume a row")
    for row in rows:
        folder = (output / (row.get("output") or "")).resolve()
        if output.resolve() not in (folder, *folder.parents):
            raise InputError(table, f"puts results outside {output}", "Correct its column `output`")
        yield table.parent / row["input"], output / (row.get("output") or "")
