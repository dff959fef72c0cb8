"""The model of the expected error finds the model that errors were drawn from."""

from __future__ import annotations

import numpy as np
import pytest
import synthetic_error
from synthetic_error import Sample

TRUE = np.array([-3.0, 0.5, -0.2, 0.3, 0.1, 0.4])


@pytest.fixture
def sample() -> Sample:
    """Exponentially distributed errors."""
    generator = np.random.default_rng(0)
    predictors = np.column_stack([np.ones(60_000), generator.normal(size=(60_000, 5))])
    return Sample(predictors, generator.exponential(np.exp(predictors @ TRUE)))


def test_the_coefficients_and_the_interval_are_found(sample: Sample) -> None:
    coefficients, interval = synthetic_error.fit([sample])
    np.testing.assert_allclose(coefficients, TRUE, atol=0.02)
    assert interval == pytest.approx(np.log(10), rel=0.02)  # nine tenths of an exponential distribution lie below


def test_a_right_model_covers_every_bin_and_a_wrong_one_does_not(sample: Sample) -> None:
    right = synthetic_error.tested(sample, (TRUE, np.log(10)))
    assert right["coverage"] == pytest.approx(0.9, abs=0.005)
    assert right["lowest_coverage_of_a_bin"] > 0.89 and right["highest_coverage_of_a_bin"] < 0.91
    assert right["expected_error"] == pytest.approx(right["error"], rel=0.02)
    flat = np.array([np.log(sample.error.mean()), 0, 0, 0, 0, 0])
    wrong = synthetic_error.tested(sample, (flat, np.log(10)))
    assert wrong["lowest_coverage_of_a_bin"] < right["lowest_coverage_of_a_bin"]


def test_the_scale_is_that_of_the_image_in_the_mask() -> None:
    generator = np.random.default_rng(1)
    image, other = generator.random((2, 8, 8, 8))
    mask = generator.random((8, 8, 8)) < 0.5
    found = synthetic_error.with_spread_of(image, 40 * other - 7, mask)
    assert found[mask].mean() == pytest.approx(image[mask].mean())
    assert found[mask].std() == pytest.approx(image[mask].std())
    assert np.corrcoef(found.ravel(), other.ravel())[0, 1] == pytest.approx(1)
