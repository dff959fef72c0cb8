"""Upsampling with the detail of the source, against affine relations, a slow regression and linear interpolation."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose
from numpy.typing import NDArray
from random_grids import oriented
from scipy import ndimage
from synthetic_images import distance_to, smooth_pattern

from midiff_monai.transforms import guided_upsampling
from midiff_monai.transforms.guided_upsampling import GuidedUpsampling
from midiff_monai.transforms.intensity import MIN_FOREGROUND_VALUE, ScaleForegroundIntensityd
from midiff_monai.transforms.local_regression import local_slope
from midiff_monai.transforms.meta import as_plain_tensor
from midiff_monai.transforms.resampling import restore_foreground
from midiff_monai.transforms.spatial import GuidedUpsamplingd, MaskedSpacingd

SIDE = 32
BALL = distance_to((SIDE - 1) / 2, (SIDE,) * 3) < 13
ISOTROPIC = np.diag([1.0, 1.0, 1.0, 1.0])


def source_file(values: NDArray[np.floating], affine: NDArray[np.float64] = ISOTROPIC) -> MetaTensor:
    """A ball of given intensities, 0 around it."""
    return MetaTensor(
        torch.from_numpy(np.where(BALL, values, 0).astype(np.float32))[None], affine=torch.from_numpy(affine)
    )


def conform(source: MetaTensor) -> MetaTensor:
    transforms = [MaskedSpacingd("image", pixdim=(2, 2, 2)), ScaleForegroundIntensityd("image", 0, 100)]
    return Compose(transforms)({"image": source.clone()})["image"]  # type: ignore[index]


def upsampled(
    image: torch.Tensor, conformed: MetaTensor, source: MetaTensor, radius: int = 2, epsilon: float = 1e-7
) -> torch.Tensor:
    foreground = as_plain_tensor(source[0] != 0)
    return GuidedUpsampling(radius, epsilon)(image, conformed, source, foreground)


def interpolated(image: torch.Tensor, conformed: MetaTensor, source: MetaTensor) -> torch.Tensor:
    mask, foreground = (as_plain_tensor(volume[0] != 0) for volume in (conformed, source))
    return restore_foreground(image, mask, conformed.affine, foreground, source.affine)


def scaled(source: MetaTensor, conformed: MetaTensor) -> torch.Tensor:
    """The source on the intensity scale of its coarse version."""
    low, high = conformed.meta["intensity_range"].tolist()
    return ((as_plain_tensor(source[0]) - low) / (high - low)).clamp(MIN_FOREGROUND_VALUE, 1)


@pytest.mark.parametrize("spacing, degrees", [((1, 1, 1), 0), ((1, 1, 1), 25), ((0.8, 1.2, 3), 10)])
@pytest.mark.parametrize("slope", [-0.6, 0.4])
def test_an_affine_relation_is_recovered_at_the_resolution_of_the_source(
    spacing: tuple[float, float, float], degrees: float, slope: float
) -> None:
    """Also of white noise, whose detail the coarse grid lacks entirely."""
    values = np.random.default_rng(0).uniform(50, 250, (SIDE,) * 3)
    source = source_file(values, oriented("LPS", (SIDE,) * 3, spacing, degrees))
    conformed = conform(source)
    mask = as_plain_tensor(conformed != 0)
    result = upsampled(torch.where(mask, 0.3 - 0.25 * slope + slope * as_plain_tensor(conformed), 0), conformed, source)
    expected = 0.3 - 0.25 * slope + slope * scaled(source, conformed)
    known = result[0] != 0
    assert known[torch.from_numpy(BALL)].float().mean() > 0.95
    torch.testing.assert_close(result[0][known], expected[known].clamp(MIN_FOREGROUND_VALUE, 1), atol=2e-3, rtol=0)


def test_a_constant_source_has_no_detail() -> None:
    source = source_file(np.full((SIDE,) * 3, 100.0))
    coarse = MaskedSpacingd("image", pixdim=(2, 2, 2))({"image": source.clone()})["image"]
    conformed = ScaleForegroundIntensityd("image", window=(0, 200))({"image": coarse})["image"]
    image = torch.from_numpy(smooth_pattern(tuple(conformed.shape[1:])))[None].clamp(min=0.01)  # type: ignore[arg-type]
    expected = interpolated(image, conformed, source)
    torch.testing.assert_close(upsampled(image, conformed, source), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("gain, offset", [(7.0, 0.0), (0.002, 0.0), (1.0, 100.0)])
def test_gain_and_offset_of_the_source_do_not_matter(gain: float, offset: float) -> None:
    values = 100 + 100 * smooth_pattern((SIDE,) * 3, sigma=1.0)
    results = []
    for source in (source_file(values), source_file(gain * (values + offset))):
        conformed = conform(source)
        results.append(upsampled(1 - 0.8 * as_plain_tensor(conformed), conformed, source, epsilon=1e-3))
    torch.testing.assert_close(results[1], results[0], atol=1e-4, rtol=0)


def test_the_background_is_0_and_the_foreground_is_not() -> None:
    source = source_file(np.random.default_rng(0).uniform(50, 250, (SIDE,) * 3))
    conformed = conform(source)
    image = torch.where(as_plain_tensor(conformed != 0), (2 * as_plain_tensor(conformed) - 0.5).clamp(1e-3, 1), 0)
    result = upsampled(image, conformed, source)[0]
    assert (result[~torch.from_numpy(BALL)] == 0).all()
    assert torch.equal(result != 0, interpolated(image, conformed, source)[0] != 0)
    assert result[result != 0].min() >= MIN_FOREGROUND_VALUE and result.max() <= 1


@pytest.fixture
def noisy_halves() -> tuple[MetaTensor, torch.Tensor]:
    """Two tissues of 100 and 200 with a standard deviation of 3, and an image of 0.8 and 0.3 in their place."""
    first = np.indices((SIDE,) * 3)[0]
    clean = np.where(first < 15, 100.0, 200.0)
    noise = np.random.default_rng(0).normal(scale=3, size=clean.shape)
    return source_file(clean + noise), torch.from_numpy(np.where(first < 15, 0.8, 0.3)).float()


def test_edges_become_sharper_and_noise_of_uniform_tissue_is_not_copied(
    noisy_halves: tuple[MetaTensor, torch.Tensor],
) -> None:
    source, truth = noisy_halves
    conformed = conform(source)
    low, high = conformed.meta["intensity_range"].tolist()
    scale = 100 / (high - low)
    coarse = as_plain_tensor(conformed)
    mask = coarse != 0
    # the network copies the noise, with the contrast between the tissues
    image = torch.where(mask, 0.8 - 0.5 * (coarse - coarse[0, 4, 8, 8]) / scale, 0).clamp(0, 1)
    result, linear = upsampled(image, conformed, source, 1, 0.003)[0], interpolated(image, conformed, source)[0]
    edge = (slice(14, 16), slice(8, 24), slice(8, 24))
    error_linear, error = ((r - truth)[edge].abs().mean() for r in (linear, result))
    assert error < 0.5 * error_linear
    uniform = (slice(20, 26), slice(10, 22), slice(10, 22))
    added, copied = (result - linear)[uniform].std(), 0.5 * (as_plain_tensor(source[0]) / 100)[uniform].std()
    assert added < 0.25 * copied


@pytest.mark.parametrize("shape", [(6, 7, 8), (6, 7, 2), (6, 7, 1)])
def test_the_slope_is_that_of_a_regression_in_boxes(shape: tuple[int, int, int]) -> None:
    """Each box solves the ridge regression of equation 2 of He and Sun over its known voxels, one by one."""
    rng = np.random.default_rng(0)
    source, image, known = rng.uniform(size=shape), rng.uniform(size=shape), rng.uniform(size=shape) < 0.7
    radius, epsilon = 1, 0.01

    def box(i: int, j: int, k: int) -> tuple[slice, ...]:
        return tuple(slice(max(n - radius, 0), n + radius + 1) for n in (i, j, k))

    boxes = np.zeros_like(source)
    for index in product(*map(range, source.shape)):
        s, y = source[box(*index)][known[box(*index)]], image[box(*index)][known[box(*index)]]
        if len(s):
            design = np.stack([s - s.mean(), np.ones(len(s))], axis=1)
            ridge = len(s) * np.diag([epsilon, 0])
            boxes[index] = np.linalg.solve(design.T @ design + ridge, design.T @ y)[0]
    expected = np.zeros_like(source)
    for index in zip(*np.nonzero(known), strict=True):
        expected[index] = boxes[box(*index)][known[box(*index)]].mean()
    volumes = torch.from_numpy(image), torch.from_numpy(source), torch.from_numpy(known)
    found = local_slope(*volumes, radius, epsilon)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_slabs_give_the_same_voxels(monkeypatch: pytest.MonkeyPatch) -> None:
    source = source_file(100 + 100 * smooth_pattern((SIDE,) * 3), oriented("PIR", (SIDE,) * 3, (1, 1, 1), 15))
    conformed = conform(source)
    image = 1 - 0.8 * as_plain_tensor(conformed)
    whole = upsampled(image, conformed, source)
    monkeypatch.setattr(guided_upsampling, "SLAB_VOXELS", 5 * SIDE**2)
    torch.testing.assert_close(upsampled(image, conformed, source), whole, atol=1e-6, rtol=0)


@pytest.mark.parametrize("spacing, radius", [(2.0, 2), (3.0, 2), (1.0, 0)])
def test_without_finer_voxels_or_with_radius_0_the_image_is_interpolated(spacing: float, radius: int) -> None:
    values = 100 + 100 * smooth_pattern((SIDE,) * 3)
    source = source_file(values, oriented("RAS", (SIDE,) * 3, (spacing,) * 3, 15))
    conformed = conform(source)
    image = torch.cat([1 - 0.8 * as_plain_tensor(conformed), 0.1 * as_plain_tensor(conformed)])
    assert torch.equal(upsampled(image, conformed, source, radius), interpolated(image, conformed, source))


def test_a_standard_deviation_is_interpolated() -> None:
    source = source_file(100 + 100 * smooth_pattern((SIDE,) * 3))
    conformed = conform(source)
    image = torch.cat([1 - 0.8 * as_plain_tensor(conformed), 0.1 * as_plain_tensor(conformed)])
    result, linear = upsampled(image, conformed, source), interpolated(image, conformed, source)
    assert torch.equal(result[1], linear[1]) and not torch.allclose(result[0], linear[0], atol=0.01)


def test_the_dictionary_transform_gives_the_voxels_of_the_function() -> None:
    values = 100 + 100 * ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(SIDE,) * 3), 1)
    source = source_file(values, oriented("RAS", (SIDE,) * 3, (1, 1.5, 1), 15))
    source.meta |= {"original_affine": source.affine.numpy(), "spatial_shape": (SIDE,) * 3}
    transforms = [MaskedSpacingd("image", pixdim=(2, 2, 2)), ScaleForegroundIntensityd("image", 0, 100)]
    data = Compose(transforms)({"image": source.clone(), "source": source})
    data["pred"] = 1 - 0.8 * data["image"]  # type: ignore[index, call-overload]
    restored = GuidedUpsamplingd("pred", "image", "source", GuidedUpsampling(2, 1e-3))(data)["pred"]  # type: ignore[arg-type]
    expected = upsampled(as_plain_tensor(data["pred"]), data["image"], source, 2, 1e-3)  # type: ignore[index, call-overload]
    torch.testing.assert_close(as_plain_tensor(restored), expected)
    np.testing.assert_allclose(restored.affine, source.affine)
