"""Joint training at two resolutions: geometry of the patches, majority labels, the loss against MONAI's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.losses import DiceCELoss
from torch import nn

from midiff_monai.labels import FREESURFER_IDS
from midiff_monai.networks import DetailBranch
from midiff_monai.training.two_scale import (
    IGNORED,
    TwoScaleLoss,
    TwoScaleNetwork,
    TwoScalePrepareBatch,
    dice_cross_entropy,
    majority,
    masked_average,
)

CONTEXT, PATCH = 2, (8, 8, 6)


CLASSES = len(FREESURFER_IDS)


class Linear(nn.Module):
    """Logits: the central slice, its negative, and much less."""

    def forward(self, slabs: torch.Tensor) -> torch.Tensor:
        centre = slabs[:, CONTEXT : CONTEXT + 1]
        return torch.cat([centre, -centre, torch.full_like(centre, -50).expand(-1, CLASSES - 2, -1, -1, -1)], dim=1)


def ramp(*shape: int) -> torch.Tensor:
    """A volume (1, 1, X, Y, Z) that rises linearly along each axis, with no voxel at 0."""
    x, y, z = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    return torch.from_numpy(0.1 + 0.01 * x + 0.02 * y + 0.03 * z).float()[None, None]


def test_patches_lie_where_their_probabilities_lie() -> None:
    """A linear volume survives averaging and interpolation. Prior and patch then agree voxel by voxel."""
    network = TwoScaleNetwork(Linear(), DetailBranch(CLASSES), CONTEXT, PATCH)
    seen: dict[str, tuple[torch.Tensor, ...]] = {}
    network.detail.register_forward_hook(lambda module, inputs, output: seen.update(inputs=inputs))
    slab = ramp(24, 24, 20)
    corners = torch.tensor([[2, 3, 1], [1, 1, 2]])
    logits, refined = network(slab, corners)
    assert logits.shape == (1, CLASSES, 12, 12, 6)
    assert refined is not None
    assert refined.shape == (2, CLASSES, *PATCH)
    patches, priors, _ = seen["inputs"]
    logit = priors[:, :1].logit() / 2
    assert (logit - patches).abs()[..., 1:-1].max() < 2e-3
    torch.testing.assert_close(patches[0, 0], slab[0, 0, 4:12, 6:14, 6:12])


def test_a_coarse_slab_has_no_patches() -> None:
    network = TwoScaleNetwork(Linear(), DetailBranch(CLASSES), CONTEXT, PATCH)
    logits, refined = network(ramp(12, 12, 10), None)
    assert refined is None
    assert logits.shape == (1, CLASSES, 12, 12, 6)


@pytest.mark.parametrize("seed", range(4))
def test_a_batch_has_patches_within_the_slab_and_their_labels(seed: int) -> None:
    torch.manual_seed(seed)
    label = torch.randint(0, 5, (1, 1, 24, 26, 20), dtype=torch.uint8)
    batch = {"image": ramp(24, 26, 20), "label": label, "coarse": torch.tensor([False])}
    slab, (coarse, patches), _, options = TwoScalePrepareBatch(CONTEXT, PATCH, patches=3)(batch)
    assert slab.shape == label.shape
    assert patches is not None
    assert coarse.shape == (1, 1, 12, 13, 6)
    for corner, patch in zip(options["corners"].tolist(), patches, strict=True):
        x, y, z = (2 * start for start in corner)
        assert torch.equal(patch[0], label[0, 0, x : x + 8, y : y + 8, z + 4 : z + 10])


def test_a_batch_of_background_has_patches_too() -> None:
    label = torch.zeros(1, 1, 24, 26, 20, dtype=torch.uint8)
    batch = {"image": ramp(24, 26, 20), "label": label, "coarse": torch.tensor([False])}
    assert len(TwoScalePrepareBatch(CONTEXT, PATCH, patches=2)(batch)[3]["corners"]) == 2


def test_the_majority_is_the_most_frequent_of_eight() -> None:
    labels = torch.randint(0, 3, (1, 1, 6, 4, 8), generator=torch.Generator().manual_seed(0))
    result = majority(labels)
    for x, y, z in np.ndindex(3, 2, 4):
        block = labels[0, 0, 2 * x : 2 * x + 2, 2 * y : 2 * y + 2, 2 * z : 2 * z + 2]
        counts = torch.bincount(block.flatten(), minlength=3)
        assert counts[result[0, 0, x, y, z]] == counts.max()


def test_an_average_leaves_the_background_out() -> None:
    slab = torch.zeros(1, 1, 2, 2, 4)
    slab[..., :2] = 0.5
    slab[0, 0, 0, 0, 0] = 0
    slab[0, 0, 0, 0, 2] = 0.9
    assert masked_average(slab)[0, 0, 0, 0].tolist() == pytest.approx([0.5, 0.0])


def test_the_loss_is_that_of_monai_without_ignored_voxels() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 6, 6, 6, generator=generator)
    labels = torch.randint(0, 4, (2, 1, 6, 6, 6), generator=generator)
    reference = DiceCELoss(to_onehot_y=True, softmax=True, batch=True, smooth_nr=20.0, smooth_dr=20.0)
    torch.testing.assert_close(dice_cross_entropy(logits, labels, 20.0), reference(logits, labels))


def test_ignored_voxels_have_no_gradient() -> None:
    logits = torch.randn(1, 3, 4, 4, 4, requires_grad=True)
    labels = torch.randint(0, 3, (1, 1, 4, 4, 4))
    labels[..., 2:] = IGNORED
    TwoScaleLoss()((logits, None), (labels, None)).backward()
    assert logits.grad is not None
    assert not logits.grad[..., 2:].any()
    assert logits.grad[..., :2].any()
