"""Conditional means against tables of means, and against what must hold of them."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given

from midiff_monai.guidance.conditional_mean import SURFACE_MARGIN, ConditionalMean, quantiles

seeds = st.integers(0, 2**31)


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def means(source: torch.Tensor, image: torch.Tensor, **settings: int) -> torch.Tensor:
    layer = ConditionalMean(**settings)
    return layer(layer.prepare(source), image)


@given(seed=seeds, filled=st.integers(0, 30), number=st.integers(2, 9))
def test_quantiles_are_those_of_numpy(seed: int, filled: int, number: int) -> None:
    values = torch.zeros(1, 30)
    values[0, :filled] = 0.1 + rand(filled, seed=seed)
    shuffled = values[:, torch.randperm(30, generator=torch.Generator().manual_seed(seed))]
    expected = np.quantile(values[0, : max(filled, 1)], np.linspace(0, 1, number), method="nearest")
    found = quantiles(shuffled, number)[0].numpy()
    # two implementations may round the middle between two places either way
    step = np.diff(np.sort(values[0, :filled]), append=0).clip(0).max(initial=0)
    assert found[0] == expected[0] and found[-1] == expected[-1]
    np.testing.assert_allclose(found, expected, atol=step + 1e-6)


def test_quantiles_of_more_values_than_float32_can_count_stay_within_them() -> None:
    values = rand(2**24 + 4).add_(0.1)[None]
    assert quantiles(values, 16)[0, -1] == values.max()


def test_of_a_few_grey_values_the_global_mean_is_a_table() -> None:
    """As many grey values as bins, equally frequent: each bin holds one of them."""
    levels = torch.tensor([0.2, 0.4, 0.7, 1.0])
    source = levels.repeat(16).reshape(1, 1, 8, 8)
    image = rand(1, 1, 8, 8)
    found = means(source, image, bins=4)[:, :1]
    for level in levels:
        torch.testing.assert_close(found[source == level], image[source == level].mean().expand(16))


@given(seed=seeds, height=st.integers(1, 20), width=st.integers(1, 20))
def test_a_function_of_the_source_is_its_own_mean(seed: int, height: int, width: int) -> None:
    """Linear, so that the interpolation between bins is exact; with a bin a grey value, globally so."""
    source = 0.1 + 0.9 * rand(2, 1, height, width, seed=seed)
    found = means(source, torch.full_like(source, 0.3))
    torch.testing.assert_close(found, torch.full((2, 2, height, width), 0.3), atol=1e-4, rtol=0)


def test_dark_and_bright_turned_around_come_back() -> None:
    """Whatever the contrast: a coarse estimate of an image, given an inverted source, has the detail of the source."""
    image = 0.1 + 0.8 * rand(1, 1, 64, 48)
    coarse = torch.nn.functional.avg_pool2d(image, 3, stride=1, padding=1, count_include_pad=False)
    found = means(1 - image, coarse)[0]
    for channel in found:
        assert np.corrcoef(channel.flatten(), image.flatten())[0, 1] > 0.9
    assert np.corrcoef(coarse.flatten(), image.flatten())[0, 1] < 0.5


def test_neighbourhoods_tell_apart_what_the_whole_image_does_not() -> None:
    """The same grey value means 0.2 on the left and 0.8 on the right."""
    source = 0.1 + 0.9 * rand(1, 1, 32, 96)
    image = torch.full_like(source, 0.2)
    image[..., 48:] = 0.8
    whole, local = means(source, image)[0]
    torch.testing.assert_close(whole.mean(), torch.tensor(0.5), atol=0.05, rtol=0)
    assert local[:, :24].max() < 0.3 and local[:, -24:].min() > 0.7


@given(seed=seeds)
def test_means_lie_within_the_image_and_the_background_is_left_out(seed: int) -> None:
    source, image = rand(2, 1, 24, 16, seed=seed), 2 * rand(2, 1, 24, 16, seed=seed + 1) - 1
    source[source < 0.3] = 0
    found = means(source, image)
    assert not found[(source == 0).expand_as(found)].any()
    assert found.min() >= image[source > 0].min() - 1e-5 and found.max() <= image[source > 0].max() + 1e-5
    other = torch.where(source == 0, torch.full_like(image, 5.0), image)
    torch.testing.assert_close(means(source, other), found)


@pytest.mark.parametrize("batch", [1, 3])
def test_images_of_a_batch_do_not_mix(batch: int) -> None:
    source, image = rand(batch, 1, 16, 16), rand(batch, 1, 16, 16, seed=1)
    alone = [means(source[i : i + 1], image[i : i + 1]) for i in range(batch)]
    torch.testing.assert_close(means(source, image), torch.cat(alone))


def test_slices_of_one_volume_are_one_image_without_borders() -> None:
    """The mean over the whole volume is that of the same pixels side by side; neighbourhoods end with their slice."""
    source, image = rand(3, 1, 16, 24), rand(3, 1, 16, 24, seed=1)
    layer = ConditionalMean()
    same_volume = layer(layer.prepare(source, same_volume=True), image, same_volume=True)
    side_by_side = [volume.permute(1, 2, 0, 3).reshape(1, 1, 16, 72) for volume in (source, image)]
    expected = means(*side_by_side)[:, :1].reshape(1, 16, 3, 24).permute(2, 0, 1, 3)
    torch.testing.assert_close(same_volume[:, :1], expected)
    image[1:] = 0
    again = layer(layer.prepare(source, same_volume=True), image, same_volume=True)
    assert again[1:, 0].max() > 0.1 and again[1:, 1].max() < 0.1 < again[0, 1].min()


# --- the pull ---


def pulled(source: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    layer = ConditionalMean()
    return layer.shrink(layer.prepare(source, same_volume=True), image)


def test_what_the_source_explains_altogether_stays_as_it_is() -> None:
    source = 0.1 + 0.9 * rand(2, 1, 32, 32)
    torch.testing.assert_close(pulled(source, 1.1 - source), 1.1 - source, atol=0.02, rtol=0)


def test_what_has_nothing_to_do_with_the_source_stays_as_it_is() -> None:
    source, image = 0.1 + 0.9 * rand(4, 1, 48, 48), rand(4, 1, 48, 48, seed=1)
    torch.testing.assert_close(pulled(source, image), image, atol=0.02, rtol=0)


@pytest.mark.parametrize("share", [0.5, 0.8, 0.95])
def test_the_step_is_the_sixth_power_of_the_share_that_is_explained(share: float) -> None:
    """A function of the source plus independent noise of the complementary variance."""
    generator = torch.Generator().manual_seed(3)
    source = 0.1 + 0.9 * torch.rand(4, 1, 64, 64, generator=generator)
    sqrt_alpha_bar = (source - source.mean()) / source.std()
    noise = torch.randn(source.shape, generator=generator)
    found = pulled(source, share**0.5 * sqrt_alpha_bar + (1 - share) ** 0.5 * noise)
    kept = float((found * noise).mean()) / (1 - share) ** 0.5
    assert kept == pytest.approx(1 - share**6, abs=0.04)


def test_grey_values_that_explain_little_are_left_alone() -> None:
    """Dark voxels are all alike; bright ones are noise, which is no less so for what the dark ones explain."""
    source = torch.where(rand(6, 1, 48, 48) > 0.7, 0.9, 0.2)
    noise = rand(6, 1, 48, 48, seed=1)
    image = torch.where(source > 0.5, noise, 0.5 + 0.1 * noise)
    found = pulled(source, image)
    bright = source > 0.5
    torch.testing.assert_close(found[bright], image[bright], atol=0.01, rtol=0)
    assert found[~bright].std() < 0.3 * image[~bright].std()


def test_at_the_surface_the_step_is_the_correlation_ratio() -> None:
    """Noise in the outer pixels, beside a translation of which half is noise deeper in."""
    source = torch.zeros(8, 1, 60, 60)
    source[..., 6:54, 6:54] = 0.1 + 0.9 * rand(8, 1, 48, 48)
    sqrt_alpha_bar = torch.where(source > 0, (source - 0.55) / (0.9 / 12**0.5), 0.0)
    noise = torch.where(source > 0, torch.randn(source.shape, generator=torch.Generator().manual_seed(1)), 0.0)
    found = pulled(source, 0.5**0.5 * (sqrt_alpha_bar + noise))
    rim = (torch.nn.functional.max_pool2d((source == 0).float(), 2 * SURFACE_MARGIN + 1, 1, SURFACE_MARGIN) > 0) & (
        source > 0
    )
    kept = float((found * noise)[rim].mean() / noise[rim].square().mean()) / 0.5**0.5
    assert kept == pytest.approx(1 - 0.5, abs=0.05)


def test_the_surface_is_not_asked_and_is_mended() -> None:
    """A brain whose translation is right inside and dark in the outer two pixels."""
    source = torch.zeros(3, 1, 40, 40)
    source[..., 4:36, 4:36] = 0.1 + 0.9 * rand(3, 1, 32, 32)
    image, right = 1.1 - source, 1.1 - source
    image = torch.where(torch.nn.functional.max_pool2d((source == 0).float(), 5, 1, 2) > 0, 0.0, image)
    found, there = pulled(source, image), source > 0
    torch.testing.assert_close(found[there], right[there], atol=0.06, rtol=0)
    assert not found[~there].any()


@pytest.mark.parametrize("shape", [(1, 1, 4, 4), (2, 1, 5, 3)])
def test_slices_too_thin_to_be_deep_are_defined(shape: tuple[int, int, int, int]) -> None:
    source = torch.zeros(shape)
    assert torch.equal(pulled(source, rand(*shape)), rand(*shape))
    source[0, 0, 1:3, 1:3] = torch.tensor([[0.2, 0.4], [0.6, 0.8]])
    assert pulled(source, rand(*shape)).isfinite().all()


# --- what is odd ---


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_empty_and_flat_sources_are_defined(value: float) -> None:
    source, image = torch.full((1, 1, 16, 16), value), rand(1, 1, 16, 16)
    expected = value * image.mean()
    torch.testing.assert_close(means(source, image)[:, 0].mean(), expected)
    assert means(source, image).isfinite().all()
