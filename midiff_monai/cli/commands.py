"""The commands of `midiff`. Each takes the parsed arguments and returns the exit code.

Heavy packages are imported within the functions, so that `midiff --help` appears at once.
"""

from __future__ import annotations

import argparse
import json
import logging
import shlex
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from midiff_monai.bundle.resources import bundle_root, read_preset
from midiff_monai.cli.exit_codes import ExitCode
from midiff_monai.cli.messages import NORMAL
from midiff_monai.cli.progress import announce_batch, announce_volumes, progress_bar, volumes_bar
from midiff_monai.errors import InputError
from midiff_monai.pipeline.options import Mode, Settings, Task
from midiff_monai.pipeline.workers import Workers, choose_workers

if TYPE_CHECKING:
    from midiff_monai.io.inputs import Job
    from midiff_monai.pipeline.batch import Executor
    from midiff_monai.pipeline.result import Result

_logger = logging.getLogger(__name__)

TARGET_OPTIONS = ("target", "anatomy", "spacing", "slices", "window", "segmented")
"""Options of `midiff init` that are attributes of a `TargetPlan`."""


def task_from(arguments: argparse.Namespace) -> Task:
    """The task that the arguments of a command describe."""
    if arguments.command == "translate" or getattr(arguments, "translate_only", False):
        mode = Mode.TRANSLATE
    else:
        mode = Mode.SEGMENT_DIRECTLY if arguments.no_translate else Mode.SEGMENT
    values = {setting.name: getattr(arguments, setting.name) for setting in fields(Settings)}
    values["bundle"] = [bundle_root(name) for name in arguments.bundle or ()]
    return Task(mode, Settings(**values), arguments.overwrite, arguments.together)


def _segment(arguments: argparse.Namespace) -> int:
    for result in _results(arguments):
        print(result.paths.segmentation, flush=True)
    return ExitCode.OK


def _translate(arguments: argparse.Namespace) -> int:
    for result in _results(arguments):
        print(result.paths.synthetic, flush=True)
    return ExitCode.OK


def _results(arguments: argparse.Namespace) -> Iterator[Result]:
    """One result at a time, so that written results do not stay in memory."""
    from midiff_monai.pipeline.run import run

    task = task_from(arguments)
    on_start = partial(announce_volumes, arguments, task)
    return run(arguments.inputs, arguments.output, task, arguments.shown == NORMAL, on_start)


def _batch(arguments: argparse.Namespace) -> int:
    from midiff_monai.io.inputs import find_jobs
    from midiff_monai.pipeline.people import find_people

    preset, target = read_preset(arguments.modality), _target_of_volumes(arguments)
    find = find_people if arguments.together else find_jobs
    code = _run_batch(find(arguments.inputs, arguments.output, preset.dicom_modality, target), arguments)
    if code != ExitCode.INTERRUPTED:
        _summarize(arguments)
    return code


def _target_of_volumes(arguments: argparse.Namespace) -> str:
    """The target modality of a command for volumes alone."""
    chosen = task_from(arguments).choose_bundles()
    chosen.check_volumes()
    return chosen.target


def _bids(arguments: argparse.Namespace) -> int:
    from midiff_monai.pipeline import bids, bids_files

    if arguments.level == "group":
        bids_files.check_own(arguments.dataset, arguments.output)
        _summarize(arguments)
        return ExitCode.OK
    if not arguments.skip_bids_validation:
        bids_files.check_dataset(arguments.dataset)
    labels = arguments.participant_label, arguments.session_label
    target = _target_of_volumes(arguments)
    jobs = bids.find_jobs(arguments.dataset, arguments.output, arguments.suffix, *labels, target, arguments.together)
    if without := bids.participants_without(jobs, arguments.dataset, arguments.participant_label):
        _logger.warning("no such scan of %s", ", ".join(without))
    bids_files.write_description(arguments.dataset, arguments.output)
    code = _run_batch(jobs, arguments)
    bids_files.write_sidecars(jobs, arguments.dataset)
    return code


def _run_batch(jobs: list[Job], arguments: argparse.Namespace) -> int:
    from midiff_monai.pipeline.batch import run_batch, stop_on_signal
    from midiff_monai.pipeline.batch_report import BatchReportError
    from midiff_monai.pipeline.checks import check_settings

    task, included = task_from(arguments), [job for job in jobs if not job.exclusion_reason]
    workers = _workers(arguments, len(included))
    check_settings(task)
    bar = volumes_bar(arguments, len(included))
    on_start = partial(announce_batch, arguments, task, included, workers)
    unreported: set[str] = set()
    with stop_on_signal() as stop:
        execute = _executor(arguments, workers)
        try:
            outcomes = run_batch(jobs, task, arguments.output, execute, stop, bar, on_start=on_start)
        except BatchReportError as error:
            _logger.error("%s", error)
            outcomes, unreported = error.outcomes, {"failed"}
    for outcome in outcomes:
        print(f"{outcome.status}\t{outcome.input}\t{outcome.error or outcome.warnings}")
    return _exit_code({outcome.status for outcome in outcomes} | unreported)


def _exit_code(states: set[str]) -> ExitCode:
    """The exit code of a batch, from what became of its volumes."""
    if "pending" in states:
        return ExitCode.INTERRUPTED
    return ExitCode.FAILED if "failed" in states else ExitCode.OK


def _workers(arguments: argparse.Namespace, volumes: int) -> Workers | None:
    """The processes of a batch on this machine; None on a cluster. Without a wish of the user, a GPU has one."""
    import torch

    if arguments.scheduler:
        return None
    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    processes = 0 if arguments.workers is None and device != "cpu" else arguments.workers
    return choose_workers(volumes, processes, arguments.threads)


def _executor(arguments: argparse.Namespace, workers: Workers | None) -> Executor:
    from midiff_monai.pipeline.batch import run_sequentially
    from midiff_monai.pipeline.dask_executor import DaskExecutor

    if workers is None:
        return DaskExecutor(scheduler=arguments.scheduler)
    if not workers.processes:
        return run_sequentially
    return DaskExecutor(workers.processes, folder=arguments.work_dir, threads=workers.threads)


def _summarize(arguments: argparse.Namespace) -> None:
    folder: Path = arguments.output
    if not folder.is_dir():
        raise InputError(folder, "is not a folder of results", "Process the participants first")
    from midiff_monai.qc.page import write_study_page
    from midiff_monai.qc.parcels import write_parcels_table
    from midiff_monai.qc.study import write_volumes_table

    print(write_volumes_table(folder))
    if parcels := write_parcels_table(folder):
        print(parcels)
    print(write_study_page(folder, progress_bar(arguments, desc="page", unit="scan")))


def _init(arguments: argparse.Namespace) -> int:
    from midiff_monai.bundle.choice import choose_bundles
    from midiff_monai.bundle.own import make_bundle
    from midiff_monai.bundle.presets import preset_pattern, preset_plan
    from midiff_monai.bundle.target_plan import TargetPlan

    given = {name: getattr(arguments, name) for name in TARGET_OPTIONS}
    given = {name: value for name, value in given.items() if value is not None}
    data = arguments.data
    if arguments.preset:
        plan, data = preset_plan(arguments.preset, **given), preset_pattern(arguments.preset, data)
    elif arguments.target is None:
        raise InputError("--target", "is missing", "Name the target modality, or choose a --preset")
    else:
        plan = TargetPlan(**given)
    count = make_bundle(arguments.folder, data, plan, progress_bar(arguments, unit="volume"))
    kind = "slices" if choose_bundles([str(arguments.folder)]).image_size else "volumes"
    print(f"{arguments.folder}: {count} {kind} of {plan.target}. Next: midiff train {arguments.folder}")
    return ExitCode.OK


def _train(arguments: argparse.Namespace) -> int:
    from midiff_monai.cli.train import training_command

    command = training_command(bundle_root(arguments.bundle), arguments.overrides)
    print(shlex.join(command), flush=True)
    return subprocess.run(command, check=False).returncode


def _compare(arguments: argparse.Namespace) -> int:
    from midiff_monai.evaluation.comparison_report import as_text, run_comparison

    bar = progress_bar(arguments)
    inputs = arguments.real, arguments.synthetic, arguments.output
    comparison, paths = run_comparison(*inputs, arguments.pairing, arguments.overwrite, bar, arguments.inception)
    print(as_text(comparison))
    for path in (paths.summary, paths.pairs, paths.figure, paths.report):
        print(path)
    return ExitCode.OK


def _convert_checkpoint(arguments: argparse.Namespace) -> int:
    from midiff_monai.bundle.conversion import convert_checkpoint

    found = convert_checkpoint(arguments.old, arguments.new, arguments.entry)
    written = ", ".join(f"{name}={value}" for name, value in found.items())
    print(f"{arguments.new}: weights of monai.networks.nets.DiffusionModelUNet({written})")
    return ExitCode.OK


def _demo(arguments: argparse.Namespace) -> int:
    _logger.info("Loading PyTorch and MONAI; the first start in a new environment takes longer")
    from midiff_monai.cli.demo import run_demo

    print(run_demo(arguments.output, arguments.contrast, progress=arguments.shown == NORMAL))
    return ExitCode.OK


def _view(arguments: argparse.Namespace) -> int:
    from midiff_monai.cli.view import view_results

    print(view_results(arguments.results, arguments.browser, progress_bar(arguments, desc="page", unit="scan")))
    return ExitCode.OK


def _info(arguments: argparse.Namespace) -> int:
    from midiff_monai.cli.info import describe_installation

    facts = describe_installation(arguments.bundle or ())
    if arguments.json:
        print(json.dumps(facts, indent=2))
    else:
        print("\n".join(f"{name}: {json.dumps(value)}" for name, value in facts.items()))
    return ExitCode.OK


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "segment": _segment,
    "translate": _translate,
    "batch": _batch,
    "bids": _bids,
    "init": _init,
    "train": _train,
    "compare": _compare,
    "convert-checkpoint": _convert_checkpoint,
    "view": _view,
    "demo": _demo,
    "info": _info,
}
