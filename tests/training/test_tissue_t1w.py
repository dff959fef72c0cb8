"""T1w of clear tissues, from a synthetic T1w and its segmentation."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
import pytest
import torch
from ball_brain import ball_brain
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from numpy.typing import NDArray

from midiff_monai.errors import InputError
from midiff_monai.labels import LESIONS
from midiff_monai.training import TissueT1wd
from midiff_monai.training.contrast import T1_KNOTS

LABELS = ball_brain()[0]
LABELS[LABELS.shape[0] // 3, LABELS.shape[1] // 2, LABELS.shape[2] // 2] = 4
DARK_TO_BRIGHT = ((4, 5, 14, 15, 24, 43, 44), (3, 8, 42, 47))
"""Labels of fluid and of cortex. All others are white matter here."""


def t1w_of(labels: NDArray[np.integer], fluid: float, cortex: float, white: float) -> NDArray[np.float32]:
    """Three intensities and noise, 0 in the background."""
    noise = np.random.default_rng(0).normal(0, 0.004, labels.shape)
    kinds = [labels == 0, *(np.isin(labels, ids) for ids in DARK_TO_BRIGHT)]
    return np.select(kinds, [0, fluid + noise, cortex + noise], white + noise).astype(np.float32)


def cleared(labels: NDArray[np.integer], t1w: NDArray[np.float32]) -> NDArray[np.float32]:
    meta = {"filename_or_obj": "a_synthT1w.nii.gz"}
    sample: dict[Hashable, torch.Tensor] = {"label": torch.from_numpy(labels.astype(np.float32))[None]}
    sample["t1w"] = MetaTensor(torch.from_numpy(t1w)[None], meta=meta)
    return TissueT1wd("t1w", label_key="label")(sample)["t1w"][0].numpy()


def median(image: NDArray[np.float32], *labels: int) -> float:
    return float(np.median(image[np.isin(LABELS, labels)]))


@settings(max_examples=10, deadline=None)
@given(fluid=st.floats(0.1, 0.3), step=st.floats(0.02, 0.25), ratio=st.floats(0.2, 3.0))
def test_tissues_get_the_intensities_of_a_t1w_from_any_contrast(fluid: float, step: float, ratio: float) -> None:
    cortex = fluid + step
    image = cleared(LABELS, t1w_of(LABELS, fluid, cortex, min(cortex + ratio * step, 0.95)))
    assert median(image, 3, 42) == pytest.approx(T1_KNOTS[2], abs=0.04)
    assert median(image, 2, 41) == pytest.approx(T1_KNOTS[4], abs=0.04)
    assert median(image, 4, 43) < 0.45
    np.testing.assert_array_equal(image > 0, LABELS > 0)
    assert image.max() <= 1


def test_lesions_become_white_matter() -> None:
    labels = LABELS.copy()
    lesion = np.zeros(labels.shape, bool)
    lesion[tuple(slice(size // 2 + 4, size // 2 + 9) for size in labels.shape)] = True
    lesion &= np.isin(labels, (2, 41))
    assert lesion.sum() > 20
    labels[lesion] = LESIONS.id
    t1w = t1w_of(LABELS, 0.25, 0.5, 0.6)
    np.testing.assert_allclose(cleared(labels, t1w)[lesion], cleared(LABELS, t1w)[lesion], atol=0.03)


def test_a_segmentation_that_failed_is_named() -> None:
    t1w = t1w_of(LABELS, 0.2, 0.5, 0.6)
    with pytest.raises(InputError, match=r"a_synthT1w\.nii\.gz.*fluid, cortex and white matter"):
        cleared(np.where(np.isin(LABELS, (3, 42)), 2, LABELS), t1w)
    with pytest.raises(InputError, match="from dark to bright"):
        cleared(LABELS, t1w_of(LABELS, 0.6, 0.5, 0.2))
