"""The volumes of a run: files, folders, DICOM series, patterns and tables, and what to call what is made of them."""

from __future__ import annotations

import csv
import glob
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from midiff_monai.errors import InputError
from midiff_monai.io.paths import VOLUME_SUFFIXES, OutputPaths, files_below, named_outputs, output_paths, volume_files

if TYPE_CHECKING:
    from midiff_monai.io.dicom.reader import DicomSeries

TABLE_SUFFIXES = {".csv": ",", ".tsv": "\t"}

RESULTS = (
    (re.compile(r"(.+)_(?:synthT1w|synthT1w_std|dseg)\.nii\.gz"), r"\1_report.json"),
    (re.compile(r"(.+_desc-)(?:synthetic|midiff)([0-9A-Za-z]*)_(?:T1w|std|dseg)\.nii\.gz"), r"\1midiff\2_report.json"),
)
"""What volumes that midiff made are called, by `paths` and by `bids`, and the report that then lies beside them."""


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

    def absolute(self) -> Job:
        """The same for a process that runs in another folder."""
        paths = OutputPaths(**{role: path.absolute() for role, path in asdict(self.paths).items()})
        files = tuple(file.absolute() for file in self.files)
        return Job(self.source.absolute(), paths, self.series and replace(self.series, files=files))

    @property
    def exclusion_reason(self) -> str:
        """Why it is to be passed over, as a clause, else empty."""
        return self.series.exclusion_reason if self.series else ""


def find_jobs(items: Sequence[str | Path] | str | Path, output: str | Path, modality: str | None = None) -> list[Job]:
    """Find the volumes of a run.

    Args:
        items: one, or several: a volume; a folder, whose volumes keep their subfolders in the output, as do the DICOM
            series of those subfolders that hold no volume; a pattern such as `scans/*_PDw.nii.gz` (`**` for all
            subfolders); or a table, .csv or .tsv, with a column `input` of volumes, from the table's folder if they
            are relative, and, if wanted, a column `output` of subfolders. In folders and among what a pattern matches,
            volumes that midiff made are left out, as long as their report lies beside them.
        output: folder for the results, passed over itself where it lies in a folder that is searched.
        modality: "CT" takes the DICOM series of computed tomography and no others, anything else those of MR.

    Returns:
        The volumes, and among those of folders the DICOM series that are to be passed over, `Job.exclusion_reason` telling why:
        they are no volume of anatomy, or of another modality.

    Raises:
        InputError: nothing is found, a folder cannot be read, a table lacks the column, a file is no volume by its
            suffix, or two volumes would write the same files.
    """
    output = Path(output)
    items = [items] if isinstance(items, str | Path) else items
    jobs = [job for item in items for job in _expand(item, output, "CT" if modality == "CT" else "MR")]
    return without_duplicates(jobs, hint="Rename one, or give a table with a column `output`")


def without_duplicates(jobs: Sequence[Job], hint: str) -> list[Job]:
    """Drop what is named twice, and put last what is to be passed over.

    Raises:
        InputError: two volumes would write the same files; tells this mend.
    """
    by_report: dict[Path, Job] = {}
    for job in (job for job in jobs if not job.exclusion_reason):
        first = by_report.setdefault(job.paths.report.resolve(), job)
        if {file.resolve() for file in first.files} != {file.resolve() for file in job.files}:
            raise InputError(job.source, f"would write the same files as {first.source}", hint)
    return [*by_report.values(), *(job for job in jobs if job.exclusion_reason)]


def _expand(item: str | Path, output: Path, modality: str) -> Iterator[Job]:
    """The volumes that an argument stands for."""
    path = Path(item)
    if item == "":
        raise InputError("''", "is no input", "Check the variable or the pattern that it came from")
    if path.is_dir():
        yield from _jobs_below(path, output, modality)
    elif path.suffix.lower() in TABLE_SUFFIXES:
        yield from (_job(source, folder) for source, folder in _listed(path, output))
    elif not path.exists() and glob.has_magic(str(item)):
        yield from (_job(volume, output) for volume in _matching(str(item), output))
    else:
        _check_file(path)
        yield _job(path, output)


def _check_file(path: Path) -> None:
    """Tell what is wrong with a file that its suffix alone would be blamed for; a missing volume fails in its turn."""
    if path.name.lower().endswith(VOLUME_SUFFIXES):
        return
    if not path.exists():
        raise InputError(path, "does not exist", "Check the path for typing errors")
    if _is_dicom(path):
        raise InputError(path, "is one image of a DICOM series", "Name the folder of the series")


def _job(source: Path, folder: Path) -> Job:
    return Job(source, output_paths(source, folder))


def _jobs_below(folder: Path, output: Path, modality: str) -> list[Job]:
    if folder.resolve() == output.resolve():
        raise InputError(folder, "is the folder for the results too", "Choose another one with -o")
    files = files_below(folder, excluding=output)
    volumes = _volumes_among(files)
    # where DICOM was converted, the images lie beside what was made of them
    with_volumes = {volume.parent for volume in volumes}
    images = [file for file in files if file.parent not in with_volumes and _is_dicom(file)]
    series = [_of_modality(each, modality) for each in _series_among(images)] if images else []
    jobs = [_job(volume, output / volume.parent.relative_to(folder)) for volume in volumes]
    jobs += [_job_of_series(each, output / each.folder.relative_to(folder)) for each in series]
    if all(job.exclusion_reason for job in jobs):
        raise _nothing_below(folder, output, series)
    return jobs


def _of_modality(series: DicomSeries, modality: str) -> DicomSeries:
    """A series, exclusion_reason if it tells of another modality; CT needs a preprocessing of its own, which MR cannot have."""
    if series.exclusion_reason or series.modality in ("", modality):
        return series
    hint = "; that takes --modality CT" if series.modality == "CT" else " and not 'CT'"
    return replace(series, exclusion_reason=f"is of modality {series.modality!r}{hint}")


def _job_of_series(series: DicomSeries, folder: Path) -> Job:
    return Job(series.folder / series.name, named_outputs(series.name, folder), series)


def _nothing_below(folder: Path, output: Path, excluded: list[DicomSeries]) -> InputError:
    fault = f"holds no volume and no DICOM image (results of midiff, and what lies in {output}, aside)"
    if excluded:
        reasons = (f"series {series.name} {series.exclusion_reason}" for series in excluded)
        fault = f"holds no volume to take: {', '.join(reasons)}"
    return InputError(folder, fault, "Name the folder of the scans")


def _is_dicom(path: Path) -> bool:
    """Whether a file has the preamble of DICOM part 10, or cannot be opened, of which its reader will tell."""
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return True


def _series_among(images: list[Path]) -> list[DicomSeries]:
    # the second one writes what is made of a series: better known now than after all the computing
    if any(find_spec(package) is None for package in ("pydicom", "highdicom")):
        fault = "is DICOM; that takes other packages"
        raise InputError(images[0], fault, "Install them: pip install 'midiff-monai[dicom]'")
    from midiff_monai.io.dicom.series import find_series

    return find_series(images)


def _matching(pattern: str, output: Path) -> list[Path]:
    matches = [Path(match) for match in glob.glob(pattern, recursive=True)]
    fixed = Path(*itertools.takewhile(lambda part: not glob.has_magic(part), Path(pattern).parts)).resolve()
    own = output.resolve()
    if fixed in own.parents:  # as in a folder that is searched
        matches = [path for path in matches if own not in path.resolve().parents]
    return _volumes_among(matches) or _nothing(pattern)


def _volumes_among(paths: list[Path]) -> list[Path]:
    """Those that are volumes by their suffix, sorted; no hidden ones, no results, one of each pair of files."""
    volumes = [path for path in paths if path.name.lower().endswith(VOLUME_SUFFIXES) and path.name[0] != "."]
    headers = {path.with_suffix("") for path in volumes if path.suffix.lower() == ".hdr"}
    halves = {path for path in volumes if path.suffix.lower() == ".img" and path.with_suffix("") in headers}
    return sorted(path for path in set(volumes) - halves if not _is_result(path))


def _is_result(volume: Path) -> bool:
    """Whether midiff made a volume: such a name alone may be a scan's, but not with the report beside it."""
    matches = ((pattern.fullmatch(volume.name), report) for pattern, report in RESULTS)
    return any(volume.with_name(match.expand(report)).is_file() for match, report in matches if match)


def _nothing(where: str | Path) -> list[Path]:
    raise InputError(where, "holds no volume (results of midiff aside)", f"Volumes end in {' '.join(VOLUME_SUFFIXES)}")


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
