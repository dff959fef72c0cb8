"""DDPM, and DDIM with noise and with quadratic spacing, against MONAI, diffusers and a Gaussian distribution."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch
from denoisers import assert_steps_are_exact
from gaussian_data import MEAN, optimal_prediction
from monai.networks.schedulers import DDIMScheduler, DDPMScheduler

from midiff_monai.networks.schedulers import AncestralScheduler, SpacedDDIMScheduler, TrailingDDIMScheduler

DEVIATION = 0.2
every_prediction = pytest.mark.parametrize("prediction_type", ["v_prediction", "epsilon", "sample"])


def network(image: torch.Tensor, timestep: int) -> torch.Tensor:
    """A function of image and time that is so smooth that rounding errors stay small over a thousand steps."""
    return 0.1 * torch.sin(3 * image) + timestep / 1000


def walk(scheduler: Any, image: torch.Tensor, steps: int) -> torch.Tensor:
    """Sample with the arbitrary network; the noise has a seed."""
    torch.manual_seed(0)
    scheduler.set_timesteps(steps)
    for timestep in scheduler.timesteps.tolist():
        image = scheduler.step(network(image, timestep), timestep, image)[0]
    return image


def gaussian_samples(scheduler: DDIMScheduler | DDPMScheduler, steps: int, count: int = 4000) -> torch.Tensor:
    """Samples of the optimal denoiser of N(MEAN, DEVIATION²)."""
    torch.manual_seed(0)
    scheduler.set_timesteps(steps)
    image = torch.randn(1, count, dtype=torch.float64)
    for timestep in scheduler.timesteps.tolist():
        prediction = optimal_prediction(scheduler, image, timestep, DEVIATION)
        image, _ = scheduler.step(prediction, timestep, image)
    return image


NOISE = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))


@every_prediction
@pytest.mark.parametrize("steps", [1, 2, 10])
def test_without_noise_and_evenly_spaced_it_is_the_default_sampler(prediction_type: str, steps: int) -> None:
    ours, default = (kind(prediction_type=prediction_type) for kind in (SpacedDDIMScheduler, TrailingDDIMScheduler))
    assert torch.equal(walk(ours, NOISE, steps), walk(default, NOISE, steps))


@every_prediction
def test_each_step_adds_the_noise_of_ddim(prediction_type: str) -> None:
    """Diffusers computes σ_t(η) of equation 16 and draws the noise from the same generator."""
    reference: Any = diffusers.DDIMScheduler(
        beta_start=1e-4,
        beta_end=0.02,
        prediction_type=prediction_type,
        timestep_spacing="trailing",
        clip_sample=False,
    )
    torch.manual_seed(0)
    reference.set_timesteps(10)
    expected = NOISE
    for timestep in reference.timesteps:
        expected = reference.step(network(expected, int(timestep)), timestep, expected, eta=0.7).prev_sample
    ours = SpacedDDIMScheduler(eta=0.7, prediction_type=prediction_type, clip_sample=False)
    torch.testing.assert_close(walk(ours, NOISE, 10), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 100, 1000])
def test_quadratic_timesteps_have_evenly_spaced_roots(steps: int) -> None:
    scheduler = SpacedDDIMScheduler(spacing="quadratic")
    scheduler.set_timesteps(steps)
    timesteps = scheduler.timesteps
    assert timesteps[0] == 999 and timesteps.dtype == torch.long and (timesteps.diff() < 0).all()
    if steps <= 10:  # beyond, the smallest ones coincide after rounding
        roots = torch.cat([timesteps, torch.zeros(1)]).sqrt()
        torch.testing.assert_close(roots.diff(), torch.full((steps,), -(999**0.5) / steps), atol=0.1, rtol=0)


@pytest.mark.parametrize("steps", [1, 2, 5, 50])
def test_every_quadratic_step_ends_at_the_next_timestep(steps: int) -> None:
    scheduler = SpacedDDIMScheduler(spacing="quadratic", clip_sample=False)
    scheduler.set_timesteps(steps)
    assert_steps_are_exact(scheduler)


@every_prediction
@pytest.mark.parametrize("spacing, tolerance", [("uniform", 0.11), ("quadratic", 0.065)])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_samples_have_the_distribution_of_the_data(
    prediction_type: str, spacing: Any, tolerance: float, eta: float
) -> None:
    """DDIM is of first order: 200 steps leave some per cent of the error of the first one."""
    scheduler = SpacedDDIMScheduler(eta=eta, spacing=spacing, prediction_type=prediction_type, clip_sample=False)
    samples = gaussian_samples(scheduler, 200)
    assert float(samples.mean()) == pytest.approx(MEAN, abs=0.015)
    assert float(samples.std()) == pytest.approx(DEVIATION, rel=tolerance)


def test_quadratic_steps_are_closer_to_the_distribution_than_even_ones() -> None:
    errors = [
        abs(float(gaussian_samples(SpacedDDIMScheduler(spacing=spacing, clip_sample=False), 20).std()) - DEVIATION)
        for spacing in ("quadratic", "uniform")
    ]
    assert errors[0] < errors[1] / 2


@every_prediction
def test_ancestral_samples_equal_those_of_diffusers(prediction_type: str) -> None:
    settings: dict[str, Any] = {"prediction_type": prediction_type, "clip_sample": False}
    reference: Any = diffusers.DDPMScheduler(1000, 1e-4, 0.02, "linear", variance_type="fixed_large", **settings)
    expected, ours = walk_diffusers(reference), walk(AncestralScheduler(**settings), NOISE, 1000)
    torch.testing.assert_close(ours, expected, rtol=5e-3, atol=1e-3)  # 1 - β is rounded in another place


def walk_diffusers(scheduler: Any) -> torch.Tensor:
    torch.manual_seed(0)
    scheduler.set_timesteps(1000)
    image = NOISE
    for timestep in scheduler.timesteps.tolist():
        image = scheduler.step(network(image, timestep), timestep, image).prev_sample
    return image


def test_ancestral_samples_have_the_distribution_of_the_data() -> None:
    samples = gaussian_samples(AncestralScheduler(clip_sample=False), 1000)
    assert float(samples.mean()) == pytest.approx(MEAN, abs=0.015)
    assert float(samples.std()) == pytest.approx(DEVIATION, rel=0.04)


@pytest.mark.parametrize("steps", [1, 20, 999])
def test_ancestral_sampling_takes_every_step(steps: int) -> None:
    with pytest.raises(ValueError, match=f"all 1000 steps of the training, not {steps}"):
        AncestralScheduler().set_timesteps(steps)
