"""What became of the volumes of a batch, and the reports that say so."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from midiff_monai.errors import OutputError
from midiff_monai.io.inputs import Job
from midiff_monai.io.manifest import remove_failure_record
from midiff_monai.io.paths import atomic_write
from midiff_monai.pipeline.models import Models
from midiff_monai.pipeline.options import Settings
from midiff_monai.provenance import environment

BATCH_REPORTS = ("batch_report.csv", "batch_report.json")

Status = Literal["done", "skipped", "failed", "pending", "excluded"]


@dataclass(frozen=True)
class Outcome:
    """What became of one volume.

    Attributes:
        input: the volume.
        status: "done"; "skipped", because an earlier run did the same; "failed"; "pending", because it was never
            started; or "excluded", for a DICOM series that is no anatomical volume or of another modality.
        seconds: wall-clock time.
        warnings: sentences for the reader of the result.
        error: why it failed or was excluded, in one line.
        report: its run manifest, which exists once it is done; empty if it is excluded. In the batch's reports the path
            is relative to their folder.
    """

    input: Path
    status: Status
    seconds: float = 0.0
    warnings: str = ""
    error: str = ""
    report: str = ""

    @classmethod
    def of(cls, job: Job, status: Status, **facts: Any) -> Outcome:
        """The outcome of a job."""
        return cls(job.source, status, report=str(job.paths.report), **facts)


class BatchReportError(OutputError):
    """The reports of a batch cannot be written. `outcomes` holds what they would say."""

    def __init__(self, folder: Path, reason: str, outcomes: list[Outcome]) -> None:
        super().__init__(folder, f"cannot be written ({reason})", "Make room, and run again")
        self.outcomes = outcomes


def write_failure_record(outcome: Outcome, path: Path) -> None:
    """Record a failure beside the results, where other batches in the same folder do not overwrite it.

    The record of an earlier failure is removed.
    """
    remove_failure_record(path)
    if outcome.status != "failed" or path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    ended = datetime.now(timezone.utc).isoformat(timespec="seconds")
    with atomic_write(path) as temporary:
        facts = asdict(outcome) | {"ended": ended}
        temporary.write_text(json.dumps(facts, indent=2, default=str) + "\n", encoding="ascii")


def write_batch_report(outcomes: list[Outcome], settings: Settings, models: Models, output: Path) -> None:
    """Write the outcomes as a CSV table, and with settings, weights and environment as JSON."""
    table = pd.DataFrame([_row(outcome, output) for outcome in outcomes])
    with atomic_write(output / BATCH_REPORTS[0]) as temporary:
        # file names can be invalid Unicode
        table.to_csv(temporary, index=False, float_format="%.2f", errors="surrogateescape")
    used = {name: value for name, value in asdict(settings).items() if name != "bundle"}  # the weights name the bundles
    facts = {"settings": used, "weights": models.weights, "environment": environment()}
    with atomic_write(output / BATCH_REPORTS[1]) as temporary:
        volumes = table.round(2).to_dict("records")
        temporary.write_text(json.dumps(facts | {"volumes": volumes}, indent=2) + "\n", encoding="ascii")


def _row(outcome: Outcome, output: Path) -> dict[str, str | float]:
    report = outcome.report and Path(os.path.relpath(outcome.report, output)).as_posix()
    return asdict(outcome) | {"input": str(outcome.input), "report": report}
