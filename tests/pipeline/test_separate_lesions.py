"""Which tasks look for lesions, and what a result keeps of them."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from small_study import draw_nothing

from midiff_monai.errors import InputError
from midiff_monai.io.manifest import RunReport
from midiff_monai.io.outputs import output_paths
from midiff_monai.io.volumes import read_volume
from midiff_monai.pipeline.checks import check_settings
from midiff_monai.pipeline.lesions import describe_lesions, separate_lesions
from midiff_monai.pipeline.options import Mode, Settings, Task
from midiff_monai.pipeline.result import Result
from midiff_monai.pipeline.run import written_roles
from midiff_monai.qc.study import read_study

AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])


@pytest.fixture(scope="module")
def scan() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A FLAIR: white matter in cortex around a ventricle, a lesion that is labelled cortex in part; and the lesion."""
    x, y, z = np.indices((40, 40, 40)) - 19.5
    radii = np.sqrt(x**2 + y**2 + z**2)
    labels = np.select([radii < 5, radii < 16, radii < 19], [4, 2, 3], 0)
    lesion = np.sqrt((x - 10) ** 2 + y**2 + z**2) < 3
    levels = np.select([lesion, labels == 4, labels == 2, labels == 3], [700, 60, 400, 420], 0)
    image = levels + (labels > 0) * np.random.default_rng(0).normal(scale=12, size=labels.shape)
    labels[lesion & (x < 10)] = 3
    return image.astype(np.float32), labels.astype(np.int16), lesion


def test_a_lesion_becomes_white_matter(scan: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    image, labels, lesion = scan
    relabelled = separate_lesions(image, labels, AFFINE, Task())
    np.testing.assert_array_equal(relabelled.lesions.mask, lesion)
    assert (relabelled.labels[lesion] == 2).all()
    assert (relabelled.labels == labels)[~lesion].all()
    expected = {"volume_ml": pytest.approx(lesion.sum() * 0.008), "count": 1}
    assert describe_lesions(relabelled.lesions, AFFINE) == expected


@pytest.mark.parametrize(
    "task, reason",
    [
        (Task(Mode.SEGMENT_DIRECTLY), "the scan was segmented as a T1w"),
        (Task(settings=Settings(modality="CT")), "CT is not MR"),
        (Task(settings=Settings(modality="MR")), ""),
    ],
)
def test_mode_and_modality_tell_that_a_scan_shows_no_lesions(
    task: Task, reason: str, scan: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> None:
    relabelled = separate_lesions(*scan[:2], AFFINE, task)
    assert relabelled.lesions.reason == reason and (relabelled.lesions.mask is None) == bool(reason)
    if reason:
        assert relabelled.labels is scan[1] and describe_lesions(relabelled.lesions, AFFINE) == {"reason": reason}


def test_the_search_can_be_turned_off() -> None:
    off = Settings(lesions=False)
    assert "lesions" in written_roles(Task()) and "lesions" not in written_roles(Task(settings=off))
    with pytest.raises(InputError, match="--no-lesions: has no effect"):
        check_settings(Task(Mode.TRANSLATE, off))


def test_a_result_keeps_mask_volume_and_number(scan: tuple[np.ndarray, np.ndarray, np.ndarray], tmp_path: Path) -> None:
    image, labels, lesion = scan
    path = tmp_path / "a_FLAIR.nii.gz"
    nib.save(nib.Nifti1Image(image, AFFINE), path)
    result = Result(
        read_volume(path), RunReport("segment", path, {}), paths=output_paths(path, tmp_path), render=draw_nothing
    )
    result.keep_lesions(separate_lesions(image, labels, AFFINE, Task()))
    result.write()
    stored = nib.Nifti1Image.from_filename(result.paths.lesions)
    assert stored.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(stored.dataobj, lesion)
    assert json.loads(result.paths.report.read_text())["lesions"]["count"] == 1
    row = pd.read_csv(result.paths.volumes).set_index("name").loc["white_matter_lesions"]
    assert (row["volume_ml"], row["count"]) == (pytest.approx(lesion.sum() * 0.008), 1)
    (subject,) = read_study(tmp_path)
    images, _ = subject.images()
    assert images is not None and ((images.structures == 77) == lesion).all()
