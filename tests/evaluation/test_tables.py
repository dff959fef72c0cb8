"""The tables, summaries and figures of the evaluation. The models are replaced by fakes."""

from __future__ import annotations

import sys
from pathlib import Path

import calibration
import figures
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import run
import summary
import table
from small_results import AFFINE, SHAPE, brain_labels, result, smooth

from midiff_monai.pipeline.result import Result

WEIGHTS = {"t1_lmi_translation": "a" * 64, "t1_brain_segmentation": "b" * 64}


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Two subjects. The FLAIR of the second has another grid."""
    folder = tmp_path / "pairs"
    folder.mkdir()
    for subject in ("A", "B"):
        for contrast in ("T1", "PD", "FLAIR"):
            affine = AFFINE * 2 if (subject, contrast) == ("B", "FLAIR") else AFFINE
            nib.save(nib.Nifti1Image(smooth(0).astype(np.float32), affine), folder / f"{subject}_{contrast}.nii.gz")
    return folder


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the volumes that the fake method `midiff` was called with. The weights are invented."""
    names: list[str] = []

    def fake_midiff(volume: Path, folder: Path) -> Result:
        names.append(volume.name)
        return result(smooth(1), brain_labels(), WEIGHTS)

    def fake_direct(volume: Path, folder: Path) -> Result:
        return result(smooth(0), brain_labels(), {"t1_brain_segmentation": WEIGHTS["t1_brain_segmentation"]})

    monkeypatch.setitem(run.METHODS, "midiff", fake_midiff)
    monkeypatch.setattr(run, "direct", fake_direct)
    monkeypatch.setattr(table, "installed_weights", lambda: WEIGHTS)
    run.reference.cache_clear()
    return names


def new_table(tmp_path: Path) -> table.Table:
    return table.Table(tmp_path / "out" / "scores.csv", key=("dataset", "subject", "contrast", "method"))


class TestRun:
    def test_pairs_share_a_grid(self, pairs: Path) -> None:
        assert [case[:2] for case in run.subjects(pairs)] == [("A", "PD"), ("A", "FLAIR"), ("B", "PD")]

    def test_a_method_on_the_t1_has_one_row_per_subject(self, pairs: Path) -> None:
        found = [(job.subject, job.contrast, job.volume.name) for job in run.jobs(pairs, ["perturbed_t1"])]
        assert found == [("A", "T1", "A_T1.nii.gz"), ("B", "T1", "B_T1.nii.gz")]

    def test_the_t1_is_scored_if_there_are_true_labels(self, pairs: Path) -> None:
        (pairs / "B_dseg.nii.gz").touch()
        assert [(job.subject, job.contrast) for job in run.jobs(pairs, ["real_t1"])] == [("B", "T1")]

    def test_a_hash_that_looks_like_a_number_is_read_as_text(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(table, "installed_weights", lambda: {"translation": "12345e678901" + "0" * 52})
        key = {"dataset": "d", "subject": "1", "contrast": "PD", "method": "midiff"}
        new_table(tmp_path).add(key | {"translation_sha256": "12345e678901"})
        assert new_table(tmp_path).has(key)

    def test_existing_rows_are_not_computed_again(self, pairs: Path, tmp_path: Path, calls: list[str]) -> None:
        todo = run.jobs(pairs, ["midiff"])
        run.fill(new_table(tmp_path), todo[:2])
        run.fill(new_table(tmp_path), todo)
        assert calls == ["A_PD.nii.gz", "A_FLAIR.nii.gz", "B_PD.nii.gz"]
        assert list(pd.read_csv(tmp_path / "out" / "scores.csv")["subject"]) == ["A", "A", "B"]

    @pytest.mark.parametrize("bundle", WEIGHTS)
    def test_rows_of_other_weights_are_computed_again(
        self, bundle: str, pairs: Path, tmp_path: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        todo = run.jobs(pairs, ["midiff"])[:1]
        run.fill(new_table(tmp_path), todo)
        monkeypatch.setattr(table, "installed_weights", lambda: WEIGHTS | {bundle: "c" * 64})
        run.fill(new_table(tmp_path), todo)
        assert len(calls) == 2
        assert len(pd.read_csv(tmp_path / "out" / "scores.csv")) == 1

    def test_a_row_without_translation_is_kept_after_a_new_translation(
        self, calls: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        row = table.weights_columns({"t1_brain_segmentation": WEIGHTS["t1_brain_segmentation"]})
        monkeypatch.setattr(table, "installed_weights", lambda: WEIGHTS | {"t1_lmi_translation": "c" * 64})
        assert table.is_current(row)

    def test_true_labels_replace_the_segmentation(self, pairs: Path, calls: list[str]) -> None:
        truth = np.full(SHAPE, 2, dtype=np.int16)
        nib.save(nib.Nifti1Image(truth, AFFINE), pairs / "A_dseg.nii.gz")
        np.testing.assert_array_equal(run.reference(pairs / "A_T1.nii.gz").segmentation, truth)  # type: ignore[arg-type]
        np.testing.assert_array_equal(run.reference(pairs / "B_T1.nii.gz").segmentation, brain_labels())  # type: ignore[arg-type]

    def test_a_folder_without_pairs_is_refused_with_one_line(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys, "argv", ["run.py", "--pairs", str(tmp_path), "--out", str(tmp_path / "out")])
        with pytest.raises(SystemExit, match="no SUBJECT_T1.nii.gz"):
            run.main()

    def test_methods_take_settings(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(run.METHODS, "midiff", lambda volume, folder, **settings: settings)
        assert run.parse_method("midiff:steps=5,samples=2")(None, None) == {"steps": 5, "samples": 2}
        with pytest.raises(ValueError, match="magic is not one of midiff"):
            run.parse_method("magic")


def rows_of(method: str, values: list[float], **others: list[float]) -> pd.DataFrame:
    return pd.DataFrame({"white matter dice": values, **others}).assign(dataset="d", contrast="PD", method=method)


class TestSummary:
    def test_mean_and_interval_of_the_subjects(self) -> None:
        values = list(np.random.default_rng(0).normal(0.8, 0.05, 30))
        (line,) = summary.summarise(rows_of("midiff", values)).to_dict("records")
        margin = 1.96 * np.std(values) / np.sqrt(30)  # normal approximation for thirty subjects
        assert line["subjects"] == 30 and line["mean"] == pytest.approx(np.mean(values))
        assert (line["low"], line["high"]) == pytest.approx((line["mean"] - margin, line["mean"] + margin), abs=0.004)

    def test_a_missing_structure_makes_the_mean_distance_infinite(self) -> None:
        lines = summary.summarise(rows_of("midiff", [1.0, 1.0], **{"white matter hd95": [3.0, np.inf]}))
        line = lines.set_index("measure").loc["white matter hd95"]
        assert line["mean"] == np.inf and np.isnan(line["low"])

    def test_lines_keep_their_order_and_missing_measures_are_empty(self) -> None:
        rows = pd.concat([rows_of("hmrf", [np.nan], correlation=[0.5]), rows_of("midiff", [0.7], correlation=[0.6])])
        written = summary.markdown(summary.summarise(rows)).partition("volume error |")[0]
        lines = [line for line in written.splitlines() if line.startswith("| PD")]
        assert [line.split("|")[2:4] for line in lines] == [[" `hmrf` ", "  "], [" `midiff` ", " 0.70 "]]

    def test_volume_errors_and_distances_have_a_separate_table(self) -> None:
        shape = {"white matter volume error": [0.1, 0.3], "white matter hd95": [1.0, np.inf]}
        written = summary.markdown(summary.summarise(rows_of("midiff", [1.0, 1.0], **shape)))
        assert written.splitlines()[-1].split("|")[3::3] == [" 0.20 [0.10, 0.30] ", " inf ", ""]


def test_a_standard_deviation_equal_to_the_error_is_calibrated_in_any_unit() -> None:
    generator = np.random.default_rng(0)
    reference = generator.normal(size=(60, 60, 60)) * 100
    synthetic_std = generator.uniform(1, 10, size=reference.shape)
    image = (reference + synthetic_std * generator.normal(size=reference.shape)) / 50 + 3
    rows = calibration.calibrate(image, synthetic_std / 50, reference, np.ones(reference.shape, bool), bins=5)
    ratios = [row["error"] / row["synthetic_std"] for row in rows]
    np.testing.assert_allclose(ratios, np.sqrt(2 / np.pi), rtol=0.03)  # mean of a half-normal variable
    np.testing.assert_allclose([row["synthetic_std"] for row in rows], [1.9, 3.7, 5.5, 7.3, 9.1], rtol=0.02)


class TestFigures:
    def test_bland_altman_gives_mean_and_difference_in_millilitres(self) -> None:
        rows = pd.DataFrame({"white matter reference ml": [400.0, 500.0], "white matter volume error": [0.1, -0.2]})
        mean, difference = figures.bland_altman(rows, "white matter")
        assert list(mean) == pytest.approx([420, 450]) and list(difference) == pytest.approx([40, -100])
        low, high = figures.limits_of_agreement(difference)
        assert (low + high) / 2 == pytest.approx(-30) and high - low == pytest.approx(2 * 1.96 * 140 / np.sqrt(2))

    def test_bland_altman_excludes_simulated_datasets(self) -> None:
        found = [rows_of("midiff", [0.7, 0.9]).assign(dataset=name) for name in ("open-ms", "simulated")]
        volumes = {f"{name} {of}": 1.0 for name in figures.STRUCTURES for of in ("reference ml", "volume error")}
        (points,) = figures.draw_bland_altman(pd.concat(found).assign(**volumes)).axes[0].collections
        assert len(points.get_offsets()) == 2

    def test_bars_are_the_means(self) -> None:
        rows = pd.concat([rows_of("midiff", [0.7, 0.9]), rows_of("direct", [0.2, 0.4])])
        panel = figures.draw_methods(rows).axes[0]
        names = [label.get_text() for label in panel.get_yticklabels()]
        assert dict(zip(names, [bar.get_width() for bar in panel.patches], strict=True)) == pytest.approx(
            {"midiff": 0.8, "direct": 0.3}
        )

    def test_steps_are_read_from_the_method(self) -> None:
        measures = {measure: [0.5, 0.7] for measure in figures.MEASURES[1:]}
        rows = [rows_of(name, [0.5, 0.7], **measures) for name in ("midiff:steps=10", "midiff", "midiff:steps=2")]
        (line,) = figures.draw_steps(pd.concat(rows)).axes[0].lines
        np.testing.assert_allclose(line.get_xydata(), [[2, 0.6], [10, 0.6]])


def test_the_summary_matches_the_scores() -> None:
    results = Path(run.__file__).parent / "results"
    found = summary.summarise(pd.read_csv(results / "scores.csv"))
    expected = pd.read_csv(results / "summary.csv")
    assert list(found["measure"]) == list(expected["measure"]) and list(found["method"]) == list(expected["method"])
    np.testing.assert_allclose(found[["mean", "low", "high"]], expected[["mean", "low", "high"]], rtol=1e-3, atol=1e-3)
