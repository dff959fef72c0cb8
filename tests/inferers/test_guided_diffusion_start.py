"""Sampling from a noised image instead of pure noise (SDEdit)."""

from __future__ import annotations

import pytest
import torch
from denoisers import Spy
from monai.networks.schedulers import DDPMScheduler
from small_inferers import images, make_inferer

from midiff_monai.inferers.guided_diffusion import truncate_schedule
from midiff_monai.networks.schedulers import TrailingDDIMScheduler


@pytest.mark.parametrize(("noise_level", "first"), [(999, 999), (998, 799), (600, 599), (599, 599), (199, 199)])
def test_sampling_from_an_image_starts_at_its_noise_level(noise_level: int, first: int) -> None:
    clean, noise, source = images()
    scheduler, spy = TrailingDDIMScheduler(1000), Spy()
    scheduler.set_timesteps(5)
    inferer = make_inferer(scheduler)
    inferer.sample(noise, spy, source=source, start_image=clean, noise_level=noise_level, verbose=False)
    assert torch.cat(spy.timesteps).tolist() == list(range(first, 0, -200))
    start = scheduler.add_noise(clean, noise, torch.tensor([first]))
    torch.testing.assert_close(spy.images[0][:, :1], scheduler.alphas_cumprod[first].sqrt() * start)
    assert len(scheduler.timesteps) == 5


def test_sampling_from_an_image_needs_no_source() -> None:
    clean, noise, _ = images()
    inferer, spy = make_inferer(DDPMScheduler(10)), Spy()
    sample = inferer.sample(noise, spy, start_image=clean, noise_level=4, verbose=False)
    assert sample.shape == clean.shape
    assert torch.cat(spy.timesteps).tolist() == [4, 3, 2, 1, 0]


def test_image_and_noise_level_go_together() -> None:
    clean, noise, source = images()
    inferer = make_inferer()
    with pytest.raises(ValueError, match="together"):
        inferer.sample(noise, Spy(), source=source, start_image=clean)
    with pytest.raises(ValueError, match="together"):
        inferer.sample(noise, Spy(), source=source, noise_level=3)


def test_a_level_below_all_timesteps_raises() -> None:
    clean, noise, _ = images()
    scheduler = TrailingDDIMScheduler(1000)
    scheduler.set_timesteps(5)
    with pytest.raises(ValueError, match="noise_level=198"):
        make_inferer(scheduler).sample(noise, Spy(), start_image=clean, noise_level=198)


def test_truncate_schedule_does_not_modify_the_scheduler() -> None:
    scheduler = DDPMScheduler(10)
    assert truncate_schedule(scheduler, 3).timesteps.tolist() == [3, 2, 1, 0]
    assert len(scheduler.timesteps) == 10
