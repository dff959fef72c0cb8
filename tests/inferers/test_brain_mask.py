"""Brain masks against SciPy and geometric phantoms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ball_heads import RADII, head
from ball_phantoms import ball, brain_on_neck
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from midiff_monai.inferers.brain_mask import (
    OPENING_RADIUS,
    STRIPPED_SHARE,
    extract_brain,
    interior,
    is_stripped,
    largest_component,
)


@given(seed=st.integers(0, 2**31), density=st.floats(0.5, 1), depth=st.integers(1, 3))
def test_interior_is_the_erosion_by_a_cube(seed: int, density: float, depth: int) -> None:
    mask = np.random.default_rng(seed).random((6, 7, 8)) < density
    cube = np.ones((2 * depth - 1,) * 3)
    expected = ndimage.binary_erosion(mask, cube, border_value=1)
    np.testing.assert_array_equal(interior(torch.from_numpy(mask), depth).numpy(), expected)


@pytest.mark.parametrize("width", [0, 1, 2 * OPENING_RADIUS])
def test_the_neck_is_removed_if_a_thin_bridge_joins_it_to_the_brain(width: int) -> None:
    brain, mask = brain_on_neck(width)
    kept = largest_component(mask)
    assert kept[brain].all()
    assert not kept[..., :10].any()


def test_a_part_with_a_wide_bridge_to_the_brain_stays() -> None:
    _, mask = brain_on_neck(2 * OPENING_RADIUS + 3)
    assert torch.equal(largest_component(mask), mask)


@given(seed=st.integers(0, 2**31), density=st.floats(0, 1))
def test_the_largest_component_adds_no_voxel_and_is_never_empty(seed: int, density: float) -> None:
    mask = torch.from_numpy(np.random.default_rng(seed).random((9, 10, 11)) < density)
    kept = largest_component(mask)
    assert not (kept & ~mask).any()
    assert kept.any() == mask.any()


def logits_of(labelled: torch.Tensor) -> torch.Tensor:
    return torch.stack([1.0 - labelled.float(), 2.0 * labelled.float()])


def test_the_brain_of_a_head_includes_sulci_and_holes() -> None:
    """A slit as wide as a sulcus, and an inner cavity."""
    whole = ball(14, 40)[0, 0] > 0
    labelled = whole.clone()
    labelled[19:22, :, 20:] = False
    labelled[16:24, 16:24, 8:14] = False
    brain = extract_brain(logits_of(labelled), torch.ones_like(whole))
    assert brain is not None
    assert brain[labelled].all() and not brain[~(ball(16, 40)[0, 0] > 0)].any()
    assert brain[19:22, 20, 22:30].all() and brain[16:24, 16:24, 8:14].all()


def test_a_brain_cut_by_the_edge_of_the_scan_reaches_the_edge() -> None:
    labelled = torch.zeros(30, 30, 12, dtype=torch.bool)
    labelled[8:22, 8:22] = True
    brain = extract_brain(logits_of(labelled), torch.ones_like(labelled))
    assert brain is not None and torch.equal(brain, labelled)


@pytest.mark.parametrize("radius, stripped", [(14, True), (0, False), (OPENING_RADIUS, False)])
def test_no_brain_is_extracted_from_a_stripped_brain_or_from_specks(radius: float, stripped: bool) -> None:
    labelled = ball(radius, 40)[0, 0] > 0
    foreground_mask = labelled if stripped else torch.ones_like(labelled)
    assert extract_brain(logits_of(labelled), foreground_mask) is None


def test_a_volume_that_shows_a_skull_is_not_stripped_however_much_of_it_is_labelled() -> None:
    volume = torch.from_numpy(head(air=0)[:, :, 27:37])
    labelled = (volume > 0) & torch.from_numpy(RADII[:, :, 27:37] < 50)
    assert labelled.sum() > STRIPPED_SHARE * (volume != 0).sum()
    assert not is_stripped(labelled, volume) and is_stripped(labelled, volume * labelled)
