"""`midiff train`: the MONAI command that trains a bundle, and a check of its data."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from monai.bundle import ConfigParser

from midiff_monai.bundle.own import check_training_volumes
from midiff_monai.bundle.resources import trainable_bundles
from midiff_monai.errors import BundleError, InputError


def training_command(root: Path, overrides: Sequence[str]) -> list[str]:
    """Return the command that trains a bundle, once its data are checked.

    Args:
        root: folder of the bundle.
        overrides: arguments that replace values of its configuration, such as "--max_epochs", "2".

    Raises:
        BundleError: the bundle cannot be trained.
        InputError: volumes or parcellations are missing, or too few subjects are left for training.
    """
    configs = root / "configs"
    if not (configs / "train.yaml").is_file():
        raise BundleError(root, "cannot be trained", f"Train one of {', '.join(trainable_bundles())}")
    _check_training_data(root, overrides)
    files = ["--meta_file", configs / "metadata.json", "--config_file", configs / "train.yaml"]
    files += ["--logging_file", configs / "logging.conf", "--bundle_root", root]
    return [sys.executable, "-m", "monai.bundle", "run", *map(str, files), *overrides]


def _check_training_data(root: Path, overrides: Sequence[str]) -> None:
    """Check the data set of a training command: that of `--dataset_dir`, or the bundle's own.

    Raises:
        InputError: volumes or parcellations are missing, or too few subjects are left for training.
    """
    if {override.partition("=")[0] for override in overrides} & {"--images", "--datalist"}:
        return
    defaults = ConfigParser.load_config_file(root / "configs" / "train.yaml")
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--dataset_dir", default=str(defaults["dataset_dir"]))
    parser.add_argument("--validation_subjects", default=str(defaults["validation_subjects"]))
    given = parser.parse_known_args(overrides)[0]
    data = given.dataset_dir
    if data.startswith("$"):  # `data` in the folder of the bundle, as the shipped ones have it
        data = str(root / "data")
        if not Path(data).exists():
            raise InputError("--dataset_dir", "is missing", "Name the folder of the volumes to train on")
    if not given.validation_subjects.isdecimal():
        raise InputError("--validation_subjects", f"is {given.validation_subjects!r}", "Give a number of subjects")
    if "labels" in defaults:
        _check_labelled_data(Path(data), int(given.validation_subjects))
    else:
        check_training_volumes(data, int(given.validation_subjects))


def _check_labelled_data(folder: Path, validating: int) -> None:
    images = sorted(folder.glob("*_T1.nii.gz"))
    if not images:
        hint = "Name the folder of the T1w and their parcellations with --dataset_dir"
        raise InputError(folder, "holds no SUBJECT_T1.nii.gz", hint)
    for label in (image.with_name(image.name.replace("_T1.nii.gz", "_T1_DLMUSE.nii.gz")) for image in images):
        if not label.exists():
            raise InputError(label, "does not exist", "Add the DLMUSE parcellation of each T1w, or remove the T1w")
    if len(images) <= validating:
        fault = f"holds {len(images)} T1w, and {validating} are reserved for validation"
        raise InputError(folder, fault, "Add some, or reserve fewer with --validation_subjects")
