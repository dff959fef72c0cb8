"""The arguments of the `midiff` command."""

from __future__ import annotations

import argparse
from collections.abc import Collection
from dataclasses import fields
from importlib import metadata
from pathlib import Path
from typing import Any

from midiff_monai.bundle.resources import (
    available_bundles,
    available_overlays,
    available_presets,
    available_samplers,
    bundle_root,
    read_metadata,
    trainable_bundles,
)
from midiff_monai.cli.argument_parser import ArgumentParser
from midiff_monai.cli.messages import NORMAL, QUIET, VERBOSE
from midiff_monai.pipeline.bids import DEFAULT_SUFFIXES
from midiff_monai.pipeline.options import OF_SEGMENTATION, Settings, flag_of

EPILOG = """exit codes: 0 all done; 1 volumes of a batch failed; 2 nothing done, because an argument, an input, an
output or a bundle cannot be used; 130 interrupted. Not a medical device: look at the pictures before you use a
number."""

NO_TRANSLATE = "the inputs are T1w: segment them as they are"

VERSIONS = "show the versions of midiff and of its bundles"


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands. The name of the command is stored as `command`."""
    parser = ArgumentParser(
        prog="midiff", description="Segment brain volumes of modalities that have no segmenter.", epilog=EPILOG
    )
    parser.add_argument("--version", action=_Version, nargs=0, help=VERSIONS)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    for add in (
        _add_segment,
        _add_translate,
        _add_batch,
        _add_bids,
        _add_init,
        _add_train,
        _add_compare,
        _add_convert_checkpoint,
        _add_view,
        _add_demo,
        _add_info,
    ):
        add(commands)
    return parser


class _Version(argparse.Action):
    """Prints one line for midiff and one for each bundle. The bundles are not read before that."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        """Print the versions and exit."""
        print("midiff", metadata.version("midiff-monai"))
        for name in available_bundles():
            print(name, read_metadata(bundle_root(name))["version"])
        parser.exit()


def _add(commands: Any, name: str, summary: str) -> argparse.ArgumentParser:
    description = summary[0].upper() + summary[1:] + "."
    command = commands.add_parser(name, help=summary, description=description, epilog=EPILOG)
    shown = command.add_mutually_exclusive_group()
    for options, level, text in (
        (("-v", "--verbose"), VERBOSE, "show each step and its duration instead of progress bars"),
        (("-q", "--quiet"), QUIET, "show results and errors only"),
    ):
        shown.add_argument(*options, action="store_const", const=level, default=NORMAL, dest="shown", help=text)
    command.add_argument("--log-file", type=Path, metavar="FILE", help="append all messages with their times to FILE")
    return command


def _add_segment(commands: Any) -> None:
    segment = _add(commands, "segment", "segment each volume, on the grid of the volume")
    _add_volume_options(segment)
    segment.add_argument("--no-translate", action="store_true", help=NO_TRANSLATE)


def _add_translate(commands: Any) -> None:
    translate = _add(commands, "translate", "make a synthetic T1w, or another target, of each volume")
    _add_volume_options(translate, "; .png, .jpg, .tif or their folder, with a bundle for slices", OF_SEGMENTATION)


def _add_batch(commands: Any) -> None:
    batch = _add(commands, "batch", "process a study: finished volumes are skipped, failures are recorded")
    batch.add_argument(
        "inputs", nargs="+", metavar="INPUT", help="volume, folder, pattern, or .csv/.tsv with a column `input`"
    )
    batch.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="folder for the results")
    people = "they share a folder, and a name but for the contrast at its end, or the columns `subject` and `session`"
    _add_batch_options(batch, people)


def _add_bids(commands: Any) -> None:
    bids = _add(commands, "bids", "process a raw BIDS data set, as a BIDS App, and write a derivative")
    bids.add_argument("dataset", type=Path, metavar="BIDS_DIR", help="raw data set")
    bids.add_argument("output", type=Path, metavar="OUT", help="folder of the derivative")
    bids.add_argument(
        "level",
        choices=["participant", "group"],
        metavar="{participant,group}",
        help="process the participants, or summarise their results",
    )
    bids.add_argument(
        *_both("--participant-label"), nargs="+", default=[], metavar="LABEL", help="participants (default: all)"
    )
    bids.add_argument(*_both("--session-label"), nargs="+", default=[], metavar="LABEL", help="sessions (default: all)")
    bids.add_argument(
        "--suffix", nargs="+", default=DEFAULT_SUFFIXES, help=f"scans (default: {' '.join(DEFAULT_SUFFIXES)})"
    )
    bids.add_argument(
        *_both("--skip-bids-validation"), action="store_true", help="do not check dataset_description.json"
    )
    bids.add_argument("--version", action=_Version, nargs=0, help=VERSIONS)
    _add_batch_options(bids, "they share a name but for the suffix")


def _both(option: str) -> tuple[str, str]:
    """An option in the spelling of midiff and in that of the BIDS Apps specification."""
    return option, "--" + option[2:].replace("-", "_")


def _add_init(commands: Any) -> None:
    init = _add(commands, "init", "make a bundle of your own for another target modality, trained without labels")
    init.add_argument("folder", type=Path, metavar="NAME", help="folder of the new bundle")
    init.add_argument("--target", metavar="NAME", help="target modality, such as FLAIR: letters, digits")
    init.add_argument(
        "--data", required=True, metavar="DATA", help="its volumes, or slices: folder, pattern, or .csv/.tsv"
    )
    init.add_argument(
        "--preset",
        choices=available_presets(),
        help="target, file names and the options below for a public data set, whose folder --data names",
    )
    init.add_argument("--anatomy", choices=["brain", "any"], help="(default: brain)")
    init.add_argument(
        "--spacing",
        type=float,
        nargs="+",
        metavar="SIDE",
        help="voxel size: in mm, 1 or 3 numbers (default: 2); of slices in pixels, 1 or 2 numbers (default: 1)",
    )
    init.add_argument("--slices", choices=["axial", "coronal", "sagittal"], help="how volumes are cut (default: axial)")
    init.add_argument(
        "--window",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="intensities on an absolute scale, such as HU, that become 0 and 1 (default: percentiles of each volume)",
    )
    init.add_argument(
        "--segmented",
        type=Path,
        metavar="RESULTS",
        help="results of `midiff batch` for the same volumes, of brains: the training then knows tissues and lesions",
    )
    _add_threads(init)


def _add_train(commands: Any) -> None:
    train = _add(commands, "train", "print and run the MONAI command that trains a bundle and replaces its weights")
    train.add_argument(
        "bundle", metavar="BUNDLE", help=f"{', '.join(trainable_bundles())}, or the folder of a bundle of your own"
    )
    _add_threads(train)
    train.add_argument("overrides", nargs=argparse.REMAINDER, help="values for the configuration: --max_epochs 2")


def _add_compare(commands: Any) -> None:
    compare = _add(
        commands, "compare", "compare synthetic volumes with real ones: FID, KID, PSNR, SSIM, correlation, MI"
    )
    kinds = "folder, pattern, or .csv/.tsv with a column `input`"
    compare.add_argument("real", metavar="REAL", help=f"real volumes or slices of the target modality: {kinds}")
    compare.add_argument(
        "synthetic", metavar="SYNTHETIC", help="synthetic volumes, such as results of midiff: likewise"
    )
    compare.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="folder for tables and figure")
    pairing = compare.add_mutually_exclusive_group()
    for option, value, text in (
        ("--paired", "required", "refuse synthetic volumes without a real one of the same name"),
        ("--unpaired", "none", "compare the sets alone, by FID and KID"),
    ):
        pairing.add_argument(option, dest="pairing", action="store_const", const=value, default="by name", help=text)
    compare.add_argument(
        "--inception",
        type=Path,
        metavar="FILE",
        help="TorchScript file whose features FID and KID take, such as inception-2015-12-05.pt; it can run code, so "
        "it must be one that you trust (default: features of the shipped segmenter)",
    )
    compare.add_argument("--overwrite", action="store_true", help="replace results that exist")
    _add_threads(compare)


def _add_convert_checkpoint(commands: Any) -> None:
    summary = "convert weights of MONAI Generative's DiffusionModelUNet into weights of MONAI core's"
    convert = _add(commands, "convert-checkpoint", summary)
    convert.add_argument("old", type=Path, metavar="OLD", help="state dict, or dictionary that holds one")
    convert.add_argument("new", type=Path, metavar="NEW", help="state dict to write")
    convert.add_argument("--entry", metavar="NAME", help="key of the state dict in a dictionary of several things")


def _add_view(commands: Any) -> None:
    view = _add(commands, "view", "open the page of results in the browser: volumes, flags, pictures and a viewer")
    view.add_argument("results", type=Path, metavar="RESULTS", help="folder with the results of any command")
    view.add_argument("--no-browser", action="store_false", dest="browser", help="write the page only")


def _add_demo(commands: Any) -> None:
    demo = _add(commands, "demo", "segment a phantom made from a brain template; needs no file and no network")
    demo.add_argument("-o", "--output", type=Path, default=Path("midiff_demo"), help="folder (default: %(default)s)")
    demo.add_argument(
        "--contrast", default="PD", choices=["PD", "T2", "FLAIR"], help="of the phantom (default: %(default)s)"
    )
    _add_threads(demo)


def _add_info(commands: Any) -> None:
    info = _add(commands, "info", "print versions, device, bundles and the hashes of their weights")
    info.add_argument("--bundle", action="append", metavar="PATH", help="describe a bundle of your own as well")
    info.add_argument("--json", action="store_true", help="as JSON")


def _add_volume_options(command: argparse.ArgumentParser, more: str = "", omitted: Collection[str] = ()) -> None:
    volumes = "volume: .nii.gz, .nii, .mgz, .nrrd, .mha; a folder of them or of DICOM; or a pattern in quotes"
    command.add_argument("inputs", nargs="+", metavar="INPUT", help=f"{volumes}{more}")
    command.add_argument(
        "--together",
        action="store_true",
        help="the volumes are scans of one person, such as PD and T2w: one result, on the grid of the first",
    )
    command.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="folder for the results")
    _add_settings(command, omitted)


def _add_batch_options(command: argparse.ArgumentParser, people: str) -> None:
    """The options of a batch; `people` says how the scans of a person are recognised."""
    command.add_argument(
        "--together",
        action="store_true",
        help=f"one result of all scans of a person in one session, such as PD and T2w; {people}",
    )
    mode = command.add_mutually_exclusive_group()
    mode.add_argument("--translate-only", action="store_true", help="stop at the synthetic T1w")
    mode.add_argument("--no-translate", action="store_true", help=NO_TRANSLATE)
    where = command.add_mutually_exclusive_group()
    where.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes on this machine that share the volumes; 0 starts none (default: one for each usable core, as "
        "far as there is memory, if Dask is installed)",
    )
    where.add_argument("--scheduler", metavar="ADDRESS", help="address of a Dask cluster, such as tcp://host:8786")
    command.add_argument("-w", "--work-dir", type=Path, metavar="DIR", help="for temporary files of --workers")
    _add_settings(command)


def _add_settings(command: argparse.ArgumentParser, omitted: Collection[str] = ()) -> None:
    """One option for each field of `Settings`. Those that are omitted keep their defaults."""
    for setting in fields(Settings):
        if setting.name in omitted:
            command.set_defaults(**{setting.name: setting.default})
            continue
        arguments = {name: value for name, value in setting.metadata.items() if name != "flag"}
        if setting.name == "modality":
            arguments["help"] += f"; one of: {', '.join(available_overlays())}"
        if setting.name == "sampler":
            arguments["help"] += f"; one of: {', '.join(available_samplers())}"
        command.add_argument(flag_of(setting), dest=setting.name, default=setting.default, **arguments)
    command.add_argument("--overwrite", action="store_true", help="replace results that exist")
    _add_threads(command)


def _add_threads(command: argparse.ArgumentParser) -> None:
    threads = "threads of each process on this machine (default: OMP_NUM_THREADS, or one for each usable core)"
    command.add_argument("--threads", type=int, metavar="N", help=threads)
