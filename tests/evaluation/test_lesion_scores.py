"""Scores of lesions against counts by hand."""

from __future__ import annotations

from pathlib import Path

import lesions
import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from midiff_monai.evaluation.lesion_scores import lesion_scores


def test_scores_equal_counts_by_hand() -> None:
    """Two of three true lesions are hit; one of the two found lesions covers both of them."""
    truth, found = np.zeros((9, 9, 9), bool), np.zeros((9, 9, 9), bool)
    truth[1:3, 1:3, 1], truth[4, 1, 1], truth[8, 8, 8] = True, True, True
    found[2:5, 1, 1], found[1, 7, 7] = True, True
    scores = lesion_scores(found, truth, voxel_ml=0.5)
    expected = {"true_ml": 3.0, "found_ml": 2.0, "true_count": 3, "found_count": 2, "recall": 2 / 3, "precision": 0.5}
    assert scores == pytest.approx({"dice": 2 * 2 / (6 + 4)} | expected)


def test_voxels_that_share_a_corner_are_one_lesion() -> None:
    truth = np.zeros((4, 4, 4), bool)
    truth[0, 0, 0] = truth[1, 1, 1] = truth[3, 3, 3] = True
    assert lesion_scores(truth, truth, 1.0)["true_count"] == 2


def test_without_found_lesions_precision_is_not_known() -> None:
    truth = np.ones((2, 2, 2), bool)
    scores = lesion_scores(~truth, truth, 1.0)
    assert scores["dice"] == scores["recall"] == 0 and np.isnan(scores["precision"])


def test_every_mask_belongs_to_a_flair(tmp_path: Path) -> None:
    for name in ("heads-flair/Subj01_FLAIR_WMH", "multicontrast/301D00252_lesions"):
        (tmp_path / name).parent.mkdir()
        nib.save(nib.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4)), tmp_path / f"{name}.nii.gz")
    found = [(case.subject, case.volume.name) for case in lesions.cases(tmp_path)]
    assert found == [("Subj01", "Subj01_FLAIR.nii.gz"), ("301D00252", "301D00252_FLAIR.nii.gz")]


def test_the_summary_correlates_volumes_over_subjects() -> None:
    rows = pd.DataFrame({"source": "a", "part": ["tuning"] * 3 + ["held out"]})
    rows = rows.assign(dice=[0.4, 0.6, 0.8, 0.5], recall=1.0, precision=1.0, mislabelled_before=0.2)
    rows = rows.assign(mislabelled_after=0.0, true_ml=[1.0, 2, 4, 5], found_ml=[2.0, 4, 8, 4])
    table = lesions.summary(rows).set_index("part")
    assert table.loc["tuning", ["dice", "volume_error", "volume_correlation"]].tolist() == pytest.approx([0.6, 1, 1])
    assert table["subjects"].to_dict() == {"tuning": 3, "held out": 1}
    assert np.isnan(table.loc["held out", "volume_correlation"])
