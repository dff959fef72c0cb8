"""What is known of a stripped brain, against SciPy and with networks that lose their way."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from midiff_monai.inferers.brain_mask import OPENING_RADIUS, extract_brain, interior, largest_component
from midiff_monai.inferers.segmentation import CONTEXT_SLICES, BrainSegmentation

BACKGROUND, WHITE = 0, 1


@given(seed=st.integers(0, 2**31), density=st.floats(0.5, 1), depth=st.integers(1, 3))
def test_deep_inside_is_the_erosion_by_a_cube(seed: int, density: float, depth: int) -> None:
    mask = np.random.default_rng(seed).random((6, 7, 8)) < density
    cube = np.ones((2 * depth - 1,) * 3)
    expected = ndimage.binary_erosion(mask, cube, border_value=1)
    np.testing.assert_array_equal(interior(torch.from_numpy(mask), depth).numpy(), expected)


class Lost:
    """Takes what is brighter than 0.5 for white matter, all else and whole slices for background."""

    def __init__(self, lost_slices: tuple[int, ...] = ()) -> None:
        self.lost_slices = lost_slices

    def __call__(self, volume: torch.Tensor) -> torch.Tensor:
        bright = (volume[:, :1] > 0.5).float()
        logits = torch.cat([1 - bright, 2 * bright, bright - 0.5], dim=1)
        logits[:, BACKGROUND, :, :, list(self.lost_slices)] = 9.0
        return logits


def ball(radius: float, side: int = 20, centre: float = 0.0) -> torch.Tensor:
    """A volume (1, 1, side, side, side), 0.8 in a ball and 0 around it; `centre` is its height above the middle."""
    places = torch.cartesian_prod(*[torch.arange(side)] * 3).reshape(side, side, side, 3) - (side - 1) / 2
    places[..., 2] -= centre
    return 0.8 * (places.square().sum(-1) < radius**2).float()[None, None]


def classes(volume: torch.Tensor, network: Lost) -> torch.Tensor:
    inferer = BrainSegmentation(depth=2, multiple=4, background=[20.0, 0.0, 0.0])
    return inferer(volume, network)[0].argmax(0)


def test_a_slice_lost_in_a_stripped_brain_is_brain_but_for_its_rim() -> None:
    volume = ball(8)
    lost = 10 - int(volume[0, 0].any(0).any(0).nonzero()[0])  # of the slices that are not empty
    found, foreground_mask = classes(volume, Lost((lost,))), volume[0, 0] > 0
    inside = interior(foreground_mask, 2)
    assert (found[inside] == WHITE).all() and inside[..., 10].any()
    assert (found[..., 10][~inside[..., 10]] == BACKGROUND).all()
    assert (found[~foreground_mask] == BACKGROUND).all()


def test_the_network_sees_all_slices_and_their_neighbours_at_once() -> None:
    seen: list[torch.Tensor] = []

    def network(volume: torch.Tensor) -> torch.Tensor:
        seen.append(volume)
        return volume[:, :1].expand(-1, 3, -1, -1, -1)

    volume = torch.rand(1, 1, 8, 8, 5) + 0.1
    BrainSegmentation(context=1, multiple=4, background=[20.0, 0.0, 0.0])(volume, network)
    below, straight, above = seen[0][0]
    assert torch.equal(straight, volume[0, 0])
    assert torch.equal(below, volume[0, 0][..., [0, 0, 1, 2, 3]])
    assert torch.equal(above, volume[0, 0][..., [1, 2, 3, 4, 4]])


def test_left_and_right_are_treated_alike() -> None:
    """A network that knows but one side: a mirrored volume gets the mirrored segmentation, sides exchanged."""

    def lopsided(volume: torch.Tensor) -> torch.Tensor:
        across = torch.arange(volume.shape[2], dtype=torch.float32).reshape(1, -1, 1, 1)
        return torch.stack([volume[:, 0] - 0.4, volume[:, 0] * across, 0.3 * across - volume[:, 0]], dim=1)

    inferer = BrainSegmentation(mirrored=[0, 2, 1], multiple=4, background=[20.0, 0.0, 0.0])
    volume = torch.rand(1, 1, 8, 8, 5) + 0.1
    as_plain_tensor, mirrored = inferer(volume, lopsided), inferer(volume.flip(2), lopsided)
    torch.testing.assert_close(mirrored.flip(2)[:, [0, 2, 1]], as_plain_tensor)


@pytest.mark.parametrize("surroundings", [0.1, 0.4])
def test_a_whole_head_keeps_its_background(surroundings: float) -> None:
    head = torch.where(ball(8) > 0, ball(8), surroundings)
    assert torch.equal(classes(head, Lost()), (ball(8)[0, 0] > 0).long() * WHITE)


def brain_on_neck(width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Masks (40, 40, 40) of a large ball and of a small one below, with a square rod of this width between the two."""
    brain, neck = ball(11, 40, centre=7)[0, 0] > 0, ball(6, 40, centre=-13)[0, 0] > 0
    rod = torch.zeros_like(brain)
    across = slice(20 - width // 2, 20 - width // 2 + width)
    rod[across, across, 8:20] = True
    return brain, brain | neck | rod


@pytest.mark.parametrize("width", [0, 1, 2 * OPENING_RADIUS])
def test_the_neck_is_cut_off_whatever_thin_bridge_joins_it_to_the_brain(width: int) -> None:
    brain, mask = brain_on_neck(width)
    kept = largest_component(mask)
    assert kept[brain].all()
    assert not kept[..., :10].any()


def test_what_is_broadly_joined_to_the_brain_stays() -> None:
    _, mask = brain_on_neck(2 * OPENING_RADIUS + 3)
    assert torch.equal(largest_component(mask), mask)


@given(seed=st.integers(0, 2**31), density=st.floats(0, 1))
def test_nothing_is_added_and_what_has_no_thick_piece_is_left_alone(seed: int, density: float) -> None:
    mask = torch.from_numpy(np.random.default_rng(seed).random((9, 10, 11)) < density)
    kept = largest_component(mask)
    assert not (kept & ~mask).any()
    assert kept.any() == mask.any()


def test_of_a_whole_head_the_brain_alone_is_labelled() -> None:
    brain, mask = brain_on_neck(0)
    found = classes(torch.where(mask, 0.8, 0.1)[None, None], Lost())
    assert torch.equal(found > 0, brain)


class Counting(Lost):
    """Keeps how many slices it was shown each time."""

    def __init__(self) -> None:
        super().__init__()
        self.depths = list[int]()

    def __call__(self, volume: torch.Tensor) -> torch.Tensor:
        self.depths.append(volume.shape[-1])
        return super().__call__(volume)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_all_looks_at_a_head_but_the_first_are_at_the_slices_near_its_brain(axis: int) -> None:
    high_up, network = ball(11, 60, centre=10), Counting()
    head = torch.where(high_up > 0, high_up, 0.1).movedim(-1, axis + 2)
    inferer = BrainSegmentation(axis=axis, shifts=(0, 1), multiple=4, background=[20.0, 0.0, 0.0])
    found = inferer(head, network)[0].argmax(0)
    slices = int((high_up[0, 0].flatten(0, 1) > 0).any(0).sum())
    assert network.depths == [60, slices + 2 * CONTEXT_SLICES]
    assert torch.equal(found > 0, head[0, 0] > 0.5)


def test_all_looks_at_a_stripped_brain_are_at_all_of_it() -> None:
    brain, network = ball(11, 40), Counting()
    inferer = BrainSegmentation(mirrored=[0, 1, 2], shifts=(0, 1), multiple=4, background=[20.0, 0.0, 0.0])
    inferer(brain, network)
    assert network.depths == [22] * 4


def logits_of(labelled: torch.Tensor) -> torch.Tensor:
    return torch.stack([1.0 - labelled.float(), 2.0 * labelled.float()])


def test_the_brain_in_a_head_has_its_sulci_and_holes() -> None:
    """A slit as wide as a sulcus, and a cavity within."""
    whole = ball(14, 40)[0, 0] > 0
    labelled = whole.clone()
    labelled[19:22, :, 20:] = False
    labelled[16:24, 16:24, 8:14] = False
    brain = extract_brain(logits_of(labelled), torch.ones_like(whole))
    assert brain is not None
    assert brain[labelled].all() and not brain[~(ball(16, 40)[0, 0] > 0)].any()
    assert brain[19:22, 20, 22:30].all() and brain[16:24, 16:24, 8:14].all()


def test_a_brain_that_the_scan_cuts_off_reaches_the_edge() -> None:
    labelled = torch.zeros(30, 30, 12, dtype=torch.bool)
    labelled[8:22, 8:22] = True
    brain = extract_brain(logits_of(labelled), torch.ones_like(labelled))
    assert brain is not None and torch.equal(brain, labelled)


@pytest.mark.parametrize("radius, stripped", [(14, True), (0, False), (OPENING_RADIUS, False)])
def test_there_is_nothing_to_strip_of_a_stripped_brain_or_of_specks(radius: float, stripped: bool) -> None:
    labelled = ball(radius, 40)[0, 0] > 0
    foreground_mask = labelled if stripped else torch.ones_like(labelled)
    assert extract_brain(logits_of(labelled), foreground_mask) is None
