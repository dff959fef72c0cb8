"""Local regressions against SciPy and affine relations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr

from midiff_monai.transforms.local_regression import local_moments, unexplained_share

RADIUS = 2


@pytest.fixture
def volumes() -> tuple[torch.Tensor, torch.Tensor]:
    """An image and a source that explains half of it."""
    generator = torch.Generator().manual_seed(0)
    source, own = torch.rand(2, 12, 11, 10, generator=generator)
    return source + own, source


def test_the_unexplained_share_is_that_of_the_correlation_in_the_box(
    volumes: tuple[torch.Tensor, torch.Tensor],
) -> None:
    image, source = volumes
    mask = torch.rand(image.shape, generator=torch.Generator().manual_seed(1)) < 0.7
    share = unexplained_share(image, source, mask, RADIUS)
    for centre in ((5, 5, 5), (2, 8, 4), (0, 0, 9)):
        box = tuple(slice(max(at - RADIUS, 0), at + RADIUS + 1) for at in centre)
        inside = mask[box]
        correlation = pearsonr(image[box][inside], source[box][inside]).statistic
        assert share[centre].item() == pytest.approx(1 - correlation**2, abs=1e-3)


@pytest.mark.parametrize(("slope", "offset"), [(-2.0, 3.0), (0.1, 0.0)])
def test_an_affine_image_is_explained(volumes: tuple[torch.Tensor, torch.Tensor], slope: float, offset: float) -> None:
    _, source = volumes
    everywhere = torch.ones(source.shape, dtype=torch.bool)
    share = unexplained_share(slope * source + offset, source, everywhere, RADIUS)
    assert share.max() < 1e-2


def test_a_constant_source_explains_nothing(volumes: tuple[torch.Tensor, torch.Tensor]) -> None:
    image, source = volumes
    everywhere = torch.ones(source.shape, dtype=torch.bool)
    assert unexplained_share(image, torch.full_like(source, 0.5), everywhere, RADIUS).min() > 0.99


def test_voxels_outside_the_mask_change_nothing(volumes: tuple[torch.Tensor, torch.Tensor]) -> None:
    image, source = volumes
    mask = torch.zeros(image.shape, dtype=torch.bool)
    mask[2:9, 2:9, 2:9] = True
    other = torch.where(mask, image, 100.0)
    for first, second in zip(local_moments(image, source, mask, 1), local_moments(other, source, mask, 1), strict=True):
        np.testing.assert_array_equal(first, second)
