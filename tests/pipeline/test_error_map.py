"""The option that asks for the error of the synthetic T1w: what it needs, and what it writes."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from midiff_monai import translate
from midiff_monai.bundle.choice import TRANSLATION
from midiff_monai.bundle.resources import bundle_root
from midiff_monai.errors import BundleError, InputError
from midiff_monai.evaluation.phantom import make_phantom
from midiff_monai.pipeline.checks import check_settings
from midiff_monai.pipeline.models import load_models
from midiff_monai.pipeline.options import Mode, Settings, Task
from midiff_monai.pipeline.run import written_roles

WITH_MAP = Settings(error_map=True)


def test_without_a_translation_the_option_is_refused() -> None:
    with pytest.raises(InputError, match="--error-map: has no effect"):
        check_settings(Task(Mode.SEGMENT_DIRECTLY, WITH_MAP))


def test_the_option_adds_one_file() -> None:
    added = set(written_roles(Task(settings=WITH_MAP))) - set(written_roles(Task()))
    assert added == {"synthetic_error"}


def test_a_translation_without_a_model_of_its_error_is_refused(tmp_path: Path) -> None:
    root = tmp_path / TRANSLATION
    shutil.copytree(bundle_root(TRANSLATION), root)
    file = root / "configs" / "inference.yaml"
    file.write_text(file.read_text().replace("expected_error:", "another_error:"))
    with pytest.raises(BundleError, match="has no setting `expected_error`"):
        load_models(Task(Mode.TRANSLATE, Settings(bundle=[str(root)], error_map=True)))


def test_the_map_lies_beside_the_synthetic_volume(tmp_path: Path) -> None:
    """It is on the grid of the scan and known where the synthetic volume is, which it does not change."""
    scan = tmp_path / "thin_PDw.nii.gz"
    nib.save(make_phantom("PD").image.slicer[::2, ::2, 30:36], scan)
    (plain,) = translate(scan, tmp_path / "plain", steps=1)
    (result,) = translate(scan, tmp_path / "map", steps=1, error_map=True)
    assert plain.synthetic is not None and result.synthetic_error is not None
    np.testing.assert_array_equal(result.synthetic, plain.synthetic)
    stored = nib.Nifti1Image.from_filename(tmp_path / "map" / "thin_PDw_synthT1w_error.nii.gz")
    error = np.asarray(stored.dataobj)
    np.testing.assert_array_equal(error > 0, plain.synthetic > 0)
    facts = result.report.to_dict()["expected_error"]
    assert facts["mean"] == pytest.approx(error[error > 0].mean(), abs=1e-4) and facts["interval"] > 1
    assert 0.01 < error[error > 0].mean() < 0.2
