"""Presets of public data sets: how their files are named, and the plan of a bundle that is trained on them."""

from __future__ import annotations

import glob
from pathlib import Path
from typing import Any

import yaml

from midiff_monai.bundle.resources import preset_path
from midiff_monai.bundle.target_plan import TargetPlan
from midiff_monai.errors import InputError


def preset_pattern(name: str, data: str) -> str:
    """The pattern of the files of a data set below a folder. A pattern or a table stays as it is.

    Raises:
        InputError: the folder holds no such file.
    """
    if not Path(data).is_dir():
        return data
    files = _read(name)["files"]
    pattern = str(Path(glob.escape(data)) / files)
    if not glob.glob(pattern, recursive=True):
        fault = f"holds no file {files} of the preset {name}"
        raise InputError(data, fault, "Name the folder of the data set, or lay it out as the page on presets shows")
    return pattern


def preset_plan(name: str, **given: Any) -> TargetPlan:
    """The plan of a preset. What is `given` takes the place of its values."""
    values = {key: value for key, value in _read(name).items() if key != "files"}
    return TargetPlan(**values | given)


def _read(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load(preset_path(name).read_text(encoding="utf-8")))
