"""Foreground percentiles and hole filling, against NumPy and SciPy."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
from hypothesis import given
from scipy import ndimage
from synthetic_images import brain_in_air

from midiff_monai.transforms.foreground import fill_holes, foreground_percentiles


def test_percentiles_are_those_of_the_brain() -> None:
    volume = brain_in_air(0)
    expected = np.percentile(volume[volume > 0].numpy(), [5, 90])
    np.testing.assert_allclose(foreground_percentiles(volume, 5, 90), expected, rtol=1e-6)


@given(seed=st.integers(0, 2**31), level=st.floats(-1, 1), shape=st.lists(st.integers(1, 9), min_size=2, max_size=3))
def test_fill_holes_equals_scipy(seed: int, level: float, shape: list[int]) -> None:
    mask = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 0.6) > level / 2
    np.testing.assert_array_equal(fill_holes(mask), ndimage.binary_fill_holes(mask))
