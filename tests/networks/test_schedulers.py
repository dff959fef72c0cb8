"""The few-step solvers on a Gaussian distribution, for which the optimal denoiser has a closed form."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch
from denoisers import assert_steps_are_exact
from gaussian_data import MEAN, optimal_prediction
from monai.inferers import DiffusionInferer
from monai.networks.schedulers import DDIMScheduler

from midiff_monai.guidance.conditional_mean import ConditionalMean
from midiff_monai.guidance.guide import LMIGuide
from midiff_monai.guidance.mutual_information import LocalMutualInformation
from midiff_monai.inferers.guided_diffusion import LMIGuidedInferer
from midiff_monai.inferers.translation import SlicewiseTranslation
from midiff_monai.networks.schedulers import DPMSolverScheduler, TrailingDDIMScheduler

DEVIATION = 0.5
every_prediction = pytest.mark.parametrize("prediction_type", ["v_prediction", "epsilon", "sample"])


def sampled(scheduler: DDIMScheduler, steps: int, deviation: float) -> tuple[float, float]:
    """Mean and standard deviation of the samples. Sampling is affine in the noise, so two points determine both."""
    scheduler.set_timesteps(steps)
    image = torch.tensor([0.0, 1.0], dtype=torch.float64)
    for timestep in scheduler.timesteps.tolist():
        image, _ = scheduler.step(optimal_prediction(scheduler, image, timestep, deviation), timestep, image)
    return float(image[0]), float(image[1] - image[0])


@pytest.mark.parametrize("steps", [1, 2, 5, 7, 10, 15, 20, 50, 300, 600, 1000])
def test_every_step_ends_at_the_next_timestep(steps: int) -> None:
    scheduler = TrailingDDIMScheduler(prediction_type="epsilon", clip_sample=False)
    scheduler.set_timesteps(steps)
    assert_steps_are_exact(scheduler)


@pytest.mark.parametrize("steps", [1, 2, 5, 10, 20, 50, 1000])
def test_a_divisor_of_the_training_steps_is_the_number_of_steps(steps: int) -> None:
    scheduler = TrailingDDIMScheduler()
    scheduler.set_timesteps(steps)
    assert len(scheduler.timesteps) == steps
    assert scheduler.timesteps.dtype == torch.long


def test_timesteps_equal_those_of_ddim_for_all_steps() -> None:
    scheduler, ddim = TrailingDDIMScheduler(), DDIMScheduler()
    scheduler.set_timesteps(1000)
    ddim.set_timesteps(1000)
    assert torch.equal(scheduler.timesteps, ddim.timesteps)


@every_prediction
@pytest.mark.parametrize("schedule", ["linear_beta", "scaled_linear_beta"])
@pytest.mark.parametrize("steps", [5, 10, 20, 50])
def test_few_steps_estimate_the_mean_better_than_ddim(prediction_type: str, schedule: str, steps: int) -> None:
    settings: dict[str, Any] = {"schedule": schedule, "clip_sample": False, "prediction_type": prediction_type}
    mean, _ = sampled(TrailingDDIMScheduler(**settings), steps, deviation=0.2)
    stock_mean, _ = sampled(DDIMScheduler(**settings), steps, deviation=0.2)
    assert mean == pytest.approx(MEAN, abs=0.002)
    assert abs(mean - MEAN) < abs(stock_mean - MEAN)


@every_prediction
@pytest.mark.parametrize("steps", [5, 10, 20])
@pytest.mark.parametrize("deviation", [0.01, 0.02])
def test_few_steps_leave_no_noise_unlike_ddim(prediction_type: str, steps: int, deviation: float) -> None:
    settings: dict[str, Any] = {"clip_sample": False, "prediction_type": prediction_type}
    assert 0 < sampled(TrailingDDIMScheduler(**settings), steps, deviation)[1] < deviation
    assert sampled(DDIMScheduler(**settings), steps, deviation)[1] > deviation


@every_prediction
def test_standard_deviation_approaches_the_truth_from_below(prediction_type: str) -> None:
    """The solver is of first order: ten times the steps leave a tenth of the error."""
    scheduler = TrailingDDIMScheduler(clip_sample=False, prediction_type=prediction_type)
    errors = [0.2 - sampled(scheduler, steps, deviation=0.2)[1] for steps in (10, 20, 50, 100, 1000)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] == pytest.approx(errors[-2] / 10, rel=0.1)
    assert 0 < errors[-1] < 0.01 * 0.2


def test_more_steps_than_in_training_raise() -> None:
    with pytest.raises(ValueError, match="1001"):
        TrailingDDIMScheduler().set_timesteps(1001)


def unclipped(**settings: Any) -> DPMSolverScheduler:
    return DPMSolverScheduler(clip_sample=False, **settings)


def walk(scheduler: DDIMScheduler, image: torch.Tensor) -> torch.Tensor:
    """Sample with the optimal denoiser."""
    for timestep in scheduler.timesteps.tolist():
        prediction = optimal_prediction(scheduler, image, timestep, DEVIATION)
        image, _ = scheduler.step(prediction, timestep, image)
    return image


@every_prediction
@pytest.mark.parametrize("schedule", ["linear_beta", "scaled_linear_beta", "cosine"])
@pytest.mark.parametrize("steps", [5, 10, 20])
def test_second_order_is_closer_to_the_distribution_than_ddim(prediction_type: str, schedule: str, steps: int) -> None:
    settings: dict[str, Any] = {"schedule": schedule, "prediction_type": prediction_type}
    mean, second_order = sampled(unclipped(**settings), steps, DEVIATION)
    _, first_order = sampled(TrailingDDIMScheduler(clip_sample=False, **settings), steps, DEVIATION)
    assert mean == pytest.approx(MEAN, abs=0.005)
    assert 0 < DEVIATION - second_order < {5: 0.97, 10: 0.75, 20: 0.35}[steps] * (DEVIATION - first_order)


@every_prediction
def test_twice_the_steps_leave_a_quarter_of_the_error(prediction_type: str) -> None:
    """The exact standard deviation before the last step is √(ᾱ DEVIATION² + 1 − ᾱ)."""
    errors = []
    for steps in (50, 100, 200):
        scheduler = unclipped(prediction_type=prediction_type, schedule="cosine")
        scheduler.set_timesteps(steps)
        scheduler.timesteps = scheduler.timesteps[: steps * 4 // 5]
        start, end = (scheduler.alphas_cumprod[timestep].double() for timestep in (999, 199))
        widths = [(alpha * DEVIATION**2 + 1 - alpha).sqrt() for alpha in (start, end)]
        low, high = walk(scheduler, torch.tensor([0.0, 1.0], dtype=torch.float64))
        errors.append(float(high - low - widths[1] / widths[0]))
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.2)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.2)


@every_prediction
@pytest.mark.parametrize("steps", [1, 2])
def test_one_or_two_steps_equal_ddim(prediction_type: str, steps: int) -> None:
    settings: dict[str, Any] = {"prediction_type": prediction_type}
    assert sampled(DPMSolverScheduler(**settings), steps, 0.2) == sampled(TrailingDDIMScheduler(**settings), steps, 0.2)


@every_prediction
@pytest.mark.parametrize("steps", [4, 5, 10, 20])
def test_samples_equal_those_of_diffusers(prediction_type: str, steps: int) -> None:
    reference: Any = diffusers.DPMSolverMultistepScheduler(
        beta_start=1e-4,
        beta_end=0.02,
        beta_schedule="linear",
        prediction_type=prediction_type,
        timestep_spacing="trailing",
        final_sigmas_type="zero",
    )
    scheduler = unclipped(prediction_type=prediction_type)
    reference.set_timesteps(steps)
    scheduler.set_timesteps(steps)
    assert scheduler.timesteps.tolist() == reference.timesteps.tolist()
    ours = theirs = torch.randn(4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for timestep in scheduler.timesteps:
        # the network is an arbitrary function of image and time
        ours, theirs = (
            step(torch.sin(3 * image) + timestep / 1000, timestep, image)[0]
            for step, image in ((scheduler.step, ours), (lambda *a: reference.step(*a, return_dict=False), theirs))
        )
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("steps", [3, 7, 10])
def test_the_inferer_of_monai_takes_the_same_steps(steps: int) -> None:
    scheduler = unclipped(prediction_type="v_prediction")
    scheduler.set_timesteps(steps)
    noise = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    expected = walk(scheduler, noise)

    def network(image: torch.Tensor, timesteps: torch.Tensor, context: None = None) -> torch.Tensor:
        return optimal_prediction(scheduler, image, int(timesteps[0]), DEVIATION).to(image)

    scheduler.set_timesteps(steps)
    sample = DiffusionInferer(scheduler).sample(noise, network, scheduler, verbose=False)  # type: ignore[arg-type]
    torch.testing.assert_close(sample, expected, rtol=1e-4, atol=1e-4, check_dtype=False)


def test_a_sample_does_not_depend_on_the_previous_one() -> None:
    """Both when sampling starts from pure noise and when it starts from a noised image."""
    guide = LMIGuide(LocalMutualInformation(reduction="none"), ConditionalMean())
    scheduler = unclipped(prediction_type="v_prediction")
    inferer, generator = LMIGuidedInferer(scheduler, guide), torch.Generator().manual_seed(0)
    source, noise = torch.rand(1, 1, 8, 8, generator=generator), torch.randn(1, 1, 8, 8, generator=generator)

    def network(image: torch.Tensor, timesteps: torch.Tensor, context: None = None) -> torch.Tensor:
        return torch.sin(image).mean(dim=1, keepdim=True)

    def sample(**start: Any) -> torch.Tensor:
        return inferer.sample(noise, network, source=source, verbose=False, **start)  # type: ignore[arg-type]

    start = {"start_image": 2 * source - 1, "noise_level": 600}
    scheduler.set_timesteps(10)
    first = sample(**start)
    whole = sample()
    assert torch.equal(sample(**start), first)
    assert torch.equal(sample(), whole)


def test_translated_volumes_do_not_depend_on_the_batch_size() -> None:
    guide = LMIGuide(LocalMutualInformation(reduction="none"), ConditionalMean())
    inferer = LMIGuidedInferer(DPMSolverScheduler(prediction_type="v_prediction"), guide)
    volume = torch.rand(1, 1, 16, 16, 5, generator=torch.Generator().manual_seed(0))

    def network(image: torch.Tensor, timesteps: torch.Tensor, context: None = None) -> torch.Tensor:
        return torch.sin(image).mean(dim=1, keepdim=True)

    translations = [SlicewiseTranslation(inferer, steps=4, batch_size=size)(volume, network) for size in (5, 2)]
    torch.testing.assert_close(*translations)
    assert translations[0].std() > 0
