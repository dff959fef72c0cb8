"""Many volumes: what is done is not done again, what fails is recorded, and the rest goes on."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import pandas as pd

from midiff_monai.errors import MidiffError, OutputError, in_one_line
from midiff_monai.io.inputs import Job
from midiff_monai.io.manifest import cache_key, read_earlier_manifest, remove_failure_record
from midiff_monai.io.paths import atomic_write, check_writable
from midiff_monai.pipeline.run import Models, Settings, load_models, new_report, process, written_roles
from midiff_monai.provenance import environment, sha256

REPORTS = ("batch_report.csv", "batch_report.json")


@dataclass(frozen=True)
class Task:
    """What is done to every volume of a batch.

    Attributes:
        settings: as for a single volume.
        translating: make a synthetic T1w.
        segmenting: segment it, or the volume itself if nothing is translated.
        overwrite: do again what is done already.
    """

    settings: Settings = Settings()
    translating: bool = True
    segmenting: bool = True
    overwrite: bool = False


Status = Literal["done", "skipped", "failed", "pending", "excluded"]


@dataclass(frozen=True)
class Outcome:
    """What became of one volume.

    Attributes:
        input: the volume.
        status: "done", "skipped" (done by an earlier run in the same way), "failed", "pending" (never begun), or
            "excluded" (a DICOM series that is no volume of anatomy, or of another modality).
        seconds: wall-clock time.
        warnings: sentences for the reader of the result.
        error: why it failed or was passed over, in one line.
        report: its run manifest, there once it is done; empty for what is passed over. In the batch's reports,
            relative to their folder.
    """

    input: Path
    status: Status
    seconds: float = 0.0
    warnings: str = ""
    error: str = ""
    report: str = ""

    @classmethod
    def of(cls, job: Job, status: Status, **facts: Any) -> Outcome:
        """What became of a job."""
        return cls(job.source, status, report=str(job.paths.report), **facts)


class BatchReportError(OutputError):
    """The reports of a batch cannot be written; its outcomes are here."""

    def __init__(self, folder: Path, reason: str, outcomes: list[Outcome]) -> None:
        super().__init__(folder, f"cannot be written ({reason})", "Make room, and run again")
        self.outcomes = outcomes


Executor = Callable[[Sequence[Job], Task, threading.Event], Iterator[Outcome]]
"""Runs the jobs in any order and yields their outcomes; begins no more of them once the event is set."""


def run_sequentially(jobs: Sequence[Job], task: Task, stop: threading.Event) -> Iterator[Outcome]:
    """Run the jobs one after the other in this process."""
    for job in jobs:
        if stop.is_set():
            return
        yield run_job(job, task)


def run_batch(
    jobs: Sequence[Job],
    task: Task,
    output: Path,
    execute: Executor = run_sequentially,
    stop: threading.Event | None = None,
    progress: Callable[[Iterable[Outcome]], Iterable[Outcome]] = iter,  # type: ignore[assignment]
) -> list[Outcome]:
    """Run a batch and keep `batch_report.json` and `batch_report.csv` in the output folder up to date.

    Args:
        jobs: from `inputs.find_jobs` or `bids.find_jobs`.
        task: what to do to each.
        output: folder for the reports of the batch; made if need be.
        execute: where the jobs run.
        stop: once set, the volumes that are being processed are finished and no other is begun.
        progress: wraps the iteration over the outcomes, for example `tqdm`.

    Returns:
        One outcome a job, in the order of the jobs, those passed over last.

    Raises:
        BundleError: a bundle is not intact; nothing is processed.
        OutputError: the folder cannot be written, or an output is an input or a report of the batch; nothing is
            processed.
        BatchReportError: the reports of the batch cannot be written; all volumes that can be done are done.
    """
    models = _models(task)
    excluded = [Outcome(job.source, "excluded", error=job.exclusion_reason) for job in jobs if job.exclusion_reason]
    jobs = [job for job in jobs if not job.exclusion_reason]
    _check_outputs(jobs, output)
    by_report = {str(job.paths.report): job for job in jobs}
    outcomes = {report: Outcome.of(job, "pending") for report, job in by_report.items()}
    for outcome in progress(execute(jobs, task, stop or threading.Event())):
        outcomes[outcome.report] = outcome
        # a full disk is told of at the end; meanwhile room may be made
        with suppress(OSError):
            _note_error(outcome, by_report[outcome.report].paths.error)
            write_reports([*outcomes.values(), *excluded], task, models, output)
    all_outcomes = [*outcomes.values(), *excluded]
    try:
        write_reports(all_outcomes, task, models, output)
    except OSError as error:
        raise BatchReportError(output, in_one_line(error), all_outcomes) from error
    return all_outcomes


def _check_outputs(jobs: Sequence[Job], output: Path) -> None:
    outputs = [path for job in jobs for path in asdict(job.paths).values()]
    check_writable(output, outputs, overwrite=True, inputs=[file for job in jobs for file in job.files])
    for report in (output / name for name in REPORTS):
        if report in outputs:
            raise OutputError(report, "is the report of the batch, and would be that of a volume too", "Rename it")


def _note_error(outcome: Outcome, path: Path) -> None:
    """Keep a failure beside the results, where batches that share a folder do not overwrite it."""
    remove_failure_record(path)
    if outcome.status != "failed" or path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    ended = datetime.now(timezone.utc).isoformat(timespec="seconds")
    with atomic_write(path) as temporary:
        facts = asdict(outcome) | {"ended": ended}
        temporary.write_text(json.dumps(facts, indent=2, default=str) + "\n", encoding="ascii")


def run_job(job: Job, task: Task) -> Outcome:
    """Process one volume unless that has been done; whatever goes wrong becomes part of the outcome."""
    start = time.perf_counter()
    try:
        models = _models(task)
        manifest = read_earlier_manifest(job.paths)
        done = not task.overwrite and _is_done(manifest, job, task, models)
        changed = [] if task.overwrite else _changed(job, task, manifest)
        if changed and not done:
            raise OutputError(changed[0], "exists, and is not as midiff made it", "Move it, or use --overwrite")
        notices = [f"{path.name} was changed since." for path in changed]
        warnings = manifest["warnings"] + notices if done else process(job, task.settings, models).report.warnings
    # one volume must not keep the others from being done, whatever is the matter with it
    except Exception as error:
        return Outcome.of(job, "failed", seconds=time.perf_counter() - start, error=_reason(error))
    seconds = time.perf_counter() - start
    return Outcome.of(job, "skipped" if done else "done", seconds=seconds, warnings=" ".join(warnings))


def _changed(job: Job, task: Task, manifest: Mapping[str, Any]) -> list[Path]:
    """The files of a task that are not as an earlier run left them, such as a corrected segmentation."""
    report, hashes = job.paths.report, manifest["outputs_sha256"]
    strange = [report] if report.exists() and "command" not in manifest else []
    files = {role: getattr(job.paths, role) for role in _roles(task)}
    return strange + [path for role, path in files.items() if path.exists() and sha256(path) != hashes.get(role)]


def _is_done(manifest: dict[str, Any], job: Job, task: Task, models: Models) -> bool:
    """Whether an earlier run did all that this one would do, or more, and its files are there.

    A segmentation by way of a synthetic T1w is more than that synthetic T1w alone. With which units it computed counts
    only if some are asked for.
    """
    if not manifest["complete"] or not all(getattr(job.paths, role).is_file() for role in manifest["outputs"]):
        return False
    if task.settings.precision not in ("auto", manifest["settings"].get("precision")):
        return False
    report = new_report(job, task.settings, models)
    if manifest["command"] not in (report.command, "segment"):
        return False
    earlier, wanted = cache_key(manifest), cache_key(report.to_dict())
    alike = all(earlier[name] == wanted[name] for name in ("settings", "input", "version"))
    return alike and all(wanted[name].items() <= earlier[name].items() for name in ("weights", "configurations"))


def _roles(task: Task) -> list[str]:
    return written_roles(task.settings, task.translating, task.segmenting)


@lru_cache(maxsize=1)
def _load(settings: Settings, translating: bool, segmenting: bool) -> Models:
    return load_models(settings, translating, segmenting)


def _models(task: Task) -> Models:
    """Loaded once a process."""
    return _load(task.settings, task.translating, task.segmenting)


def _reason(error: Exception) -> str:
    text = in_one_line(error)
    return text if isinstance(error, MidiffError) else f"{type(error).__name__}: {text}"


def write_reports(outcomes: list[Outcome], task: Task, models: Models, output: Path) -> None:
    """Write the table of the outcomes as CSV, and with what made them as JSON, each whole or not at all."""
    table = pd.DataFrame([_row(outcome, output) for outcome in outcomes])
    with atomic_write(output / REPORTS[0]) as temporary:
        # a file name need not be Unicode
        table.to_csv(temporary, index=False, float_format="%.2f", errors="surrogateescape")
    facts = {"settings": asdict(task.settings), "weights": models.weights, "environment": environment()}
    with atomic_write(output / REPORTS[1]) as temporary:
        volumes = table.round(2).to_dict("records")
        temporary.write_text(json.dumps(facts | {"volumes": volumes}, indent=2) + "\n", encoding="ascii")


def _row(outcome: Outcome, output: Path) -> dict[str, str | float]:
    report = outcome.report and Path(os.path.relpath(outcome.report, output)).as_posix()
    return asdict(outcome) | {"input": str(outcome.input), "report": report}


@contextmanager
def stop_on_signal() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C or SIGTERM into an event; a second one acts as ever. For the main thread."""
    stop = threading.Event()
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def first(number: int, frame: FrameType | None) -> None:
        stop.set()
        restore()

    for number in previous:
        signal.signal(number, first)
    try:
        yield stop
    finally:
        restore()
