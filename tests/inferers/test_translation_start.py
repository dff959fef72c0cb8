"""Translations that start from the volume, draw noise in every step, have no guide, or work on [0, 1]."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from denoisers import Spy
from monai.networks.schedulers import Scheduler

from midiff_monai.guidance.guide import LMIGuide
from midiff_monai.guidance.mutual_information import LocalMutualInformation
from midiff_monai.inferers.guided_diffusion import LMIGuidedInferer
from midiff_monai.inferers.translation import SlicewiseTranslation
from midiff_monai.networks.schedulers import AncestralScheduler, SpacedDDIMScheduler, TrailingDDIMScheduler


def volume() -> torch.Tensor:
    """A volume (1, 1, 8, 9, 6) in [0, 1], positive except for a margin of one empty voxel."""
    result = torch.zeros(1, 1, 8, 9, 6)
    inside = result[..., 1:-1, 1:-1, 1:-1]
    inside.copy_(0.05 + 0.9 * torch.rand(inside.shape, generator=torch.Generator().manual_seed(1)))
    return result


def translation(scheduler: Scheduler, guided: bool = True, steps: int = 5, **settings: Any) -> SlicewiseTranslation:
    guide = LMIGuide(LocalMutualInformation(), image_range=settings.get("image_range", (-1, 1))) if guided else None
    inferer = LMIGuidedInferer(scheduler, guide, scale_input=False)
    return SlicewiseTranslation(inferer, steps, multiple=4, **settings)


def still(x: torch.Tensor, **_: Any) -> torch.Tensor:
    """Predicts no noise: DDIM then scales its start, and the clean image is x_t / √ᾱ."""
    return torch.zeros_like(x[:, :1])


@pytest.mark.parametrize("image_range", [(-1.0, 1.0), (0.0, 1.0)])
@pytest.mark.parametrize("guided", [True, False])
@pytest.mark.parametrize("start", ["source", "inverted"])
def test_sampling_starts_from_the_noised_volume(start: Any, guided: bool, image_range: tuple[float, float]) -> None:
    """At the lowest timestep the noise is negligible, so the start is the result."""
    scheduler, source = TrailingDDIMScheduler(clip_sample=False), volume()
    inferer = translation(scheduler, guided, 1000, start=start, noise_level=1, image_range=image_range)
    assert inferer.set_timesteps() == 2
    expected = source if start == "source" else torch.where(source > 0, 1 - source, 0)
    torch.testing.assert_close(inferer(source, still), expected, atol=0.06, rtol=0)


@pytest.mark.parametrize("level, count", [(999, 5), (998, 4), (500, 2), (199, 1)])
def test_steps_above_the_noise_level_are_skipped(level: int, count: int) -> None:
    inferer, spy = translation(TrailingDDIMScheduler(), start="source", noise_level=level), Spy()
    inferer(volume(), spy)
    assert inferer.set_timesteps() == len(spy.timesteps) == count


def test_a_level_below_all_steps_is_refused() -> None:
    with pytest.raises(ValueError, match="noise_level=198"):
        translation(TrailingDDIMScheduler(), start="source", noise_level=198).set_timesteps()


def test_an_unguided_network_sees_the_noisy_image_alone_and_does_not_start_from_noise() -> None:
    spy = Spy()
    translation(TrailingDDIMScheduler(), guided=False, start="source")(volume(), spy)
    assert {image.shape[1] for image in spy.images} == {1}
    with pytest.raises(ValueError, match="unguided"):
        translation(TrailingDDIMScheduler(), guided=False)(volume(), spy)


def test_an_image_range_of_0_to_1_has_the_result_as_it_is() -> None:
    scheduler = TrailingDDIMScheduler(prediction_type="sample", clip_sample=False)
    inferer = translation(scheduler, image_range=(0.0, 1.0))
    result = inferer(volume(), lambda x, **_: torch.full_like(x[:, :1], 0.4))
    torch.testing.assert_close(result, 0.4 * (volume() > 0))


def test_the_guide_compares_the_noisy_image_on_the_scale_of_its_range() -> None:
    lmi, noisy, source = LocalMutualInformation(), torch.rand(1, 1, 8, 8), torch.rand(1, 1, 8, 8)
    guide = LMIGuide(lmi, include_source=False, standardize=None, image_range=(0.0, 1.0))
    found = guide(guide.prepare(source), noisy)
    torch.testing.assert_close(found, torch.cat([lmi(source, source), lmi(source, noisy)], dim=1))


def stochastic() -> list[Scheduler]:
    return [SpacedDDIMScheduler(eta=1.0), AncestralScheduler(num_train_timesteps=5)]


@pytest.mark.parametrize("number", [0, 1])
def test_the_noise_of_the_steps_depends_on_the_seed_alone(number: int) -> None:
    def translated(seed: int, batch_size: int) -> torch.Tensor:
        torch.manual_seed(batch_size)  # must not matter
        return translation(stochastic()[number], seed=seed, batch_size=batch_size)(volume(), Spy())

    first = translated(0, 2)
    torch.testing.assert_close(translated(0, 3), first, rtol=0, atol=1e-6)
    assert not torch.allclose(translated(1, 2), first, atol=0.01)


@pytest.mark.parametrize("number", [0, 1])
def test_sampling_with_noise_leaves_the_global_generator_alone(number: int) -> None:
    state = torch.get_rng_state()
    translation(stochastic()[number])(volume(), Spy())
    assert torch.equal(torch.get_rng_state(), state)
