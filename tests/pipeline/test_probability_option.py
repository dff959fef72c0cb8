"""The option that asks how certain the labels are: what it needs, and which files it adds."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from midiff_monai.bundle.choice import SEGMENTATION
from midiff_monai.bundle.resources import bundle_root
from midiff_monai.errors import BundleError, InputError
from midiff_monai.pipeline.checks import check_settings
from midiff_monai.pipeline.models import CALIBRATION, load_models
from midiff_monai.pipeline.options import Mode, Settings, Task
from midiff_monai.pipeline.run import written_roles

CERTAIN = Settings(probability=True)


def test_without_a_segmentation_the_option_is_refused() -> None:
    with pytest.raises(InputError, match="--probability: has no effect"):
        check_settings(Task(Mode.TRANSLATE, CERTAIN))


def test_the_option_adds_two_files() -> None:
    added = set(written_roles(Task(settings=CERTAIN))) - set(written_roles(Task()))
    assert added == {"probability", "entropy"}


def test_a_segmenter_without_a_calibration_is_refused(tmp_path: Path) -> None:
    root = tmp_path / SEGMENTATION
    shutil.copytree(bundle_root(SEGMENTATION), root)
    file = root / "configs" / "inference.yaml"
    file.write_text(file.read_text().replace("calibration:", "another_calibration:"))
    task = Task(Mode.SEGMENT_DIRECTLY, Settings(bundle=[str(root)], probability=True))
    with pytest.raises(BundleError, match="has no setting `calibration`"):
        load_models(task)


def test_fast_segmentation_has_a_calibration_of_its_own() -> None:
    tasks = (Task(Mode.SEGMENT_DIRECTLY, Settings(probability=True, fast=fast)) for fast in (False, True))
    models = [load_models(task).segmentation for task in tasks]
    default, fast = (bundle.setting(CALIBRATION).temperature(0.9) for bundle in models if bundle)
    assert default != fast
