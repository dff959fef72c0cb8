"""Translation of whole volumes, with denoisers of known output."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from denoisers import Oracle, Spy
from tqdm import tqdm

from midiff_monai.guidance.conditional_mean import ConditionalMean
from midiff_monai.guidance.guide import LMIGuide
from midiff_monai.guidance.mutual_information import LocalMutualInformation
from midiff_monai.inferers.guided_diffusion import LMIGuidedInferer
from midiff_monai.inferers.translation import SlicewiseTranslation, seeded_noise
from midiff_monai.networks.schedulers import TrailingDDIMScheduler
from midiff_monai.transforms.intensity import MIN_FOREGROUND_VALUE


def volume(*shape: int) -> torch.Tensor:
    """A volume (1, 1, *shape) in [0, 1], positive except for a margin of one empty voxel."""
    result = torch.zeros(1, 1, *shape)
    inside = result[..., 1:-1, 1:-1, 1:-1]
    inside.copy_(0.05 + 0.95 * torch.rand(inside.shape, generator=torch.Generator().manual_seed(1)))
    return result


def translation(steps: int = 3, clip_sample: bool = True, **settings: Any) -> SlicewiseTranslation:
    scheduler = TrailingDDIMScheduler(prediction_type="v_prediction", clip_sample=clip_sample)
    inferer = LMIGuidedInferer(scheduler, LMIGuide(LocalMutualInformation(reduction="none"), ConditionalMean()))
    return SlicewiseTranslation(inferer, steps, **{"context": 1, "multiple": 4} | settings)


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 10])
def test_known_volume_is_recovered(steps: int) -> None:
    """The denoiser returns the centre slice of the source: channel 2, after x_t and one neighbour."""
    source, inferer = volume(9, 10, 6), translation(steps)
    network = Oracle(inferer.inferer.scheduler, lambda x: 2 * x[:, 2:3] - 1)
    torch.testing.assert_close(inferer(source, network), source, rtol=0, atol=1e-4)


@pytest.mark.parametrize("steps", [1, 2, 5, 10])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_known_constant_is_recovered_in_the_foreground(steps: int, axis: int) -> None:
    source, inferer = volume(7, 8, 6), translation(steps, axis=axis, context=0)
    result = inferer(source, Oracle(inferer.inferer.scheduler, lambda x: torch.full_like(x[:, :1], 0.4)))
    torch.testing.assert_close(result, 0.7 * (source > 0), rtol=0, atol=1e-4)


def test_output_stays_between_0_and_1() -> None:
    inferer = translation(clip_sample=False)
    bright = inferer(volume(6, 7, 5), Oracle(inferer.inferer.scheduler, lambda x: torch.full_like(x[:, :1], 3.0)))
    dark = inferer(volume(6, 7, 5), Oracle(inferer.inferer.scheduler, lambda x: torch.full_like(x[:, :1], -3.0)))
    assert bright.max() == 1
    assert torch.equal(dark > 0, volume(6, 7, 5) > 0)  # 0 is reserved for the background
    assert dark.max() == MIN_FOREGROUND_VALUE


@pytest.mark.parametrize("shared_noise", [0.0, 0.5, 1.0])
def test_same_seed_gives_the_same_voxels_for_any_batch_size(shared_noise: float) -> None:
    source = volume(8, 9, 7)
    results = [
        translation(seed=3, samples=2, shared_noise=shared_noise, batch_size=size)(source, Spy())
        for size in (1, 2, 100)
    ]
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(results[2], results[0], rtol=0, atol=1e-6)


def test_other_seeds_give_other_voxels() -> None:
    source = volume(8, 9, 7)
    first, second = (translation(seed=seed)(source, Spy()) for seed in (0, 1))
    assert not torch.allclose(first, second, atol=0.01)


def test_sampling_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    translation()(volume(6, 6, 5), Spy())
    assert torch.equal(torch.get_rng_state(), state)


def test_several_samples_give_their_mean_and_standard_deviation() -> None:
    source, inferer = volume(8, 8, 6), translation(samples=3, seed=5)
    result = inferer(source, Spy())
    neighbours = [[position - 1, position, position + 1] for position in range(1, 5)]
    slices = source[0, 0][..., neighbours].permute(2, 3, 0, 1)
    draws = []
    for index in range(3):
        noise = seeded_noise((1, 8, 8), 5, index, 0).expand(4, 1, 8, 8)
        draws.append(inferer.inferer.sample(noise, Spy(), source=slices, same_volume=True, verbose=False))
    brightness = ((torch.stack(draws) + 1) / 2).clamp(MIN_FOREGROUND_VALUE, 1) * (slices[:, 1:2] > 0)
    mean = brightness.sum(0) / 3
    deviation = ((brightness - mean) ** 2).sum(0).div(2).sqrt()
    expected = torch.cat([mean, deviation], dim=1).permute(1, 2, 3, 0)
    torch.testing.assert_close(result[0, ..., 1:5], expected, rtol=0, atol=1e-5)
    assert result[:, 1].max() > 0.01


def test_a_mirrored_volume_gives_the_mirrored_result() -> None:
    source, inferer = volume(8, 8, 6), translation(mirror=True)
    torch.testing.assert_close(inferer(source.flip(2), Spy()).flip(2), inferer(source, Spy()))


def test_the_coarse_pass_is_one_sample_of_the_first_view() -> None:
    source = volume(8, 8, 6)[0]
    coarse = translation(samples=3, mirror=True, seed=5).infer(source, Spy(), coarse=True)
    assert torch.equal(coarse, translation(seed=5).infer(source, Spy()))


def test_every_sample_is_shrunk_towards_its_conditional_mean() -> None:
    source, means = volume(16, 16, 6), ConditionalMean()
    inferer = translation(conditional_mean=means, context=0)
    slices, noise = source[0, 0, ..., 1:-1].movedim(-1, 0)[:, None], seeded_noise((1, 16, 16), 0, 0, 0)
    stripes = 0.2 * torch.sin(9 * torch.arange(16.0))
    network = Oracle(inferer.inferer.scheduler, lambda x: 0.7 * (1 - 2 * x[:, 1:2]) + stripes)
    image = inferer.inferer.sample(noise.expand(4, 1, 16, 16), network, source=slices, same_volume=True, verbose=False)
    shrunk = means.shrink(means.prepare(slices, same_volume=True), image)
    assert not torch.allclose(shrunk, image, atol=0.01)
    expected = ((shrunk + 1) / 2).clamp(MIN_FOREGROUND_VALUE, 1) * (slices > 0)
    torch.testing.assert_close(inferer(source, network)[0, 0, ..., 1:-1], expected[:, 0].movedim(0, -1))


def test_output_is_zero_exactly_where_the_source_is_zero() -> None:
    source = volume(8, 9, 7)
    source[..., 3:5, 2:4, 2:6] = 0
    source[..., 3] = 0
    result = translation(samples=2)(source, Spy())
    assert not result[(source == 0).expand_as(result)].any()
    assert result[:, :1][source > 0].min() > 0


def starting_noise(shared_noise: float, seed: int = 0) -> torch.Tensor:
    """Initial noise of the slices of a volume, (slices, pixels)."""
    spy, inferer = Spy(), translation(1, shared_noise=shared_noise, seed=seed)
    inferer(torch.ones(1, 1, 24, 24, 4), spy)
    return torch.cat(spy.images)[:, 0].flatten(1) / inferer.inferer.scheduler.alphas_cumprod[999].sqrt()


def test_shared_noise_is_the_same_in_all_slices() -> None:
    noise = starting_noise(1.0)
    assert torch.equal(noise, noise[:1].expand_as(noise))


@pytest.mark.parametrize("shared_noise", [0.0, 0.3, 0.7, 1.0])
def test_shared_noise_is_the_correlation_between_slices(shared_noise: float) -> None:
    noise = torch.stack([starting_noise(shared_noise, seed) for seed in range(5)], dim=1).flatten(1)
    torch.testing.assert_close(noise.std(dim=1), torch.ones(4), rtol=0, atol=0.06)  # 4.5 standard errors of 2880 pixels
    correlation = torch.corrcoef(noise)[~torch.eye(4, dtype=torch.bool)]
    torch.testing.assert_close(correlation, torch.full_like(correlation, shared_noise), rtol=0, atol=0.09)


def test_noise_of_a_slice_does_not_depend_on_other_slices() -> None:
    source = volume(8, 8, 8)
    alone = torch.zeros_like(source)
    alone[..., 4] = source[..., 4]
    first, second = (translation(1, shared_noise=0.0, context=0)(image, Spy())[..., 4] for image in (source, alone))
    torch.testing.assert_close(first, second, rtol=0, atol=1e-6)


def test_seeded_noise_is_standard_normal_and_follows_its_seeds() -> None:
    noise = seeded_noise((100, 100), 1, 2, 3)
    assert torch.equal(noise, seeded_noise((100, 100), 1, 2, 3))
    assert abs(noise.mean()) < 0.05 and abs(noise.std() - 1) < 0.05
    for others in [(1, 2, 4), (1, 3, 3), (2, 2, 3), (3, 2, 1)]:
        correlation = torch.corrcoef(torch.stack([noise, seeded_noise((100, 100), *others)]).flatten(1))[0, 1]
        assert abs(correlation) < 0.05


class Terminal(io.StringIO):
    """A standard error stream that is a terminal."""

    def isatty(self) -> bool:
        return True


class Bar(tqdm):
    """Records the final state of every bar."""

    ended: list[tuple[int, int]] = []

    def __exit__(self, *args: Any) -> None:
        self.ended.append((self.n, self.total))
        super().__exit__(*args)


@pytest.mark.parametrize(
    ("stream", "progress", "shown"), [(Terminal, True, 4 * 2), (Terminal, False, 0), (io.StringIO, True, 0)]
)
def test_each_view_has_a_progress_bar_that_completes(
    stream: type[io.StringIO], progress: bool, shown: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four slices are not empty, and two steps are taken. A bar is shown only on a terminal."""
    monkeypatch.setattr("midiff_monai.inferers.translation.tqdm", Bar)
    monkeypatch.setattr(Bar, "ended", [])
    monkeypatch.setattr("sys.stderr", screen := stream())
    inferer = translation(steps=2, mirror=True, batch_size=3, progress=progress)
    inferer(volume(8, 9, 6), Oracle(inferer.inferer.scheduler, lambda x: x[:, :1]))
    assert Bar.ended == [(shown, 4 * 2)] * 2
    assert ("0/8" in screen.getvalue()) == (shown > 0)


def test_a_slab_is_sliced_in_its_own_plane() -> None:
    """A coronal slab of 6 slices has 6 slices for the network, not 20 strips."""
    seen: list[torch.Size] = []

    def network(slices: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        seen.append(slices.shape)
        return torch.zeros_like(slices[:, :1])

    source = 0.1 + 0.9 * torch.rand(1, 1, 20, 6, 20, generator=torch.Generator().manual_seed(2))
    translation(steps=1)(source, network)
    assert all(shape[0] == 6 and shape[2:] == (20, 20) for shape in seen)
