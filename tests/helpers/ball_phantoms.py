"""Geometric phantoms of brains and heads."""

from __future__ import annotations

import torch


def ball(radius: float, side: int = 20, centre: float = 0.0) -> torch.Tensor:
    """A volume (1, 1, side, side, side), 0.8 in a ball and 0 outside; the ball is `centre` voxels above the middle."""
    places = torch.cartesian_prod(*[torch.arange(side)] * 3).reshape(side, side, side, 3) - (side - 1) / 2
    places[..., 2] -= centre
    return 0.8 * (places.square().sum(-1) < radius**2).float()[None, None]


def brain_on_neck(width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Masks (40, 40, 40) of a large ball, and of it with a small ball below, joined by a square rod of this width."""
    brain, neck = ball(11, 40, centre=7)[0, 0] > 0, ball(6, 40, centre=-13)[0, 0] > 0
    rod = torch.zeros_like(brain)
    across = slice(20 - width // 2, 20 - width // 2 + width)
    rod[across, across, 8:20] = True
    return brain, brain | neck | rod
