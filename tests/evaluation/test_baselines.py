"""Histogram matching, compared with scikit-image."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.exposure import match_histograms

from midiff_monai.evaluation.baselines import match_histogram


@pytest.fixture
def volumes() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    return generator.uniform(1, 5, (9, 10, 11)), generator.normal(300, 20, (12, 8, 10))


def test_agrees_with_scikit_image(volumes: tuple[np.ndarray, np.ndarray]) -> None:
    volume, reference = volumes
    np.testing.assert_allclose(match_histogram(volume, reference), match_histograms(volume, reference), atol=5.0)


def test_inversion_reverses_the_order_of_intensities(volumes: tuple[np.ndarray, np.ndarray]) -> None:
    volume, reference = volumes
    order = np.argsort(volume.ravel())
    assert (np.diff(match_histogram(volume, reference, invert=True).ravel()[order]) <= 0).all()


def test_the_background_stays_0(volumes: tuple[np.ndarray, np.ndarray]) -> None:
    volume, reference = volumes
    volume[:3] = 0
    assert (match_histogram(volume, reference)[:3] == 0).all()
