"""Records about a study's results: run manifests, failure records and rows of the batch report.

This module reads the files into frozen records. `midiff_monai.qc.study` decides which record counts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from math import nan
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import pandas as pd

from midiff_monai.errors import InputError
from midiff_monai.io.manifest import with_current_roles
from midiff_monai.qc.flags import Flag

MANIFEST_SUFFIX = "_report.json"
FAILURE_SUFFIX = "_error.json"
BATCH_REPORT = Path("batch_report.csv")

EXCLUDED = ("excluded", "passed over")
"""The status of an input that the batch left out. Version 0.3 and before wrote the second word."""

R = TypeVar("R")

UNKNOWN_TIME = datetime.min.replace(tzinfo=timezone.utc)

INTERRUPTED = "was interrupted while its files were written"

SENTENCES_OF_VERSION_0_3 = {
    "Touches the edge of the volume: ": "edge",
    "Not found: ": "absent",
    "Edges of the synthetic T1w hardly follow the source: ": "edge_correlation",
    "The samples disagree: ": "synthetic_std",
}
"""How the sentences of flags began in manifests of version 0.3, and the kind of each flag."""


@dataclass(frozen=True)
class ManifestRecord:
    """What a run manifest says about one input volume.

    Attributes:
        path: the manifest.
        input: path of the input; empty if the manifest is damaged.
        time: when the run started; `UNKNOWN_TIME` if the manifest is damaged.
        seconds: duration of the run; None unless the run is complete.
        warnings: sentences for the reader of the result, those of the flags included.
        flags: automatic flags that the run raised.
        report: the content of the manifest; empty unless the run is complete.
        error: why the results cannot be used; empty if the run is complete.
    """

    path: Path
    input: str = ""
    time: datetime = UNKNOWN_TIME
    seconds: float | None = None
    warnings: tuple[str, ...] = ()
    flags: tuple[Flag, ...] = ()
    report: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""

    @property
    def status(self) -> Literal["done", "failed"]:
        """Whether the run wrote all its results."""
        return "failed" if self.error else "done"


@dataclass(frozen=True)
class FailureRecord:
    """What a batch recorded beside the results about an input that failed. A later run that succeeds removes the file.

    Attributes:
        input: path of the input.
        time: when the run failed; `UNKNOWN_TIME` if the file does not say.
        seconds: duration of the run, None where unknown.
        error: why it failed, in one line.
    """

    input: str
    time: datetime
    seconds: float | None
    error: str

    status: Literal["failed"] = "failed"


@dataclass(frozen=True)
class BatchRow:
    """One row of the report of the last batch.

    Attributes:
        input: path of the input.
        time: when the batch report was last written.
        status: "done", "skipped", "failed" or "pending".
        seconds: duration of the run, None where unknown.
        warnings: sentences for the reader of the result, joined.
        error: why it failed, in one line; else empty.
    """

    input: str
    time: datetime
    status: str
    seconds: float | None = None
    warnings: str = ""
    error: str = ""


Record = ManifestRecord | FailureRecord | BatchRow


class Records(NamedTuple):
    """The records about one result, at least one of which exists."""

    manifest: ManifestRecord | None = None
    failure: FailureRecord | None = None
    row: BatchRow | None = None


def read_records(folder: Path) -> dict[str, Records]:
    """Read every record in a folder and its subfolders.

    Returns:
        The records by the path of the result's manifest, which need not exist, relative to the folder.

    Raises:
        InputError: the batch report is not as a batch writes it.
    """
    manifests = _read_all(folder, MANIFEST_SUFFIX, read_manifest)
    failures = _read_all(folder, FAILURE_SUFFIX, read_failure_record)
    batch_report = folder / BATCH_REPORT
    rows = read_batch_report(batch_report) if batch_report.is_file() else {}
    results = dict.fromkeys([*manifests, *failures, *rows])
    return {result: Records(manifests.get(result), failures.get(result), rows.get(result)) for result in results}


def _read_all(folder: Path, suffix: str, read: Callable[[Path], R | None]) -> dict[str, R]:
    """Read the visible files with a suffix; files of other tools, for which `read` returns None, are left out."""
    records = {}
    for path in folder.rglob(f"[!.]*{suffix}"):
        if (record := read(path)) is not None:
            manifest = path.with_name(path.name.removesuffix(suffix) + MANIFEST_SUFFIX)
            records[manifest.relative_to(folder).as_posix()] = record
    return records


def read_manifest(path: Path) -> ManifestRecord | None:
    """Read a run manifest; None if another tool, or a batch, uses such a name for another file."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        if "command" not in report:
            return None
        report = with_current_roles(report)
        source, started = report["input"]["path"], _time(report["started"])
        seconds, warnings = sum(report["timings_seconds"].values()), tuple(report["warnings"])
        if not report["complete"]:
            return ManifestRecord(path, source, started, error=INTERRUPTED)
        return ManifestRecord(path, source, started, seconds, warnings, _flags(report), report)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        return ManifestRecord(path, error=f"{path.name} is no run manifest ({error})")


def _flags(report: Mapping[str, Any]) -> tuple[Flag, ...]:
    if "flags" not in report:
        return tuple(flags_of_version_0_3(report["warnings"]))
    return tuple(Flag(flag["kind"], flag["value"], flag["text"]) for flag in report["flags"])


def flags_of_version_0_3(warnings: Iterable[str]) -> list[Flag]:
    """Recognise flags by the beginnings of their sentences: manifests of version 0.3 and before list no flags."""
    kinds = SENTENCES_OF_VERSION_0_3.items()
    return [Flag(kind, nan, text) for text in warnings for beginning, kind in kinds if text.startswith(beginning)]


def read_failure_record(path: Path) -> FailureRecord | None:
    """Read the record of a failure; None if another tool uses such a name for another file."""
    with suppress(OSError, ValueError, LookupError, TypeError):
        facts = json.loads(path.read_text(encoding="utf-8"))
        if facts["status"] == "failed":
            ended = _time(facts["ended"]) if "ended" in facts else UNKNOWN_TIME
            return FailureRecord(os.fspath(facts["input"]), ended, _seconds(facts["seconds"]), facts["error"])
    return None


def read_batch_report(path: Path) -> dict[str, BatchRow]:
    """Read `batch_report.csv`: its rows by the path of the result's manifest, without the inputs that were excluded.

    Raises:
        InputError: the table is not as a batch writes it.
    """
    written = datetime.fromtimestamp(path.stat().st_mtime, timezone.utc)
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding_errors="surrogateescape")
        table = table[["report", "input", "status", "seconds", "warnings", "error"]]
        return {
            result: BatchRow(source, written, status, _seconds(seconds), warnings, error)
            for result, source, status, seconds, warnings, error in table.itertuples(index=False)
            if status not in EXCLUDED
        }
    except (ValueError, LookupError) as error:  # saved by a spreadsheet, or empty
        hint = "Delete it, since the manifests beside the results hold the same facts, or run the batch again"
        raise InputError(path, "is not a batch report as midiff writes it", hint) from error


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(timezone.utc)


def _seconds(value: str | float) -> float | None:
    """Read a duration from a cell of the batch report; None if the cell is empty."""
    return float(value) if value else None
