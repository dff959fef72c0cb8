"""Simulated pairs, compared with their label map."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import run

from midiff_monai.evaluation import simulation as simulate
from midiff_monai.evaluation.phantom import CONTRASTS, TISSUES


@pytest.fixture
def simulated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pairs of a label map at 1 mm with scalp and choroid plexus, stored as LIA, without noise and bias field."""
    monkeypatch.setattr(simulate, "NOISE", 0)
    monkeypatch.setattr(simulate, "BIAS", 0)
    labels = np.zeros((48, 44, 60), dtype=np.int32)
    labels[2:-2, 2:-2, 3:-3] = 507
    labels[12:36, 12:33, 12:48] = 24
    labels[15:33, 15:31, 18:48] = 2
    labels[20:24, 20:24, 24:30] = 136
    stored = nib.Nifti1Image(labels, np.eye(4))
    turn = nib.orientations.ornt_transform(nib.io_orientation(np.eye(4)), nib.orientations.axcodes2ornt("LIA"))
    (tmp_path / "maps").mkdir()
    nib.save(stored.as_reoriented(turn), tmp_path / "maps" / "map_01.nii.gz")
    simulate.simulate_pairs(tmp_path / "maps", 1, tmp_path / "simulated")
    simulate.simulate_pairs(tmp_path / "maps", 1, tmp_path / "heads", heads=True)
    return tmp_path / "simulated"


def test_true_labels_have_the_positions_of_the_label_map(simulated: Path) -> None:
    truth = nib.load(simulated / "map-01_dseg.nii.gz")
    ventricle = nib.affines.apply_affine(truth.affine, np.argwhere(np.asarray(truth.dataobj) == 4))
    np.testing.assert_allclose(ventricle.mean(axis=0), (21.5, 21.5, 26.5))
    assert len(ventricle) == 4 * 4 * 2
    assert set(np.unique(truth.dataobj)) == {0, 2, 4, 24}


def test_at_1_mm_the_true_labels_are_those_of_the_label_map(simulated: Path) -> None:
    stored = nib.load(simulated.parent / "maps" / "map_01.nii.gz")
    label_map = simulate.brain_structures(np.asarray(stored.dataobj))
    simulate.simulate(simulated.parent / "maps" / "map_01.nii.gz", simulated.parent / "fine", 0, True, (1, 1, 1))
    truth = nib.load(simulated.parent / "fine" / "map-01_dseg.nii.gz")
    brain = np.argwhere(np.asarray(truth.dataobj) > 0)
    assert len(brain) == (label_map > 0).sum()
    places = nib.affines.apply_affine(np.linalg.inv(stored.affine) @ truth.affine, brain).round().astype(int)
    np.testing.assert_array_equal(np.asarray(truth.dataobj)[tuple(brain.T)], label_map[tuple(places.T)])
    image = nib.load(simulated.parent / "fine" / "map-01_T2.nii.gz").get_fdata()
    white, ventricle = (image[np.asarray(truth.dataobj) == label] for label in (2, 4))
    expected = CONTRASTS["T2"].signal(TISSUES[1]) / CONTRASTS["T2"].signal(TISSUES[3])
    assert white.std() < 1e-3 and ventricle.mean() / white.mean() == pytest.approx(expected, rel=1e-4)


def test_every_contrast_has_the_signal_of_its_tissues(simulated: Path) -> None:
    truth = np.asarray(nib.load(simulated / "map-01_dseg.nii.gz").dataobj)
    for name, sequence in CONTRASTS.items():
        image = nib.load(simulated / f"map-01_{name}.nii.gz").get_fdata()
        expected = sequence.signal(TISSUES[1]) / sequence.signal(TISSUES[3])
        assert np.median(image[truth == 4]) / np.median(image[truth == 2]) == pytest.approx(abs(expected), rel=1e-4)
        assert not image[truth == 0].any()


def test_a_head_has_a_scalp_and_the_same_brain_at_the_same_position(simulated: Path) -> None:
    truth, whole = (nib.load(pairs / "map-01_dseg.nii.gz") for pairs in (simulated, simulated.parent / "heads"))
    voxels = np.argwhere(np.asarray(whole.dataobj) > 0)
    places = nib.affines.apply_affine(np.linalg.inv(truth.affine) @ whole.affine, voxels)
    np.testing.assert_allclose(places, places.round(), atol=1e-4)
    in_scalp = (5, 5, 5)
    expected = np.asarray(truth.dataobj)[tuple(places.round().astype(int).T)]
    np.testing.assert_array_equal(np.asarray(whole.dataobj)[tuple(voxels.T)], expected)
    for name, sequence in CONTRASTS.items():
        image = nib.load(simulated.parent / "heads" / f"map-01_{name}.nii.gz").get_fdata()
        expected = sequence.signal(simulate.HEAD_TISSUES[simulate.MUSCLE]) / sequence.signal(TISSUES[3])
        white = np.median(image[np.asarray(whole.dataobj) == 2])
        assert image[in_scalp] / white == pytest.approx(abs(expected), rel=1e-4)


def test_ct_must_be_in_hounsfield_units(simulated: Path) -> None:
    image = nib.load(simulated.parent / "heads" / "map-01_CT.nii.gz").get_fdata()
    truth = np.asarray(nib.load(simulated.parent / "heads" / "map-01_dseg.nii.gz").dataobj)
    medians = [
        np.median(image[place]) for place in (truth == 2, truth == 4, truth == 24, (truth == 0) & (image > -500))
    ]
    assert medians == pytest.approx([29, 8, 8, 50], abs=1)
    assert np.std(image[truth == 2]) == pytest.approx(simulate.CT_NOISE, rel=0.1)
    assert image.min() == pytest.approx(-1000, abs=30)


def test_pairs_are_found(simulated: Path) -> None:
    contrasts = [case[:2] for case in run.subjects(simulated)]
    assert contrasts == [("map-01", "PD"), ("map-01", "T2"), ("map-01", "FLAIR")]
    heads = {
        (job.contrast, job.method) for job in run.jobs(simulated.parent / "heads", ["midiff", "direct", "real_t1"])
    }
    on_all = {(contrast, method) for contrast in ("PD", "T2", "FLAIR") for method in ("midiff", "direct")}
    assert heads == on_all | {("T1", "real_t1"), ("CT", "midiff")}
