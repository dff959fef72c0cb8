"""Losses that MONAI lacks."""

from __future__ import annotations

import torch
from torch import nn


class SobolevLoss(nn.Module):
    """Mean squared error of images, plus the weighted mean squared error of their finite differences.

    The spectrum of an image falls off steeply. Its squared error is thus dominated by coarse structure, and edges are
    learnt last. Finite differences even out the spectrum. The optimal prediction is still the mean of the possible
    images, as for every positive definite quadratic form.

    Args:
        edge_weight: weight of the finite differences, summed over the axes.
    """

    def __init__(self, edge_weight: float) -> None:
        super().__init__()
        self.edge_weight = edge_weight

    def forward(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Compute the loss of images (B, C, *spatial), a scalar."""
        error = prediction - target
        edges = sum(error.diff(dim=axis).square().mean() for axis in range(2, error.ndim))
        return error.square().mean() + self.edge_weight * edges
