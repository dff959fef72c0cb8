"""Losses that MONAI lacks."""

from __future__ import annotations

import torch
from torch import nn


class SobolevLoss(nn.Module):
    """Mean squared error of images plus, weighted, that of their differences between neighbouring pixels.

    The spectrum of an image falls off steeply, so its plain error is all coarse structure, and edges are learned last.
    Differences even out the spectrum. The best prediction is the mean of all possible images as before: any positive
    definite quadratic form has it as its minimum.

    Args:
        edge_weight: of the differences, summed over the axes.
    """

    def __init__(self, edge_weight: float) -> None:
        super().__init__()
        self.edge_weight = edge_weight

    def forward(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss of images (B, C, *spatial), a scalar."""
        error = prediction - target
        edges = sum(error.diff(dim=axis).square().mean() for axis in range(2, error.ndim))
        return error.square().mean() + self.edge_weight * edges
