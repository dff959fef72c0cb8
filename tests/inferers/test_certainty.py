"""Probability and entropy of labels and their calibration against SciPy, and the labels with and without them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy.special import expit, logit, softmax
from scipy.stats import entropy

from midiff_monai.inferers.certainty import (
    LARGEST_LOG,
    MEAN,
    Certainty,
    ConfidenceCalibration,
    at_temperature,
    normalized_entropy,
)
from midiff_monai.inferers.detail import DetailRefiner
from midiff_monai.labels import FREESURFER_IDS
from midiff_monai.transforms.spatial import probabilities_to_labels

CLASSES = len(FREESURFER_IDS)
COARSE, FINE = np.diag([2.0, 2, 2, 1]), np.eye(4)


@pytest.fixture
def logits() -> torch.Tensor:
    return 3 * torch.randn(CLASSES, 12, 13, 14, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def image() -> MetaTensor:
    voxels = 0.1 + torch.rand(1, 23, 25, 27, generator=torch.Generator().manual_seed(1))
    return MetaTensor(voxels, affine=torch.from_numpy(FINE))


@pytest.fixture
def foreground() -> torch.Tensor:
    mask = torch.zeros(23, 25, 27, dtype=torch.bool)
    mask[2:20, 3:22, 4:25] = True
    return mask


def noisy(image: torch.Tensor, prior: torch.Tensor, means: torch.Tensor) -> torch.Tensor:
    """A detail branch that the image changes: every class by another multiple of it."""
    return prior.log() + image * torch.linspace(-2, 2, CLASSES)[:, None, None, None]


@pytest.mark.parametrize("temperature", [0.6, 1.0, 2.5])
def test_a_temperature_divides_the_logit(temperature: float) -> None:
    probability = torch.linspace(0, 1, 21)
    expected = expit(logit(probability.numpy()) / temperature)
    np.testing.assert_allclose(at_temperature(probability, temperature), expected, atol=1e-6)


def test_the_temperature_follows_the_mean_of_the_labels() -> None:
    """Voxels without a label do not count and stay without probability, and extreme scans change nothing."""
    calibration = ConfidenceCalibration(intercept=0.1, slope=-10.0)
    probability = torch.tensor([[0.0, 0.8], [0.9, 0.0]])
    temperature = np.exp(0.1 - 10 * (0.85 - MEAN))
    expected = at_temperature(probability[probability > 0], temperature)
    found = calibration(probability)
    torch.testing.assert_close(found[probability > 0], expected)
    assert not found[probability == 0].any()
    assert calibration.temperature(0.0) == pytest.approx(np.exp(LARGEST_LOG))
    assert calibration.temperature(1.0) == pytest.approx(np.exp(-LARGEST_LOG))
    assert not calibration(torch.zeros(2, 3)).any()


def test_the_entropy_is_that_of_scipy_to_the_base_of_the_number_of_classes(logits: torch.Tensor) -> None:
    probabilities = logits.softmax(dim=0)
    probabilities[:, 0, 0, 0] = torch.eye(CLASSES)[4]
    expected = entropy(probabilities.numpy(), base=CLASSES, axis=0)
    np.testing.assert_allclose(normalized_entropy(probabilities), expected, atol=1e-5)


@pytest.mark.parametrize("block", [9, 64])
@pytest.mark.parametrize("spacing", [1.0, 1.3])
def test_labels_are_the_same_with_and_without_certainty(
    logits: torch.Tensor, image: MetaTensor, block: int, spacing: float
) -> None:
    probabilities = MetaTensor(logits.softmax(dim=0), affine=torch.from_numpy(COARSE))
    mask = torch.ones([int(side / spacing) for side in image.shape[1:]], dtype=torch.bool)
    refiner, affine = DetailRefiner(noisy, block=block, halo=1), np.diag([spacing, spacing, spacing, 1])
    certainty = Certainty(mask)
    labels = refiner(probabilities, image, mask, affine, certainty)
    assert torch.equal(labels, refiner(probabilities, image, mask, affine))
    assert len(labels.unique()) == CLASSES
    assert torch.equal(certainty.probability > 0, labels > 0) and certainty.probability.max() <= 1
    assert not certainty.entropy[labels == 0].any() and 0 < certainty.entropy.max() <= 1


def test_refined_probabilities_are_kept(logits: torch.Tensor, image: MetaTensor, foreground: torch.Tensor) -> None:
    uniform = MetaTensor(torch.full_like(logits, 1 / CLASSES), affine=torch.from_numpy(COARSE))
    uniform[2] += 1e-3  # some class other than the background, so that all is near the brain
    certainty = Certainty(foreground)
    labels = DetailRefiner(noisy, block=10, halo=1)(uniform, image, foreground, FINE, certainty)
    slopes = np.linspace(-2, 2, CLASSES)[:, None, None, None]
    prior = np.full((CLASSES, 1, 1, 1), 1 / CLASSES)
    prior[2] += 1e-3
    expected = softmax(np.log(prior) + image.numpy() * slopes, axis=0)
    labelled = foreground.numpy() & (expected.argmax(axis=0) > 0)
    np.testing.assert_array_equal(labels > 0, labelled)
    np.testing.assert_allclose(certainty.probability, expected.max(axis=0) * labelled, atol=1e-5)
    np.testing.assert_allclose(certainty.entropy, entropy(expected, base=CLASSES, axis=0) * labelled, atol=1e-5)


def test_interpolated_probabilities_are_kept(logits: torch.Tensor, foreground: torch.Tensor) -> None:
    known = torch.ones(logits.shape[1:], dtype=torch.bool)
    arguments = logits.softmax(dim=0), known, COARSE, foreground, FINE
    certainty = Certainty(foreground)
    labels = probabilities_to_labels(*arguments, observe=certainty)
    assert torch.equal(labels, probabilities_to_labels(*arguments))
    every_second = (slice(None, None, 2),) * 3  # these voxels are those of the coarse grid: nothing is interpolated
    labelled = (foreground[every_second] & (logits.argmax(dim=0) > 0)).numpy()
    expected = softmax(logits.numpy(), axis=0).max(axis=0) * labelled
    np.testing.assert_allclose(certainty.probability[every_second], expected, atol=1e-4)
