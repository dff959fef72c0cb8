"""Training samples of the intracranial mask."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from midiff_monai.training import (
    ContrastRandomizer,
    IntracranialFractiond,
    RandBrainErrord,
    RandContrastd,
    RandCutHeadd,
    RandFalseBraind,
    RandSimulateHeadd,
    RandThickSlicesd,
)
from midiff_monai.training.intracranial import intracranial_mask
from midiff_monai.transforms import depth_in_brain

RADIUS = 60


def ball() -> np.ndarray:
    """Voxels of 1 mm: a ball of brain in a shell of CSF, a sinus on it, spinal cord with CSF below, a vein far away."""
    places = np.indices((160, 160, 200)) - np.array([80, 80, 120]).reshape(3, 1, 1, 1)
    radii = np.linalg.norm(places, axis=0)
    labels = np.select([radii < RADIUS - 4, radii < RADIUS], [2, 24], 0)
    canal = (np.hypot(*places[:2]) < 8) & (places[2] < 0)
    labels[canal & (labels == 0)] = 24
    labels[(np.hypot(*places[:2]) < 4) & canal & (radii >= RADIUS)] = 512
    labels[(radii >= RADIUS) & (radii < RADIUS + 4) & (places[2] > 40)] = 514
    labels[:4, :4, 60:] = 514
    return labels.astype(np.int16)


def counted(labels: np.ndarray) -> np.ndarray:
    z = np.arange(200)[None, None] - 120
    near = np.linalg.norm(np.indices(labels.shape)[:2] - 80, axis=0) < RADIUS + 5
    return np.isin(labels, (2, 24, 514)) & (z >= 4 - RADIUS) & near


def test_the_truth_is_brain_fluid_and_sinuses_above_the_spinal_canal() -> None:
    labels = ball()
    mask = intracranial_mask(labels)
    assert mask.sum() == pytest.approx(counted(labels).sum(), rel=0.01)
    assert not mask[:4, :4].any() and not mask[:, :, :60].any()


def test_the_shares_at_2_mm_have_the_volume_of_the_mask() -> None:
    labels = ball()
    sample = IntracranialFractiond("label")({"label": torch.from_numpy(labels)[None]})
    assert sample["label"].shape == sample["mask"].shape == (1, 80, 80, 100)
    assert float(sample["mask"].sum()) * 8 == pytest.approx(intracranial_mask(labels).sum())
    expected = (np.isin(labels, 2) & (np.arange(200) >= 60))[::2, ::2, ::2]
    assert ((sample["depth"][0].numpy() > 0.5) == expected).mean() > 0.99
    assert 0 < ((sample["mask"] > 0) & (sample["mask"] < 1)).float().mean() < 0.1


@pytest.mark.parametrize("seed", range(6))
def test_bone_is_brighter_than_brain_and_brain_than_fluid_in_a_simulated_ct(seed: int) -> None:
    labels = torch.zeros(1, 24, 24, 24, dtype=torch.int16)
    labels[:, 2:22, 2:22, 2:22] = 515
    labels[:, 5:19, 5:19, 5:19] = 24
    labels[:, 8:16, 8:16, 8:16] = 2
    known = {"contrast_randomizer": ContrastRandomizer(), "bias": 0.0, "lesion_prob": 0.0, "low_resolution_prob": 0.0}
    simulate = RandSimulateHeadd("label", ct_prob=1.0, **known)
    simulate.set_random_state(seed)
    image = simulate({"label": labels})["image"]
    air, bone, fluid, brain = (float(image[0, position, 10:14, 10:14].median()) for position in (0, 3, 6, 12))
    assert bone > 1.2 * brain and brain > 1.5 * fluid and fluid > air


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31 - 1))
def test_a_cut_leaves_what_is_intracranial(seed: int) -> None:
    mask = torch.zeros(1, 20, 24, 22)
    mask[:, 7:13, 8:17, 9:18] = 0.7
    cut = RandCutHeadd("image", mask_key="mask", prob=1.0)
    cut.set_random_state(seed)
    image = cut({"image": torch.ones(1, 20, 24, 22), "mask": mask})["image"]
    assert (image[mask > 0] == 1).all()


def test_most_cuts_remove_something() -> None:
    mask = torch.zeros(1, 40, 40, 40)
    mask[:, 15:25, 15:25, 15:25] = 1
    cut = RandCutHeadd("image", mask_key="mask", prob=1.0)
    cut.set_random_state(0)
    left = [float(cut({"image": torch.ones(1, 40, 40, 40), "mask": mask})["image"].mean()) for _ in range(20)]
    assert sum(share < 1 for share in left) >= 10 and min(left) > 0.3


def test_a_random_contrast_depends_on_the_seed_alone() -> None:
    sample: dict[Hashable, torch.Tensor] = {"image": torch.rand(1, 16, 16, 16), "regions": torch.ones(1, 16, 16, 16)}
    change = RandContrastd("image", region_key="regions", contrast_randomizer=ContrastRandomizer(), prob=1.0)
    results = []
    for seed in (1, 1, 2):
        change.set_random_state(seed)
        torch.rand(3)  # the global generator has no effect
        results.append(change(sample)["image"])
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])


def test_thick_slices_keep_the_mean_and_lose_detail_along_one_axis() -> None:
    image = torch.rand(1, 24, 24, 24)
    blur = RandThickSlicesd("image", largest_spacing=4.0, prob=1.0)
    blur.set_random_state(3)
    thick = blur({"image": image})["image"]
    assert float(thick.mean()) == pytest.approx(float(image.mean()), abs=0.01)
    variations = [float(thick.diff(dim=axis).var() / thick.var()) for axis in (1, 2, 3)]
    assert sorted(variations)[0] < 0.6 * sorted(variations)[1]


def test_the_errors_of_a_segmentation_move_the_surface_of_the_brain() -> None:
    places = np.indices((48, 48, 48)) - 23.5
    depth = depth_in_brain(np.linalg.norm(places, axis=0) < 14)[None]
    change = RandBrainErrord("depth")
    change.set_random_state(0)
    moved = [change({"depth": depth})["depth"] for _ in range(20)]
    sizes = [float((sample > 0.5).sum() / (depth > 0.5).sum()) for sample in moved]
    assert min(sizes) < 0.95 and max(sizes) > 1.05 and 0.6 < min(sizes) and max(sizes) < 1.7
    assert all(sample.min() >= 0 and sample.max() <= 1 for sample in moved)


def test_false_brain_lies_below_the_brain_and_leaves_the_brain() -> None:
    places = np.indices((48, 48, 64)) - np.array([23.5, 23.5, 40])[:, None, None, None]
    depth = depth_in_brain(np.linalg.norm(places, axis=0) < 14)[None]
    change = RandFalseBraind("depth", below_prob=1.0, prob=1.0)
    change.set_random_state(0)
    changed = [change({"depth": depth})["depth"] for _ in range(20)]
    added = [(sample > 0.5) & (depth <= 0.5) for sample in changed]
    assert all((sample >= depth).all() and sample.max() <= 1 for sample in changed)
    assert sum(bool(each.any()) for each in added) > 15
    assert np.mean([float(each[..., :40].sum() / each.sum().clamp(min=1)) for each in added]) > 0.8
    assert torch.equal(RandFalseBraind("depth", prob=0.0)({"depth": depth})["depth"], depth)


def test_a_continuation_of_the_brain_reaches_straight_down() -> None:
    places = np.indices((48, 48, 64)) - np.array([23.5, 23.5, 40])[:, None, None, None]
    brain = np.linalg.norm(places, axis=0) < 14
    depth = depth_in_brain(brain)[None]
    change = RandFalseBraind("depth", continuation_prob=1.0, height=(6, 6), length=(8, 8), prob=1.0)
    added = (change({"depth": depth})["depth"][0] > 0.5).numpy() & (depth[0] <= 0.5).numpy()
    lowest = int(brain.any(axis=(0, 1)).argmax())
    expected = np.zeros_like(brain)
    for shift in range(1, 9):
        expected[..., : lowest + 6 - shift] |= brain[..., shift : lowest + 6]
    np.testing.assert_array_equal(added, expected & ~brain)
