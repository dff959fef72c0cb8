"""Foreground percentiles and hole filling, against NumPy and SciPy."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
from hypothesis import given
from scipy import ndimage
from synthetic_images import brain_in_air

from midiff_monai.transforms.foreground import close_gaps, fill_holes, foreground_percentiles


def test_percentiles_are_those_of_the_brain() -> None:
    volume = brain_in_air(0)
    expected = np.percentile(volume[volume > 0].numpy(), [5, 90])
    np.testing.assert_allclose(foreground_percentiles(volume, 5, 90), expected, rtol=1e-6)


@given(seed=st.integers(0, 2**31), level=st.floats(-1, 1), shape=st.lists(st.integers(1, 9), min_size=2, max_size=3))
def test_fill_holes_equals_scipy(seed: int, level: float, shape: list[int]) -> None:
    mask = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 0.6) > level / 2
    single_slice = mask.ndim == 3 and mask.shape.count(1) == 1  # its holes are not open along the normal
    expected = ndimage.binary_fill_holes(mask.squeeze() if single_slice else mask)
    np.testing.assert_array_equal(fill_holes(mask), expected.reshape(mask.shape))


@given(seed=st.integers(0, 2**31), radius=st.floats(0.5, 4), spacing=st.tuples(*[st.sampled_from([1.0, 1.5, 2.5])] * 3))
def test_close_gaps_equals_the_closing_by_a_ball(seed: int, radius: float, spacing: tuple[float, float, float]) -> None:
    mask = np.zeros((28, 28, 28), dtype=bool)
    mask[10:18, 10:18, 10:18] = np.random.default_rng(seed).random((8, 8, 8)) > 0.9
    reach = np.arange(-5, 6)
    offsets = np.stack(np.meshgrid(reach, reach, reach, indexing="ij"), axis=-1) * spacing
    ball = np.linalg.norm(offsets, axis=-1) <= radius
    np.testing.assert_array_equal(close_gaps(mask, spacing, radius), ndimage.binary_closing(mask, ball))


def test_close_gaps_goes_on_beyond_the_faces() -> None:
    mask = np.zeros((12, 12, 12), dtype=bool)
    mask[:, :, :8] = True
    mask[:, 5:7] = False  # a gap of 2 mm from face to face
    closed = close_gaps(mask, (1, 1, 1), 2)
    assert closed[:, :, :7].all() and not closed[:, :, 8:].any()
    assert close_gaps(np.ones((3, 3, 3), dtype=bool), (1, 1, 1), 2).all()
