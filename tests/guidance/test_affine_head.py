"""The pixelwise affine head with networks of known coefficients."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from midiff_monai.guidance.affine_head import PixelwiseAffineHead
from midiff_monai.guidance.mutual_information import standardize_locally


@pytest.mark.parametrize("term", range(6))
def test_each_coefficient_scales_its_own_image(term: int) -> None:
    """The images are a constant, the source, its local contrast, the noisy image, and two conditional means."""
    image = torch.rand(2, 5, 12, 10)
    coefficients = torch.zeros(2, 6, 12, 10)
    coefficients[:, term] = torch.rand(2, 12, 10)

    class Fixed(nn.Module):
        def forward(self, x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
            assert torch.equal(x, image) and timesteps.tolist() == [7]
            return coefficients

    source = image[:, 2:3]
    contrast = 2 * standardize_locally(source, 5) - 1
    terms = [torch.ones_like(source), source - 0.5, contrast, image[:, :1], image[:, 3:4], image[:, 4:]]
    found = PixelwiseAffineHead(Fixed(), source_channel=2, means=2, size=5)(image, torch.tensor([7]))
    torch.testing.assert_close(found, coefficients[:, term][:, None] * terms[term])


def test_an_inverted_source_needs_only_coefficients_of_opposite_sign() -> None:
    """The network predicts a constant; no edge passes through it."""
    t1 = torch.rand(1, 1, 12, 10)
    t2 = 1 - t1

    class Sign(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            sign = torch.tensor([0.5, -1.0, 0.0, 0.0])
            return sign.reshape(1, 4, 1, 1).expand(1, 4, *x.shape[2:])

    noisy = torch.randn(1, 1, 12, 10)
    torch.testing.assert_close(PixelwiseAffineHead(Sign(), 1, means=0)(torch.cat([noisy, t2], dim=1)), t1)
