"""Segmentation of skull-stripped brains and whole heads, with networks that fail in known ways."""

from __future__ import annotations

import pytest
import torch
from ball_heads import RADII, head
from ball_phantoms import ball, brain_on_neck

from midiff_monai.inferers.brain_mask import STRIPPED_SHARE, interior
from midiff_monai.inferers.segmentation import CONTEXT_SLICES, BrainSegmentation

BACKGROUND, WHITE = 0, 1


class Thresholder:
    """Labels voxels brighter than 0.5 as white matter, and all voxels of some slices as background."""

    def __init__(self, failed_slices: tuple[int, ...] = ()) -> None:
        self.failed_slices = failed_slices

    def __call__(self, volume: torch.Tensor) -> torch.Tensor:
        bright = (volume[:, :1] > 0.5).float()
        logits = torch.cat([1 - bright, 2 * bright, bright - 0.5], dim=1)
        logits[:, BACKGROUND, :, :, list(self.failed_slices)] = 9.0
        return logits


def classes(volume: torch.Tensor, network: Thresholder) -> torch.Tensor:
    inferer = BrainSegmentation(depth=2, multiple=4, background=[20.0, 0.0, 0.0])
    return inferer(volume, network)[0].argmax(0)


def test_a_failed_slice_of_a_stripped_brain_is_brain_except_near_its_surface() -> None:
    volume = ball(8)
    failed = 10 - int(volume[0, 0].any(0).any(0).nonzero()[0])  # counted among the slices that are not empty
    found, foreground_mask = classes(volume, Thresholder((failed,))), volume[0, 0] > 0
    inside = interior(foreground_mask, 2)
    assert (found[inside] == WHITE).all() and inside[..., 10].any()
    assert (found[..., 10][~inside[..., 10]] == BACKGROUND).all()
    assert (found[~foreground_mask] == BACKGROUND).all()


def test_the_network_receives_all_slices_and_their_neighbours_at_once() -> None:
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
    """A mirrored volume gives the mirrored segmentation with sides exchanged, although the network is asymmetric."""

    def lopsided(volume: torch.Tensor) -> torch.Tensor:
        across = torch.arange(volume.shape[2], dtype=torch.float32).reshape(1, -1, 1, 1)
        return torch.stack([volume[:, 0] - 0.4, volume[:, 0] * across, 0.3 * across - volume[:, 0]], dim=1)

    inferer = BrainSegmentation(mirrored=[0, 2, 1], multiple=4, background=[20.0, 0.0, 0.0])
    volume = torch.rand(1, 1, 8, 8, 5) + 0.1
    straight, mirrored = inferer(volume, lopsided), inferer(volume.flip(2), lopsided)
    torch.testing.assert_close(mirrored.flip(2)[:, [0, 2, 1]], straight)


@pytest.mark.parametrize("surroundings", [0.1, 0.4])
def test_a_whole_head_keeps_its_background(surroundings: float) -> None:
    head = torch.where(ball(8) > 0, ball(8), surroundings)
    assert torch.equal(classes(head, Thresholder()), (ball(8)[0, 0] > 0).long() * WHITE)


def test_only_the_brain_of_a_whole_head_is_labelled() -> None:
    brain, mask = brain_on_neck(0)
    found = classes(torch.where(mask, 0.8, 0.1)[None, None], Thresholder())
    assert torch.equal(found > 0, brain)


class Counting(Thresholder):
    """Records the number of slices of each call."""

    def __init__(self) -> None:
        super().__init__()
        self.depths = list[int]()

    def __call__(self, volume: torch.Tensor) -> torch.Tensor:
        self.depths.append(volume.shape[-1])
        return super().__call__(volume)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_views_of_a_head_after_the_first_cover_only_slices_near_its_brain(axis: int) -> None:
    high_up, network = ball(11, 60, centre=10), Counting()
    head = torch.where(high_up > 0, high_up, 0.1).movedim(-1, axis + 2)
    inferer = BrainSegmentation(axis=axis, shifts=(0, 1), multiple=4, background=[20.0, 0.0, 0.0])
    found = inferer(head, network)[0].argmax(0)
    slices = int((high_up[0, 0].flatten(0, 1) > 0).any(0).sum())
    assert network.depths == [60, slices + 2 * CONTEXT_SLICES]
    assert torch.equal(found > 0, head[0, 0] > 0.5)


def test_all_views_of_a_stripped_brain_cover_all_of_it() -> None:
    brain, network = ball(11, 40), Counting()
    inferer = BrainSegmentation(mirrored=[0, 1, 2], shifts=(0, 1), multiple=4, background=[20.0, 0.0, 0.0])
    inferer(brain, network)
    assert network.depths == [22] * 4


@pytest.mark.parametrize("axis", [0, 1])
def test_a_slab_is_continued_by_its_mirror_images(axis: int) -> None:
    """A slab of 6 slices in a volume with 2 empty ones; the network sees 5 more slices on either side."""
    seen: list[torch.Tensor] = []

    def network(volume: torch.Tensor) -> torch.Tensor:
        seen.append(volume)
        return Thresholder()(volume)

    volume = torch.zeros(1, 1, 16, 16, 16)
    volume.narrow(axis + 2, 5, 6).copy_(0.6 + 0.4 * torch.rand(1, 1, *(6 if i == axis else 16 for i in range(3))))
    inferer = BrainSegmentation(multiple=4, background=[20.0, 0.0, 0.0])
    found = inferer(volume, network)[0]
    assert torch.equal(found.argmax(0) > 0, volume[0, 0] > 0.5) and found[0, 0, 0, 0] == 20
    slab = volume[0, 0].narrow(axis, 5, 6)
    extended = seen[0][0, 0]
    start = [int(size) for size in (extended > 0).nonzero().amin(0)][axis]
    torch.testing.assert_close(extended.narrow(axis, start + 5, 6), slab)
    torch.testing.assert_close(extended.narrow(axis, start, 5), slab.flip(axis).narrow(axis, 0, 5))


def test_a_slab_of_a_head_whose_brain_fills_most_of_it_keeps_its_skull_unlabelled() -> None:
    """The network labels 64 % of the foreground; the skull, deep in the slab, is none of it."""
    slab = torch.from_numpy(head(air=0)[:, :, 27:37] / 200)[None, None]
    foreground = slab[0, 0] > 0.05
    found = classes(slab, Thresholder())
    brain = torch.from_numpy(RADII[:, :, 27:37] < 45)
    assert foreground.sum() < brain.sum() / STRIPPED_SHARE
    assert not found[~brain & (slab[0, 0] < 0.05)].any()
