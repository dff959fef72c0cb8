"""The option that asks how certain the labels are: what it needs, and which files it adds."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from midiff_monai.bundle.resources import bundle_root
from midiff_monai.errors import BundleError, InputError
from midiff_monai.pipeline.models import SEGMENTATION, load_models
from midiff_monai.pipeline.options import Mode, Settings, Task
from midiff_monai.pipeline.run import check_settings, written_roles

CERTAIN = Settings(probability=True)


def test_without_a_segmentation_the_option_is_refused() -> None:
    with pytest.raises(InputError, match="--probability: has no effect"):
        check_settings(Task(Mode.TRANSLATE, CERTAIN))


def test_the_option_adds_two_files() -> None:
    added = set(written_roles(Task(settings=CERTAIN))) - set(written_roles(Task()))
    assert added == {"probability", "entropy"}


def test_a_segmenter_without_a_temperature_is_refused(tmp_path: Path) -> None:
    root = tmp_path / SEGMENTATION
    shutil.copytree(bundle_root(SEGMENTATION), root)
    file = root / "configs" / "inference.yaml"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(line for line in lines if not line.startswith("temperature:")))
    task = Task(Mode.SEGMENT_DIRECTLY, Settings(bundle=[str(root)], probability=True))
    with pytest.raises(BundleError, match="has no setting `temperature`"):
        load_models(task)


def test_fast_segmentation_has_a_temperature_of_its_own() -> None:
    tasks = (Task(Mode.SEGMENT_DIRECTLY, Settings(probability=True, fast=fast)) for fast in (False, True))
    default, fast = (load_models(task).temperature for task in tasks)
    assert default > 0 and fast > 0 and default != fast
