"""The `midiff` command."""

from __future__ import annotations

import argparse
import io
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from midiff_monai.bundle.resources import available_bundles, available_overlays, bundle_root
from midiff_monai.cli.exit_codes import ExitCode
from midiff_monai.errors import InputError, MidiffError, in_one_line
from midiff_monai.pipeline.bids import DEFAULT_SUFFIXES

if TYPE_CHECKING:
    from midiff_monai.io.inputs import Job
    from midiff_monai.pipeline.batch import Executor, Task
    from midiff_monai.pipeline.result import Result
    from midiff_monai.pipeline.run import Settings

EPILOG = """exit codes: 0 all done, 1 volumes of a batch failed, 2 nothing done (arguments, an input, an output or a
bundle cannot be used), 130 interrupted. Not a medical device: look at the pictures before you use a number."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; answers the exit code."""
    # torch reads it at its first tensor: memory in pages of 2 MB; large tensors in pages of 4 kB take as long to get as
    # to compute
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file name need not be Unicode
    arguments = _parser().parse_args(argv)
    try:
        return arguments.command(arguments)
    except MidiffError as error:
        print(f"midiff: error: {error}", file=sys.stderr)
        return ExitCode.USAGE
    except (OSError, MemoryError, RuntimeError) as error:
        # a disk that is full, a share that is gone, no memory left, for which torch has a RuntimeError
        if isinstance(error, RuntimeError) and "memory" not in str(error):
            raise
        print(f"midiff: error: {in_one_line(error) or 'out of memory'}", file=sys.stderr)
        return ExitCode.FAILED
    except KeyboardInterrupt:
        print("midiff: interrupted", file=sys.stderr)
        return ExitCode.INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="midiff", description="Segment brain volumes of modalities no segmenter was made for.", epilog=EPILOG
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {metadata.version('midiff-monai')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    segment = _add(commands, "segment", _segment, "volume in, segmentation on its own grid out")
    _add_volume_options(segment)
    segment.add_argument("--no-translate", action="store_true", help="the inputs are T1w already: segment as they are")
    _add_volume_options(_add(commands, "translate", _translate, "volume in, synthetic T1w on its own grid out"))
    batch = _add(commands, "batch", _batch, "a study's volumes: what is done is skipped, what fails is recorded")
    batch.add_argument(
        "inputs", nargs="+", metavar="INPUT", help="volume, folder, pattern, or .csv/.tsv with a column `input`"
    )
    batch.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="folder for the results")
    _add_batch_options(batch)
    bids = _add(commands, "bids", _bids, "a BIDS App: a raw data set in, a derivative out")
    bids.add_argument("dataset", type=Path, metavar="BIDS_DIR", help="raw data set")
    bids.add_argument("output", type=Path, metavar="OUT", help="folder of the derivative")
    bids.add_argument("level", choices=["participant", "group"], help="participants one by one, or what they share")
    bids.add_argument(*_both("--participant-label"), nargs="+", default=[], metavar="LABEL", help="(default: all)")
    bids.add_argument(*_both("--session-label"), nargs="+", default=[], metavar="LABEL", help="(default: all)")
    bids.add_argument("--suffix", nargs="+", default=DEFAULT_SUFFIXES, help=f"(default: {' '.join(DEFAULT_SUFFIXES)})")
    bids.add_argument("--skip-bids-validation", action="store_true", help="do not look at dataset_description.json")
    _add_batch_options(bids)
    train = _add(
        commands,
        "train",
        _train,
        "print and run the MONAI bundle command that trains a bundle, whose weights it replaces",
    )
    train.add_argument("bundle", choices=available_bundles(), help="bundle to train")
    train.add_argument("overrides", nargs=argparse.REMAINDER, help="passed on, for example --max_epochs 2")
    demo = _add(commands, "demo", _demo, "try it on a volume made from a brain template; needs no file, no network")
    demo.add_argument("-o", "--output", type=Path, default=Path("midiff_demo"), help="folder (default: %(default)s)")
    demo.add_argument("--contrast", default="PD", choices=["PD", "T2", "FLAIR"], help="(default: %(default)s)")
    info = _add(commands, "info", _info, "versions, device, bundles and the hashes of their weights")
    info.add_argument("--json", action="store_true", help="as JSON")
    return parser


def _add(commands: Any, name: str, function: Any, summary: str) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=summary, description=summary.capitalize() + ".", epilog=EPILOG)
    command.set_defaults(command=function)
    return command


def _both(option: str) -> tuple[str, str]:
    """An option as midiff writes it, and as the specification of BIDS Apps does."""
    return option, "--" + option[2:].replace("-", "_")


def _add_volume_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="volume: .nii.gz, .nii, .mgz, .nrrd, .mha, or a folder of DICOM",
    )
    command.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="folder for the results")
    _add_settings(command)


def _add_batch_options(command: argparse.ArgumentParser) -> None:
    what = command.add_mutually_exclusive_group()
    what.add_argument("--translate-only", action="store_true", help="stop at the synthetic T1w")
    what.add_argument("--no-translate", action="store_true", help="the inputs are T1w already: segment as they are")
    where = command.add_mutually_exclusive_group()
    where.add_argument("--workers", type=int, default=0, metavar="N", help="processes on this machine (default: none)")
    where.add_argument("--scheduler", metavar="ADDRESS", help="of a Dask cluster, for example tcp://host:8786")
    command.add_argument("-w", "--work-dir", type=Path, metavar="DIR", help="for temporary files of --workers")
    _add_settings(command)


def _add_settings(command: argparse.ArgumentParser) -> None:
    modalities = ", ".join(available_overlays())
    command.add_argument("--modality", metavar="NAME", help=f"preprocessing for one of: {modalities} (default: any MR)")
    command.add_argument(
        "--steps",
        type=int,
        metavar="N",
        help="denoising steps, a divisor of 1000: others take more (default: the bundle's)",
    )
    command.add_argument(
        "--samples", type=int, metavar="N", help="average N samples and write their spread (default: 1)"
    )
    command.add_argument("--seed", type=int, metavar="N", help="of the noise (default: 0)")
    command.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1 … (default: a GPU if there is one)")
    command.add_argument(
        "--precision",
        default="auto",
        choices=["auto", "float32", "bfloat16"],
        help="of the networks (default: auto, bfloat16 where the device has units for it)",
    )
    command.add_argument("--trust-weights", action="store_true", help="use weights that are not those of the bundle")
    command.add_argument("--overwrite", action="store_true", help="replace results that exist")


SETTINGS = ("modality", "steps", "samples", "seed", "device", "precision", "trust_weights")


def _settings(arguments: argparse.Namespace) -> Settings:
    from midiff_monai.pipeline.run import Settings

    return Settings(**{name: getattr(arguments, name) for name in SETTINGS})


def _segment(arguments: argparse.Namespace) -> int:
    for result in _results(arguments, not arguments.no_translate, segmenting=True):
        print(result.paths.segmentation, flush=True)
    return ExitCode.OK


def _translate(arguments: argparse.Namespace) -> int:
    for result in _results(arguments, translating=True, segmenting=False):
        print(result.paths.synthetic, flush=True)
    return ExitCode.OK


def _results(arguments: argparse.Namespace, translating: bool, segmenting: bool) -> Iterator[Result]:
    """One by one: what has been written need not stay in memory."""
    from midiff_monai.pipeline.run import run

    what = _settings(arguments), translating, segmenting, arguments.overwrite
    return run(arguments.inputs, arguments.output, *what, progress=True)


def _batch(arguments: argparse.Namespace) -> int:
    from midiff_monai.io.inputs import find_jobs

    code = _run_batch(find_jobs(arguments.inputs, arguments.output, arguments.modality), arguments)
    if code != ExitCode.INTERRUPTED:
        _summarize(arguments.output)
    return code


def _bids(arguments: argparse.Namespace) -> int:
    from midiff_monai.pipeline import bids

    if arguments.level == "group":
        bids.check_own(arguments.dataset, arguments.output)
        _summarize(arguments.output)
        return ExitCode.OK
    if not arguments.skip_bids_validation:
        bids.check_dataset(arguments.dataset)
    labels = arguments.participant_label, arguments.session_label
    jobs = bids.find_jobs(arguments.dataset, arguments.output, arguments.suffix, *labels)
    if without := bids.participants_without(jobs, arguments.dataset, arguments.participant_label):
        print(f"midiff: warning: {', '.join(without)} without such a scan", file=sys.stderr)
    bids.write_description(arguments.dataset, arguments.output)
    code = _run_batch(jobs, arguments)
    bids.write_sidecars(jobs, arguments.dataset)
    return code


def _run_batch(jobs: list[Job], arguments: argparse.Namespace) -> int:
    from tqdm import tqdm

    from midiff_monai.pipeline.batch import BatchReportError, run_batch, stop_on_signal

    task, execute = _task(arguments), _executor(arguments)
    unreported: set[str] = set()
    with stop_on_signal() as stop:
        bar = partial(tqdm, total=sum(not job.exclusion_reason for job in jobs), unit="volume", disable=None)
        try:
            outcomes = run_batch(jobs, task, arguments.output, execute, stop, bar)
        except BatchReportError as error:
            print(f"midiff: error: {error}", file=sys.stderr)
            outcomes, unreported = error.outcomes, {"failed"}
    for outcome in outcomes:
        print(f"{outcome.status}\t{outcome.input}\t{outcome.error or outcome.warnings}")
    states = {outcome.status for outcome in outcomes} | unreported
    return ExitCode.INTERRUPTED if "pending" in states else ExitCode.FAILED if "failed" in states else ExitCode.OK


def _task(arguments: argparse.Namespace) -> Task:
    from midiff_monai.pipeline.batch import Task
    from midiff_monai.pipeline.run import check_settings

    settings = _settings(arguments)
    check_settings(settings, not arguments.no_translate)
    return Task(settings, not arguments.no_translate, not arguments.translate_only, arguments.overwrite)


def _executor(arguments: argparse.Namespace) -> Executor:
    if arguments.workers < 0:
        raise InputError("--workers", f"is {arguments.workers}", "Give the number of processes to start")
    if arguments.workers or arguments.scheduler:
        from midiff_monai.pipeline.dask_executor import DaskExecutor

        return DaskExecutor(arguments.workers, arguments.scheduler, arguments.work_dir)
    from midiff_monai.pipeline.batch import run_sequentially

    return run_sequentially


def _summarize(folder: Path) -> None:
    if not folder.is_dir():
        raise InputError(folder, "is no folder of results", "Process the participants first")
    from tqdm import tqdm

    from midiff_monai.qc.page import write_study_page
    from midiff_monai.qc.study import write_volumes_table

    print(write_volumes_table(folder))
    print(write_study_page(folder, partial(tqdm, desc="page", unit="subject", disable=None)))


def _train(arguments: argparse.Namespace) -> int:
    root = bundle_root(arguments.bundle)
    _check_training_data(root, arguments.overrides)
    configs = root / "configs"
    files = ["--meta_file", configs / "metadata.json", "--config_file", configs / "train.yaml"]
    files += ["--logging_file", configs / "logging.conf", "--bundle_root", root]
    command = [sys.executable, "-m", "monai.bundle", "run", *map(str, files), *arguments.overrides]
    print(shlex.join(command), flush=True)
    return subprocess.run(command, check=False).returncode


def _check_training_data(root: Path, overrides: Sequence[str]) -> None:
    """Raise InputError if the data set of a training command, `--dataset_dir` or the bundle's own, cannot do."""
    from monai.bundle import ConfigParser

    if {override.partition("=")[0] for override in overrides} & {"--images", "--datalist"}:
        return
    defaults = ConfigParser.load_config_file(root / "configs" / "train.yaml")
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--dataset_dir", type=Path, default=root / "data")
    parser.add_argument("--validation_subjects", type=int, default=defaults["validation_subjects"])
    given = parser.parse_known_args(overrides)[0]
    images = sorted(given.dataset_dir.glob("*_T1.nii.gz"))
    if not images:
        hint = "Name the folder of the T1w and their parcellations with --dataset_dir"
        raise InputError(given.dataset_dir, "holds no SUBJECT_T1.nii.gz", hint)
    for label in (image.with_name(image.name.replace("_T1.nii.gz", "_T1_DLMUSE.nii.gz")) for image in images):
        if not label.exists():
            raise InputError(label, "does not exist", "Give each T1w its DLMUSE parcellation, or take it away")
    if len(images) <= given.validation_subjects:
        fault = f"holds {len(images)} T1w, and {given.validation_subjects} are set aside to validate"
        raise InputError(given.dataset_dir, fault, "Add some, or set fewer aside with --validation_subjects")


def _demo(arguments: argparse.Namespace) -> int:
    from midiff_monai.cli.demo import run_demo

    print(run_demo(arguments.output, arguments.contrast))
    return ExitCode.OK


def _info(arguments: argparse.Namespace) -> int:
    from midiff_monai.cli.info import describe_installation

    facts = describe_installation()
    if arguments.json:
        print(json.dumps(facts, indent=2))
    else:
        print("\n".join(f"{name}: {json.dumps(value)}" for name, value in facts.items()))
    return ExitCode.OK
