"""The compiled entropies against those of torch, and the conditions of their use."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np
import pytest
import torch
from synthetic_images import random_image, smooth_pattern

import midiff_monai.guidance
from midiff_monai.guidance import entropy as entropy_module
from midiff_monai.guidance.entropy import ParzenEntropy
from midiff_monai.guidance.mutual_information import LocalMutualInformation

entropy_numba = pytest.importorskip("midiff_monai.guidance.entropy_numba", reason="needs numba")

TOLERANCE = 2e-5


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the compiled functions in the order in which `entropy.py` calls them."""
    names: list[str] = []

    def record(name: str) -> Callable[..., Any]:
        function = getattr(entropy_numba, name)

        def recorded(*arguments: Any) -> Any:
            names.append(name)
            return function(*arguments)

        return recorded

    for name in ("bin_weights", "joint_entropy"):
        monkeypatch.setattr(entropy_numba, name, record(name))
    return names


@pytest.fixture
def without_numba(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.delitem(sys.modules, "midiff_monai.guidance.entropy_numba")
    monkeypatch.delattr(midiff_monai.guidance, "entropy_numba")
    entropy_module._numba_backend.cache_clear()
    yield
    entropy_module._numba_backend.cache_clear()


def parzen(use_numba: bool = True, **settings: Any) -> LocalMutualInformation:
    lmi = LocalMutualInformation(estimator="parzen", **settings)
    assert isinstance(lmi.estimator, ParzenEntropy)
    lmi.estimator.use_numba = use_numba
    return lmi


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return random_image(*shape, seed=seed, dtype=torch.float32)


def smooth(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(smooth_pattern((1, shape[-2], shape[-1]), seed)).expand(shape).contiguous()


def on_background(*shape: int, seed: int = 0) -> torch.Tensor:
    """A smooth square in an image that is 0 elsewhere. Some tiles touch few bins."""
    image = torch.zeros(shape)
    image[..., shape[-2] // 2 :, shape[-1] // 2 :] = smooth(*shape, seed=seed)[..., shape[-2] // 2 :, shape[-1] // 2 :]
    return image


IMAGES: dict[str, Callable[..., torch.Tensor]] = {
    "noise": noise,
    "smooth": smooth,
    "on background": on_background,
    "flat": lambda *shape, seed: torch.full(shape, 0.37 + seed),
    "between two bins": lambda *shape, seed: torch.full(shape, 0.5 / 26),
    "faint": lambda *shape, seed: 0.5 + 1e-3 * noise(*shape, seed=seed),
    "two levels": lambda *shape, seed: (noise(*shape, seed=seed) > 0.5).float(),
    "out of range": lambda *shape, seed: 6 * noise(*shape, seed=seed) - 3,
    "far out of range": lambda *shape, seed: 1e6 * (noise(*shape, seed=seed) - 0.5),
}


def assert_equals_torch(source: torch.Tensor, target: torch.Tensor, **settings: Any) -> None:
    compiled, plain = (parzen(use_numba, **settings)(source, target) for use_numba in (True, False))
    assert compiled.shape == plain.shape
    torch.testing.assert_close(compiled, plain, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("target", IMAGES)
@pytest.mark.parametrize("source", IMAGES)
def test_maps_equal_those_of_torch(source: str, target: str) -> None:
    shape = (1, 1, 37, 70)
    assert_equals_torch(IMAGES[source](*shape, seed=1), IMAGES[target](*shape, seed=2), reduction="none")


@pytest.mark.parametrize("reduction", ["none", "max"])
@pytest.mark.parametrize("search_size", [1, 3, 5])
@pytest.mark.parametrize("patch_size", [1, 3, 5, 7])
def test_maps_equal_those_of_torch_for_any_patch_and_search_size(
    patch_size: int, search_size: int, reduction: Literal["none", "max"]
) -> None:
    images = smooth(1, 1, 33, 21, seed=1), noise(1, 1, 33, 21, seed=2)
    assert_equals_torch(*images, patch_size=patch_size, search_size=search_size, reduction=reduction)


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (2, 3), (15, 32), (16, 33), (31, 97), (128, 96)])
def test_maps_equal_those_of_torch_for_any_image_size(shape: tuple[int, int]) -> None:
    """The tiles at the lower and right border are incomplete."""
    assert_equals_torch(noise(1, 1, *shape, seed=1), noise(1, 1, *shape, seed=2))


@pytest.mark.parametrize(("bins", "bandwidth"), [(2, 0.2), (12, 0.07), (27, 1e-3), (27, 0.5), (64, 0.05)])
def test_maps_equal_those_of_torch_for_any_histogram(bins: int, bandwidth: float) -> None:
    assert_equals_torch(noise(1, 1, 20, 35, seed=1), smooth(1, 1, 20, 35, seed=2), bins=bins, bandwidth=bandwidth)


@pytest.mark.parametrize(("sources", "targets"), [(3, 3), (1, 3), (3, 1)])
def test_a_batch_of_one_is_compared_with_every_image_of_the_other(sources: int, targets: int) -> None:
    assert_equals_torch(noise(sources, 1, 9, 10, seed=1), noise(targets, 1, 9, 10, seed=2))


def test_a_source_prepared_by_either_backend_works_with_both() -> None:
    source, target = smooth(1, 1, 20, 35, seed=1), noise(1, 1, 20, 35, seed=2)
    compiled, plain = parzen(), parzen(use_numba=False)
    expected = plain(source, target)
    for values in (compiled(plain.prepare(source), target), plain(compiled.prepare(source), target)):
        torch.testing.assert_close(values, expected, rtol=0, atol=TOLERANCE)


def test_maps_do_not_depend_on_the_memory_layout_of_the_images() -> None:
    source, target = noise(1, 1, 35, 20, seed=1), noise(1, 1, 35, 20, seed=2)
    turned = [image.transpose(2, 3).contiguous().transpose(2, 3) for image in (source, target)]
    assert torch.equal(parzen()(*turned), parzen()(source, target))
    spread = torch.stack([target, target], dim=-1)[..., 0].to(memory_format=torch.channels_last)
    assert torch.equal(parzen()(source, spread), parzen()(source, target))


def test_entropies_do_not_depend_on_the_memory_layout_of_the_weights() -> None:
    first, second = (torch.softmax(5 * noise(1, 6, 12, 14, seed=seed), dim=1) for seed in (1, 2))
    expected = entropy_numba.joint_entropy(first, second, 3)
    assert torch.equal(entropy_numba.joint_entropy(first.to(memory_format=torch.channels_last), second, 3), expected)


def test_nan_propagates_to_its_patches_only() -> None:
    source, target = on_background(1, 1, 40, 70, seed=1), noise(1, 1, 40, 70, seed=2)
    target[..., 3, 4] = torch.nan
    compiled, plain = parzen()(source, target), parzen(use_numba=False)(source, target)
    torch.testing.assert_close(compiled, plain, rtol=0, atol=TOLERANCE, equal_nan=True)
    assert parzen()(source, torch.full_like(target, torch.nan)).isnan().all()


def test_p_log_p_is_accurate_over_the_whole_range() -> None:
    shares = np.concatenate([[1.0], np.geomspace(1e-37, 1, 10_001), np.linspace(0.4, 1, 10_001)]).astype(np.float32)
    values = np.array([entropy_numba._times_log2(share) for share in shares], dtype=np.float64)
    exact = shares.astype(np.float64) * np.log2(shares.astype(np.float64))
    np.testing.assert_array_less(np.abs(values - exact), shares * (4e-6 + 1e-7 * np.abs(np.log2(shares))))
    assert entropy_numba._times_log2(np.float32(0)) == 0


def test_maps_do_not_depend_on_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = on_background(1, 1, 64, 130, seed=1), noise(1, 1, 64, 130, seed=2)
    maps = []
    for number in (1, 2, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda number=number: number)
        maps.append(parzen(reduction="none")(source, target))
    assert torch.equal(maps[0], maps[1]) and torch.equal(maps[0], maps[2])


def test_no_more_threads_are_used_than_torch_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several workers on one machine are limited by OMP_NUM_THREADS."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setattr(entropy_numba, "_threads", None)
    assert parzen()(noise(1, 1, 128, 96), noise(1, 1, 128, 96)).isfinite().all()


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs a system that forks")
def test_a_forked_process_has_its_own_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads do not survive a fork. Waiting for those of the parent process would never end."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    weights = noise(1, 2, 64, 130)
    expected = entropy_numba.joint_entropy(weights, weights, 3)

    def repeat() -> None:
        assert torch.equal(entropy_numba.joint_entropy(weights, weights, 3), expected)

    fork = multiprocessing.get_context("fork").Process(target=repeat)
    fork.start()
    fork.join(timeout=60)
    code = fork.exitcode
    fork.kill()
    assert code == 0


def test_compiled_code_is_used_where_possible(calls: list[str]) -> None:
    image = noise(1, 1, 8, 9)
    lmi = parzen()
    prepared = lmi.prepare(image)
    calls.clear()
    lmi(prepared, image)
    assert calls[0] == "bin_weights" and calls[-9:] == ["joint_entropy"] * 9
    with torch.inference_mode():
        calls.clear()
        lmi(prepared, image)
        assert calls
    with torch.no_grad():
        calls.clear()
        lmi(prepared, image.clone().requires_grad_())
        assert calls


def test_torch_computes_double_precision_and_three_dimensions(calls: list[str]) -> None:
    parzen()(noise(1, 1, 8, 9).double(), noise(1, 1, 8, 9).double())
    parzen(spatial_dims=3)(noise(1, 1, 4, 5, 3), noise(1, 1, 4, 5, 3))
    assert not calls


def test_torch_computes_gradients(calls: list[str]) -> None:
    source, target = noise(1, 1, 8, 9, seed=1), 0.1 + 0.8 * noise(1, 1, 8, 9, seed=2)
    gradients = []
    for use_numba in (True, False):
        lmi, moving = parzen(use_numba=use_numba), target.clone().requires_grad_()
        prepared = lmi.prepare(source)
        calls.clear()
        (gradient,) = torch.autograd.grad(lmi(prepared, moving).sum(), moving)
        gradients.append(gradient)
        assert not calls
    assert (gradients[0] != 0).all()
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-5)


def test_the_gradient_reaches_the_source(calls: list[str]) -> None:
    source = (0.1 + 0.8 * noise(1, 1, 8, 9, seed=1)).requires_grad_()
    parzen()(source, noise(1, 1, 8, 9, seed=2)).sum().backward()
    assert source.grad is not None and (source.grad != 0).all()


def test_torch_replaces_a_missing_numba(without_numba: None) -> None:
    source, target = noise(1, 1, 8, 9, seed=1), noise(1, 1, 8, 9, seed=2)
    assert entropy_module._numba_backend() is None
    assert torch.equal(parzen()(source, target), parzen(use_numba=False)(source, target))
