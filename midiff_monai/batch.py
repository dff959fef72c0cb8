"""Many volumes: what is done is not done again, what fails is recorded, and the rest goes on."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from types import FrameType
from typing import Literal

import pandas as pd

from midiff_monai.errors import MidiffError, OutputError, in_one_line
from midiff_monai.inputs import Job
from midiff_monai.paths import staged
from midiff_monai.pipeline import Models, Settings, load_models, new_report, process
from midiff_monai.report import environment, identity


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


@dataclass(frozen=True)
class Outcome:
    """What became of one volume.

    Attributes:
        input: the volume.
        status: "done", "skipped" (done by an earlier run in the same way), "failed", or "pending" (never begun).
        seconds: wall-clock time.
        warnings: sentences for the reader of the result.
        error: why it failed, in one line.
        report: its run manifest; empty unless done or skipped. In the batch's reports, relative to their folder.
    """

    input: Path
    status: Literal["done", "skipped", "failed", "pending"]
    seconds: float = 0.0
    warnings: str = ""
    error: str = ""
    report: str = ""


Executor = Callable[[Sequence[Job], Task, threading.Event], Iterator[Outcome]]
"""Runs the jobs in any order and yields their outcomes; begins no more of them once the event is set."""


def in_turn(jobs: Sequence[Job], task: Task, stop: threading.Event) -> Iterator[Outcome]:
    """Run the jobs one after the other in this process."""
    for job in jobs:
        if stop.is_set():
            return
        yield run_job(job, task)


def run_batch(
    jobs: Sequence[Job],
    task: Task,
    output: Path,
    execute: Executor = in_turn,
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
        One outcome a job, in the order of the jobs.

    Raises:
        BundleError: a bundle is not intact; nothing is processed.
        OutputError: the reports of the batch cannot be written; all volumes that can be done are done nevertheless.
    """
    models = _models(task)
    outcomes = {job.source: Outcome(job.source, "pending") for job in jobs}
    output.mkdir(parents=True, exist_ok=True)
    for outcome in progress(execute(jobs, task, stop or threading.Event())):
        outcomes[outcome.input] = outcome
        # a full disk is told of at the end; meanwhile room may be made
        with suppress(OSError):
            write_reports(list(outcomes.values()), task, models, output)
    try:
        write_reports(list(outcomes.values()), task, models, output)
    except OSError as error:
        raise OutputError(output, f"cannot be written ({error.strerror})", "Make room, and run again") from error
    return list(outcomes.values())


def run_job(job: Job, task: Task) -> Outcome:
    """Process one volume unless that has been done; whatever goes wrong becomes part of the outcome."""
    start = time.perf_counter()
    try:
        models = _models(task)
        done = None if task.overwrite else _completed(job, task, models)
        if done is None:
            warnings = process(job, task.settings, models).report.warnings
        else:
            warnings = done["warnings"]
    # one volume must not keep the others from being done, whatever is the matter with it
    except Exception as error:
        return Outcome(job.source, "failed", time.perf_counter() - start, error=_reason(error))
    seconds = time.perf_counter() - start
    return Outcome(job.source, "skipped" if done else "done", seconds, " ".join(warnings), report=str(job.paths.report))


def _completed(job: Job, task: Task, models: Models) -> dict | None:
    """The manifest of an earlier run that did all that this one would do, if its files are there."""
    try:
        manifest = json.loads(job.paths.report.read_text(encoding="utf-8"))
        same = identity(manifest) == identity(new_report(job, task.settings, models).to_dict())
        present = all(getattr(job.paths, role).is_file() for role in manifest["outputs"])
    except (OSError, ValueError, KeyError, AttributeError):
        return None
    return manifest if same and present else None


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
    with staged(output / "batch_report.csv") as temporary:
        table.to_csv(temporary, index=False, float_format="%.2f")
    facts = {"settings": asdict(task.settings), "weights": models.weights, "environment": environment()}
    with staged(output / "batch_report.json") as temporary:
        volumes = table.round(2).to_dict("records")
        temporary.write_text(json.dumps(facts | {"volumes": volumes}, indent=2, ensure_ascii=False) + "\n")


def _row(outcome: Outcome, output: Path) -> dict[str, str | float]:
    report = os.path.relpath(outcome.report, output) if outcome.report else ""
    return asdict(outcome) | {"input": str(outcome.input), "report": Path(report).as_posix() if report else ""}


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
