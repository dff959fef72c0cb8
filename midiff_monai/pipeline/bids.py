"""The scans of a BIDS data set (Gorgolewski et al., Scientific Data 3:160044, 2016), and the names of their results."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from midiff_monai.errors import InputError
from midiff_monai.io.inputs import Job, without_duplicates
from midiff_monai.io.manifest import read_earlier_manifest
from midiff_monai.io.outputs import DEFAULT_TARGET, OutputPaths, bids_outputs, output_paths
from midiff_monai.io.paths import VOLUME_SUFFIXES
from midiff_monai.pipeline.people import join

DEFAULT_SUFFIXES = ("PDw", "T2w", "FLAIR")
SCAN = re.compile(r"(?P<entities>sub-[0-9a-zA-Z+]+(_[a-z]+-[0-9a-zA-Z+]+)*)_(?P<suffix>[0-9a-zA-Z]+)\.nii(\.gz)?")
"""Name of an image: entities, suffix and extension. Labels may contain a plus sign since BIDS 1.11."""

MISNAMED = "has a name or folder that is not valid in BIDS"

OTHER_PART = re.compile("_part-(phase|real|imag)_")
"""Part of the name of an image that holds no magnitudes."""


def find_jobs(
    dataset: Path,
    output: Path,
    suffixes: Sequence[str] = DEFAULT_SUFFIXES,
    participants: Sequence[str] = (),
    sessions: Sequence[str] = (),
    target: str = DEFAULT_TARGET,
    together: bool = False,
) -> list[Job]:
    """Find the anatomical scans of a data set, and name their results as BIDS derivatives.

    A scan `sub-01/anat/sub-01_PDw.nii.gz` gives `sub-01_desc-synthetic_T1w` and `sub-01_desc-midiff_dseg`. Where
    scans differ only in their suffix, the suffix is added to the description: `desc-syntheticPDw`. This check covers
    the chosen suffixes and `DEFAULT_SUFFIXES`, so that a later run on other suffixes replaces no results. If such a
    scan is added later, the first one is processed again under its new name, and `study.read_study` leaves out the
    results with the old name.

    Args:
        dataset: folder of a raw data set.
        output: folder of the derivative.
        suffixes: the scans to take, for example "T2w".
        participants: labels with or without "sub-"; empty for all.
        sessions: labels with or without "ses-"; empty for all.
        target: the modality that the scans are translated to, the suffix of the synthetic volumes.
        together: join scans that differ only in their suffix into one job, on the grid of the one whose suffix is
            named first. Its results have no suffix in their description.

    Raises:
        InputError: a participant is missing, no scan is found, two scans would write the same files, or a scan would
            replace the results of another one.
    """
    chosen_sessions = {_labelled("ses", label) for label in sessions}
    subjects = [dataset / name for name in sorted(_wanted(dataset, participants))]
    scans = [scan for subject in subjects for scan in _scans(subject, chosen_sessions)]
    misnamed = [path for subject in subjects for path in _misnamed(subject, chosen_sessions, suffixes)]
    jobs = _jobs_of(scans, suffixes, dataset, output, target)
    if not jobs:
        raise _no_scan_error(dataset, suffixes, misnamed)
    if together:
        jobs = _joined(without_duplicates(jobs, hint="Remove one"), suffixes, target)
    present = set(scans)
    for job in jobs:
        _check_replaces_no_other(job, present)
    excluded = [
        Job(path, output_paths(path, output / path.parent.relative_to(dataset)), fault=MISNAMED) for path in misnamed
    ]
    return without_duplicates([*jobs, *excluded], hint="Remove one")


def _jobs_of(scans: Sequence[Path], suffixes: Sequence[str], dataset: Path, output: Path, target: str) -> list[Job]:
    """The jobs of the scans with the wanted suffixes. Others may make their names ambiguous."""
    suffixes_of = defaultdict(set)
    for scan in scans:
        if suffix_of(scan) in {*suffixes, *DEFAULT_SUFFIXES}:
            suffixes_of[scan.parent, _entities(scan)].add(suffix_of(scan))
    return [
        Job(scan, _derivatives(scan, dataset, output, len(suffixes_of[scan.parent, _entities(scan)]) > 1, target))
        for scan in scans
        if suffix_of(scan) in suffixes
    ]


def _no_scan_error(dataset: Path, suffixes: Sequence[str], misnamed: Sequence[Path]) -> InputError:
    fault = f"has no anat/*_{{{','.join(suffixes)}}}.nii.gz"
    if misnamed:
        fault += f", but {len(misnamed)} files with names that are not valid in BIDS, such as {misnamed[0].name}"
    return InputError(dataset, fault, "Check --suffix and the labels")


def _joined(jobs: Sequence[Job], suffixes: Sequence[str], target: str) -> list[Job]:
    """Join the jobs of scans that differ only in their suffix."""
    people: dict[Path, list[Job]] = defaultdict(list)
    for job in sorted(jobs, key=lambda job: suffixes.index(suffix_of(job.source))):
        people[job.source.with_name(_entities(job.source))].append(job)
    return [
        join(scans, bids_outputs(name.name, scans[0].paths.report.parent, target=target))
        for name, scans in sorted(people.items())
    ]


def _check_replaces_no_other(job: Job, scans: set[Path]) -> None:
    earlier = read_earlier_manifest(job.paths).get("input")
    other = job.source.with_name(Path(earlier["path"]).name) if earlier else job.source
    if other not in job.files and other in scans:
        fault = f"would replace the results of {other.name}"
        hint = "Name both suffixes after --suffix, so that the results of each get their own names"
        raise InputError(job.source, fault, hint)


def _misnamed(subject: Path, sessions: set[str], suffixes: Sequence[str]) -> list[Path]:
    """List the images that seem to have a wanted suffix, but whose name or folder is not valid in BIDS.

    The suffix may be in another case, and the labels those of another participant or session than the folders have.
    """
    names = re.compile(rf"(?i)(?<![a-z0-9])({'|'.join(map(re.escape, suffixes))})(?![a-z0-9])")
    found = []
    for folder in _session_folders(subject, sessions):
        stray = [path for path in folder.glob("*") if path.name.lower().endswith(VOLUME_SUFFIXES)]
        images = [path for path in folder.glob("anat/*") if path.name.lower().endswith(VOLUME_SUFFIXES)]
        found += stray + [path for path in images if not _is_valid(path, subject) or _is_other_case(path, suffixes)]
    return sorted(path for path in found if names.search(path.name) and path.name[0] != ".")


def participants_without(jobs: Iterable[Job], dataset: Path, participants: Sequence[str] = ()) -> list[str]:
    """The participants without a job, sorted. Without a list of participants, all are considered."""
    with_job = {job.source.relative_to(dataset).parts[0] for job in jobs if not job.exclusion_reason}
    return sorted(_wanted(dataset, participants) - with_job)


def _wanted(dataset: Path, participants: Sequence[str]) -> set[str]:
    present = {folder.name for folder in dataset.glob("sub-*") if folder.is_dir()}
    wanted = {_labelled("sub", label) for label in participants} or present
    if missing := sorted(wanted - present):
        raise InputError(dataset, f"has no {', '.join(missing)}", "Check --participant-label")
    return wanted


def _labelled(entity: str, label: str) -> str:
    return f"{entity}-{label.removeprefix(f'{entity}-')}"


def _scans(subject: Path, sessions: set[str]) -> list[Path]:
    found = [path for folder in _session_folders(subject, sessions) for path in folder.glob("anat/*")]
    return sorted(path for path in found if _is_valid(path, subject) and not OTHER_PART.search(path.name))


def _is_valid(image: Path, subject: Path) -> bool:
    """Whether the name of an image is one of BIDS, with the participant and the session of its folders."""
    if not SCAN.fullmatch(image.name):
        return False
    labels = _entities(image).split("_")
    above = image.parent.parent.name
    return labels[0] == subject.name and all(label == above for label in labels if {label[:4], above[:4]} == {"ses-"})


def _is_other_case(image: Path, suffixes: Sequence[str]) -> bool:
    return suffix_of(image) not in suffixes and suffix_of(image).lower() in map(str.lower, suffixes)


def _session_folders(subject: Path, sessions: set[str]) -> list[Path]:
    folders = [folder for folder in subject.glob("ses-*") if not sessions or folder.name in sessions]
    return folders if sessions else [*folders, subject]


def _entities(scan: Path) -> str:
    return SCAN.fullmatch(scan.name)["entities"]  # type: ignore[index]


def suffix_of(scan: Path) -> str:
    """The suffix of an image in BIDS, such as "PDw"."""
    return SCAN.fullmatch(scan.name)["suffix"]  # type: ignore[index]


def _derivatives(scan: Path, dataset: Path, output: Path, ambiguous: bool, target: str) -> OutputPaths:
    folder = output / scan.parent.relative_to(dataset)
    return bids_outputs(_entities(scan), folder, suffix_of(scan) if ambiguous else "", target)
