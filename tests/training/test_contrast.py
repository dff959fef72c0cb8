from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from monai.data import MetaTensor
from scipy import ndimage

from midiff_monai.training.contrast import (
    T1_KNOTS,
    TISSUE_ORDERS,
    ContrastRandomizer,
    RandomizeContrastd,
    gaussian_blur,
    remap,
    smooth_field,
    without_cortex,
)
from midiff_monai.training.regions import Region

seeds = st.integers(0, 2**31)

CSF, CORTEX, WHITE = T1_KNOTS[1], T1_KNOTS[2], T1_KNOTS[4]
PURE = ContrastRandomizer(bias=0.0, blur=0.0, through_plane_blur=0.0, noise=0.0, structure_std=0.0)
"""Changes the intensities only, without degradations."""


def stripped_slabs(seed: int, batch: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Slabs (B, 1, 16, 14, 6) with random tissues in a box on empty background, and the mask of the box."""
    generator = torch.Generator().manual_seed(seed)
    brain = torch.zeros(batch, 1, 16, 14, 6)
    brain[:, :, 4:13, 3:11, 1:5] = 1
    return brain * (0.2 + 0.6 * torch.rand(brain.shape, generator=generator)), brain


def three_tissues() -> tuple[torch.Tensor, torch.Tensor]:
    """A slab with equal parts of CSF, cortex and white matter, all inside the brain."""
    target = torch.tensor([CSF, CORTEX, WHITE]).repeat_interleave(4).reshape(1, 1, 12, 1, 1).expand(1, 1, 12, 8, 4)
    return target, torch.ones_like(target)


def seeded(
    contrast_randomizer: ContrastRandomizer, seed: int, target: torch.Tensor, brain: torch.Tensor
) -> torch.Tensor:
    torch.manual_seed(seed)
    return contrast_randomizer(target, brain)


@given(seed=seeds)
def test_sources_fill_the_unit_interval_and_keep_the_background(seed: int) -> None:
    target, brain = stripped_slabs(seed)
    source = seeded(ContrastRandomizer(), seed, target, brain)
    assert source.shape == target.shape and source.dtype == torch.float32
    assert source.min() == 0 and 0.5 < source.max() <= 1
    assert torch.equal(source > 0, target > 0)


def test_slabs_of_a_batch_differ_in_contrast() -> None:
    target, brain = three_tissues()
    sources = seeded(PURE, 0, target.expand(4, -1, -1, -1, -1), brain.expand(4, -1, -1, -1, -1))
    means = sources.reshape(4, 3, -1).mean(dim=2)
    assert torch.pdist(means).min() > 0.01


def test_an_empty_slab_gives_an_empty_source() -> None:
    empty = torch.zeros(2, 1, 8, 8, 4)
    assert torch.equal(seeded(ContrastRandomizer(), 0, empty, empty), empty)


@given(seed=seeds, place=st.tuples(st.integers(0, 7), st.integers(0, 7), st.integers(0, 3)))
def test_a_slab_may_hold_a_single_faint_voxel(seed: int, place: tuple[int, int, int]) -> None:
    """This happens if a corner of the brain reaches into a slab."""
    target = torch.zeros(1, 1, 8, 8, 4)
    target[(0, 0, *place)] = 0.01
    source = seeded(ContrastRandomizer(), seed, target, (target > 0).float())
    assert source.isfinite().all() and source.min() >= 0 and source.max() <= 1


# --- the contrast ---


@given(
    levels=st.lists(st.floats(0, 1), min_size=len(T1_KNOTS), max_size=len(T1_KNOTS)),
    values=st.lists(st.floats(0, 1), min_size=1, max_size=20),
)
def test_remap_agrees_with_numpy(levels: list[float], values: list[float]) -> None:
    image = torch.tensor([*values, *T1_KNOTS])
    result = remap(image, torch.tensor(levels)).numpy()
    np.testing.assert_allclose(result, np.interp(image, T1_KNOTS, levels), atol=1e-5)
    np.testing.assert_allclose(result[len(values) :], levels, atol=1e-5)


def test_tissue_orders_have_their_probabilities() -> None:
    target, brain = three_tissues()
    draws = 600
    ordered = ContrastRandomizer(
        csf_gm_overlap_prob=0.0, mixing_prob=0.0, level_std=0.0, bias=0.0, blur=0.0, through_plane_blur=0.0, noise=0.0
    )
    sources = seeded(ordered, 0, target.expand(draws, -1, -1, -1, -1), brain.expand(draws, -1, -1, -1, -1))
    means = sources.reshape(draws, 3, -1).mean(dim=2)
    ranks = Counter(tuple(ranks) for ranks in means.argsort(dim=1).argsort(dim=1).tolist())
    for order, weight in zip(TISSUE_ORDERS, ordered.tissue_order_probs.tolist(), strict=True):
        spread = (draws * weight * (1 - weight)) ** 0.5
        assert abs(ranks[order] - draws * weight) < 4 * spread


def test_tissues_are_separated_without_random_levels() -> None:
    """The three values are well separated, so scaled tissues differ by a large part of the range."""
    target, brain = three_tissues()
    contrast_randomizer = ContrastRandomizer(level_std=0.0, bias=0.0, blur=0.0, through_plane_blur=0.0, noise=0.0)
    source = seeded(contrast_randomizer, 0, target.expand(60, -1, -1, -1, -1), brain.expand(60, -1, -1, -1, -1))
    means = source.reshape(60, 3, -1).mean(dim=2).sort(dim=1).values
    separated = (means.diff(dim=1) > 0.3).all(dim=1)
    # in about half of the draws tissues may overlap
    assert separated.float().mean() > 0.4


@given(levels=st.lists(st.floats(0.02, 1), min_size=6, max_size=6), share=st.floats(0, 1))
def test_the_boundary_of_csf_and_white_matter_is_a_mixture_of_both(levels: list[float], share: float) -> None:
    """Partial volume: the new intensity of a mixture is the mixture of the new intensities."""
    mixture = torch.tensor([(1 - share) * CSF + share * WHITE])
    result = remap(mixture, without_cortex(torch.tensor(levels))).item()
    assert result == pytest.approx((1 - share) * levels[1] + share * levels[4], abs=1e-5)


def test_only_the_boundary_remaps_without_cortex() -> None:
    """At a boundary, an intermediate intensity stays between those of CSF and white matter."""
    target, brain = three_tissues()
    ordered = ContrastRandomizer(
        csf_gm_overlap_prob=0.0, mixing_prob=0.0, level_std=0.0, bias=0.0, blur=0.0, through_plane_blur=0.0, noise=0.0
    )
    inner = seeded(ordered, 0, target.expand(20, -1, -1, -1, -1), brain.expand(20, -1, -1, -1, -1))
    border = seeded(ordered, 0, target.expand(20, -1, -1, -1, -1), 2 * brain.expand(20, -1, -1, -1, -1))
    for source, lies_between in ((border, True), (inner, False)):
        csf, cortex, white = source.reshape(20, 3, -1).mean(dim=2).unbind(1)
        inside = (cortex > torch.minimum(csf, white)) & (cortex < torch.maximum(csf, white))
        assert inside.all() == lies_between


def test_air_outside_the_brain_stays_dark() -> None:
    target, brain = three_tissues()
    wide, mask = torch.full((60, 1, 12, 14, 4), 0.01), torch.zeros(60, 1, 12, 14, 4)
    wide[..., 3:11, :], mask[..., 3:11, :] = target, brain
    source = seeded(PURE, 0, wide, mask)
    assert source[mask == 0].max() < 0.15
    assert (source.amax(dim=(1, 2, 3, 4)) > 0.9).all()


def test_each_structure_is_shifted_as_a_whole() -> None:
    """Two structures of the same tissue, in a uniform brain next to CSF."""
    target = torch.full((40, 1, 18, 8, 8), WHITE)
    target[:, :, 15:] = CSF
    brain = torch.ones_like(target)
    brain[:, :, 2:6], brain[:, :, 9:13] = 3, 4
    settings: dict[str, Any] = {"bias": 0.0, "blur": 0.0, "through_plane_blur": 0.0, "noise": 0.0, "mixing_prob": 0.0}
    shifted = ContrastRandomizer(structure_std=0.2, **settings)
    first, second, unshifted = (seeded(shifted, 0, target, brain)[:, 0, place, 4, 4] for place in (3, 10, 7))
    assert (first - unshifted).abs().mean() > 0.05 and (second - unshifted).abs().mean() > 0.05
    assert np.corrcoef(first - unshifted, second - unshifted)[0, 1] < 0.5
    unmixed = ContrastRandomizer(structure_std=0.0, **settings)
    still = seeded(unmixed, 0, target, brain)[:, 0, :15]
    torch.testing.assert_close(still, still[:, :1, :1, :1].expand(-1, 15, 8, 8))


# --- the degradations ---


@given(seed=seeds, sigmas=st.lists(st.floats(0, 1), min_size=3, max_size=3))
def test_blur_agrees_with_scipy(seed: int, sigmas: list[float]) -> None:
    image = torch.rand(1, 1, 7, 6, 5, generator=torch.Generator().manual_seed(seed))
    expected = ndimage.gaussian_filter(image[0, 0].numpy(), sigmas, mode="nearest", radius=2)
    np.testing.assert_allclose(gaussian_blur(image, sigmas)[0, 0], expected, atol=1e-5)


@given(sigmas=st.lists(st.floats(0, 1), min_size=3, max_size=3))
def test_blur_preserves_the_total(sigmas: list[float]) -> None:
    image = torch.zeros(1, 1, 9, 9, 9)
    image[0, 0, 2:7, 3:6, 4] = torch.rand(5, 3)
    assert float(gaussian_blur(image, sigmas).sum()) == pytest.approx(float(image.sum()), rel=1e-5)


@given(seed=seeds, shape=st.tuples(*[st.integers(4, 20)] * 3))
def test_field_is_bounded_and_smooth(seed: int, shape: tuple[int, int, int]) -> None:
    torch.manual_seed(seed)
    field = smooth_field(torch.zeros(1, 1, *shape), knots=(4, 4, 3))
    assert field.shape == (1, 1, *shape) and field.abs().max() <= 1
    for axis, (length, knots) in enumerate(zip(shape, (4, 4, 3), strict=True), start=2):
        # between knots, (length - 1) / (knots - 1) voxels apart, it changes by 2 at most
        assert field.diff(dim=axis).abs().max() <= 2 * (knots - 1) / (length - 1) + 1e-5


def test_field_is_uniform_at_its_knots() -> None:
    torch.manual_seed(0)
    corners = torch.stack([smooth_field(torch.zeros(1, 1, 8, 8, 8)) for _ in range(300)])[
        ..., [0, -1], [0, -1], [0, -1]
    ]
    assert abs(float(corners.mean())) < 0.1
    assert float(corners.std()) == pytest.approx(1 / np.sqrt(3), rel=0.1)


def test_each_degradation_changes_the_source() -> None:
    target, brain = stripped_slabs(0)
    sources = [
        seeded(ContrastRandomizer(bias=bias, blur=blur, through_plane_blur=blur, noise=noise), 5, target, brain)
        for bias, blur, noise in [(0.0, 0.0, 0.0), (0.4, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 0.3)]
    ]
    for degraded in sources[1:]:
        assert (degraded - sources[0]).abs().max() > 0.02


# --- RandomizeContrastd ---


def test_validation_contrasts_depend_on_seed_and_file_name_only() -> None:
    target, brain = stripped_slabs(0, batch=1)
    data: dict[Hashable, Any] = {"image": MetaTensor(target[0]), "regions": brain[0]}
    torch.manual_seed(1)
    first = RandomizeContrastd("image", "regions", ContrastRandomizer(), seed=3)(data)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    again = RandomizeContrastd("image", "regions", ContrastRandomizer(), seed=3)(data)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first["image"], again["image"])
    assert torch.equal(first["image"][None], seeded(ContrastRandomizer(), 3, target, brain))
    other = RandomizeContrastd("image", "regions", ContrastRandomizer(), seed=4)(data)
    assert not torch.allclose(other["image"], first["image"], atol=0.05)
    assert torch.equal(data["image"].as_tensor(), target[0])

    def of_file(name: str) -> torch.Tensor:
        image = MetaTensor(target[0], meta={"filename_or_obj": name})
        return RandomizeContrastd("image", "regions", ContrastRandomizer(), seed=3)(data | {"image": image})["image"]

    assert torch.equal(of_file("here/a.nii.gz"), of_file("there/a.nii.gz"))
    assert not torch.allclose(of_file("a.nii.gz"), of_file("b.nii.gz"), atol=0.05)


@pytest.mark.parametrize("seed", range(8))
def test_lesions_leave_white_matter_on_the_side_of_cortex(seed: int) -> None:
    target = torch.full((1, 1, 12, 12, 12), 0.7)
    target[:, :, :4] = 0.5
    regions = torch.full_like(target, Region.BRAIN)
    regions[:, :, 8:] = Region.FIRST_STRUCTURE
    exact: dict[str, Any] = dict.fromkeys(
        ("level_std", "mixing_prob", "bias", "noise", "blur", "through_plane_blur"), 0.0
    )
    randomizer = ContrastRandomizer(lesion_region=Region.FIRST_STRUCTURE, structure_std=0.0, **exact)
    torch.manual_seed(seed)
    source = randomizer(target, regions)[0, 0]
    cortex, white, lesion = (float(source[x].mean()) for x in (1, 6, 10))
    ratio = (lesion - white) / (cortex - white)
    assert -0.01 <= ratio <= (1.41 if cortex < white else 3.01)
    assert ratio > (-0.01 if cortex < white else 0.3)  # clipped to [0, 1]
