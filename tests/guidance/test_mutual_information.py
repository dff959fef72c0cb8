"""Local mutual information against its formulas in loops, and its analytic properties."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from synthetic_images import random_image
from torch.autograd import gradcheck
from torch.nn import functional as F

from midiff_monai.guidance.mutual_information import LocalMutualInformation, standardize_locally

Estimator = Literal["parzen", "renyi"]
Array = NDArray[np.float64]
Score = Callable[[Array, Array], float]

ESTIMATORS: tuple[Estimator, Estimator] = ("parzen", "renyi")
both_estimators = pytest.mark.parametrize("estimator", ESTIMATORS)


def shannon(histogram: Array) -> float:
    positive = histogram[histogram > 0]
    return float(-(positive * np.log(positive)).sum())


def normalised(first: float, second: float, joint: float) -> float:
    return max(2 * (first + second - joint) / max(first + second, 1e-6), 0)


def parzen_score(first: Array, second: Array, bandwidth: float = 8 / 255, bins: int = 27) -> float:
    """Normalised mutual information of two flattened patches, from Parzen-window histograms."""

    def weights(patch: Array) -> Array:
        kernel = np.exp(-((patch[:, None] - np.linspace(0, 1, bins)) ** 2) / (2 * bandwidth**2))
        return kernel / kernel.sum(axis=1, keepdims=True)

    joint = weights(first).T @ weights(second) / len(first)
    return normalised(shannon(joint.sum(axis=1)), shannon(joint.sum(axis=0)), shannon(joint))


def renyi_score(first: Array, second: Array, bandwidth: float = 0.1) -> float:
    """Normalised mutual information of two flattened patches, from information potentials over all pairs of pixels."""

    def gram(patch: Array) -> Array:
        return np.exp(-((patch[:, None] - patch) ** 2) / (2 * bandwidth**2))

    first, second = gram(first) ** 2, gram(second) ** 2
    return normalised(*(-np.log(potential.mean()) for potential in (first, second, first * second)))


SCORES: dict[str, Score] = {"parzen": parzen_score, "renyi": renyi_score}


def lmi_in_loops(source: Array, target: Array, patch_size: int, search_size: int, score: Score) -> Array:
    """Score of every shift and patch (shifts, *spatial), from images (*spatial)."""

    def cut(image: Array, centre: tuple[int, ...]) -> Array:
        reach = np.arange(-(patch_size // 2), patch_size // 2 + 1)
        sides = (np.clip(place + reach, 0, size - 1) for place, size in zip(centre, image.shape, strict=True))
        return image[np.ix_(*sides)].ravel()

    source, target = source.clip(0, 1), target.clip(0, 1)
    window = range(-(search_size // 2), search_size // 2 + 1)
    shifts = list(itertools.product(window, repeat=source.ndim))
    maps = np.empty((len(shifts), *source.shape))
    for index, shift in enumerate(shifts):
        for centre in np.ndindex(*source.shape):
            moved = tuple(np.add(centre, shift).tolist())
            maps[(index, *centre)] = score(cut(source, centre), cut(target, moved))
    return maps


def assert_equals_formula(shape: tuple[int, ...], estimator: Estimator, score: Score, **settings: Any) -> None:
    source, target = random_image(*shape, seed=1), 3 * random_image(*shape, seed=2) - 1
    lmi = LocalMutualInformation(estimator=estimator, spatial_dims=len(shape), **settings)
    sizes = settings.get("patch_size", 3), settings.get("search_size", 3)
    expected = lmi_in_loops(source.numpy(), target.numpy(), *sizes, score)
    unreduced = lmi(source[None, None], target[None, None], reduction="none")
    np.testing.assert_allclose(unreduced[0], expected, atol=1e-5)
    np.testing.assert_allclose(lmi(source[None, None], target[None, None])[0, 0], expected.max(axis=0), atol=1e-5)


@both_estimators
@pytest.mark.parametrize("search_size", [1, 3, 5])
@pytest.mark.parametrize("patch_size", [1, 3, 5])
def test_equals_the_formula_in_2d(estimator: Estimator, patch_size: int, search_size: int) -> None:
    assert_equals_formula((4, 6), estimator, SCORES[estimator], patch_size=patch_size, search_size=search_size)


@both_estimators
@pytest.mark.parametrize("search_size", [1, 3, 5])
@pytest.mark.parametrize("patch_size", [1, 3, 5])
def test_equals_the_formula_in_3d(estimator: Estimator, patch_size: int, search_size: int) -> None:
    assert_equals_formula((2, 4, 3), estimator, SCORES[estimator], patch_size=patch_size, search_size=search_size)


def test_bins_and_bandwidth_are_used() -> None:
    assert_equals_formula((4, 5), "parzen", lambda a, b: parzen_score(a, b, 0.07, 12), bandwidth=0.07, bins=12)
    assert_equals_formula((4, 5), "renyi", lambda a, b: renyi_score(a, b, 0.3), bandwidth=0.3)


@both_estimators
@pytest.mark.parametrize("shape", [(4, 5), (2, 3, 2)])
@pytest.mark.parametrize("reduction", ["max", "none"])
def test_gradient_equals_finite_differences(
    estimator: Estimator, shape: tuple[int, ...], reduction: Literal["max", "none"]
) -> None:
    source = random_image(1, 1, *shape, seed=1)
    target = (0.1 + 0.8 * random_image(1, 1, *shape, seed=2)).requires_grad_()
    lmi = LocalMutualInformation(estimator=estimator, spatial_dims=len(shape), reduction=reduction)
    prepared = lmi.prepare(source)
    assert gradcheck(lambda image: lmi(prepared, image), (target,), fast_mode=True)


@both_estimators
def test_gradient_equals_finite_differences_at_every_pixel(estimator: Estimator) -> None:
    source = random_image(1, 1, 3, 4, seed=1)
    target = (0.1 + 0.8 * random_image(1, 1, 3, 4, seed=2)).requires_grad_()
    lmi = LocalMutualInformation(estimator=estimator, search_size=1)
    assert gradcheck(lambda image: lmi(source, image), (target,))


@both_estimators
@pytest.mark.parametrize("patch_size", [3, 5])
def test_without_search_the_map_is_symmetric(estimator: Estimator, patch_size: int) -> None:
    lmi = LocalMutualInformation(patch_size, search_size=1, estimator=estimator)
    first, second = random_image(2, 1, 7, 6, seed=1), random_image(2, 1, 7, 6, seed=2)
    torch.testing.assert_close(lmi(first, second), lmi(second, first))


@given(
    seed=st.integers(0, 10_000),
    estimator=st.sampled_from(ESTIMATORS),
    contrast=st.floats(-8, 0),
    same=st.booleans(),
    levels=st.integers(2, 256),
)
@settings(max_examples=60)
def test_map_lies_between_0_and_1(seed: int, estimator: Estimator, contrast: float, same: bool, levels: int) -> None:
    """Also for contrasts 10^`contrast` near the resolution of float32."""
    images = torch.randint(0, levels, (2, 1, 6, 7), generator=torch.Generator().manual_seed(seed)) / (levels - 1)
    source, target = (0.5 + 10**contrast * (images - 0.5)).split(1)
    values = LocalMutualInformation(estimator=estimator)(source, source if same else target)
    assert values.min() >= 0
    assert values.max() <= 1 + 1e-6


def test_identical_patches_of_two_levels_score_one() -> None:
    image = (random_image(1, 1, 6, 6) > 0.5).double()
    mixed = F.max_pool2d(image, 3, 1, 1) != -F.max_pool2d(-image, 3, 1, 1)
    values = LocalMutualInformation(search_size=1, estimator="renyi")(image, image)
    torch.testing.assert_close(values, mixed.double())


def test_renyi_is_invariant_to_inversion() -> None:
    lmi = LocalMutualInformation(estimator="renyi")
    source, target = random_image(1, 1, 7, 6, seed=1), random_image(1, 1, 7, 6, seed=2)
    assert torch.equal(lmi(source, 1 - target), lmi(source, target))
    assert torch.equal(lmi(1 - source, target), lmi(source, target))


def test_parzen_is_invariant_to_inversion() -> None:
    """The bins are symmetric about 0.5. An inversion only reverses their order."""
    lmi = LocalMutualInformation(estimator="parzen")
    source, target = random_image(1, 1, 7, 6, seed=1), random_image(1, 1, 7, 6, seed=2)
    torch.testing.assert_close(lmi(source, 1 - target), lmi(source, target), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(lmi(1 - source, target), lmi(source, target), rtol=1e-5, atol=1e-6)


@both_estimators
@pytest.mark.parametrize("grey", [0.0, 0.3, 1.0, -5.0, 5.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_flat_patches_share_no_information(estimator: Estimator, grey: float, dtype: torch.dtype) -> None:
    lmi = LocalMutualInformation(estimator=estimator)
    flat, textured = torch.full((1, 1, 5, 6), grey, dtype=dtype), random_image(1, 1, 5, 6, dtype=dtype)
    for source, target in [(flat, textured), (textured, flat), (flat, flat)]:
        target = target.clone().requires_grad_()
        values = lmi(source, target)
        torch.testing.assert_close(values, torch.zeros_like(values), rtol=0, atol=1e-5)
        values.sum().backward()
        assert target.grad is not None and target.grad.isfinite().all()


@both_estimators
def test_values_out_of_range_are_clamped(estimator: Estimator) -> None:
    lmi = LocalMutualInformation(estimator=estimator)
    source, target = 3 * random_image(1, 1, 6, 7, seed=1) - 1, 3 * random_image(1, 1, 6, 7, seed=2) - 1
    assert torch.equal(lmi(source, target), lmi(source.clamp(0, 1), target.clamp(0, 1)))


@both_estimators
@pytest.mark.parametrize("shift", [(0, 1), (-1, 0), (1, -1)])
def test_search_finds_a_shifted_target(estimator: Estimator, shift: tuple[int, int]) -> None:
    source = random_image(1, 1, 9, 8)
    aligned = LocalMutualInformation(search_size=1, estimator=estimator)(source, source)
    target = source.roll(shift, dims=(2, 3))
    lmi = LocalMutualInformation(search_size=3, estimator=estimator, reduction="none")
    inside = (slice(None), slice(None), slice(3, -3), slice(3, -3))
    found = lmi(source, target)[:, [lmi.shifts.index(shift)]]
    torch.testing.assert_close(found[inside], aligned[inside])
    assert (lmi(source, target, reduction="max")[inside] >= aligned[inside] - 1e-12).all()
    misaligned = LocalMutualInformation(search_size=1, estimator=estimator)(source, target)
    assert misaligned[inside].mean() < aligned[inside].mean()


@both_estimators
def test_a_prepared_source_gives_the_same_map(estimator: Estimator) -> None:
    lmi = LocalMutualInformation(estimator=estimator)
    source, targets = random_image(1, 1, 5, 6, seed=1), random_image(3, 1, 5, 6, seed=2).split(1)
    prepared = lmi.prepare(source)
    for target in targets:
        assert torch.equal(lmi(prepared, target), lmi(source, target))


@both_estimators
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_unreduced_channels_are_the_shifts(estimator: Estimator, spatial_dims: int) -> None:
    lmi = LocalMutualInformation(estimator=estimator, spatial_dims=spatial_dims, reduction="none")
    assert sorted(lmi.shifts) == sorted(itertools.product([-1, 0, 1], repeat=spatial_dims))
    source = random_image(1, 1, *(7,) * spatial_dims)
    target = random_image(1, 1, *(7,) * spatial_dims, seed=3)
    channels = lmi(source, target)
    assert channels.shape == (1, 3**spatial_dims, *source.shape[2:])
    assert torch.equal(lmi(source, target, reduction="max")[:, 0], channels.amax(dim=1))


@both_estimators
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (3, 2), (11, 7)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_any_size_and_dtype_is_supported(estimator: Estimator, shape: tuple[int, int], dtype: torch.dtype) -> None:
    source, target = random_image(2, 1, *shape, dtype=dtype), random_image(2, 1, *shape, seed=2, dtype=dtype)
    values = LocalMutualInformation(patch_size=5, estimator=estimator)(source, target)
    assert values.shape == source.shape
    assert values.dtype == dtype
    assert values.isfinite().all()


@both_estimators
def test_single_precision_suffices(estimator: Estimator) -> None:
    lmi = LocalMutualInformation(estimator=estimator)
    source, target = random_image(1, 1, 6, 7, seed=1), random_image(1, 1, 6, 7, seed=2)
    torch.testing.assert_close(lmi(source.float(), target.float()).double(), lmi(source, target), rtol=0, atol=1e-5)


@both_estimators
def test_images_of_a_batch_are_independent(estimator: Estimator) -> None:
    lmi = LocalMutualInformation(estimator=estimator)
    sources, targets = random_image(10, 1, 5, 6, seed=1), random_image(10, 1, 5, 6, seed=2)
    alone = [lmi(source, target) for source, target in zip(sources.split(1), targets.split(1), strict=True)]
    torch.testing.assert_close(lmi(sources, targets), torch.cat(alone))
    one_for_all = [lmi(sources[:1], target) for target in targets.split(1)]
    torch.testing.assert_close(lmi(lmi.prepare(sources[:1]), targets), torch.cat(one_for_all))


@pytest.mark.parametrize(
    "settings",
    [
        {"patch_size": 4},
        {"search_size": 2},
        {"patch_size": 0},
        {"patch_size": -3},
        {"search_size": -1},
        {"estimator": "shannon"},
        {"reduction": "mean"},
    ],
)
def test_invalid_settings_raise(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="|".join(map(str, settings.values()))):
        LocalMutualInformation(**settings)


def test_layer_has_no_state() -> None:
    assert not LocalMutualInformation(estimator="parzen").state_dict()


@pytest.mark.parametrize("shape", [(9, 8), (5, 6, 4)])
def test_standardize_locally_equals_loops(shape: tuple[int, ...]) -> None:
    image, size, floor = random_image(*shape), 3, 0.04
    expected = np.empty(shape)
    extended = np.pad(image.numpy(), size // 2, mode="edge")
    for place in np.ndindex(*shape):
        patch = extended[tuple(slice(start, start + size) for start in place)]
        score = (image[place].item() - patch.mean()) / np.sqrt(patch.var() + floor**2)
        expected[place] = np.clip(0.5 + score / 6, 0, 1)
    np.testing.assert_allclose(standardize_locally(image[None, None], size, floor)[0, 0], expected)


def test_standardize_locally_equalises_faint_and_strong_contrast() -> None:
    image = random_image(1, 1, 12, 11)
    strong, faint = standardize_locally(image, floor=1e-6), standardize_locally(0.6 + 0.01 * image, floor=1e-6)
    torch.testing.assert_close(strong, faint, rtol=0, atol=1e-4)
    flat = standardize_locally(torch.full((1, 1, 8, 9), 0.7))
    torch.testing.assert_close(flat, torch.full_like(flat, 0.5), rtol=0, atol=1e-5)
