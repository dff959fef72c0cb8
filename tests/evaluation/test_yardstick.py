"""The yardstick, with a fake segmentation whose scores are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
import table
import yardstick
import yardstick_scans
import yardstick_summary
import yardstick_volumes
from register import as_itk
from small_results import result
from yardstick_heads import BETWEEN

from midiff_monai.evaluation.metrics import dice
from midiff_monai.evaluation.phantom import GREY, WHITE, Phantom, make_phantom
from midiff_monai.evaluation.scores import lesion_shares
from midiff_monai.pipeline.result import Result

WEIGHTS = {"t1_lmi_translation": "a" * 64, "t1_brain_segmentation": "b" * 64}

MOTION = (6.0, -3.0, 9.0)
"""Distance of the T1w from the FLAIR, in LPS mm."""

Call = tuple[str, bool, dict[str, Any]]


def aparc() -> np.ndarray:
    """Left white matter and cortex, right cortex and hippocampus, and a choroid plexus."""
    labels = np.zeros((16, 16, 16), dtype=np.int32)
    labels[2:4], labels[4:8], labels[8:10], labels[10:12] = 1001, 2, 2035, 53
    labels[5, 5, 5] = 31
    return labels


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data" / "freesurfer-1mm"
    folder.mkdir(parents=True)
    for subject in ("ann", "bob"):
        nib.save(nib.MGHImage(np.ones((16, 16, 16), np.float32), np.eye(4)), folder / f"{subject}_T1.mgz")
        nib.save(nib.MGHImage(aparc(), np.eye(4)), folder / f"{subject}_aparc+aseg.mgz")
    return tmp_path / "data"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """The volumes that the fake pipeline got. It labels a half of the right cortex as left white matter."""
    found: list[Call] = []

    def fake_segment(volumes: list[Path], folder: str, translated: bool, **settings: Any) -> list[Result]:
        found.append((volumes[0].name, translated, settings))
        labels = np.zeros((16, 16, 16), dtype=np.int16)
        labels[2:4], labels[4:9], labels[9:10], labels[10:12] = 3, 2, 42, 53
        used = WEIGHTS if translated else {"t1_brain_segmentation": WEIGHTS["t1_brain_segmentation"]}
        made = result(np.ones((16, 16, 16)), labels, used)
        made.source = nib.Nifti1Image(np.ones((16, 16, 16), np.float32), np.eye(4))
        return [made]

    monkeypatch.setattr(yardstick, "segment", fake_segment)
    monkeypatch.setattr(table, "installed_weights", lambda: WEIGHTS)
    return found


def run(data: Path, out: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> pd.DataFrame:
    monkeypatch.setattr("sys.argv", ["yardstick.py", "--data", str(data), "--out", str(out), *arguments])
    yardstick.main()
    return pd.read_csv(out / "yardstick.csv")


def values(rows: pd.DataFrame, subject: str, measure: str = "dice") -> dict[str, float]:
    chosen = rows[(rows["subject"] == subject) & (rows["measure"] == measure)]
    return chosen.set_index("structure")["value"].to_dict()


def test_scores_are_those_of_the_counted_voxels(
    data: Path, calls: list[Call], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = run(data, tmp_path / "out", monkeypatch)
    found, layer = values(rows, "ann"), 16 * 16
    assert found["Right-Cerebral-Cortex"] == pytest.approx(2 * 1 / 3, rel=1e-4)
    assert found["cortex"] == pytest.approx(2 * 3 / 7, rel=1e-4)
    assert found["Left-Cerebral-White-Matter"] == pytest.approx(2 * (4 * layer - 1) / (9 * layer - 1), rel=1e-4)
    assert found["Left-Lateral-Ventricle"] == 0
    assert np.isnan(found["Left-Amygdala"])
    known = [found[f"{side}"] for side in ("Right-Cerebral-Cortex", "Left-Cerebral-White-Matter")] + [1, 1, 0]
    assert found["mean of 32 structures"] == pytest.approx(np.mean(known), rel=1e-4)
    assert calls == [("ann_T1.mgz", False, {}), ("bob_T1.mgz", False, {})]
    assert values(rows, "ann", "ml")["cortex"] == pytest.approx(3 * layer / 1000, rel=1e-4)
    assert values(rows, "ann", "true ml")["cortex"] == pytest.approx(4 * layer / 1000, rel=1e-4)


def test_rows_that_exist_are_not_computed_again(
    data: Path, calls: list[Call], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(data, tmp_path / "out", monkeypatch, "--only", "freesurfer-1mm/b*")
    assert [name for name, _, _ in calls] == ["bob_T1.mgz"]
    run(data, tmp_path / "out", monkeypatch)
    assert [name for name, _, _ in calls] == ["bob_T1.mgz", "ann_T1.mgz"]
    monkeypatch.setattr(table, "installed_weights", lambda: WEIGHTS | {"t1_brain_segmentation": "c" * 64})
    rows = run(data, tmp_path / "out", monkeypatch, "--only", "*/ann/T1")
    assert [name for name, _, _ in calls[2:]] == ["ann_T1.mgz"]
    assert set(rows["subject"]) == {"ann"}


def test_settings_are_a_part_of_the_key(
    data: Path, calls: list[Call], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only = "--only", "freesurfer-1mm/ann"
    run(data, tmp_path / "out", monkeypatch, *only)
    rows = run(data, tmp_path / "out", monkeypatch, *only, "--settings", "steps=5", "precision=float32")
    assert [settings for _, _, settings in calls] == [{}, {"precision": "float32"}]  # a T1w is not translated
    assert set(rows["settings"]) == {"default", "steps=5 precision=float32"}


def test_a_pattern_without_scans_is_refused(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match="no scan of the yardstick"):
        run(data, tmp_path / "out", monkeypatch, "--only", "nothing")


def test_the_summary_has_means_and_intervals_over_subjects() -> None:
    key = {"source": "s", "contrast": "T1", "settings": "default", "measure": "dice"}
    scores = ("a", "cortex", 0.6), ("b", "cortex", 1.0), ("a", "Left-Caudate", 0.5)
    rows = [key | {"subject": subject, "structure": name, "value": value} for subject, name, value in scores]
    lines = yardstick_summary.markdown(pd.DataFrame(rows)).splitlines()
    assert "| T1 | default | 2 | 0.800 [0.600, 1.000] |" in lines
    assert "| Left-Caudate | 0.500 |" in lines


def test_errors_of_volumes_are_told_against_the_truth_and_the_t1w() -> None:
    volumes = {("FLAIR", "ml"): 1.1, ("FLAIR", "true ml"): 1.0, ("T1", "ml"): 2.2, ("T1", "true ml"): 2.0}
    rows = [
        {"source": "s", "settings": "default", "structure": "cortex", "subject": str(size)}
        | {"contrast": contrast, "measure": measure, "value": size * factor + (size == 5) * (measure == "ml")}
        for (contrast, measure), factor in volumes.items()
        for size in (10, 5, 30, 40, 50)
    ]
    errors, differences = yardstick_volumes.volume_tables(pd.DataFrame(rows))[1::2]
    expected = np.array([10, 10 + 100 / 5, 10, 10, 10])
    line = f"| FLAIR | default | 5 | {expected.mean():+.1f} ± {expected.std(ddof=1):.1f}, r 1.00 |"
    assert errors.splitlines()[2] == line
    assert [line.split(" | ")[0] for line in differences.splitlines()[2:]] == ["| FLAIR"]
    against_t1 = 100 * (np.array([11, 6.5, 33, 44, 55]) / np.array([22, 12, 66, 88, 110]) - 1)
    assert f"{against_t1.mean():+.1f} ± {against_t1.std(ddof=1):.1f}, r 1.00" in differences


def test_labels_of_a_t1w_in_another_position_are_moved_to_the_flair(tmp_path: Path) -> None:
    flair = write_moved_head(tmp_path / "heads-flair")
    (case,) = (case for case in yardstick_scans.cases(tmp_path) if case.contrast == "FLAIR")
    scan = case.read(tmp_path)
    truth, tissues = np.asarray(scan.truth.dataobj), np.asarray(flair.tissues.dataobj)
    assert scan.truth.shape == tissues.shape and scan.translated
    assert min(dice(truth, 3 * (tissues == GREY), [3]), dice(truth, 2 * (tissues == WHITE), [2])) > 0.85
    assert scan.known["registration", "mm to a second registration"] < 1
    assert scan.known["registration", "mm moved"] == pytest.approx(np.linalg.norm(MOTION), abs=1)
    assert scan.lesions is not None and scan.lesions.shape == tissues.shape


def test_the_steps_between_flair_and_t1w_share_grid_and_truth(tmp_path: Path) -> None:
    flair = write_moved_head(tmp_path / "heads-flair")
    steps = {case.contrast: case.read(tmp_path) for case in yardstick_scans.cases(tmp_path) if case.contrast in BETWEEN}
    assert {name: scan.translated for name, scan in steps.items()} == {
        "FLAIR, brain given": True,
        "T1 on the grid of the FLAIR": False,
        "T1 of thick slices": False,
        "T1, translated": True,
    }
    for scan in steps.values():
        assert scan.truth.shape == flair.tissues.shape


def test_lesions_that_are_labelled_cortex_or_fluid_are_counted() -> None:
    labels = np.array([2, 2, 3, 42, 4, 14, 24, 0, 3, 3])[:, None, None]
    lesions = np.arange(10)[:, None, None] < 8
    assert lesion_shares(labels, lesions) == {"cortex": 2 / 8, "cerebrospinal fluid": 3 / 8, "background": 1 / 8}


def write_moved_head(folder: Path) -> Phantom:
    """Write a FLAIR, and a T1w with its labels in another position. Grey matter is left cortex."""
    folder.mkdir()
    flair, t1 = (make_phantom(contrast, spacing=(3, 3, 3)) for contrast in ("FLAIR", "T1"))
    away = sitk.TranslationTransform(3, [-side for side in MOTION])
    muse = np.array([0, 1, 101, 82], dtype=np.uint8)[np.asarray(t1.tissues.dataobj)]
    for name, image, interpolator in (
        ("T1", t1.image, sitk.sitkLinear),
        ("T1_DLMUSE", nib.Nifti1Image(muse, t1.tissues.affine), sitk.sitkNearestNeighbor),
    ):
        still = as_itk(image)
        sitk.WriteImage(sitk.Resample(still, still, away, interpolator), str(folder / f"a_{name}.nii.gz"))
    nib.save(flair.image, folder / "a_FLAIR.nii.gz")
    nib.save(flair.tissues, folder / "a_FLAIR_WMH.nii.gz")
    return flair


def test_simulated_heads_are_scored_by_their_own_labels(
    calls: list[Call], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = np.zeros((40, 40, 44), dtype=np.int32)
    labels[2:-2, 2:-2, 2:-2], labels[8:20, 8:32, 8:36], labels[20:32, 8:32, 8:36] = 511, 2, 42
    (tmp_path / "label-maps").mkdir()
    nib.save(nib.Nifti1Image(labels, np.eye(4)), tmp_path / "label-maps" / "training_seg_19.nii.gz")
    nib.save(nib.Nifti1Image(labels, np.eye(4)), tmp_path / "label-maps" / "training_seg_01.nii.gz")
    rows = run(tmp_path, tmp_path / "out", monkeypatch)
    names = [f"training-seg-19_{name}.nii.gz" for name in ("T1", "T2", "FLAIR", "PD", "CT")]
    thick = [f"thick_training-seg-19_{name}.nii.gz" for name in ("T1", "FLAIR")]
    assert [(name, translated) for name, translated, _ in calls] == [(name, "T1" not in name) for name in names + thick]
    assert [settings for _, _, settings in calls] == [{}] * 4 + [{"modality": "CT"}] + [{}] * 2
    assert set(rows["subject"]) == {"training_seg_19"}
    # the fake labels 16 × 16 layers of a corner: see `calls`
    overlap, found, true = 1 * 8 * 8, 5 * 16 * 16, 12 * 24 * 28
    of_white = rows[(rows["structure"] == "white matter") & (rows["measure"] == "dice")]
    of_white = of_white[~of_white["contrast"].str.contains("thick")]["value"]
    assert of_white.tolist() == pytest.approx([2 * overlap / (found + true)] * 5, rel=1e-4)


def test_thick_slices_are_means_of_thin_ones(tmp_path: Path) -> None:
    labels = np.full((40, 40, 44), 511, dtype=np.int32)
    labels[4:36, 4:36, 9:] = 3
    label_map = tmp_path / "label-maps" / "training_seg_18.nii.gz"
    label_map.parent.mkdir()
    nib.save(nib.Nifti1Image(labels, np.eye(4)), label_map)
    (case,) = (case for case in yardstick_scans.label_maps(tmp_path) if case.contrast == "FLAIR of thick slices")
    thick = nib.as_closest_canonical(nib.Nifti1Image.from_filename(case.read(tmp_path).volume))
    thin = nib.as_closest_canonical(nib.Nifti1Image.from_filename(tmp_path / "training-seg-18_FLAIR.nii.gz"))
    assert thick.header.get_zooms() == (2, 2, 2)
    # Slices of 5 mm fit into the head 2 mm above its lower end. Every tenth millimetre is the middle of one.
    slices = thin.get_fdata()[..., 2:42].reshape(40, 40, 8, 5).mean(axis=-1)
    assert thick.get_fdata()[1:-1, 1:-1, ::5] == pytest.approx(slices[1::2, 1::2, ::2], rel=1e-6)
