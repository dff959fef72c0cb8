"""The `midiff` command."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from midiff_monai.errors import BundleError, MidiffError
from midiff_monai.report import ExitCode, environment, sha256
from midiff_monai.resources import available_bundles, available_overlays, bundle_root

EPILOG = """exit codes: 0 all done, 2 nothing done (arguments, an input, an output or a bundle cannot be used),
130 interrupted. Not a medical device: look at the pictures before you use a number."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; answers the exit code."""
    arguments = _parser().parse_args(argv)
    try:
        return arguments.command(arguments)
    except MidiffError as error:
        print(f"midiff: error: {error}", file=sys.stderr)
        return ExitCode.USAGE
    except KeyboardInterrupt:
        print("midiff: interrupted", file=sys.stderr)
        return ExitCode.INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="midiff", description="Segment brain volumes of modalities no segmenter was made for.", epilog=EPILOG
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    segment = _add(commands, "segment", _segment, "volume in, segmentation on its own grid out")
    _add_volume_options(segment)
    segment.add_argument("--no-translate", action="store_true", help="the inputs are T1w already: segment as they are")
    _add_volume_options(_add(commands, "translate", _translate, "volume in, synthetic T1w on its own grid out"))
    train = _add(commands, "train", _train, "print and run the MONAI bundle command that trains a bundle")
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


def _add_volume_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "inputs", nargs="+", type=Path, metavar="INPUT", help="volume: .nii.gz, .nii, .mgz, .nrrd, .mha"
    )
    command.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="folder for the results")
    modalities = ", ".join(available_overlays())
    command.add_argument("--modality", metavar="NAME", help=f"preprocessing for one of: {modalities} (default: any MR)")
    command.add_argument("--steps", type=int, metavar="N", help="denoising steps (default: the bundle's)")
    command.add_argument(
        "--samples", type=int, metavar="N", help="average N samples and write their spread (default: 1)"
    )
    command.add_argument("--seed", type=int, metavar="N", help="of the noise (default: 0)")
    command.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1 … (default: a GPU if there is one)")
    command.add_argument("--overwrite", action="store_true", help="replace results that exist")


def _options(arguments: argparse.Namespace) -> dict[str, Any]:
    from tqdm import tqdm

    names = ("overwrite", "modality", "steps", "samples", "seed", "device")
    chosen = {name: getattr(arguments, name) for name in names}
    return chosen | {"progress": lambda paths: tqdm(paths, unit="volume", disable=None)}


def _segment(arguments: argparse.Namespace) -> int:
    from midiff_monai.pipeline import segment

    translated = not arguments.no_translate
    for result in segment(arguments.inputs, arguments.output, translated=translated, **_options(arguments)):
        print(result.paths.segmentation)
    return ExitCode.OK


def _translate(arguments: argparse.Namespace) -> int:
    from midiff_monai.pipeline import translate

    for result in translate(arguments.inputs, arguments.output, **_options(arguments)):
        print(result.paths.synthetic)
    return ExitCode.OK


def _train(arguments: argparse.Namespace) -> int:
    root = bundle_root(arguments.bundle)
    configs = root / "configs"
    files = ["--meta_file", configs / "metadata.json", "--config_file", configs / "train.yaml"]
    files += ["--logging_file", configs / "logging.conf", "--bundle_root", root]
    command = [sys.executable, "-m", "monai.bundle", "run", *map(str, files), *arguments.overrides]
    print(shlex.join(command), flush=True)
    return subprocess.run(command, check=False).returncode


def _demo(arguments: argparse.Namespace) -> int:
    from midiff_monai.demo import run_demo

    print(run_demo(arguments.output, arguments.contrast))
    return ExitCode.OK


def _info(arguments: argparse.Namespace) -> int:
    facts = environment() | {"bundles": {name: _weights(name) for name in available_bundles()}, "cpus": os.cpu_count()}
    facts |= {"modalities": available_overlays(), "gpus": _gpus()}
    if arguments.json:
        print(json.dumps(facts, indent=2))
    else:
        print("\n".join(f"{name}: {json.dumps(value)}" for name, value in facts.items()))
    return ExitCode.OK


def _weights(name: str) -> dict[str, Any]:
    from midiff_monai.bundles import WEIGHTS, read_metadata

    root = bundle_root(name)
    metadata, weights = read_metadata(root), root / WEIGHTS
    if not weights.is_file():
        raise BundleError(weights, "does not exist", f"Train it with `midiff train {name}`")
    intact = sha256(weights) == metadata["weights_sha256"]
    return {"version": metadata["version"], "weights_sha256": metadata["weights_sha256"], "intact": intact}


def _gpus() -> list[str]:
    import torch

    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
