"""One test for each fault of the published code."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from synthetic_images import random_image
from torch.nn import functional as F

from midiff_monai.guidance.mutual_information import LocalMutualInformation

Estimator = Literal["parzen", "renyi"]
both_estimators = pytest.mark.parametrize("estimator", ["parzen", "renyi"])


@both_estimators
def test_every_candidate_is_a_patch_of_the_image(estimator: Estimator) -> None:
    """In the published code, shifted patches were cut from a mosaic of patches."""
    source, target = random_image(1, 1, 9, 8, seed=1), random_image(1, 1, 9, 8, seed=2)
    lmi = LocalMutualInformation(estimator=estimator, reduction="none")
    one_patch = LocalMutualInformation(search_size=1, estimator=estimator)
    inside = (slice(None), slice(None), slice(2, -2), slice(2, -2))
    for channel, (rows, columns) in zip(lmi(source, target).split(1, dim=1), lmi.shifts, strict=True):
        moved = target.roll((-rows, -columns), dims=(2, 3))
        torch.testing.assert_close(channel[inside], one_patch(source, moved)[inside])


@both_estimators
def test_noise_outside_the_bins_scores_zero(estimator: Estimator) -> None:
    """In the published code, a patch that lay outside the bins scored the maximum."""
    lmi = LocalMutualInformation(estimator=estimator)
    source = random_image(1, 1, 12, 11, seed=1)
    far_out = 50 + torch.randn(source.shape, dtype=source.dtype, generator=torch.Generator().manual_seed(0))
    assert lmi(source, far_out).max() < 1e-5
    assert lmi(source, -far_out).max() < 1e-5
    aligned = source.clone()
    aligned[..., :6] = far_out[..., :6]  # one half is out of range; the other half must not change
    values, expected = lmi(source, aligned), lmi(source, source)
    torch.testing.assert_close(values[..., 8:], expected[..., 8:])
    assert values[..., :4].max() < 1e-5


@both_estimators
def test_gradient_reaches_the_target(estimator: Estimator) -> None:
    """In the published code, intensities were cast to integers, which loses the gradient."""
    source = random_image(1, 1, 8, 9, seed=1)
    target = (0.1 + 0.8 * random_image(1, 1, 8, 9, seed=2)).requires_grad_()
    lmi = LocalMutualInformation(estimator=estimator)
    before = lmi(source, target).mean()
    (gradient,) = torch.autograd.grad(before, target)
    assert (gradient != 0).all()
    assert lmi(source, target + 1e-3 * gradient / gradient.norm()).mean() > before


@pytest.mark.parametrize("patch_size", [3, 5])
def test_marginals_are_those_of_the_joint(patch_size: int) -> None:
    """In the published code, the joint histogram and the marginals were normalised differently.

    A joint distribution and its own marginals fulfil max(H_S, H_X) ≤ H_SX ≤ H_S + H_X. The first inequality is an
    equality if one image is a function of the other, the second if they are independent. Every image is independent
    of a flat patch.
    """
    lmi = LocalMutualInformation(patch_size, search_size=1, estimator="parzen")
    flat = torch.full((1, 1, 6, 7), 0.4, dtype=torch.float64)
    first, second, even = (lmi.prepare(image) for image in (random_image(1, 1, 6, 7), random_image(1, 1, 6, 7), flat))
    joint = lmi.estimator.joint_entropy(first.features, second.features)
    assert (joint >= torch.maximum(first.entropy, second.entropy)).all()
    assert (joint <= first.entropy + second.entropy).all()
    independent = lmi.estimator.joint_entropy(first.features, even.features)
    torch.testing.assert_close(independent, first.entropy + even.entropy, rtol=0, atol=1e-6)


@both_estimators
@pytest.mark.parametrize("patch_size", [3, 5, 7])
def test_borders_repeat_the_edge(estimator: Estimator, patch_size: int) -> None:
    """In the published code, zeros surrounded the image, and patches other than 3 and 5 crashed."""
    margin = patch_size // 2 + 1
    lmi = LocalMutualInformation(patch_size, estimator=estimator)
    source, target = random_image(1, 1, 4, 6, seed=1), random_image(1, 1, 4, 6, seed=2)
    extended = [F.pad(image, (margin,) * 4, mode="replicate") for image in (source, target)]
    inside = lmi(*extended)[..., margin:-margin, margin:-margin]
    torch.testing.assert_close(lmi(source, target), inside)
