"""Where a voxel lies with respect to a brain."""

from __future__ import annotations

import numpy as np
import torch
from monai.data import MetaTensor

from midiff_monai.transforms import DepthInBraind, depth_in_brain

RADII = np.linalg.norm(np.indices((61, 61, 61)) - 30, axis=0)
"""Distance from the middle of a cube of 61 voxels."""


def ball(radius: float) -> np.ndarray:
    """A ball with a sulcus of three voxels and a ventricle."""
    solid = RADII < radius
    solid[30:33, :, 40:] = False
    solid[RADII < 5] = False
    return solid


def test_the_depth_is_the_distance_to_the_surface_of_the_brain() -> None:
    depth = depth_in_brain(RADII < 20)
    assert np.abs(depth.numpy() - 0.5 - np.clip(20 - RADII, -20, 20) / 40).max() < 1.2 / 40


def test_sulci_and_ventricles_are_inside() -> None:
    depth = depth_in_brain(ball(20))
    assert depth[31, 30, 46] > 0.5 and depth[30, 30, 30] > 0.8


def test_fluid_around_the_brain_lies_outside() -> None:
    labels = np.where(ball(20), 2, 0)
    labels[(labels == 0) & (RADII < 24)] = 24
    image = MetaTensor(torch.from_numpy(labels)[None].float(), affine=torch.diag(torch.tensor([2.0, 2, 2, 1])))
    found = DepthInBraind("depth", outside=[24])({"depth": image})["depth"]
    torch.testing.assert_close(found.as_tensor()[0], depth_in_brain(ball(20)))
    assert torch.equal(found.affine, image.affine)
