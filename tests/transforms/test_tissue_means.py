"""Means of tissues against known intensities, under gain, offset and bias field."""

from __future__ import annotations

import pytest
import torch

from midiff_monai.labels import FREESURFER_IDS
from midiff_monai.networks.detail import relative_intensities
from midiff_monai.transforms.tissue_means import DEFAULTS, tissue_means

WHITE, GREY, FLUID = 0.8, 0.5, 0.1
SHAPE = (40, 44, 36)


@pytest.fixture
def tissues() -> torch.Tensor:
    """Random voxels of white matter, cortex and CSF, as probabilities (1, C, X, Y, Z)."""
    drawn = torch.randint(0, 3, SHAPE, generator=torch.Generator().manual_seed(0))
    probabilities = torch.zeros(1, len(FREESURFER_IDS), *SHAPE)
    for index, label in enumerate((2, 3, 24)):
        probabilities[0, FREESURFER_IDS.index(label)] = (drawn == index).float()
    return probabilities


def painted(tissues: torch.Tensor) -> torch.Tensor:
    values = {2: WHITE, 3: GREY, 24: FLUID}
    channels = [value * tissues[:, FREESURFER_IDS.index(label)] for label, value in values.items()]
    return torch.stack(channels).sum(dim=0)[:, None]


def test_means_are_those_of_the_tissues(tissues: torch.Tensor) -> None:
    means = tissue_means(painted(tissues), tissues)
    assert means.shape == (1, 3, *SHAPE)
    for channel, value in enumerate((WHITE, GREY, FLUID)):
        torch.testing.assert_close(means[:, channel], torch.full((1, *SHAPE), value), atol=1e-3, rtol=0)


def test_relative_intensities_do_not_depend_on_gain_and_offset(tissues: torch.Tensor) -> None:
    image = painted(tissues)
    changed = 0.6 * image + 0.2
    first, second = (relative_intensities(volume, tissue_means(volume, tissues)) for volume in (image, changed))
    torch.testing.assert_close(first, second, atol=0.01, rtol=0)


def test_means_follow_a_bias_field(tissues: torch.Tensor) -> None:
    field = torch.linspace(0.7, 1.3, SHAPE[0])[:, None, None]
    means = tissue_means(painted(tissues) * field, tissues)[0, 0]
    inner = slice(8, -8)
    expected = (WHITE * field).expand(SHAPE)
    assert (means - expected)[inner, inner, inner].abs().max() < 0.05


def test_mixed_voxels_count_little(tissues: torch.Tensor) -> None:
    """Voxels that are half white matter and half fluid, and as dark as that, hardly change the mean of white matter."""
    image, mixed = painted(tissues), tissues.clone()
    half = torch.zeros(SHAPE, dtype=torch.bool)
    half[::4] = True
    mixed[..., half] = 0
    for label in (2, 24):
        mixed[0, FREESURFER_IDS.index(label), half] = 0.5
    image[..., half] = (WHITE + FLUID) / 2
    plain = (WHITE * 1 + 0.5 * 3 / 3 * (WHITE + FLUID) / 2) / (1 + 0.5)  # with weights that are not squared
    assert abs(float(tissue_means(image, mixed)[0, 0].mean()) - WHITE) < abs(plain - WHITE)


def test_a_tissue_that_is_absent_has_its_default(tissues: torch.Tensor) -> None:
    nothing = torch.zeros_like(tissues)
    means = tissue_means(painted(tissues), nothing)
    assert means.mean(dim=(0, 2, 3, 4)).tolist() == pytest.approx(DEFAULTS)
