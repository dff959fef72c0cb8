"""The detail branch against explicit computations."""

from __future__ import annotations

import torch
from torch import nn

from midiff_monai.networks.detail import MIN_PROBABILITY, CoarseToFineSegmenter, DetailBranch


def trained_branch() -> DetailBranch:
    """A branch whose head is not 0, as after training."""
    torch.manual_seed(0)
    branch = DetailBranch(classes=3, squeezed=4, features=8)
    nn.init.normal_(branch.head.weight)
    return branch


def random_inputs(size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(1, 1, size, size, size, generator=generator)
    probabilities = torch.randn(1, 3, size, size, size, generator=generator).softmax(dim=1)
    means = torch.tensor([0.8, 0.5, 0.1]).reshape(1, 3, 1, 1, 1).expand(1, 3, size, size, size)
    return image, probabilities, means


def test_an_untrained_branch_returns_the_logarithm_of_the_probabilities() -> None:
    image, probabilities, means = random_inputs(6)
    logits = DetailBranch(classes=3)(image, probabilities, means)
    torch.testing.assert_close(logits, probabilities.clamp(min=MIN_PROBABILITY).log())


def test_the_halo_is_the_distance_that_a_voxel_influences() -> None:
    branch = trained_branch().double()
    image, probabilities, means = (volume.double() for volume in random_inputs(21))
    changed = image.clone()
    changed[0, 0, 10, 10, 10] += 1
    difference = (branch(image, probabilities, means) - branch(changed, probabilities, means)).abs().amax(dim=(0, 1))
    reached = (difference > 0).nonzero() - 10
    assert reached.abs().max() == branch.halo == 7


def test_the_forward_pass_of_both_is_that_of_the_body() -> None:
    body = nn.Conv3d(1, 2, 1)
    segmenter = CoarseToFineSegmenter(body, trained_branch())
    volume = torch.rand(1, 1, 4, 4, 4)
    assert torch.equal(segmenter(volume), body(volume))
    assert {name.partition(".")[0] for name in segmenter.state_dict()} == {"body", "detail"}
