"""Two-pass translation with stand-ins for the networks: their inputs, and how the passes are merged."""

from __future__ import annotations

from typing import Any

import ball_heads
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Orientationd

from midiff_monai.pipeline.models import Models
from midiff_monai.pipeline.two_pass import is_whole_head, translate_two_pass
from midiff_monai.transforms.intensity import ScaleForegroundIntensityd
from midiff_monai.transforms.spatial import MaskedSpacingd

BRAIN = 0.5, 0.99
"""Intensities that the segmentation labels as brain."""


class Stub:
    """A translation that conforms like the bundle and returns its input, or a segmentation by intensity."""

    def __init__(self, segmenting: bool = False, window: tuple[float, float] | None = None) -> None:
        self.segmenting, self.seen, self.coarse_passes = segmenting, list[torch.Tensor](), list[bool]()
        self._conform = Compose(
            [
                Orientationd("image", axcodes="RAS", labels=None),
                MaskedSpacingd("image", (2.0, 2.0, 2.0)),
                ScaleForegroundIntensityd("image", window=window),
            ]
        )

    def conform(self, volume: MetaTensor) -> MetaTensor:
        return volume if self.segmenting else self._conform({"image": volume})["image"]

    def infer(self, volume: MetaTensor, coarse: bool = False) -> torch.Tensor:
        voxels = volume.as_tensor()
        self.seen.append(voxels)
        self.coarse_passes.append(coarse)
        if not self.segmenting:
            return voxels if coarse else torch.cat([voxels, voxels / 2])
        labelled = between(voxels).float()
        return torch.cat([1 - labelled, 2 * labelled])


def between(image: torch.Tensor) -> torch.Tensor:
    return (image > BRAIN[0]) & (image < BRAIN[1])


def head(axcodes: str = "RAS", stripped: bool = False) -> MetaTensor:
    """A ball of brain with two similar tissues, in a cube of dark scalp with a very bright edge."""
    places = np.moveaxis(np.indices((40, 40, 30)), 0, -1) - np.array([19.5, 19.5, 14.5])
    radii = np.linalg.norm(places * [2, 2, 2], axis=-1)
    voxels = np.full(radii.shape, 20.0)
    voxels[:2] = 120
    if stripped:
        voxels[:] = 0
    voxels[radii < 20] = 80
    voxels[(radii < 20) & (places[..., 0] < 0)] = 90
    image = MetaTensor(torch.from_numpy(voxels)[None].float(), affine=torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0])))
    return Orientationd("image", axcodes=axcodes, labels=None)({"image": image})["image"]  # type: ignore[return-value]


def translated(
    image: MetaTensor,
    segmentation: Stub,
    window: tuple[float, float] | None = None,
    whole_head: bool = False,
) -> tuple[torch.Tensor, torch.Tensor | None, Stub]:
    translation = Stub(window=window)
    stubs: list[Any] = [segmentation, translation]
    return *translate_two_pass(image, translation.conform(image), Models(*stubs), whole_head), translation


@pytest.mark.parametrize("whole_head, coarse_passes", [(False, [False, False]), (True, [True, False])])
@pytest.mark.parametrize("axcodes", ["RAS", "LPI", "SAR"])
def test_the_refinement_pass_sees_the_brain_alone_at_full_contrast(
    axcodes: str, whole_head: bool, coarse_passes: list[bool]
) -> None:
    segmentation = Stub(segmenting=True)
    samples, logits, translation = translated(head(axcodes), segmentation, whole_head=whole_head)
    assert logits is None
    assert translation.coarse_passes == coarse_passes and segmentation.coarse_passes == coarse_passes[:1]
    coarse, refined = (seen[0] for seen in translation.seen)
    brain = refined > 0
    assert torch.equal(brain, between(coarse))
    # beside scalp at 20 and an edge at 120, the tissues at 80 and 90 span a tenth of the range; alone they span it all
    assert coarse[brain].max() - coarse[brain].min() < 0.15
    assert refined[brain].max() - refined[brain].min() > 0.9
    taken = brain
    if coarse_passes[0]:  # in a head, the outermost voxels of the brain come from the coarse pass
        neighbours = [brain.roll(step, axis) for axis in range(3) for step in (-1, 1)]
        taken = torch.stack([brain, *neighbours]).all(dim=0)
        assert 0 < taken.sum() < brain.sum()
    assert torch.equal(samples[0], torch.where(taken, refined, coarse))
    assert torch.equal(samples[1], torch.where(taken, refined / 2, 0 if coarse_passes[0] else coarse / 2))


def test_tissue_outside_the_skull_is_not_refined() -> None:
    """The segmentation takes two balls for brain. One of them is found to lie inside the skull."""
    image = head()
    image[0, 33:38, 33:38, 12:17] = 85
    skull = torch.zeros(1, *image.shape[1:])
    skull[0, 9:31, 9:31, 4:26] = 1

    class Skull(Stub):
        def infer(self, volume: MetaTensor, coarse: bool = False) -> torch.Tensor:
            return skull

    translation: Any = Stub()
    stubs: list[Any] = [Stub(segmenting=True), Skull()]
    models = Models(stubs[0], translation, intracranial=stubs[1])
    translate_two_pass(image, translation.conform(image), models, whole_head=True)
    coarse, refined = (seen[0] for seen in translation.seen)
    assert between(coarse)[33:38, 33:38, 12:17].any()
    assert torch.equal(refined > 0, between(coarse) & (skull[0] > 0))


def test_the_brain_is_not_eroded_at_the_edge_of_the_scan() -> None:
    """The scan covers only the middle of the ball, which reaches from the first slice to the last."""
    middle = head()[..., 10:20]
    samples, _, translation = translated(middle, Stub(segmenting=True), whole_head=True)  # type: ignore[arg-type]
    second = translation.seen[1][0]
    centre = 20, 20
    assert torch.equal(samples[0][centre], second[centre]) and (second[centre] > 0).all()


def test_a_stripped_brain_gets_one_pass() -> None:
    segmentation = Stub(segmenting=True)
    samples, logits, translation = translated(head(stripped=True), segmentation)
    (seen,) = translation.seen
    assert torch.equal(samples[:1], seen)
    assert torch.equal(torch.as_tensor(logits), segmentation.infer(MetaTensor(samples[:1])))


def test_a_large_stripped_brain_gets_a_full_pass_after_the_coarse_one() -> None:
    """For example the brain of another species."""
    samples, logits, translation = translated(head(stripped=True), Stub(segmenting=True), whole_head=True)
    assert translation.coarse_passes == [True, False]
    assert logits is None and torch.equal(samples[1], samples[0] / 2)


@pytest.mark.parametrize(
    "volume, side, expected",
    [(ball_heads.brain(), 2, False), (ball_heads.head(0), 2, True), (ball_heads.brain(), 4, True)],
)
def test_a_volume_with_a_skull_or_larger_than_any_brain_is_a_whole_head(
    volume: np.ndarray, side: float, expected: bool
) -> None:
    """The ball of 90 mm diameter has 382 ml; with voxels of 4 mm it has 3054 ml."""
    affine = torch.diag(torch.tensor([side, side, side, 1.0]))
    assert is_whole_head(MetaTensor(torch.from_numpy(volume[None]), affine=affine)) == expected


def test_a_fixed_window_gives_the_same_intensities_in_both_passes() -> None:
    _, _, translation = translated(head(), Stub(segmenting=True), window=(0, 100))
    first, second = translation.seen
    assert torch.equal(second, torch.where(between(first), first, 0))


def test_a_brain_mask_between_thick_slices_is_ignored() -> None:
    """The slices are 40 mm thick. A ball of 20 mm lies between two of them, as a segmenter may find it in noise."""
    image = MetaTensor(torch.full((1, 40, 40, 3), 50.0), affine=torch.diag(torch.tensor([2.0, 2.0, 40.0, 1.0])))

    class BetweenSlices(Stub):
        def infer(self, volume: MetaTensor, coarse: bool = False) -> torch.Tensor:
            places = torch.stack(torch.meshgrid(*map(torch.arange, volume.shape[1:]), indexing="ij"))
            found = ((places - torch.tensor([20, 20, 10]).reshape(3, 1, 1, 1)) ** 2).sum(0, keepdim=True) < 5**2
            return torch.cat([~found, found]).float()

    samples, _, translation = translated(image, BetweenSlices(segmenting=True))
    assert len(translation.seen) == 1 and samples.isfinite().all()
