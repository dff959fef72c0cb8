"""Calibration and its error of probabilities whose truth is drawn from known ones."""

from __future__ import annotations

import calibrated_probability as calibration
import numpy as np
import pandas as pd
import pytest
import torch
from calibrated_probability import Labels
from probability_samples import Sample, Sampler, counted_voxels

from midiff_monai.inferers.certainty import MEAN, ConfidenceCalibration, at_temperature
from midiff_monai.labels import FREESURFER_IDS


@pytest.fixture(scope="module")
def overconfident() -> Sample:
    """Voxels whose classes are drawn from probabilities that are those of the sample at temperature 1.6."""
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(20_000, 5, generator=generator)
    truth = torch.multinomial((logits / 1.6).softmax(dim=1), 1, generator=generator)[:, 0]
    return Sample(logits.log_softmax(dim=1).half().numpy(), truth.numpy())


def at(temperature: float) -> ConfidenceCalibration:
    return ConfidenceCalibration(float(np.log(temperature)), 0.0)


def drawn(mean: float, temperature: float, seed: int) -> Labels:
    """Labels with a mean probability, which are right as often as their probability at a temperature says."""
    generator = np.random.default_rng(seed)
    probability = torch.from_numpy(generator.beta(20 * mean, 20 * (1 - mean), size=100_000)).float()
    return Labels(probability, generator.random(100_000) < at_temperature(probability, temperature).numpy())


def test_a_calibration_with_the_right_temperature_has_no_error() -> None:
    labels = drawn(0.8, 1.6, seed=0)
    errors = [
        calibration.expected_calibration_error(calibration.reliability(labels, tried)) for tried in (None, at(1.6))
    ]
    assert errors[0] > 0.05 and errors[1] < 0.01


def test_the_temperatures_of_sure_and_unsure_scans_are_found() -> None:
    """Scans whose temperature falls with their mean, as no single temperature describes them."""
    scans = [drawn(mean, np.exp(-10 * (mean - MEAN)), seed) for seed, mean in enumerate((0.84, 0.88, 0.92))]
    slopes = [-20.0, -10.0, 0.0]
    found = calibration.fit((calibration.costs(labels, slopes) for labels in scans), slopes)
    assert found.slope == -10 and found.intercept == pytest.approx(0, abs=0.06)


def test_labelled_voxels_are_those_whose_most_probable_class_is_no_background(overconfident: Sample) -> None:
    labelled = overconfident.labelled
    assert len(labelled.truth) == (overconfident.logs.argmax(axis=1) > 0).sum() < len(overconfident.truth)
    assert (labelled.logs.argmax(axis=1) > 0).all()


def test_the_calibration_error_of_two_bins() -> None:
    bins = pd.DataFrame({"voxels": [1, 3], "probability": [0.5, 0.9], "accuracy": [0.7, 0.8]})
    assert calibration.expected_calibration_error(bins) == pytest.approx((0.2 + 3 * 0.1) / 4)


def test_bins_hold_all_voxels(overconfident: Sample) -> None:
    bins = calibration.reliability(Labels.of(overconfident), None)
    assert bins["voxels"].sum() == len(overconfident.truth)
    assert ((bins["probability"] * calibration.BINS).astype(int).clip(upper=calibration.BINS - 1) == bins["bin"]).all()


def test_the_voxels_that_count_are_brain_and_what_lies_near() -> None:
    labels, truth = np.zeros((9, 9, 9), int), np.zeros((9, 9, 9), int)
    labels[2, 4, 4], truth[6, 4, 4] = 3, 2
    distances = [np.linalg.norm(np.indices((9, 9, 9)).T - centre, axis=-1).T for centre in ((2, 4, 4), (6, 4, 4))]
    np.testing.assert_array_equal(counted_voxels(labels, truth, (1, 1, 1)), np.minimum(*distances) <= 2)


def test_a_sample_has_the_probabilities_and_true_classes_of_its_voxels() -> None:
    classes = len(FREESURFER_IDS)
    probabilities = torch.rand(classes, 4, 5, 6, generator=torch.Generator().manual_seed(0)).softmax(dim=0)
    truth = np.random.default_rng(0).choice(FREESURFER_IDS, size=(8, 5, 6))
    sampler, known = Sampler((8, 5, 6), share=1.0), torch.ones(4, 5, 6, dtype=torch.bool)
    sampler((slice(4, 8), slice(None), slice(None)), known, 0.5 * probabilities.flatten(1))
    sample = sampler.sample(np.ones((8, 5, 6), bool), truth)
    np.testing.assert_array_equal(np.array(FREESURFER_IDS)[sample.truth], truth.ravel())
    shares = np.exp(sample.logs.astype(float))
    np.testing.assert_allclose(shares[120:], probabilities.flatten(1).T, rtol=5e-3)
    np.testing.assert_allclose(shares[:120], np.eye(classes)[[0] * 120], atol=1e-6)
