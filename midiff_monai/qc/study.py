"""The results in a folder: one subject for each input volume, and a table of the volumes of its structures."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from midiff_monai.io.manifest import input_identity
from midiff_monai.io.paths import CONTRAST, VOLUME_SUFFIXES, atomic_write, volume_stem
from midiff_monai.labels import INTRACRANIAL, STRUCTURES, TOTALS, WHITE_MATTER_LESIONS, total_volumes
from midiff_monai.qc.records import MANIFEST_SUFFIX, BatchRow, ManifestRecord, Record, Records, read_records
from midiff_monai.qc.subject import Subject

SCAN = (
    r"^(?P<participant_id>sub-[0-9a-zA-Z+]+)(?:_(?P<session_id>ses-[0-9a-zA-Z+]+))?"
    r"(?:.*_(?P<suffix>[0-9a-zA-Z]+)\.)?"
)
"""The parts of a scan's file name in BIDS."""

QUALITY = "quality"
"""Name of the expected mean Dice in the table of a study."""

LESION_COUNT = "lesion_count"
"""Name of the number of lesions in the table of a study."""


def read_study(folder: Path) -> list[Subject]:
    """Read the run manifests, failure records and batch report in a folder and its subfolders.

    Returns:
        One subject for each input, by name. `decisive_record` says which record of a result decides on its status.
        If results in one folder have the same input, the most recent one counts.

    Raises:
        InputError: the batch report is not as a batch writes it.
    """
    entries = [_entry(result, records) for result, records in read_records(folder).items()]
    return sorted(_latest_of_each_input(entries), key=lambda subject: (subject.name, subject.input))


def decisive_record(records: Records) -> Record:
    """Return the record that decides on the status of one result. The first line that applies counts.

    ============================  ===================  =====================  ===============
    batch row                     failure record       manifest               decisive record
    ============================  ===================  =====================  ===============
    none                          none                 complete               manifest
    failed                        none                 complete               manifest
    pending                       none                 complete, newer        manifest
    any                           any or none          any or none            batch row
    none                          any                  any or none            failure record
    none                          none                 incomplete, damaged    manifest
    ============================  ===================  =====================  ===============

    Lines two and three are runs after the batch: a run that succeeds removes the failure record, but leaves the report
    of an earlier batch as it is. "Newer" means that the run started after the batch report was last written.
    """
    manifest, failure, row = records
    if manifest and manifest.status == "done" and not failure and (row is None or _is_outdated(row, manifest)):
        return manifest
    return next(record for record in (row, failure, manifest) if record)


def _is_outdated(row: BatchRow, manifest: ManifestRecord) -> bool:
    return row.status == "failed" or (row.status == "pending" and manifest.time > row.time)


class _Entry(NamedTuple):
    """A subject with what tells it apart from results of the same input.

    Attributes:
        subject: the subject.
        input_key: folder of the results and identity of the input.
        recency: whether the report of the last batch decides, and the time of the decisive record.
    """

    subject: Subject
    input_key: tuple[Path, str]
    recency: tuple[bool, datetime]


def _entry(result: str, records: Records) -> _Entry:
    decisive = decisive_record(records)
    subject = _subject(result, records, decisive)
    input_key = (Path(result).parent, _input_identity(subject) or result)
    return _Entry(subject, input_key, (decisive is records.row, decisive.time))


def _subject(result: str, records: Records, decisive: Record) -> Subject:
    manifest, failure, _ = records
    durations = [record.seconds for record in (decisive, failure, manifest) if record]
    facts: dict[str, Any] = {
        "status": decisive.status,
        "error": decisive.error,
        "seconds": next((seconds for seconds in durations if seconds is not None), None),
    }
    if isinstance(decisive, BatchRow) and decisive.warnings:
        facts["warnings"] = (decisive.warnings,)
    if manifest and manifest.report:  # its warnings are those of the batch row, one by one
        facts |= {"warnings": manifest.warnings, "flags": manifest.flags}
        facts |= {"report_path": manifest.path, "report": manifest.report}
    if manifest:
        return Subject(Path(result).name.removesuffix(MANIFEST_SUFFIX), manifest.input, **facts)
    source = (failure or decisive).input
    return Subject(Path(source).name, source, **facts)


def _input_identity(subject: Subject) -> str:
    """Return the file name of an input, or the hash of a DICOM series, whose name depends on the series beside it."""
    source = subject.report.get("input", {})
    return input_identity(source) if source.get("files") else Path(subject.input).name


def _latest_of_each_input(entries: Iterable[_Entry]) -> list[Subject]:
    """Leave out what earlier runs made of an input under another name.

    In BIDS the name of a result can change when another scan is added to the data set.
    """
    ordered = sorted(entries, key=lambda entry: entry.recency)
    return list({entry.input_key: entry.subject for entry in ordered}.values())


def contrasts(subject: Subject) -> str:
    """Return the contrast of the scan of a subject; of scans that were translated together, such as "PDw+T2w"."""
    return "+".join(dict.fromkeys(filter(None, map(contrast, subject.scans))))


def contrast(scan: str) -> str:
    """Return the contrast that a scan's file name ends in, such as "PDw"; in BIDS the suffix; else an empty string."""
    name = Path(scan).name
    if (bids := re.match(SCAN, name)) and bids["suffix"]:
        return bids["suffix"]
    named = CONTRAST.fullmatch(volume_stem(name) if name.lower().endswith(VOLUME_SUFFIXES) else name)
    return named[1] if named else ""


def read_results(folder: Path) -> list[Subject]:
    """Return the subjects of `read_study` that have results, of the last run or of an earlier one."""
    return [subject for subject in read_study(folder) if subject.status in ("done", "skipped")]


def write_study_table(table: pd.DataFrame, path: Path) -> Path:
    """Write a table of a study as CSV, and return its path. Names of files may be no valid Unicode."""
    with atomic_write(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.4f", errors="surrogateescape")
    return path


def write_volumes_table(folder: Path) -> Path:
    """Write `volumes.csv`, the volumes in millilitres of the structures of every result in a folder and its subfolders.

    The table has one row for each segmented input, ordered by name. Its columns are `input`; `participant_id`,
    `session_id` and `suffix` if the inputs' names are those of BIDS; one column for each structure; `intracranial`,
    which is empty unless the input is a whole head; one for each of `labels.TOTALS`; `white_matter_lesions` and
    `lesion_count`, which are empty unless the contrast shows lesions; `quality`, the expected mean Dice; and
    `brain_parenchymal_fraction`, brain by intracranial volume. Inputs that failed or were not reached in the last run
    are left out, as are results without a segmentation.

    Returns:
        The path of the table.
    """
    segmented = [(subject, volumes) for subject in read_results(folder) if (volumes := subject.volumes()[0])]
    subjects = [subject for subject, _ in segmented]
    inputs = pd.Series([subject.input for subject in subjects], dtype=str, name="input")
    names = pd.Series([Path(subject.input).name for subject in subjects], dtype=str)
    scans = names.str.extract(SCAN).dropna(axis="columns", how="all")
    if "suffix" in scans:
        scans["suffix"] = scans["suffix"].mask(scans["suffix"].notna(), pd.Series(map(contrasts, subjects), dtype=str))
    columns = [structure.name for structure in STRUCTURES[1:]] + [
        INTRACRANIAL,
        *TOTALS,
        WHITE_MATTER_LESIONS,
        LESION_COUNT,
        QUALITY,
    ]
    rows = [_by_name(subject, volumes) for subject, volumes in segmented]
    measured = pd.DataFrame(rows, columns=columns, dtype=float)
    measured["brain_parenchymal_fraction"] = measured["brain"] / measured[INTRACRANIAL]
    return write_study_table(pd.concat([inputs, scans, measured], axis="columns"), folder / "volumes.csv")


def _by_name(subject: Subject, volumes: dict[int, float]) -> dict[str, float | None]:
    structures = {structure.name: volumes.get(structure.id) for structure in STRUCTURES[1:]}
    measured = {name: subject.measured(name) for name in (INTRACRANIAL, WHITE_MATTER_LESIONS)}
    count = subject.measured(WHITE_MATTER_LESIONS, "count")
    return structures | measured | total_volumes(volumes) | {LESION_COUNT: count, QUALITY: subject.quality}
