"""The state of a guided denoiser; the inferer's tests cover its input."""

from __future__ import annotations

import pytest
import torch
from denoisers import Spy
from small_inferers import images, make_guide

from midiff_monai.guidance.guided_denoiser import GuidedDenoiser

ALPHAS_CUMPROD = torch.linspace(0.99, 0.01, 10)
TIMESTEPS = torch.tensor([2, 7])


def make_denoiser(prediction_type: str = "sample", network: Spy | None = None) -> GuidedDenoiser:
    return GuidedDenoiser(network or Spy(), make_guide(), images()[2], ALPHAS_CUMPROD, prediction_type)


@pytest.mark.parametrize("prediction_type", ["sample", "epsilon", "v_prediction"])
def test_the_clean_image_is_recovered_from_a_perfect_prediction(prediction_type: str) -> None:
    clean, noise, _ = images()
    alpha = ALPHAS_CUMPROD[TIMESTEPS].reshape(-1, 1, 1, 1)
    noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
    velocity = alpha.sqrt() * noise - (1 - alpha).sqrt() * clean
    prediction = {"sample": clean, "epsilon": noise, "v_prediction": velocity}[prediction_type]
    found = make_denoiser(prediction_type).clean_image(prediction, noisy, TIMESTEPS)
    torch.testing.assert_close(found, clean, rtol=0, atol=1e-5)


def test_forward_keeps_the_estimate_and_predict_does_not() -> None:
    denoiser, noise = make_denoiser(), images()[1]
    prediction = denoiser.predict(noise, TIMESTEPS)
    before = denoiser.estimate
    assert torch.equal(denoiser(noise, TIMESTEPS), prediction)
    after = denoiser.estimate
    assert before is None and after is not None
    assert torch.equal(after, prediction.clamp(-1, 1))


def test_the_estimate_enters_the_next_guide_through_its_conditional_means() -> None:
    network, noise = Spy(), images()[1]
    denoiser = make_denoiser(network=network)
    denoiser(noise, TIMESTEPS)
    estimate = denoiser.estimate
    denoiser(noise, TIMESTEPS)
    first, second = network.images
    assert torch.equal(first[:, :-2], second[:, :-2]) and not first[:, -2:].any()
    assert torch.equal(second, torch.cat([first[:, :1], expected_guide(denoiser, noise, estimate)], dim=1))


def expected_guide(denoiser: GuidedDenoiser, noise: torch.Tensor, estimate: torch.Tensor | None) -> torch.Tensor:
    return denoiser.guide(denoiser.source, noise, ALPHAS_CUMPROD[TIMESTEPS].sqrt().reshape(-1, 1, 1, 1), estimate)
