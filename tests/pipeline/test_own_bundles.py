"""Bundles of one's own in place of the shipped ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from midiff_monai import segment
from midiff_monai.bundle.choice import INTRACRANIAL, SEGMENTATION, TRANSLATION
from midiff_monai.bundle.resources import bundle_root
from midiff_monai.evaluation.phantom import make_phantom
from midiff_monai.pipeline.models import load_models
from midiff_monai.pipeline.options import Mode, Settings, Task


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Copies of both shipped bundles."""
    folder = tmp_path_factory.mktemp("own")
    return [shutil.copytree(bundle_root(name), folder / f"my_{name}") for name in (TRANSLATION, SEGMENTATION)]


def test_copies_of_both_bundles_give_the_same_result(copies: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "a_PDw.nii.gz"
    nib.save(make_phantom("PD").image.slicer[::2, ::2, 30:36], path)
    shipped = segment(path, tmp_path / "shipped", steps=1, fast=True)[0]
    own = segment(path, tmp_path / "own", steps=1, fast=True, bundle=copies)[0]
    assert own.segmentation is not None and own.synthetic is not None
    np.testing.assert_array_equal(own.synthetic, shipped.synthetic)
    np.testing.assert_array_equal(own.segmentation, shipped.segmentation)
    reports = [json.loads(result.paths.report.read_text()) for result in (shipped, own)]
    assert reports[0]["weights"].keys() == {TRANSLATION, SEGMENTATION, INTRACRANIAL}
    assert reports[1]["weights"].keys() == {f"my_{TRANSLATION}", f"my_{SEGMENTATION}", INTRACRANIAL}
    assert reports[0]["settings"] == reports[1]["settings"]


def test_a_segmenter_alone_replaces_the_segmenter_alone(copies: list[Path]) -> None:
    models = load_models(Task(settings=Settings(bundle=copies[1])))
    assert models.weights.keys() == {TRANSLATION, f"my_{SEGMENTATION}", INTRACRANIAL}
    direct = load_models(Task(Mode.SEGMENT_DIRECTLY, Settings(bundle=copies[1])))
    assert direct.weights.keys() == {f"my_{SEGMENTATION}", INTRACRANIAL}


@pytest.mark.parametrize("anatomy, opened", [("brain", {SEGMENTATION, INTRACRANIAL}), ("any", set())])
def test_a_translation_opens_the_segmenter_only_to_find_the_brain(
    anatomy: str, opened: set[str], copies: list[Path], tmp_path: Path
) -> None:
    own = shutil.copytree(copies[0], tmp_path / "own")
    metadata = own / "configs" / "metadata.json"
    metadata.write_text(json.dumps(json.loads(metadata.read_text()) | {"anatomy": anatomy}))
    assert load_models(Task(Mode.TRANSLATE, Settings(bundle=str(own)))).weights.keys() == {"own", *opened}
