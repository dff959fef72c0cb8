"""What a command says of its progress: what it will do, about how long that takes, bars, and the time that is left.

Heavy packages are imported within the functions, so that `midiff --help` appears at once.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from math import ceil
from typing import TYPE_CHECKING, Any

from midiff_monai.cli.messages import NORMAL, QUIET
from midiff_monai.io.manifest import read_earlier_manifest
from midiff_monai.pipeline.options import Mode, Task
from midiff_monai.pipeline.workers import Workers, has_dask

if TYPE_CHECKING:
    from midiff_monai.io.inputs import Job
    from midiff_monai.pipeline.batch_report import Outcome
    from midiff_monai.pipeline.estimate import Extent, Speed
    from midiff_monai.pipeline.models import Models

_logger = logging.getLogger(__name__)

MESSAGES_PER_RUN = 10
"""A batch without a bar tells the remaining time after its first volume, and about this many times in all."""


def progress_bar(arguments: argparse.Namespace, **options: Any) -> Any:
    """A function that shows a progress bar of the items it passes on, if stderr is a terminal."""
    from tqdm import tqdm

    return partial(tqdm, disable=None if arguments.shown == NORMAL else True, **options)


def volumes_bar(arguments: argparse.Namespace, total: int) -> Callable[[Iterable[Outcome]], Iterable[Outcome]]:
    """A function that shows the progress of a batch: a bar on a terminal, lines in the log of a batch queue."""
    if arguments.shown == NORMAL and sys.stderr.isatty():
        return progress_bar(arguments, total=total, unit="volume")
    return partial(tell_remaining_time, total=total)


def tell_remaining_time(
    outcomes: Iterable[Outcome], total: int, clock: Callable[[], float] = time.monotonic
) -> Iterator[Outcome]:
    """Pass on the outcomes of a batch. Messages say how many there are, and about how long the others will take.

    Args:
        outcomes: in the order in which they arrive.
        total: number of volumes.
        clock: the time in seconds.
    """
    start, computed, announced = clock(), 0, 0
    for number, outcome in enumerate(outcomes, start=1):
        computed, passed = computed + (outcome.status != "skipped"), clock() - start
        if computed and number < total and (not announced or number - announced >= total / MESSAGES_PER_RUN):
            left = passed / computed * (total - number)
            _logger.info("%d of %d volumes, %s left", number, total, about(left))
            announced = number
        yield outcome


def announce_volumes(arguments: argparse.Namespace, task: Task, models: Models, extents: Sequence[Extent]) -> None:
    """Say what is done to some volumes in this process, and about how long it takes."""
    from midiff_monai.pipeline.estimate import estimate_seconds

    if arguments.shown == QUIET:
        return
    speed = _speed(task, models)
    seconds = sum(estimate_seconds(extent, speed, task.mode, models) for extent in extents)
    _logger.info("%s, %s: %s", _action(task.mode, len(extents), models), _place(models), about(seconds))


def announce_batch(
    arguments: argparse.Namespace, task: Task, jobs: Sequence[Job], workers: Workers | None, models: Models
) -> None:
    """Say what is done to the volumes of a batch, and about how long it takes if all are like the first."""
    if arguments.shown == QUIET or not jobs:
        return
    unfinished = [job for job in jobs if task.overwrite or not _has_results(job)]
    action = _action(task.mode, len(jobs), models)
    if len(unfinished) < len(jobs):
        action += f", {len(jobs) - len(unfinished)} of which have results"
    if workers is None:
        _logger.info("%s, on the cluster %s", action, arguments.scheduler)
        return
    seconds = _batch_seconds(unfinished, task, workers, models)
    likely = "" if seconds is None else f": {about(seconds)} if all are like {unfinished[0].source.name}"
    _logger.info("%s, %s%s", action, _place(models, workers), likely)
    if len(unfinished) > 1 and arguments.workers is None and not has_dask():
        _logger.info("Several at a time take less time: pip install 'midiff-monai[cluster]'")


def _has_results(job: Job) -> bool:
    """Whether an earlier run has finished a volume. The job itself reports a manifest that cannot be read."""
    try:
        return read_earlier_manifest(job.paths)["complete"]
    except OSError:
        return False


def _batch_seconds(jobs: Sequence[Job], task: Task, workers: Workers, models: Models) -> float | None:
    """About how long volumes take that are like the first; None if it cannot be read, or if there are none."""
    import torch

    from midiff_monai.pipeline.estimate import estimate_seconds, extent_of
    from midiff_monai.pipeline.reading import read_together

    if not jobs:
        return None
    try:
        source, companions = read_together(jobs[0], task.settings)
        extent = extent_of(source, scans=1 + len(companions.images))
    except Exception:  # whatever the error is, it becomes part of the volume's outcome
        return None
    if workers.processes:  # this process, which computes no volume then, measures what one of them will reach
        torch.set_num_threads(workers.threads)
    each = estimate_seconds(extent, _speed(task, models), task.mode, models)
    return each * ceil(len(jobs) / max(1, workers.processes))


def _speed(task: Task, models: Models) -> Speed:
    """The speed of the networks, on the CPU if they do not fit into the memory of a GPU."""
    from midiff_monai.pipeline.estimate import measure_speed
    from midiff_monai.pipeline.fallback import on_cpu_if_memory_runs_out

    return on_cpu_if_memory_runs_out(lambda task, models: measure_speed(task.mode, models), task, models)


def _action(mode: Mode, count: int, models: Models) -> str:
    volumes = "1 volume" if count == 1 else f"{count} volumes"
    return {
        Mode.SEGMENT: f"Segmenting {volumes} by way of a synthetic {models.target}",
        Mode.TRANSLATE: f"Translating {volumes} to {models.target}",
        Mode.SEGMENT_DIRECTLY: f"Segmenting {volumes} without translation",
    }[mode]


def _place(models: Models, workers: Workers | None = None) -> str:
    """Where the volumes are computed: on a GPU, or with some threads."""
    import torch

    bundle = models.translation or models.segmentation
    assert bundle is not None
    device = bundle.setting("device")
    threads = workers.threads if workers else torch.get_num_threads()
    place = f"on {device}" if device.type != "cpu" else "with 1 thread" if threads == 1 else f"with {threads} threads"
    return f"{workers.processes} at a time, each {place}" if workers and workers.processes else place


def about(seconds: float) -> str:
    """A duration in words, as coarse as an estimate is.

    Example:
        >>> about(3), about(47), about(160), about(1700), about(20000)
        ('a few seconds', 'about 50 seconds', 'about 3 minutes', 'about 30 minutes', 'about 6 hours')
    """
    if seconds < 8:
        return "a few seconds"
    if seconds < 95:
        return f"about {round(seconds, -1):.0f} seconds"
    minutes = seconds / 60
    if minutes < 95:
        return f"about {minutes if minutes < 10 else 5 * round(minutes / 5):.0f} minutes"
    return f"about {minutes / 60:.0f} hours"
