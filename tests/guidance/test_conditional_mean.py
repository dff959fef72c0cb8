"""Conditional means against tables of means, and their properties."""

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
def test_quantiles_equal_those_of_numpy(seed: int, filled: int, number: int) -> None:
    values = torch.zeros(1, 30)
    values[0, :filled] = 0.1 + rand(filled, seed=seed)
    shuffled = values[:, torch.randperm(30, generator=torch.Generator().manual_seed(seed))]
    expected = np.quantile(values[0, : max(filled, 1)], np.linspace(0, 1, number), method="nearest")
    found = quantiles(shuffled, number)[0].numpy()
    # implementations may round a rank half-way between two ranks either way
    step = np.diff(np.sort(values[0, :filled]), append=0).clip(0).max(initial=0)
    assert found[0] == expected[0] and found[-1] == expected[-1]
    np.testing.assert_allclose(found, expected, atol=step + 1e-6)


def test_quantiles_of_more_than_2_to_24_values_stay_within_them() -> None:
    values = rand(2**24 + 4).add_(0.1)[None]
    assert quantiles(values, 16)[0, -1] == values.max()


def test_global_mean_of_few_intensities_is_a_table_of_means() -> None:
    """There are as many equally frequent intensities as bins. Each bin holds one of them."""
    levels = torch.tensor([0.2, 0.4, 0.7, 1.0])
    source = levels.repeat(16).reshape(1, 1, 8, 8)
    image = rand(1, 1, 8, 8)
    found = means(source, image, bins=4)[:, :1]
    for level in levels:
        torch.testing.assert_close(found[source == level], image[source == level].mean().expand(16))


@given(seed=seeds, height=st.integers(1, 20), width=st.integers(1, 20))
def test_a_constant_is_its_own_conditional_mean(seed: int, height: int, width: int) -> None:
    source = 0.1 + 0.9 * rand(2, 1, height, width, seed=seed)
    found = means(source, torch.full_like(source, 0.3))
    torch.testing.assert_close(found, torch.full((2, 2, height, width), 0.3), atol=1e-4, rtol=0)


def test_an_inverted_source_restores_the_detail_of_a_coarse_estimate() -> None:
    """The conditional mean of a coarse estimate has the detail of the source and the contrast of the estimate."""
    image = 0.1 + 0.8 * rand(1, 1, 64, 48)
    coarse = torch.nn.functional.avg_pool2d(image, 3, stride=1, padding=1, count_include_pad=False)
    found = means(1 - image, coarse)[0]
    for channel in found:
        assert np.corrcoef(channel.flatten(), image.flatten())[0, 1] > 0.9
    assert np.corrcoef(coarse.flatten(), image.flatten())[0, 1] < 0.5


def test_local_means_follow_a_mapping_that_varies_in_space() -> None:
    """Every source intensity maps to 0.2 on the left and to 0.8 on the right."""
    source = 0.1 + 0.9 * rand(1, 1, 32, 96)
    image = torch.full_like(source, 0.2)
    image[..., 48:] = 0.8
    whole, local = means(source, image)[0]
    torch.testing.assert_close(whole.mean(), torch.tensor(0.5), atol=0.05, rtol=0)
    assert local[:, :24].max() < 0.3 and local[:, -24:].min() > 0.7


@given(seed=seeds)
def test_means_lie_within_the_range_of_the_foreground_and_ignore_the_background(seed: int) -> None:
    source, image = rand(2, 1, 24, 16, seed=seed), 2 * rand(2, 1, 24, 16, seed=seed + 1) - 1
    source[source < 0.3] = 0
    found = means(source, image)
    assert not found[(source == 0).expand_as(found)].any()
    assert found.min() >= image[source > 0].min() - 1e-5 and found.max() <= image[source > 0].max() + 1e-5
    other = torch.where(source == 0, torch.full_like(image, 5.0), image)
    torch.testing.assert_close(means(source, other), found)


@pytest.mark.parametrize("batch", [1, 3])
def test_images_of_a_batch_are_independent(batch: int) -> None:
    source, image = rand(batch, 1, 16, 16), rand(batch, 1, 16, 16, seed=1)
    alone = [means(source[i : i + 1], image[i : i + 1]) for i in range(batch)]
    torch.testing.assert_close(means(source, image), torch.cat(alone))


def test_slices_of_one_volume_share_their_global_mean() -> None:
    """The global mean equals that of the slices side by side in one image. Neighbourhoods do not cross slices."""
    source, image = rand(3, 1, 16, 24), rand(3, 1, 16, 24, seed=1)
    layer = ConditionalMean()
    same_volume = layer(layer.prepare(source, same_volume=True), image, same_volume=True)
    side_by_side = [volume.permute(1, 2, 0, 3).reshape(1, 1, 16, 72) for volume in (source, image)]
    expected = means(*side_by_side)[:, :1].reshape(1, 16, 3, 24).permute(2, 0, 1, 3)
    torch.testing.assert_close(same_volume[:, :1], expected)
    image[1:] = 0
    again = layer(layer.prepare(source, same_volume=True), image, same_volume=True)
    assert again[1:, 0].max() > 0.1 and again[1:, 1].max() < 0.1 < again[0, 1].min()


# --- shrinkage ---


def shrunk(source: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    layer = ConditionalMean()
    return layer.shrink(layer.prepare(source, same_volume=True), image)


def test_an_image_that_the_source_explains_completely_is_unchanged() -> None:
    source = 0.1 + 0.9 * rand(2, 1, 32, 32)
    torch.testing.assert_close(shrunk(source, 1.1 - source), 1.1 - source, atol=0.02, rtol=0)


def test_an_image_independent_of_the_source_is_unchanged() -> None:
    source, image = 0.1 + 0.9 * rand(4, 1, 48, 48), rand(4, 1, 48, 48, seed=1)
    torch.testing.assert_close(shrunk(source, image), image, atol=0.02, rtol=0)


@pytest.mark.parametrize("share", [0.5, 0.8, 0.95])
def test_the_step_is_the_sixth_power_of_the_explained_share(share: float) -> None:
    """The image is a function of the source plus independent noise of the complementary variance."""
    generator = torch.Generator().manual_seed(3)
    source = 0.1 + 0.9 * torch.rand(4, 1, 64, 64, generator=generator)
    standardized = (source - source.mean()) / source.std()
    noise = torch.randn(source.shape, generator=generator)
    found = shrunk(source, share**0.5 * standardized + (1 - share) ** 0.5 * noise)
    kept = float((found * noise).mean()) / (1 - share) ** 0.5
    assert kept == pytest.approx(1 - share**6, abs=0.04)


def test_intensities_that_explain_little_are_unchanged() -> None:
    """Dark source voxels explain the image almost completely. Bright source voxels explain nothing."""
    source = torch.where(rand(6, 1, 48, 48) > 0.7, 0.9, 0.2)
    noise = rand(6, 1, 48, 48, seed=1)
    image = torch.where(source > 0.5, noise, 0.5 + 0.1 * noise)
    found = shrunk(source, image)
    bright = source > 0.5
    torch.testing.assert_close(found[bright], image[bright], atol=0.01, rtol=0)
    assert found[~bright].std() < 0.3 * image[~bright].std()


def test_at_the_surface_the_step_is_the_correlation_ratio() -> None:
    """Half of the variance is noise, at the surface and deeper."""
    source = torch.zeros(8, 1, 60, 60)
    source[..., 6:54, 6:54] = 0.1 + 0.9 * rand(8, 1, 48, 48)
    standardized = torch.where(source > 0, (source - 0.55) / (0.9 / 12**0.5), 0.0)
    noise = torch.where(source > 0, torch.randn(source.shape, generator=torch.Generator().manual_seed(1)), 0.0)
    found = shrunk(source, 0.5**0.5 * (standardized + noise))
    near_air = torch.nn.functional.max_pool2d((source == 0).float(), 2 * SURFACE_MARGIN + 1, 1, SURFACE_MARGIN) > 0
    surface = near_air & (source > 0)
    kept = float((found * noise)[surface].mean() / noise[surface].square().mean()) / 0.5**0.5
    assert kept == pytest.approx(1 - 0.5, abs=0.05)


def test_a_wrong_surface_is_corrected_from_the_inside() -> None:
    """The translation is exact inside and 0 in the outer two pixels of the brain."""
    source = torch.zeros(3, 1, 40, 40)
    source[..., 4:36, 4:36] = 0.1 + 0.9 * rand(3, 1, 32, 32)
    image, exact = 1.1 - source, 1.1 - source
    image = torch.where(torch.nn.functional.max_pool2d((source == 0).float(), 5, 1, 2) > 0, 0.0, image)
    found, foreground_mask = shrunk(source, image), source > 0
    torch.testing.assert_close(found[foreground_mask], exact[foreground_mask], atol=0.06, rtol=0)
    assert not found[~foreground_mask].any()


@pytest.mark.parametrize("shape", [(1, 1, 4, 4), (2, 1, 5, 3)])
def test_foregrounds_without_deep_pixels_give_finite_results(shape: tuple[int, int, int, int]) -> None:
    source = torch.zeros(shape)
    assert torch.equal(shrunk(source, rand(*shape)), rand(*shape))
    source[0, 0, 1:3, 1:3] = torch.tensor([[0.2, 0.4], [0.6, 0.8]])
    assert shrunk(source, rand(*shape)).isfinite().all()


# --- degenerate sources ---


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_empty_and_flat_sources_give_finite_results(value: float) -> None:
    source, image = torch.full((1, 1, 16, 16), value), rand(1, 1, 16, 16)
    expected = value * image.mean()
    torch.testing.assert_close(means(source, image)[:, 0].mean(), expected)
    assert means(source, image).isfinite().all()


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("seed", range(5))
def test_shrinkage_is_the_same_for_any_number_of_threads(seed: int) -> None:
    """Torch splits the sum of more than 32768 pixels among its threads."""
    source, noise = 0.1 + rand(12, 1, 64, 64, seed=seed), rand(12, 1, 64, 64, seed=seed + 100)
    found = []
    for number in (1, 2, 3):
        torch.set_num_threads(number)
        found.append(shrunk(source, source.square() + 0.1 * noise))
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])
