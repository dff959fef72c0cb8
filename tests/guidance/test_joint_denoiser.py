"""A denoiser that several sources guide, compared with the denoisers of each."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from denoisers import Spy
from small_inferers import images, make_guide

from midiff_monai.guidance.conditional_mean import ConditionalMean
from midiff_monai.guidance.guide import LMIGuide
from midiff_monai.guidance.guided_denoiser import GuidedDenoiser
from midiff_monai.guidance.joint_denoiser import NOISE_VARIANCE, JointDenoiser, weighted_mean
from midiff_monai.guidance.mutual_information import LocalMutualInformation

ALPHAS_CUMPROD = torch.linspace(0.99, 0.01, 10)
TIMESTEPS = torch.tensor([2, 7])


def single(source: torch.Tensor, guide: LMIGuide | None = None) -> GuidedDenoiser:
    return GuidedDenoiser(Spy(), guide or make_guide(), source, ALPHAS_CUMPROD, "sample")


def joint(*sources: torch.Tensor, guide: LMIGuide | None = None) -> JointDenoiser:
    return JointDenoiser([single(source, guide) for source in sources], sources)


def sources() -> tuple[torch.Tensor, torch.Tensor]:
    source = images()[2]
    return source, source.flip(-1)


def test_without_conditional_means_a_prediction_is_the_mean_of_those_for_each_source() -> None:
    noise, guide = images()[1], LMIGuide(LocalMutualInformation())
    expected = torch.stack([single(source, guide).predict(noise, TIMESTEPS) for source in sources()]).mean(dim=0)
    torch.testing.assert_close(joint(*sources(), guide=guide)(noise, TIMESTEPS), expected)


def test_a_prediction_lies_between_those_for_each_source() -> None:
    noise = images()[1]
    each = torch.stack([single(source).predict(noise, TIMESTEPS) for source in sources()])
    found = joint(*sources())(noise, TIMESTEPS)
    assert (found >= each.amin(dim=0) - 1e-5).all() and (found <= each.amax(dim=0) + 1e-5).all()


def test_all_guides_get_the_common_estimate() -> None:
    noise, denoiser = images()[1], joint(*sources())
    prediction = denoiser(noise, TIMESTEPS)
    for each in denoiser.denoisers:
        assert each.estimate is not None
        torch.testing.assert_close(each.estimate, prediction.clamp(-1, 1))


def test_a_source_that_determines_the_image_has_the_larger_precision() -> None:
    generator = torch.Generator().manual_seed(0)
    told, other = (0.1 + 0.8 * torch.rand(1, 1, 32, 32, generator=generator) for _ in range(2))
    denoiser = JointDenoiser([single(told), single(other)], [told, other])
    first, second = denoiser.precisions(1 - 2 * told)[0]
    assert (first > 2 * second).all()
    assert first.max() <= 1 / NOISE_VARIANCE * (1 + 1e-5)


def test_a_source_given_twice_counts_as_one() -> None:
    noise, (source, _) = images()[1], sources()
    twice, once = joint(source, source), single(source)
    for _ in range(2):
        torch.testing.assert_close(twice(noise, TIMESTEPS), once(noise, TIMESTEPS))


def test_the_order_of_three_sources_does_not_matter() -> None:
    noise = images()[1]
    found = [joint(*order)(noise, TIMESTEPS) for order in permutations([*sources(), sources()[0] ** 2])]
    for other in found[1:]:
        torch.testing.assert_close(other, found[0])


def test_only_the_source_counts_that_is_known() -> None:
    values = torch.tensor([1.0, 3.0, 8.0]).reshape(1, 3, 1, 1).expand(1, 3, 1, 4)
    known = torch.tensor([[1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 0, 0]], dtype=torch.bool).reshape(1, 3, 1, 4)
    assert weighted_mean(values, known).flatten().tolist() == [4.0, 1.0, 3.0, 4.0]


@pytest.mark.parametrize("count, bins", [(2, 64), (3, 64), (4, 81)])
def test_a_joint_conditional_mean_knows_a_function_of_several_sources(count: int, bins: int) -> None:
    """The product of sources is no function of one of them."""
    values = 0.1 + 0.9 * torch.rand(2, count, 48, 48, generator=torch.Generator().manual_seed(0))
    image, means = values.prod(dim=1, keepdim=True), ConditionalMean()
    weights = means.prepare_joint(values)
    assert weights.shape[1] == bins
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(2, 48, 48))
    explained = [
        1 - (image - means(each, image, same_volume=True)[:, :1]).var() / image.var()
        for each in (weights, means.prepare(values[:, :1], same_volume=True))
    ]
    assert explained[0] > 0.75 > 0.6 > explained[1]
