"""Scores against counts by hand and scikit-image, and the methods on volumes with a known answer."""

from __future__ import annotations

from pathlib import Path

import methods
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from small_results import AFFINE, SHAPE, brain_labels, result, smooth

from midiff_monai.evaluation import scores
from midiff_monai.evaluation.baselines import LowFrequenciesOfSource, StartFromSource
from midiff_monai.evaluation.metrics import match_intensity, ssim
from midiff_monai.guidance.guide import LMIGuide
from midiff_monai.guidance.mutual_information import LocalMutualInformation
from midiff_monai.inferers.guided_diffusion import LMIGuidedInferer
from midiff_monai.inferers.translation import SlicewiseTranslation
from midiff_monai.networks.schedulers import TrailingDDIMScheduler

PARTS = {
    "scheduler": TrailingDDIMScheduler(clip_sample=False, prediction_type="sample"),
    "guide": LMIGuide(LocalMutualInformation(), image_range=(-1, 1)),
    "scale_input": False,
}
"""What `LMIGuidedInferer` needs for a network that predicts the image."""


class TestScores:
    def test_structure_scores_equal_counts_by_hand(self) -> None:
        truth, found = brain_labels(), brain_labels()
        found[10:14, 9:13, 8:12] = 2
        found[10:14, 9:13, 10:14] = 4  # the ventricle is shifted by two slices of 3 mm
        measured = scores.structure_scores(found, truth, AFFINE)
        assert measured["lateral ventricles dice"] == pytest.approx(0.5)
        assert measured["lateral ventricles hd95"] == pytest.approx(6.0)
        assert measured["lateral ventricles volume error"] == 0
        assert measured["lateral ventricles reference ml"] == pytest.approx(64 * 3 / 1000)
        assert measured["grey matter dice"] == 1

    def test_image_scores_equal_scikit_image_after_alignment(self) -> None:
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

    def test_voxels_outside_the_brain_do_not_count(self) -> None:
        brain, reference = np.zeros((40, 40, 40), bool), smooth(0, (40, 40, 40))
        brain[14:26, 14:26, 14:26] = True
        image = reference + smooth(1, brain.shape)
        changed = image.copy()
        changed[:8] = 1e4
        assert scores.image_scores(changed, reference, brain, 2) == scores.image_scores(image, reference, brain, 2)

    def test_ssim_without_a_mask_is_the_mean_over_all_windows(self) -> None:
        image, reference = smooth(0), smooth(1)
        assert ssim(image, reference, 100) == pytest.approx(ssim(image, reference, 100, np.ones(SHAPE, bool)))

    def test_through_plane_ratio_of_a_wave_is_the_ratio_of_the_slopes(self) -> None:
        positions = np.arange(400)[None, None] * np.ones((12, 12, 1))
        slow, fast = np.sin(positions * 2 * np.pi / 200), np.sin(positions * 2 * np.pi / 100)
        brain = np.ones_like(slow, bool)
        ratio = scores.roughness(5 - 2 * fast, brain, 2) / scores.roughness(slow, brain, 2)
        assert ratio == pytest.approx(2, rel=0.01)

    def test_unsigned_voxels_do_not_wrap_around(self) -> None:
        volume = (np.arange(20)[None, None] % 2 * np.ones((2, 2, 1))).astype(np.uint8)
        assert scores.roughness(volume, volume < 2, 2) == pytest.approx(2)

    @pytest.mark.parametrize("axes, expected", [("RAS", 2), ("LIA", 1), ("SRP", 0)])
    def test_the_slice_axis_is_inferior_superior(self, axes: str, expected: int) -> None:
        volume = nib.Nifti1Image(np.zeros(SHAPE, np.float32), AFFINE)
        turn = nib.orientations.ornt_transform(nib.io_orientation(AFFINE), nib.orientations.axcodes2ornt(axes))
        assert scores.slice_axis(volume.as_reoriented(turn).affine) == expected

    def test_a_tissue_method_gets_no_structure_or_image_scores(self) -> None:
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

    def test_sdedit_starts_from_the_centre_slice_scaled_like_a_t1(self, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: dict[str, torch.Tensor] = {}
        monkeypatch.setattr(LMIGuidedInferer, "sample", lambda self, noise, *args, **given: seen.update(given))
        inferer = StartFromSource(300, scheduler=None, guide=None)
        source = torch.stack([torch.full((4, 4), value) for value in (0.1, 1.0, 0.3)])[None]
        inferer.sample(torch.zeros(1, 1, 4, 4), None, source=(source,))
        assert seen["noise_level"] == 300 and seen["source"] == (source,)
        torch.testing.assert_close(seen["start_image"], torch.full((1, 1, 4, 4), 2 * 0.7 - 1))

    def test_ilvr_takes_low_frequencies_from_the_source_and_high_ones_from_the_network(
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
            inferer.sample(torch.zeros(1, 1, 16, 24), lambda x, given=given, **options: given, source=(source,))
            for given in (reference + checks, reference + checks + 0.3)
        ]
        torch.testing.assert_close(answers[0], reference + checks)
        torch.testing.assert_close(answers[1], reference + checks)

    @pytest.mark.parametrize("sampler", [StartFromSource(1, **PARTS), LowFrequenciesOfSource(1, **PARTS)])
    def test_sdedit_and_ilvr_translate_volumes(self, sampler: LMIGuidedInferer) -> None:
        """With all frequencies of the source, or a start without noise, and a network that adds nothing."""
        volume = torch.rand(1, 1, 8, 12, 4, generator=torch.Generator().manual_seed(0)).clamp(min=0.1)
        translated = SlicewiseTranslation(sampler, 1000, multiple=4)(volume, lambda x, **_: x[:, :1])
        torch.testing.assert_close(translated, 0.7 * volume, atol=0.04, rtol=0)

    def test_perturbed_t1_is_close_to_the_t1_and_has_the_same_background(
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

    def test_true_labels_are_beside_the_volumes_for_any_subject_name(self) -> None:
        assert methods.true_labels(Path("a.b/sub_01.2_FLAIR.nii.gz")) == Path("a.b/sub_01.2_dseg.nii.gz")
