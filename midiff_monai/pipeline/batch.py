"""Many volumes: finished volumes are skipped, failures are recorded, and the batch goes on."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from types import FrameType
from typing import Any

from midiff_monai.errors import MidiffError, OutputError, in_one_line
from midiff_monai.io.inputs import Job
from midiff_monai.io.manifest import cache_key, read_earlier_manifest
from midiff_monai.io.paths import check_writable
from midiff_monai.pipeline.batch_report import (
    BATCH_REPORTS,
    BatchReportError,
    Outcome,
    write_batch_report,
    write_failure_record,
)
from midiff_monai.pipeline.models import Models, load_models
from midiff_monai.pipeline.options import Task
from midiff_monai.pipeline.result import Result
from midiff_monai.pipeline.run import new_report, process, written_roles
from midiff_monai.provenance import sha256

_logger = logging.getLogger(__name__)


@dataclass
class Pipeline:
    """Processes volumes with models that are loaded once, when they are first needed.

    Attributes:
        task: what is done to every volume.
    """

    task: Task

    @cached_property
    def models(self) -> Models:
        """The opened bundles.

        Raises:
            BundleError: a bundle is not intact.
        """
        return load_models(self.task)

    def __call__(self, job: Job) -> Result:
        """Process one volume and write its results."""
        return process(job, self.task, self.models)


Executor = Callable[[Sequence[Job], Pipeline, threading.Event], Iterator[Outcome]]
"""Runs the jobs in any order and yields their outcomes. It starts no further job once the event is set."""


def run_sequentially(jobs: Sequence[Job], pipeline: Pipeline, stop: threading.Event) -> Iterator[Outcome]:
    """Run the jobs one after the other in this process."""
    for job in jobs:
        if stop.is_set():
            return
        yield run_job(job, pipeline)


def run_batch(
    jobs: Sequence[Job],
    task: Task,
    output: Path,
    execute: Executor = run_sequentially,
    stop: threading.Event | None = None,
    progress: Callable[[Iterable[Outcome]], Iterable[Outcome]] = iter,  # type: ignore[assignment]
    make_pipeline: Callable[[Task], Pipeline] = Pipeline,
    on_start: Callable[[Models], object] = lambda models: None,
) -> list[Outcome]:
    """Run a batch. `batch_report.json` and `batch_report.csv` in the output folder are kept up to date.

    Args:
        jobs: from `inputs.find_jobs` or `bids.find_jobs`.
        task: what is done to every volume.
        output: folder for the reports of the batch. It is created if needed.
        execute: runs the jobs.
        stop: once set, running volumes are finished and no further volume is started.
        progress: wraps the iteration over the outcomes, for example `tqdm`.
        make_pipeline: makes what processes the volumes, once in each process.
        on_start: called once, with the models, before the first volume is computed.

    Returns:
        One outcome a job, in the order of the jobs, excluded jobs last.

    Raises:
        BundleError: a bundle is not intact. Nothing has been processed.
        OutputError: the folder cannot be written, or an output path is an input or a report of the batch. Nothing has
            been processed.
        BatchReportError: the reports of the batch cannot be written. All volumes have been processed.
    """
    pipeline = make_pipeline(task)
    models = pipeline.models
    excluded = [Outcome(job.source, "excluded", error=job.exclusion_reason) for job in jobs if job.exclusion_reason]
    jobs = [job for job in jobs if not job.exclusion_reason]
    _check_outputs(jobs, output)
    by_report = {str(job.paths.report): job for job in jobs}
    outcomes = {report: Outcome.of(job, "pending") for report, job in by_report.items()}
    on_start(models)
    for outcome in progress(execute(jobs, pipeline, stop or threading.Event())):
        outcomes[outcome.report] = outcome
        _logger.debug("%s: %s %s", outcome.input, outcome.status, outcome.error)
        # the disk may be full now and have room at the end, where a failure is reported
        with suppress(OSError):
            write_failure_record(outcome, by_report[outcome.report].paths.error)
            write_batch_report([*outcomes.values(), *excluded], task.settings, models, output)
    all_outcomes = [*outcomes.values(), *excluded]
    try:
        write_batch_report(all_outcomes, task.settings, models, output)
    except OSError as error:
        raise BatchReportError(output, in_one_line(error), all_outcomes) from error
    return all_outcomes


def _check_outputs(jobs: Sequence[Job], output: Path) -> None:
    outputs = [path for job in jobs for path in asdict(job.paths).values()]
    check_writable(output, outputs, overwrite=True, inputs=[file for job in jobs for file in job.files])
    for report in (output / name for name in BATCH_REPORTS):
        if report in outputs:
            raise OutputError(report, "would be both the report of the batch and that of a volume", "Rename the volume")


def run_job(job: Job, pipeline: Pipeline) -> Outcome:
    """Process one volume unless it is done already. An error becomes part of the outcome."""
    start = time.perf_counter()
    try:
        status, warnings = _process_if_needed(job, pipeline)
    # whatever the error is, the other volumes must be processed
    except Exception as error:
        return Outcome.of(job, "failed", seconds=time.perf_counter() - start, error=_reason(error))
    return Outcome.of(job, status, seconds=time.perf_counter() - start, warnings=" ".join(warnings))


def _process_if_needed(job: Job, pipeline: Pipeline) -> tuple[Any, list[str]]:
    """The status of a volume, "done" or "skipped", and its warnings."""
    task = pipeline.task
    manifest = read_earlier_manifest(job.paths)
    done = not task.overwrite and _is_done(manifest, job, task, pipeline.models)
    changed = [] if task.overwrite else _changed_files(job, task, manifest)
    if done:
        return "skipped", manifest["warnings"] + [f"{path.name} was changed since." for path in changed]
    if changed:
        raise OutputError(changed[0], "exists, and differs from what midiff wrote", "Move it, or use --overwrite")
    return "done", pipeline(job).report.warnings


def _changed_files(job: Job, task: Task, manifest: Mapping[str, Any]) -> list[Path]:
    """The output files that are not as an earlier run wrote them, such as a corrected segmentation."""
    report, hashes = job.paths.report, manifest["outputs_sha256"]
    foreign = [report] if report.exists() and "command" not in manifest else []
    files = {role: getattr(job.paths, role) for role in written_roles(task)}
    return foreign + [path for role, path in files.items() if path.exists() and sha256(path) != hashes.get(role)]


def _is_done(manifest: dict[str, Any], job: Job, task: Task, models: Models) -> bool:
    """Whether an earlier run did at least all that this one would do, and its files exist.

    A segmentation by way of a synthetic T1w includes that synthetic T1w. The precision of the earlier run matters only
    if a precision is requested.
    """
    if not manifest["complete"] or not all(getattr(job.paths, role).is_file() for role in manifest["outputs"]):
        return False
    if task.settings.precision not in ("auto", manifest["settings"].get("precision")):
        return False
    report = new_report(job, task, models)
    if manifest["command"] not in (report.command, "segment"):
        return False
    earlier, wanted = cache_key(manifest), cache_key(report.to_dict())
    same = all(earlier[name] == wanted[name] for name in ("settings", "input", "version"))
    return same and all(wanted[name].items() <= earlier[name].items() for name in ("weights", "configurations"))


def _reason(error: Exception) -> str:
    text = in_one_line(error)
    return text if isinstance(error, MidiffError) else f"{type(error).__name__}: {text}"


@contextmanager
def stop_on_signal() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C or SIGTERM into an event. A second one has its usual effect. For the main thread."""
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
