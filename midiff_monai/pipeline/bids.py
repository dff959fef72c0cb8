"""BIDS data sets in, BIDS derivatives out (Gorgolewski et al., Scientific Data 3:160044, 2016)."""

from __future__ import annotations

import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from midiff_monai.errors import InputError, OutputError
from midiff_monai.io.inputs import Job, without_duplicates
from midiff_monai.io.manifest import read_earlier_manifest
from midiff_monai.io.outputs import DEFAULT_TARGET, OutputPaths, bids_outputs, output_paths
from midiff_monai.io.paths import VOLUME_SUFFIXES, atomic_write, make_folder
from midiff_monai.io.placeholders import missing_file_error
from midiff_monai.pipeline.people import join

DEFAULT_SUFFIXES = ("PDw", "T2w", "FLAIR")
BIDS_VERSION = "1.9.0"
DESCRIPTION = "dataset_description.json"
SCAN = re.compile(r"(?P<entities>sub-[0-9a-zA-Z+]+(_[a-z]+-[0-9a-zA-Z+]+)*)_(?P<suffix>[0-9a-zA-Z]+)\.nii(\.gz)?")
"""Name of an image: entities, suffix and extension. Labels may contain a plus sign since BIDS 1.11."""

MISNAMED = "has a name or folder that is not valid in BIDS"

OTHER_PART = re.compile("_part-(phase|real|imag)_")
"""Part of the name of an image that holds no magnitudes."""

BIDSIGNORE = (
    "*_qc.png\n*_report.json\n*_error.json\n*_volumes.csv\n*_std.nii.gz\n*_error.nii.gz\n*_entropy.nii.gz\n"
    "/batch_report.*\n/volumes.csv\n/parcels.csv\n/index.html\n/_viewer\n"
)
"""Files of a derivative for which BIDS has no names."""

SIDECARS: dict[str, dict[str, Any]] = {
    "segmentation": {"Description": "FreeSurfer ids of brain structures by midiff", "Manual": False},
    "lesions": {"Description": "White matter lesions by midiff", "Type": "Lesion", "Manual": False},
    "probability": {"Description": "Probability of the label of a voxel by midiff", "Manual": False},
    "intracranial": {"Description": "Space inside the skull by midiff", "Type": "Brain", "Manual": False},
    "parcels": {"Description": "MUSE ids of regions of cortex and white matter by midiff", "Manual": False},
}
"""Role of an image → what its sidecar says of it."""


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
    wanted = _wanted(dataset, participants)
    chosen_sessions = {_labelled("ses", label) for label in sessions}
    scans = [scan for subject in sorted(wanted) for scan in _scans(dataset / subject, chosen_sessions)]
    suffixes_of = defaultdict(set)
    for scan in (scan for scan in scans if _suffix(scan) in {*suffixes, *DEFAULT_SUFFIXES}):
        suffixes_of[scan.parent, _entities(scan)].add(_suffix(scan))
    jobs = [
        Job(scan, _derivatives(scan, dataset, output, len(suffixes_of[scan.parent, _entities(scan)]) > 1, target))
        for scan in scans
        if _suffix(scan) in suffixes
    ]
    misnamed = [path for subject in sorted(wanted) for path in _misnamed(dataset / subject, chosen_sessions, suffixes)]
    if not jobs:
        fault = f"has no anat/*_{{{','.join(suffixes)}}}.nii.gz"
        if misnamed:
            fault += f", but {len(misnamed)} files with names that are not valid in BIDS, such as {misnamed[0].name}"
        raise InputError(dataset, fault, "Check --suffix and the labels")
    if together:
        jobs = _joined(without_duplicates(jobs, hint="Remove one"), suffixes, target)
    present = set(scans)
    for job in jobs:
        _check_replaces_no_other(job, present)
    excluded = [
        Job(path, output_paths(path, output / path.parent.relative_to(dataset)), fault=MISNAMED) for path in misnamed
    ]
    return without_duplicates([*jobs, *excluded], hint="Remove one")


def _joined(jobs: Sequence[Job], suffixes: Sequence[str], target: str) -> list[Job]:
    """Join the jobs of scans that differ only in their suffix."""
    people: dict[Path, list[Job]] = defaultdict(list)
    for job in sorted(jobs, key=lambda job: suffixes.index(_suffix(job.source))):
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
    return _suffix(image) not in suffixes and _suffix(image).lower() in map(str.lower, suffixes)


def _session_folders(subject: Path, sessions: set[str]) -> list[Path]:
    folders = [folder for folder in subject.glob("ses-*") if not sessions or folder.name in sessions]
    return folders if sessions else [*folders, subject]


def _entities(scan: Path) -> str:
    return SCAN.fullmatch(scan.name)["entities"]  # type: ignore[index]


def _suffix(scan: Path) -> str:
    return SCAN.fullmatch(scan.name)["suffix"]  # type: ignore[index]


def _derivatives(scan: Path, dataset: Path, output: Path, ambiguous: bool, target: str) -> OutputPaths:
    folder = output / scan.parent.relative_to(dataset)
    return bids_outputs(_entities(scan), folder, _suffix(scan) if ambiguous else "", target)


def check_dataset(dataset: Path) -> None:
    """Check that a folder has the description of a BIDS data set.

    Raises:
        InputError: it has none, or an incomplete one.
    """
    description = dataset / DESCRIPTION
    try:
        facts = _read_json(description)
    except FileNotFoundError:
        if description.is_symlink():
            raise missing_file_error(description) from None
        raise InputError(description, "does not exist", "Name the root of a BIDS data set") from None
    except (OSError, ValueError) as error:
        raise InputError(description, f"cannot be read ({error})", "Check it with the BIDS validator") from error
    if not isinstance(facts, dict) or not {"Name", "BIDSVersion"} <= facts.keys():
        raise InputError(description, "lacks Name or BIDSVersion", "Check it with the BIDS validator")


def _read_json(path: Path) -> Any:
    """Read JSON in UTF-8, UTF-16 or UTF-32 with or without a byte order mark, otherwise in Latin-1."""
    content = path.read_bytes()
    try:
        return json.loads(content)
    except UnicodeDecodeError:
        return json.loads(content.decode("latin-1"))


def check_own(dataset: Path, output: Path) -> None:
    """Check that an output folder is not the data set itself or the derivative of another tool.

    Raises:
        OutputError: it is.
    """
    hint = f"Choose a separate folder for the derivative, such as {dataset / 'derivatives' / 'midiff'}"
    if output.resolve() == dataset.resolve():
        raise OutputError(output, "is the data set itself", hint)
    description = output / DESCRIPTION
    if description.exists():
        try:
            makers = [maker["Name"] for maker in _read_json(description)["GeneratedBy"]]
        except (OSError, ValueError, LookupError, TypeError):
            makers = []
        if "midiff-monai" not in makers:
            raise OutputError(description, "was not made by midiff", hint)


def write_description(dataset: Path, output: Path) -> None:
    """Write the description of the derivative and its `.bidsignore`.

    Raises:
        OutputError: the folder is the data set or another derivative, or cannot be written.
    """
    check_own(dataset, output)
    description = {
        "Name": "midiff: synthetic volumes and segmentations",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "License": "see the source data set",
        "GeneratedBy": [{"Name": "midiff-monai", "Version": metadata.version("midiff-monai")}],
        "SourceDatasets": [{"URL": dataset.resolve().as_uri()}],
        "DatasetLinks": {"raw": os.path.relpath(dataset.resolve(), output.resolve())},
    }
    make_folder(output)
    _write_json(description, output / DESCRIPTION)
    with atomic_write(output / ".bidsignore") as temporary:
        temporary.write_text(BIDSIGNORE, encoding="utf-8")


def write_sidecars(jobs: Iterable[Job], dataset: Path) -> None:
    """Write the JSON sidecars of the existing result images."""
    from midiff_monai.io.volumes import UNREADABLE
    from midiff_monai.pipeline.result import shows_only_brain  # heavy, and not needed to parse a command line

    for job in (job for job in jobs if not job.exclusion_reason):
        sources = [f"bids:raw:{file.relative_to(dataset).as_posix()}" for file in job.files]
        common = {"Sources": sources, "SpatialReference": sources[0] if len(sources) > 1 else "orig"}
        for role, facts in SIDECARS.items():
            image = getattr(job.paths, role)
            if image.is_file():
                quality = _quality(job.paths) if role == "segmentation" else {}
                _write_json(common | facts | quality, _sidecar(image))
        if job.paths.synthetic.is_file():
            target = _suffix(job.paths.synthetic)
            synthetic: dict[str, Any] = {"Description": f"{target} contrast made from another contrast by midiff"}
            if target == DEFAULT_TARGET:
                with suppress(*UNREADABLE, ValueError):  # the batch reports damaged or edited volumes
                    synthetic["SkullStripped"] = shows_only_brain(job.paths)
            _write_json(common | synthetic, _sidecar(job.paths.synthetic))


def _quality(paths: OutputPaths) -> dict[str, Any]:
    """The expected Dice of a segmentation, as it stands in the manifest of its run; those of old versions have none."""
    quality = read_earlier_manifest(paths).get("quality")
    return {"ExpectedDice": quality} if quality else {}


def _sidecar(image: Path) -> Path:
    return image.with_name(image.name.removesuffix(".nii.gz") + ".json")


def _write_json(facts: dict[str, Any], path: Path) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(facts, indent=2) + "\n", encoding="ascii")
