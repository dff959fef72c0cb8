"""Finding the volumes of a run: files, folders, DICOM series, glob patterns and tables."""

from __future__ import annotations

import glob
import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from midiff_monai.errors import InputError
from midiff_monai.io.dicom.candidates import series_among
from midiff_monai.io.dicom.files import content_fault, is_dicom
from midiff_monai.io.outputs import (
    DEFAULT_TARGET,
    OutputPaths,
    named_outputs,
    output_paths,
    report_beside,
    role_of_result,
)
from midiff_monai.io.paths import SLICE_SUFFIXES, VOLUME_SUFFIXES, files_below, is_slice_name, volume_files
from midiff_monai.io.placeholders import missing_file_error
from midiff_monai.io.tables import TABLE_SUFFIXES, read_table

if TYPE_CHECKING:
    from midiff_monai.io.dicom.reader import DicomSeries

SAME_NAME = "Rename one, or give a table with a column `output`"
"""What to do about two volumes that would write the same files."""

NOWHERE = Path(os.devnull)
"""Stands for the folder of the results where nothing is written."""


@dataclass(frozen=True)
class Job:
    """One volume of a run.

    Attributes:
        source: The volume to read. For a DICOM series: its folder joined with its name.
        paths: The files to write.
        series: The DICOM series to read instead of `source`, or None.
        fault: Why the file is excluded, as a verb phrase. Empty for a usable file and for a DICOM series.
        person: What a table says of the person and the session. Empty where it says nothing.
    """

    source: Path
    paths: OutputPaths
    series: DicomSeries | None = None
    fault: str = ""
    person: str = ""

    @property
    def files(self) -> tuple[Path, ...]:
        """All files of the volume."""
        return self.series.files if self.series else volume_files(self.source)

    def absolute(self) -> Job:
        """Return the job with absolute paths, for a process in another working directory."""
        paths = OutputPaths(**{role: path.absolute() for role, path in asdict(self.paths).items()})
        files = tuple(file.absolute() for file in self.files)
        return replace(
            self, source=self.source.absolute(), paths=paths, series=self.series and replace(self.series, files=files)
        )

    @property
    def exclusion_reason(self) -> str:
        """Why the volume is excluded, as a verb phrase ("is a localizer"). Empty if it is processed."""
        return self.series.exclusion_reason if self.series else self.fault


@dataclass(frozen=True)
class Search:
    """What is looked for. The attributes are arguments of `find_jobs`."""

    output: Path
    modality: str | None = None
    target: str = DEFAULT_TARGET
    slices: bool = False

    @property
    def dicom_modality(self) -> str:
        """Modality of the DICOM series to take."""
        return self.modality or "MR"

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Suffixes of the files that are looked for."""
        return SLICE_SUFFIXES if self.slices else VOLUME_SUFFIXES

    def select(self, paths: Sequence[Path]) -> list[Path]:
        """The sorted paths of the files that are looked for, without hidden files, results and the .img of a pair."""
        volumes = [path for path in paths if path.name.lower().endswith(self.suffixes) and path.name[0] != "."]
        headers = {path.with_suffix("") for path in volumes if path.suffix.lower() == ".hdr"}
        halves = {path for path in volumes if path.suffix.lower() == ".img" and path.with_suffix("") in headers}
        return sorted(path for path in set(volumes) - halves if not report_beside(path))


def find_jobs(
    items: Sequence[str | Path] | str | Path,
    output: str | Path,
    modality: str | None = None,
    target: str = DEFAULT_TARGET,
    slices: bool = False,
) -> list[Job]:
    """Find the volumes of a run.

    Args:
        items: One or several of these:

            - a volume;
            - a folder, searched with its subfolders. DICOM series are taken from subfolders without volumes. Results
              keep the subfolders;
            - a glob pattern such as `scans/*_PDw.nii.gz` (`**` matches all subfolders);
            - a table (.csv or .tsv) with a column `input` of volumes and an optional column `output` of subfolders for
              the results. Relative inputs start at the folder of the table. `people.find_people` reads the columns
              `subject` and `session`.

            Folders and patterns skip results of midiff that have their report beside them.
        output: Folder for the results. It is skipped if it lies inside a searched folder.
        modality: DICOM modality of the series to take, "MR" (default) or "CT". Of another one no series is taken.
        target: the modality that the volumes are translated to, a part of the names of the results.
        slices: look for slices, which are files of `SLICE_SUFFIXES`, instead of volumes and DICOM series.

    Returns:
        The volumes, followed by the excluded DICOM series. `Job.exclusion_reason` says why a series is excluded: it is
        not an anatomical volume, or its modality differs.

    Raises:
        InputError: No volume is found, a folder cannot be read, a table lacks the column `input`, a file has an unknown
            suffix, or two volumes would write the same files.
    """
    scans = find_scans(items, Search(Path(output), modality, target, slices))
    return without_duplicates(scans, hint=SAME_NAME)


def find_scans(items: Sequence[str | Path] | str | Path, search: Search) -> list[Job]:
    """Find the volumes of a run as `find_jobs` does, each as often as it is named.

    Volumes that would write the same files are found too, and excluded ones stand among the others.
    """
    items = [items] if isinstance(items, str | Path) else items
    if not items:
        raise InputError("input", "is missing", "Name a volume, a folder, a pattern or a table")
    return [job for item in items for job in _expand(item, search)]


def find_volumes(item: str | Path) -> list[Path]:
    """Find the volumes to train on, or the slices where there are no volumes.

    Args:
        item: a folder, a pattern or a table, as for `find_jobs`; results of midiff are skipped.

    Returns:
        The files, sorted, or in the order of the table. All of them are volumes, or all of them are slices.

    Raises:
        InputError: neither volumes nor slices are found, or a DICOM series.
    """
    search = Search(NOWHERE)
    jobs = list(_expand(item, replace(search, slices=_holds_slices_alone(item, search))))
    for job in jobs:
        if job.series is not None:
            raise InputError(job.source, "is a DICOM series", "Convert it to NIfTI first, for example with dcm2niix")
    return [job.source for job in jobs]


def find_synthetic(item: str | Path) -> list[Path]:
    """Find the synthetic volumes to compare with real ones.

    Args:
        item: a folder, a pattern or a table, as for `find_jobs`.

    Returns:
        The synthetic volumes among results of midiff, where there are any, sorted. Else all volumes, as `find_volumes`.

    Raises:
        InputError: no volume is found, or a DICOM series.
    """
    path = Path(item)
    files = files_below(path, NOWHERE) if path.is_dir() else map(Path, glob.glob(str(item), recursive=True))
    return sorted(file for file in files if role_of_result(file) == "synthetic") or find_volumes(item)


def without_duplicates(jobs: Sequence[Job], hint: str) -> list[Job]:
    """Remove repeated jobs and move excluded jobs to the end.

    Raises:
        InputError: Two different volumes would write the same files. The error carries `hint`.
    """
    by_report: dict[Path, Job] = {}
    for job in (job for job in jobs if not job.exclusion_reason):
        first = by_report.setdefault(job.paths.report.resolve(), job)
        if {*map(os.path.realpath, first.files)} != {*map(os.path.realpath, job.files)}:  # a link may lead to itself
            raise InputError(job.source, f"would write the same files as {first.source}", hint)
    return [*by_report.values(), *(job for job in jobs if job.exclusion_reason)]


def _holds_slices_alone(item: str | Path, search: Search) -> bool:
    """Whether an input argument stands for slices, and for no volume."""
    path = Path(item)
    if path.is_dir():
        files = files_below(path, excluding=search.output)
    elif path.suffix.lower() in TABLE_SUFFIXES:
        files = [row.source for row in read_table(path, search.output)]
    else:
        files = [path] if path.exists() else [Path(match) for match in glob.glob(str(item), recursive=True)]
    return not search.select(files) and bool(replace(search, slices=True).select(files))


def _expand(item: str | Path, search: Search) -> Iterator[Job]:
    """Yield the jobs of one input argument."""
    path = Path(item)
    if item == "":
        raise InputError("''", "is an empty input", "Check the variable or the pattern that it came from")
    if path.is_dir():
        if path.resolve() == search.output.resolve():
            raise InputError(path, "is the folder for the results too", "Choose another one with -o")
        yield from _slices_in_folder(path, search) if search.slices else _jobs_in_folder(path, search)
    elif path.suffix.lower() in TABLE_SUFFIXES:
        for row in read_table(path, search.output):
            yield replace(_file_job(row.source, row.folder, search), person=row.person)
    elif not path.exists() and glob.has_magic(str(item)):
        yield from (_file_job(volume, search.output, search) for volume in _glob_volumes(str(item), search))
    else:
        _check_named_file(path)
        yield _file_job(path, search.output, search)


def _check_named_file(path: Path) -> None:
    """Check a file without the suffix of a volume. A missing volume is reported when it is read."""
    if path.name.lower().endswith(VOLUME_SUFFIXES + SLICE_SUFFIXES):
        return
    if not path.exists():
        raise missing_file_error(path)
    if is_dicom(path):
        raise InputError(path, "is one image of a DICOM series", "Name the folder of the series")


def _file_job(source: Path, folder: Path, search: Search) -> Job:
    paths = output_paths(source, folder, search.target)
    if is_slice_name(source) != search.slices:
        given, wanted = ("a volume", "slices") if search.slices else ("a single slice", "volumes")
        fault = f"is {given}, and this bundle translates {wanted}"
        raise InputError(source, fault, f"Give {' '.join(search.suffixes)}, or another --bundle")
    return Job(source, paths)


def _slices_in_folder(folder: Path, search: Search) -> Iterator[Job]:
    slices = search.select(files_below(folder, excluding=search.output))
    if not slices:
        hint = f"This bundle translates {' '.join(SLICE_SUFFIXES)}: name their folder"
        raise InputError(folder, "holds no slice (results of midiff do not count)", hint)
    for path in slices:
        yield _file_job(path, search.output / path.parent.relative_to(folder), search)


def _jobs_in_folder(folder: Path, search: Search) -> list[Job]:
    output = search.output
    files = files_below(folder, excluding=output)
    volumes = search.select(files)
    # A folder with volumes holds DICOM images that were converted already.
    with_volumes = {volume.parent for volume in volumes}
    candidates = [file for file in files if file.parent not in with_volumes and file.name[0] != "."]
    series, others = series_among(candidates, search.dicom_modality)
    jobs = [_file_job(volume, output / volume.parent.relative_to(folder), search) for volume in volumes]
    jobs += [_series_job(each, output / each.folder.relative_to(folder), search.target) for each in series]
    if all(job.exclusion_reason for job in jobs):
        raise _no_volume_error(folder, output, series, others)
    return jobs


def _series_job(series: DicomSeries, folder: Path, target: str) -> Job:
    return Job(series.folder / series.name, named_outputs(series.name, folder, target), series)


def _no_volume_error(folder: Path, output: Path, excluded: list[DicomSeries], others: list[Path]) -> InputError:
    skipped = "results of midiff" + ("" if output == NOWHERE else f" and files in {output}")
    fault = f"holds no volume and no DICOM image ({skipped} do not count)"
    if excluded:
        reasons = (f"series {series.name} {series.exclusion_reason}" for series in excluded)
        fault = f"holds no usable volume: {', '.join(reasons)}"
    elif faults := {path: found for path in others if (found := content_fault(path))}:
        path, (reason, hint) = next(iter(faults.items()))
        return InputError(folder, f"{fault}; {len(faults)} files are not usable: {path.name} {reason}", hint)
    return InputError(folder, fault, "Name the folder of the scans")


def _glob_volumes(pattern: str, search: Search) -> list[Path]:
    matches = [Path(match) for match in glob.glob(pattern, recursive=True)]
    fixed = Path(*itertools.takewhile(lambda part: not glob.has_magic(part), Path(pattern).parts)).resolve()
    own = search.output.resolve()
    if fixed in own.parents:  # the output folder lies inside the searched folder
        matches = [path for path in matches if own not in path.resolve().parents]
    if volumes := search.select(matches):
        return volumes
    kind, kinds = ("slice", "Slices") if search.slices else ("volume", "Volumes")
    hint = f"{kinds} end in {' '.join(search.suffixes)}"
    raise InputError(pattern, f"matches no {kind} (results of midiff do not count)", hint)
