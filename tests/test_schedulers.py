"""The few-step solver against a distribution whose best denoiser is known in closed form."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from monai.networks.schedulers import DDIMScheduler

from midiff_monai.schedulers import TrailingDDIMScheduler

MEAN = 0.3
both_predictions = pytest.mark.parametrize("prediction_type", ["v_prediction", "epsilon"])


def best_prediction(scheduler: DDIMScheduler, noisy: torch.Tensor, timestep: int, deviation: float) -> torch.Tensor:
    """What the best network predicts of data that follow N(MEAN, deviation²): the posterior mean, as v or as noise."""
    alpha = scheduler.alphas_cumprod[timestep].double()
    signal, noise = alpha.sqrt(), (1 - alpha).sqrt()
    gain = signal * deviation**2 / (alpha * deviation**2 + 1 - alpha)
    clean = MEAN + gain * (noisy - signal * MEAN)
    if scheduler.prediction_type == "v_prediction":
        return (signal * noisy - clean) / noise
    return (noisy - signal * clean) / noise


def sampled(scheduler: DDIMScheduler, steps: int, deviation: float) -> tuple[float, float]:
    """Mean and standard deviation of the samples: sampling is affine in the noise, hence known from two points."""
    scheduler.set_timesteps(steps)
    image = torch.tensor([0.0, 1.0], dtype=torch.float64)
    for timestep in scheduler.timesteps.tolist():
        image, _ = scheduler.step(best_prediction(scheduler, image, timestep, deviation), timestep, image)
    return float(image[0]), float(image[1] - image[0])


@pytest.mark.parametrize("steps", [1, 2, 5, 7, 10, 15, 20, 50, 300, 600, 1000])
def test_every_step_ends_where_the_next_begins(steps: int) -> None:
    """Seen from outside: a denoiser that is right about image and noise walks along the noised images."""
    scheduler = TrailingDDIMScheduler(prediction_type="epsilon", clip_sample=False)
    scheduler.set_timesteps(steps)
    timesteps = scheduler.timesteps.tolist()
    assert timesteps[0] == 999
    clean, noise = torch.tensor([0.7], dtype=torch.float64), torch.tensor([-1.3], dtype=torch.float64)
    image = scheduler.add_noise(clean, noise, torch.tensor(timesteps[:1]))
    for timestep, following in zip(timesteps, timesteps[1:] + [None], strict=True):
        image, _ = scheduler.step(noise, timestep, image)
        expected = clean if following is None else scheduler.add_noise(clean, noise, torch.tensor([following]))
        torch.testing.assert_close(image, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("steps", [1, 2, 5, 10, 20, 50, 1000])
def test_a_divisor_of_the_training_steps_is_the_number_of_steps(steps: int) -> None:
    scheduler = TrailingDDIMScheduler()
    scheduler.set_timesteps(steps)
    assert len(scheduler.timesteps) == steps
    assert scheduler.timesteps.dtype == torch.long


def test_all_steps_are_those_of_ddim() -> None:
    scheduler, ddim = TrailingDDIMScheduler(), DDIMScheduler()
    scheduler.set_timesteps(1000)
    ddim.set_timesteps(1000)
    assert torch.equal(scheduler.timesteps, ddim.timesteps)


@both_predictions
@pytest.mark.parametrize("schedule", ["linear_beta", "scaled_linear_beta"])
@pytest.mark.parametrize("steps", [5, 10, 20, 50])
def test_few_steps_find_the_mean_better_than_ddim(prediction_type: str, schedule: str, steps: int) -> None:
    settings: dict[str, Any] = {"schedule": schedule, "clip_sample": False, "prediction_type": prediction_type}
    mean, _ = sampled(TrailingDDIMScheduler(**settings), steps, deviation=0.2)
    stock_mean, _ = sampled(DDIMScheduler(**settings), steps, deviation=0.2)
    assert mean == pytest.approx(MEAN, abs=0.002)
    assert abs(mean - MEAN) < abs(stock_mean - MEAN)


@both_predictions
@pytest.mark.parametrize("steps", [5, 10, 20])
@pytest.mark.parametrize("deviation", [0.01, 0.02])
def test_few_steps_leave_no_noise_and_ddim_does(prediction_type: str, steps: int, deviation: float) -> None:
    settings: dict[str, Any] = {"clip_sample": False, "prediction_type": prediction_type}
    assert 0 < sampled(TrailingDDIMScheduler(**settings), steps, deviation)[1] < deviation
    assert sampled(DDIMScheduler(**settings), steps, deviation)[1] > deviation


@both_predictions
def test_spread_approaches_the_truth_from_below(prediction_type: str) -> None:
    """A solver of first order: few steps narrow the distribution, ten times the steps leave a tenth of the error."""
    scheduler = TrailingDDIMScheduler(clip_sample=False, prediction_type=prediction_type)
    errors = [0.2 - sampled(scheduler, steps, deviation=0.2)[1] for steps in (10, 20, 50, 100, 1000)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] == pytest.approx(errors[-2] / 10, rel=0.1)
    assert 0 < errors[-1] < 0.01 * 0.2


def test_more_steps_than_in_training_are_refused() -> None:
    with pytest.raises(ValueError, match="1001"):
        TrailingDDIMScheduler().set_timesteps(1001)
