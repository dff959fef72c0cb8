"""The expected error of a synthetic volume: its predictors one by one, sources, and grids."""

from __future__ import annotations

from math import exp, log

import pytest
import torch
from monai.data import MetaTensor

from midiff_monai.inferers.expected_error import LEAST_GRADIENT, LEAST_SHARE, ExpectedError, predictors

SPACING = torch.tensor([2.0, 2.0, 2.0, 1.0])


def scan(*sources: torch.Tensor) -> MetaTensor:
    return MetaTensor(torch.stack(sources), affine=torch.diag(SPACING))


@pytest.fixture
def ramp() -> torch.Tensor:
    """An image (1, X, Y, Z) that rises by 0.05 a voxel along one axis."""
    return (0.1 + 0.05 * torch.arange(12.0)).reshape(1, 12, 1, 1).expand(1, 12, 10, 9).contiguous()


def test_predictors_of_a_ramp(ramp: torch.Tensor) -> None:
    found = predictors(ramp, scan(1 - ramp[0]), whole_head=False)
    image = ramp[0]
    torch.testing.assert_close(found[:3], torch.stack([torch.ones_like(image), image, image.square()]))
    assert found[3].mean().item() == pytest.approx(log(LEAST_SHARE), abs=0.02)
    assert found[4, 1:-1].mean().item() == pytest.approx(log(0.05 / 2 + LEAST_GRADIENT), abs=1e-3)


def test_the_error_is_the_exponential_of_the_linear_model(ramp: torch.Tensor) -> None:
    model = ExpectedError([-3.0, 1.0, 0.0, 0.0, 0.0, 0.4], interval=2.0)
    brain, head = (model(ramp, scan(ramp[0]), whole_head=whole_head) for whole_head in (False, True))
    torch.testing.assert_close(brain, (ramp - 3.0).exp())
    torch.testing.assert_close(head, exp(0.4) * brain)


def test_a_source_that_explains_less_leaves_more_error(ramp: torch.Tensor) -> None:
    noise = torch.rand(ramp[0].shape, generator=torch.Generator().manual_seed(0))
    model = ExpectedError([-3.0, 0.0, 0.0, 1.0, 0.0, 0.4], interval=2.0)
    good, poor = (model(ramp, scan(source), whole_head=False).mean() for source in (ramp[0], 0.1 + noise))
    assert poor > 5 * good
    both = model(ramp, scan(ramp[0], 0.1 + noise), whole_head=False).mean()
    assert both == good


def test_the_background_has_no_error_and_is_no_edge(ramp: torch.Tensor) -> None:
    flat = torch.full_like(ramp, 0.5)
    source = flat[0].clone()
    source[:, :, :4] = 0
    flat[:, :, :, :4] = 0
    found = ExpectedError([0.0, 0.0, 0.0, 0.0, 1.0, 0.4], interval=2.0)(flat, scan(source), whole_head=False)
    assert not found[..., :4].any()
    assert found[..., 4:].max().item() == pytest.approx(LEAST_GRADIENT, abs=1e-6)


def test_one_slice_has_an_error(ramp: torch.Tensor) -> None:
    thin = ramp[..., :1]
    found = ExpectedError([-3.0, 0.0, 0.0, 0.0, 0.1, 0.4], interval=2.0)(thin, scan(thin[0]), whole_head=False)
    assert found.shape == thin.shape and exp(-4) < found.mean() < exp(-3)
