"""Measures of bundles of one's own, compared with slow and with known answers."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import targets
from numpy.typing import NDArray

SHAPE = (16, 16, 14)


def write(path: Path, voxels: NDArray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels.astype(np.float32), np.eye(4)), path)
    return path


def draw(seed: int) -> NDArray[np.float64]:
    """Noise in a box, 0 outside."""
    voxels = np.zeros(SHAPE)
    voxels[2:-2, 2:-2, 1:-1] = np.random.default_rng(seed).uniform(1, 10, (12, 12, 12))
    return voxels


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two people with T1, T2 and FLAIR. The FLAIR of one of them trained."""
    for number, subject in enumerate(("A", "B")):
        for contrast in ("T1", "T2", "FLAIR"):
            write(tmp_path / "scans" / f"{subject}_{contrast}.nii.gz", draw(number))
    write(tmp_path / "training" / "A_FLAIR.nii.gz", 3 * draw(0))
    return tmp_path


def case_of(folder: Path, scan: NDArray, real: NDArray, contrast: str = "FLAIR") -> targets.Case:
    paths = write(folder / "B_T1.nii.gz", scan), write(folder / f"B_{contrast}.nii.gz", real)
    return targets.Case("B", "T1", *paths, training=write(folder / f"A_{contrast}.nii.gz", draw(5)))


def test_people_who_trained_are_left_out(folder: Path) -> None:
    found = targets.cases(folder / "scans", folder / "training", "FLAIR")
    assert [(case.subject, case.contrast) for case in found] == [("B", "T1"), ("B", "T2")]


def test_the_real_volume_of_a_t2w_is_named_t2(folder: Path) -> None:
    found = list(targets.cases(folder / "scans", folder / "training", "T2w"))
    assert {(case.contrast, case.real.name) for case in found} == {("T1", "B_T2.nii.gz"), ("FLAIR", "B_T2.nii.gz")}


def test_whole_heads_are_measured_in_the_mask_of_the_brain(tmp_path: Path) -> None:
    real = draw(0)
    scan, brain = real.copy(), np.zeros(SHAPE)
    scan[8:] = draw(1)[8:]
    brain[3:8, 3:-3, 3:-3] = 1
    case = case_of(tmp_path, scan, real)
    assert targets.image_measures(scan, case, scaled=False)["correlation"] < 0.9
    write(tmp_path / "B_brain.nii.gz", brain)
    assert targets.image_measures(scan, case, scaled=False)["correlation"] == pytest.approx(1)


def test_no_intensity_mapping_is_closer_than_the_best_curve(tmp_path: Path) -> None:
    """A scan of few intensities has a group mean for each, which no function of the intensity can beat."""
    scan = np.ceil(draw(0) / 3)
    real = np.where(scan > 0, (scan - 2) ** 2 + draw(1), 0)
    found = targets.best_curve(case_of(tmp_path, scan, real), "", tmp_path)
    for level in (1, 2, 3, 4):
        inside = scan == level
        np.testing.assert_allclose(found[inside], real[inside].mean(), rtol=1e-5)


def test_a_histogram_may_be_negative(tmp_path: Path) -> None:
    """That of a CT: air of −1000 stays there, and the ranks of the scan get the units of the CT."""
    scan = draw(0)
    case = case_of(tmp_path, scan, scan, "CT")
    write(case.training, np.where(scan > 0, 100 * scan - 500, -1000))
    found = targets.histogram(case, "", tmp_path)
    np.testing.assert_allclose(found, np.where(scan > 0, 100 * scan - 500, -1000), atol=5)


def test_an_inverted_scan_is_inverted(tmp_path: Path) -> None:
    scan = draw(0)
    case = case_of(tmp_path, scan, scan)
    measures = targets.image_measures(targets.inverted(case, "", tmp_path), case, scaled=False)
    assert measures["correlation"] == pytest.approx(-1) and measures["ssim"] == pytest.approx(1, abs=1e-4)


def test_errors_of_a_ct_are_in_hounsfield_units(tmp_path: Path) -> None:
    hu = np.where(draw(0) > 0, 200 * draw(0) - 1000, -1000)
    case = case_of(tmp_path, draw(0), hu, "CT")
    measures = targets.image_measures(hu + 30, case, scaled=True)
    before, after = hu > targets.BONE_HU, hu + 30 > targets.BONE_HU
    assert measures["mae_hu"] == pytest.approx(30, rel=1e-3) and measures["correlation"] == pytest.approx(1)
    assert measures["bone_dice"] == pytest.approx(2 * (before & after).sum() / (before.sum() + after.sum()))
    assert "mae_hu" not in targets.image_measures(hu, case, scaled=False)


def test_lesions_are_told_from_white_matter_in_its_standard_deviations(tmp_path: Path) -> None:
    """White matter with a known noise, CSF and cortex of a FLAIR, and a lesion eight standard deviations above."""
    shape = (40, 40, 40)
    x, y, z = np.indices(shape) - 20
    radius = np.sqrt(x**2 + y**2 + z**2)
    labels = np.select([radius < 5, radius < 14, radius < 17], [4, 2, 3], 0).astype(np.int16)
    truth = (np.abs(x - 9) < 2) & (np.abs(y) < 2) & (np.abs(z) < 2)
    noise = np.random.default_rng(0).normal(0, 2, shape)
    image = np.select([labels == 4, truth, labels == 2, labels == 3], [20.0, 116.0, 100.0, 103.0], 0) + noise
    image = np.where(labels > 0, image, 0)
    case = case_of(tmp_path, image, image)
    write(tmp_path / "B_lesions.nii.gz", truth)
    found = targets.lesion_measures(image, case, labels)
    assert found["lesion_z"] == pytest.approx(8, rel=0.15)
    assert found["lesion_dice"] > 0.7 and found["lesion_recall"] == 1
    flat = targets.lesion_measures(np.where(truth, 100 + noise, image), case, labels)
    assert abs(flat["lesion_z"]) < 1 and flat["lesion_dice"] == 0


def test_rows_of_other_weights_are_dropped(tmp_path: Path) -> None:
    rows = [("flair", "1e5"), ("flair", "0123"), ("ct", "77")]
    pd.DataFrame(rows, columns=["bundle", "bundle_sha256"]).to_csv(tmp_path / "targets.csv", index=False)
    targets.drop_outdated(tmp_path / "targets.csv", "flair", "0123")
    kept = pd.read_csv(tmp_path / "targets.csv", dtype=str)
    assert kept.to_numpy().tolist() == [["flair", "0123"], ["ct", "77"]]


def test_the_summary_averages_over_people() -> None:
    rows = pd.DataFrame(
        [("flair", "FLAIR", "T1", subject, "midiff", "ssim", value) for subject, value in (("A", 0.5), ("B", 0.7))],
        columns=["bundle", "target", "source", "subject", "method", "measure", "value"],
    )
    (mean,) = targets.summary(rows).to_dict("records")
    assert mean["ssim"] == pytest.approx(0.6) and mean["subjects"] == 2
