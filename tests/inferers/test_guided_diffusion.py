"""The guided inferer against MONAI's inferer, a recomputed guide, and denoisers of known output."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from denoisers import Oracle, Spy
from monai.inferers import DiffusionInferer
from monai.networks.schedulers import DDIMScheduler, DDPMScheduler, Scheduler
from small_inferers import guide_of, images, make_guide, make_inferer, make_unet

from midiff_monai.inferers.guided_diffusion import LMIGuidedInferer
from midiff_monai.networks.schedulers import TrailingDDIMScheduler


def network_input(
    inferer: LMIGuidedInferer,
    noisy: torch.Tensor,
    timesteps: torch.Tensor,
    source: torch.Tensor,
    estimate: torch.Tensor | None = None,
) -> torch.Tensor:
    """The expected input of the network: the noisy image and its LMI map are scaled by √ᾱ."""
    alphas = torch.stack([inferer.scheduler.alphas_cumprod[int(timestep)] for timestep in timesteps])
    sqrt_alpha_bar = alphas.sqrt().reshape(-1, 1, 1, 1)
    guide = guide_of(inferer)(guide_of(inferer).prepare(source), noisy, estimate=estimate)
    return torch.cat([sqrt_alpha_bar * noisy, guide[:, :-3], sqrt_alpha_bar * guide[:, -3:-2], guide[:, -2:]], dim=1)


# --- the contract of MONAI's inferer, with and without a source ---


def test_training_call_has_the_shape_of_the_images() -> None:
    clean, noise, source = images()
    inferer = make_inferer()
    timesteps = torch.tensor([3, 8])
    assert inferer(clean, make_unet(1), noise, timesteps).shape == clean.shape
    guided = make_unet(1 + guide_of(inferer).channels(context=1))
    assert inferer(clean, guided, noise, timesteps, source=source).shape == clean.shape


@pytest.mark.parametrize("scheduler", [DDPMScheduler(10), DDIMScheduler(1000), TrailingDDIMScheduler(1000)])
def test_sampling_has_the_shape_of_the_noise_and_keeps_intermediates(scheduler: DDPMScheduler | DDIMScheduler) -> None:
    _, noise, source = images()
    inferer = make_inferer(scheduler)
    scheduler.set_timesteps(10)
    unet = make_unet(1 + guide_of(inferer).channels(context=1))
    settings: dict[str, Any] = {"source": source, "verbose": False}
    torch.manual_seed(0)
    sample, intermediates = inferer.sample(
        noise, unet, scheduler, save_intermediates=True, intermediate_steps=1, **settings
    )
    assert sample.shape == noise.shape and sample.isfinite().all()
    assert len(intermediates) == 10
    assert torch.equal(intermediates[-1], sample)
    torch.manual_seed(0)
    assert torch.equal(inferer.sample(noise, unet, **settings), sample)


@pytest.mark.parametrize("mode", ["crossattn", "concat"])
@pytest.mark.parametrize("scheduler", [DDPMScheduler(10), DDIMScheduler(10)])
def test_without_a_source_results_equal_those_of_monai(mode: str, scheduler: Scheduler) -> None:
    clean, noise, condition = images()
    unet = make_unet(4) if mode == "concat" else make_unet(1, with_conditioning=True, cross_attention_dim=3)
    condition = condition if mode == "concat" else condition.flatten(2).mT  # (B, tokens, features)
    ours, monais = LMIGuidedInferer(scheduler, make_guide()), DiffusionInferer(scheduler)
    timesteps = torch.tensor([2, 9])
    expected = monais(clean, unet, noise, timesteps, condition=condition, mode=mode)
    assert torch.equal(ours(clean, unet, noise, timesteps, condition=condition, mode=mode), expected)
    assert torch.equal(ours(clean, unet, noise, timesteps, condition, mode), expected)
    samples: list[Any] = []
    for inferer in (ours, monais):
        torch.manual_seed(0)
        samples.append(inferer.sample(noise, unet, conditioning=condition, mode=mode, verbose=False))
    assert torch.equal(samples[0], samples[1])


def test_likelihood_equals_that_of_monai() -> None:
    scheduler, unet = DDPMScheduler(4), make_unet(1)
    likelihoods: list[Any] = []
    for inferer in (LMIGuidedInferer(scheduler, make_guide()), DiffusionInferer(scheduler)):
        torch.manual_seed(0)
        likelihoods.append(inferer.get_likelihood(images()[0], unet, verbose=False))
    assert torch.equal(likelihoods[0], likelihoods[1])


@pytest.mark.parametrize("guided", [True, False])
def test_unknown_modes_and_missing_conditions_raise(guided: bool) -> None:
    clean, noise, source = images()
    inferer, timesteps = make_inferer(), torch.tensor([1, 2])
    given: dict[str, Any] = {"source": source} if guided else {}
    with pytest.raises(NotImplementedError, match="sum"):
        inferer(clean, Spy(), noise, timesteps, mode="sum", **given)
    with pytest.raises(NotImplementedError, match="sum"):
        inferer.sample(noise, Spy(), mode="sum", **given)
    with pytest.raises(ValueError, match="[Cc]ondition"):
        inferer(clean, Spy(), noise, timesteps, mode="concat", **given)
    with pytest.raises(ValueError, match="[Cc]ondition"):
        inferer.sample(noise, Spy(), mode="concat", **given)


def test_cross_attention_works_with_a_source() -> None:
    clean, noise, source = images()
    inferer, timesteps = make_inferer(), torch.tensor([1, 2])
    unet = make_unet(1 + guide_of(inferer).channels(1), with_conditioning=True, cross_attention_dim=3)
    first, second = (
        inferer(clean, unet, noise, timesteps, condition=condition, source=source)
        for condition in (torch.zeros(2, 4, 3), torch.ones(2, 4, 3))
    )
    assert first.shape == clean.shape
    assert not torch.equal(first, second)


def test_gradient_reaches_the_network() -> None:
    clean, noise, source = images()
    inferer = make_inferer()
    unet = make_unet(1 + guide_of(inferer).channels(1))
    inferer(clean, unet, noise, torch.tensor([1, 2]), source=source).square().mean().backward()
    gradient = dict(unet.named_parameters())["conv_in.conv.weight"].grad
    assert gradient is not None
    # all channels contribute except the conditional means, which are 0 without an estimate
    assert (gradient != 0).any(dim=3).any(dim=2).any(dim=0).tolist() == [True] * (unet.in_channels - 2) + [False] * 2


# --- the input of the network ---


@pytest.mark.parametrize("reduction", ["max", "none"])
@pytest.mark.parametrize("standardize", [None, 7])
def test_network_receives_the_noisy_image_and_its_guide_in_training(
    reduction: Literal["max", "none"], standardize: int | None
) -> None:
    clean, noise, source = images()
    inferer, spy, timesteps = make_inferer(reduction=reduction, standardize=standardize), Spy(), torch.tensor([3, 9])
    inferer(clean, spy, noise, timesteps, source=source)
    noisy = inferer.scheduler.add_noise(clean, noise, timesteps)
    torch.testing.assert_close(spy.images[0], network_input(inferer, noisy, timesteps, source))
    assert torch.equal(spy.timesteps[0], timesteps)


@pytest.mark.parametrize("scheduler", [DDPMScheduler(5), DDIMScheduler(1000), TrailingDDIMScheduler(1000)])
def test_network_receives_each_noisy_image_and_its_guide_in_sampling(scheduler: DDPMScheduler | DDIMScheduler) -> None:
    _, noise, source = images()
    inferer, spy = make_inferer(scheduler), Spy()
    scheduler.set_timesteps(5)
    sample, intermediates = inferer.sample(
        noise, spy, source=source, save_intermediates=True, intermediate_steps=1, verbose=False
    )
    seen, estimate = [noise, *intermediates[:-1]], None
    assert len(spy.images) == 5
    for given, image, timestep in zip(spy.images, seen, scheduler.timesteps, strict=True):
        torch.testing.assert_close(given, network_input(inferer, image, timestep.expand(2), source, estimate))
        alpha, predicted_noise = scheduler.alphas_cumprod[timestep], Spy()(given, timestep)
        estimate = ((image - (1 - alpha).sqrt() * predicted_noise) / alpha.sqrt()).clamp(-1, 1)


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
def test_second_training_pass_receives_the_estimate_of_the_first(kind: str) -> None:
    """The denoiser predicts perfectly; its second pass receives the conditional means of the clean image."""
    clean, noise, source = images()
    scheduler, timesteps, seen = DDIMScheduler(1000, prediction_type=kind), torch.tensor([300, 700]), []
    answer = {"epsilon": noise, "sample": clean, "v_prediction": scheduler.get_velocity(clean, noise, timesteps)}[kind]

    def network(x: torch.Tensor, timesteps: torch.Tensor, context: torch.Tensor | None = None) -> torch.Tensor:
        seen.append((x, torch.is_grad_enabled()))
        return answer

    inferer = make_inferer(scheduler)
    prediction = inferer(clean, network, noise, timesteps, source=source, self_conditioning_passes=2)  # type: ignore[arg-type]
    assert torch.equal(prediction, answer)
    assert [gradient for _, gradient in seen] == [False, True]
    noisy = scheduler.add_noise(clean, noise, timesteps)
    for (given, _), estimate in zip(seen, (None, clean), strict=True):
        expected = network_input(inferer, noisy, timesteps, source, estimate)
        torch.testing.assert_close(given, expected, rtol=0, atol=1e-4)


def test_guide_is_the_same_in_training_and_sampling() -> None:
    """In the published code, training used x_(t+1) and sampling x_t, and only one of them was normalised."""
    clean, noise, source = images()
    scheduler, spy = TrailingDDIMScheduler(prediction_type="v_prediction", clip_sample=False), Spy()
    inferer = make_inferer(scheduler)
    scheduler.set_timesteps(5)
    oracle = Oracle(scheduler, lambda x: clean)

    def network(x: torch.Tensor, timesteps: torch.Tensor, context: torch.Tensor | None = None) -> torch.Tensor:
        spy(x, timesteps)
        return oracle(x, timesteps)

    start = scheduler.add_noise(clean, noise, scheduler.timesteps[:1])
    inferer.sample(start, network, source=source, verbose=False)  # type: ignore[arg-type]
    sampling = list(spy.images)
    for timestep in scheduler.timesteps:
        inferer(clean, spy, noise, timestep.expand(2), source=source)
    # steep kernels amplify rounding errors of x_t; the conditional means are excluded, because training has one pass
    for training, step in zip(spy.images[5:], sampling, strict=True):
        torch.testing.assert_close(training[:, :-2], step[:, :-2], rtol=0, atol=1e-4)


def test_only_the_cross_map_changes_between_steps() -> None:
    _, noise, source = images()
    inferer, spy = make_inferer(), Spy()
    inferer.sample(noise, spy, source=source, verbose=False)
    first, last = spy.images[0], spy.images[-1]
    assert torch.equal(first[:, 1:-3], last[:, 1:-3])
    assert not torch.equal(first[:, -3], last[:, -3])


def test_a_given_scheduler_replaces_that_of_the_inferer_completely() -> None:
    _, noise, source = images()
    results = []
    other = TrailingDDIMScheduler(prediction_type="v_prediction", schedule="cosine")
    for own in (other, TrailingDDIMScheduler(prediction_type="sample")):
        inferer = make_inferer(own)
        unet = make_unet(1 + guide_of(inferer).channels(1))
        other.set_timesteps(4)
        results.append(inferer.sample(noise, unet, other, source=source, verbose=False))
    torch.testing.assert_close(*results, rtol=0, atol=0)


def test_unscaled_input_is_the_noisy_image_and_its_cross_map_as_they_are() -> None:
    clean, noise, source = images()
    spy, timesteps = Spy(), torch.tensor([3, 9])
    inferer = LMIGuidedInferer(DDPMScheduler(num_train_timesteps=10), make_guide(), scale_input=False)
    inferer(clean, spy, noise, timesteps, source=source)
    noisy = inferer.scheduler.add_noise(clean, noise, timesteps)
    guide = guide_of(inferer)(guide_of(inferer).prepare(source), noisy)
    torch.testing.assert_close(spy.images[0], torch.cat([noisy, guide], dim=1))
