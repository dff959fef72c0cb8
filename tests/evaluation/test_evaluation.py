"""The evaluation against hand counts, scikit-image and volumes whose answer is known; the models are faked."""

from __future__ import annotations

import sys
from pathlib import Path

import calibration
import figures
import methods
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import run
import summary
import table
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from midiff_monai.evaluation import scores
from midiff_monai.evaluation.baselines import LowFrequenciesOfSource, StartFromSource
from midiff_monai.evaluation.metrics import match_intensity, ssim
from midiff_monai.inferers.guided_diffusion import LMIGuidedInferer
from midiff_monai.io.manifest import RunReport
from midiff_monai.io.outputs import output_paths
from midiff_monai.pipeline.result import Result

WEIGHTS = {"t1_lmi_translation": "a" * 64, "t1_brain_segmentation": "b" * 64}
SHAPE = (24, 22, 20)
AFFINE = np.diag([1.0, 1.0, 3.0, 1.0])


def smooth(seed: int, shape: tuple[int, ...] = SHAPE) -> NDArray[np.float64]:
    return 100 + 50 * gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.5)


def brain_labels() -> NDArray[np.int16]:
    """White matter around a ventricle of 4 × 4 × 4 voxels, in a shell of cortex, in background."""
    labels = np.zeros(SHAPE, dtype=np.int16)
    labels[3:21, 3:19, 2:18] = 3
    labels[6:18, 6:16, 4:16] = 2
    labels[10:14, 9:13, 8:12] = 4
    return labels


def result(image: NDArray, labels: NDArray, weights: dict[str, str] | None = None) -> Result:
    volume = nib.Nifti1Image(image.astype(np.float32), AFFINE)
    path = Path("X_PD.nii.gz")
    report = RunReport("segment", Path(__file__), {}, weights or {})  # of any file that is there
    return Result(volume, output_paths(path, "."), report, segmentation=labels)


class TestScores:
    def test_structures_agree_with_counts_by_hand(self) -> None:
        truth, found = brain_labels(), brain_labels()
        found[10:14, 9:13, 8:12] = 2
        found[10:14, 9:13, 10:14] = 4  # the ventricle moved by two slices of 3 mm
        measured = scores.structure_scores(found, truth, AFFINE)
        assert measured["lateral ventricles dice"] == pytest.approx(0.5)
        assert measured["lateral ventricles hd95"] == pytest.approx(6.0)
        assert measured["lateral ventricles volume error"] == 0
        assert measured["lateral ventricles reference ml"] == pytest.approx(64 * 3 / 1000)
        assert measured["grey matter dice"] == 1

    def test_images_agree_with_scikit_image_after_alignment(self) -> None:
        reference, image, brain = smooth(0), -3 * smooth(0) + smooth(1), brain_labels() > 0
        aligned = match_intensity(image, reference, brain)
        peak = np.percentile(reference[brain], 99.5)
        _, similarity = structural_similarity(
            aligned, reference, data_range=peak, gaussian_weights=True, use_sample_covariance=False, full=True
        )
        centres = np.zeros_like(brain)
        centres[5:-5, 5:-5, 5:-5] = brain[5:-5, 5:-5, 5:-5]
        measured = scores.image_scores(image, reference, brain, axis=2)
        assert measured["ssim"] == pytest.approx(similarity[centres].mean(), abs=1e-4)
        expected = peak_signal_noise_ratio(reference[brain], aligned[brain], data_range=peak)
        assert measured["psnr"] == pytest.approx(expected)
        assert measured["correlation"] == pytest.approx(pd.Series(image[brain]).corr(pd.Series(reference[brain])))

    def test_nothing_outside_the_brain_counts(self) -> None:
        brain, reference = np.zeros((40, 40, 40), bool), smooth(0, (40, 40, 40))
        brain[14:26, 14:26, 14:26] = True
        image = reference + smooth(1, brain.shape)
        spoilt = image.copy()
        spoilt[:8] = 1e4
        assert scores.image_scores(spoilt, reference, brain, 2) == scores.image_scores(image, reference, brain, 2)

    def test_ssim_without_a_mask_is_the_mean_over_all_windows(self) -> None:
        image, reference = smooth(0), smooth(1)
        assert ssim(image, reference, 100) == pytest.approx(ssim(image, reference, 100, np.ones(SHAPE, bool)))

    def test_through_plane_ratio_of_a_stretched_wave_is_that_of_its_slope(self) -> None:
        positions = np.arange(400)[None, None] * np.ones((12, 12, 1))
        slow, fast = np.sin(positions * 2 * np.pi / 200), np.sin(positions * 2 * np.pi / 100)
        brain = np.ones_like(slow, bool)
        ratio = scores.roughness(5 - 2 * fast, brain, 2) / scores.roughness(slow, brain, 2)
        assert ratio == pytest.approx(2, rel=0.01)

    def test_unsigned_voxels_do_not_wrap_around(self) -> None:
        volume = (np.arange(20)[None, None] % 2 * np.ones((2, 2, 1))).astype(np.uint8)
        assert scores.roughness(volume, volume < 2, 2) == pytest.approx(2)

    @pytest.mark.parametrize("axes, expected", [("RAS", 2), ("LIA", 1), ("SRP", 0)])
    def test_slices_lie_along_inferior_superior(self, axes: str, expected: int) -> None:
        volume = nib.Nifti1Image(np.zeros(SHAPE, np.float32), AFFINE)
        turn = nib.orientations.ornt_transform(nib.io_orientation(AFFINE), nib.orientations.axcodes2ornt(axes))
        assert scores.slice_axis(volume.as_reoriented(turn).affine) == expected

    def test_a_method_of_tissues_gets_no_score_of_structures_or_images(self) -> None:
        tissues = np.select([brain_labels() == 4, brain_labels() > 0], [24, brain_labels()], 0)
        measured = scores.score(
            result(smooth(0), tissues), result(smooth(0), brain_labels()), structures=False, image=False
        )
        assert len(measured) == 3
        assert set(measured.values()) == {1.0}


class TestMethods:
    @pytest.mark.parametrize(
        "contrast, levels", [("T2", (200, 130, 80)), ("PD", (224, 205, 180)), ("FLAIR", (40, 130, 100))]
    )
    def test_random_field_finds_three_noisy_tissues(self, contrast: str, levels: tuple[int, int, int]) -> None:
        pytest.importorskip("dipy", reason="needs the extra [evaluation]")
        truth = np.select([brain_labels() == 4, brain_labels() > 0], [24, brain_labels()], 0)
        truth[6:18, 6:16, 4:7] = 24
        clean = np.select([truth == 24, truth == 3, truth == 2], levels, 0).astype(float)
        noisy = np.where(truth > 0, clean + np.random.default_rng(0).normal(scale=4, size=SHAPE), 0)
        found = methods.classify_tissues(noisy, methods.BRIGHTNESS[contrast], beta=0.1)
        assert (found == truth).mean() > 0.97
        assert not found[truth == 0].any()

    def test_sdedit_starts_from_the_middle_slice_as_bright_as_a_t1(self, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: dict[str, torch.Tensor] = {}
        monkeypatch.setattr(LMIGuidedInferer, "sample", lambda self, noise, *args, **given: seen.update(given))
        inferer = StartFromSource(300, scheduler=None, guide=None)
        source = torch.stack([torch.full((4, 4), value) for value in (0.1, 1.0, 0.3)])[None]
        inferer.sample(torch.zeros(1, 1, 4, 4), None, source=source)
        assert seen["noise_level"] == 300 and seen["source"] is source
        torch.testing.assert_close(seen["start_image"], torch.full((1, 1, 4, 4), 2 * 0.7 - 1))

    def test_ilvr_takes_low_frequencies_from_the_source_and_fine_detail_from_the_network(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(
            LMIGuidedInferer, "sample", lambda self, noise, network, **given: network(noise, timesteps=0)
        )
        inferer = LowFrequenciesOfSource(4, scheduler=None, guide=None)
        source = torch.linspace(0, 1, 16 * 24).reshape(1, 1, 16, 24)
        reference = 2 * 0.7 * source - 1
        checks = 0.1 * (torch.arange(16)[:, None] + torch.arange(24)[None]).remainder(2).mul(2).sub(1)
        answers = [
            inferer.sample(torch.zeros(1, 1, 16, 24), lambda x, given=given, **options: given, source=source)
            for given in (reference + checks, reference + checks + 0.3)
        ]
        torch.testing.assert_close(answers[0], reference + checks)
        torch.testing.assert_close(answers[1], reference + checks)

    def test_perturbed_t1_is_near_the_t1_and_empty_where_that_is(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        t1 = np.choose(brain_labels(), [0, 0, 150, 100, 50])
        nib.save(nib.Nifti1Image(t1.astype(np.float32), AFFINE), tmp_path / "X_T1.nii.gz")
        written: list[NDArray] = []

        def fake_segment(inputs: list[Path], folder: Path, translated: bool) -> list[None]:
            assert not translated
            written.append(nib.load(inputs[0]).get_fdata())
            return [None]

        monkeypatch.setattr(methods, "segment", fake_segment)
        methods.perturbed_t1(tmp_path / "X_T1.nii.gz", tmp_path)
        (perturbed,) = written
        assert not perturbed[t1 == 0].any()
        assert 0.9 < np.corrcoef(perturbed[t1 > 0], t1[t1 > 0])[0, 1] < 0.9999

    def test_contrast_is_read_from_the_name(self) -> None:
        assert methods.contrast_of(Path("folder.v2/sub_01.2_FLAIR.nii.gz")) == "FLAIR"

    def test_true_labels_lie_beside_a_subject_of_any_name(self) -> None:
        assert methods.true_labels(Path("a.b/sub_01.2_FLAIR.nii.gz")) == Path("a.b/sub_01.2_dseg.nii.gz")


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Two subjects; the FLAIR of the second lies on a grid of its own."""
    folder = tmp_path / "pairs"
    folder.mkdir()
    for subject in ("A", "B"):
        for contrast in ("T1", "PD", "FLAIR"):
            affine = AFFINE * 2 if (subject, contrast) == ("B", "FLAIR") else AFFINE
            nib.save(nib.Nifti1Image(smooth(0).astype(np.float32), affine), folder / f"{subject}_{contrast}.nii.gz")
    return folder


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the volumes that the fake method `midiff` was called for; the weights are made up."""
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

    def test_a_method_on_the_t1_has_one_row_a_subject(self, pairs: Path) -> None:
        found = [(job.subject, job.contrast, job.volume.name) for job in run.jobs(pairs, ["perturbed_t1"])]
        assert found == [("A", "T1", "A_T1.nii.gz"), ("B", "T1", "B_T1.nii.gz")]

    def test_the_t1_is_scored_where_it_is_not_the_reference(self, pairs: Path) -> None:
        (pairs / "B_dseg.nii.gz").touch()
        assert [(job.subject, job.contrast) for job in run.jobs(pairs, ["real_t1"])] == [("B", "T1")]

    def test_a_hash_that_looks_like_a_number_is_still_one(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(table, "installed_weights", lambda: {"translation": "12345e678901" + "0" * 52})
        key = {"dataset": "d", "subject": "1", "contrast": "PD", "method": "midiff"}
        new_table(tmp_path).add(key | {"translation_sha256": "12345e678901"})
        assert new_table(tmp_path).has(key)

    def test_rows_that_are_there_are_not_computed_again(self, pairs: Path, tmp_path: Path, calls: list[str]) -> None:
        todo = run.jobs(pairs, ["midiff"])
        run.fill(new_table(tmp_path), todo[:2])
        run.fill(new_table(tmp_path), todo)
        assert calls == ["A_PD.nii.gz", "A_FLAIR.nii.gz", "B_PD.nii.gz"]
        assert list(pd.read_csv(tmp_path / "out" / "scores.csv")["subject"]) == ["A", "A", "B"]

    @pytest.mark.parametrize("bundle", WEIGHTS)
    def test_rows_of_other_weights_are_computed_anew(
        self, bundle: str, pairs: Path, tmp_path: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        todo = run.jobs(pairs, ["midiff"])[:1]
        run.fill(new_table(tmp_path), todo)
        monkeypatch.setattr(table, "installed_weights", lambda: WEIGHTS | {bundle: "c" * 64})
        run.fill(new_table(tmp_path), todo)
        assert len(calls) == 2
        assert len(pd.read_csv(tmp_path / "out" / "scores.csv")) == 1

    def test_a_row_without_translation_outlives_a_new_translation(
        self, calls: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        row = table.weights_columns({"t1_brain_segmentation": WEIGHTS["t1_brain_segmentation"]})
        monkeypatch.setattr(table, "installed_weights", lambda: WEIGHTS | {"t1_lmi_translation": "c" * 64})
        assert table.is_current(row)

    def test_true_labels_take_the_place_of_the_segmentation(self, pairs: Path, calls: list[str]) -> None:
        truth = np.full(SHAPE, 2, dtype=np.int16)
        nib.save(nib.Nifti1Image(truth, AFFINE), pairs / "A_dseg.nii.gz")
        np.testing.assert_array_equal(run.reference(pairs / "A_T1.nii.gz").segmentation, truth)  # type: ignore[arg-type]
        np.testing.assert_array_equal(run.reference(pairs / "B_T1.nii.gz").segmentation, brain_labels())  # type: ignore[arg-type]

    def test_a_folder_without_pairs_is_refused_in_one_line(
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
        margin = 1.96 * np.std(values) / np.sqrt(30)  # of the normal distribution, which thirty subjects come near
        assert line["subjects"] == 30 and line["mean"] == pytest.approx(np.mean(values))
        assert (line["low"], line["high"]) == pytest.approx((line["mean"] - margin, line["mean"] + margin), abs=0.004)

    def test_a_structure_that_was_lost_makes_the_distance_infinite(self) -> None:
        lines = summary.summarise(rows_of("midiff", [1.0, 1.0], **{"white matter hd95": [3.0, np.inf]}))
        line = lines.set_index("measure").loc["white matter hd95"]
        assert line["mean"] == np.inf and np.isnan(line["low"])

    def test_lines_stay_in_order_and_what_was_not_measured_stays_empty(self) -> None:
        rows = pd.concat([rows_of("hmrf", [np.nan], correlation=[0.5]), rows_of("midiff", [0.7], correlation=[0.6])])
        written = summary.markdown(summary.summarise(rows)).partition("volume error |")[0]
        lines = [line for line in written.splitlines() if line.startswith("| PD")]
        assert [line.split("|")[2:4] for line in lines] == [[" `hmrf` ", "  "], [" `midiff` ", " 0.70 "]]

    def test_volumes_and_surfaces_have_a_table_of_their_own(self) -> None:
        shape = {"white matter volume error": [0.1, 0.3], "white matter hd95": [1.0, np.inf]}
        written = summary.markdown(summary.summarise(rows_of("midiff", [1.0, 1.0], **shape)))
        assert written.splitlines()[-1].split("|")[3::3] == [" 0.20 [0.10, 0.30] ", " inf ", ""]


def test_a_spread_that_is_the_error_is_calibrated_in_any_unit() -> None:
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

    def test_bland_altman_leaves_out_where_labels_are_the_reference(self) -> None:
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


def test_the_summary_is_that_of_the_scores() -> None:
    results = Path(run.__file__).parent / "results"
    found = summary.summarise(pd.read_csv(results / "scores.csv"))
    expected = pd.read_csv(results / "summary.csv")
    assert list(found["measure"]) == list(expected["measure"]) and list(found["method"]) == list(expected["method"])
    np.testing.assert_allclose(found[["mean", "low", "high"]], expected[["mean", "low", "high"]], rtol=1e-3, atol=1e-3)
