"""Whole heads: what the translation is shown, and what comes of both looks; with stand-ins for the networks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Orientationd

from midiff_monai.pipeline import two_pass as whole_head
from midiff_monai.pipeline.two_pass import translate_two_pass
from midiff_monai.transforms.intensity import ScaleForegroundIntensityd
from midiff_monai.transforms.spatial import MaskedSpacingd

BRAIN = 0.5, 0.99
"""Grey values that the segmentation labels."""


class Stub:
    """A translation conforms as the bundle does and answers its input; a segmentation labels some grey values of it."""

    def __init__(self, segmenting: bool = False, window: tuple[float, float] | None = None) -> None:
        self.segmenting, self.seen, self.drafts = segmenting, list[torch.Tensor](), list[bool]()
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
        as_plain_tensor = volume.as_tensor()
        self.seen.append(as_plain_tensor)
        self.drafts.append(coarse)
        if not self.segmenting:
            return as_plain_tensor if coarse else torch.cat([as_plain_tensor, as_plain_tensor / 2])
        labelled = between(as_plain_tensor).float()
        return torch.cat([1 - labelled, 2 * labelled])


def between(image: torch.Tensor) -> torch.Tensor:
    return (image > BRAIN[0]) & (image < BRAIN[1])


def head(axcodes: str = "RAS", stripped: bool = False) -> MetaTensor:
    """A ball of brain, of two tissues that differ little, in a cube of dim scalp with a very bright rim."""
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
    image: MetaTensor, segmentation: Stub | None, window: tuple[float, float] | None = None
) -> tuple[torch.Tensor, torch.Tensor | None, Stub]:
    translation = Stub(window=window)
    conformed = translation.conform(image)
    return *translate_two_pass(image, conformed, translation, segmentation), translation  # type: ignore[arg-type]


@pytest.mark.parametrize("largest, drafts", [(2300, [False, False]), (100, [True, False])])
@pytest.mark.parametrize("axcodes", ["RAS", "LPI", "SAR"])
def test_the_second_look_is_at_the_brain_alone_with_all_of_its_contrast(
    axcodes: str, largest: float, drafts: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The head has 384 ml and its brain 34, too little to know it for a head at once unless all brains are small."""
    monkeypatch.setattr(whole_head, "LARGEST_BRAIN_ML", largest)
    segmentation = Stub(segmenting=True)
    samples, logits, translation = translated(head(axcodes), segmentation)
    assert logits is None
    assert translation.drafts == drafts and segmentation.drafts == drafts[:1]
    first, second = (seen[0] for seen in translation.seen)
    brain = second > 0
    assert torch.equal(brain, between(first))
    # 80 and 90 lie a tenth apart beside scalp at 20 and a rim at 120, and fill the range without them
    assert first[brain].max() - first[brain].min() < 0.15
    assert second[brain].max() - second[brain].min() > 0.9
    taken = brain
    if drafts[0]:  # the outermost voxels of a head's brain were cut through, and are left to the first look
        neighbours = [brain.roll(step, axis) for axis in range(3) for step in (-1, 1)]
        taken = torch.stack([brain, *neighbours]).all(dim=0)
        assert 0 < taken.sum() < brain.sum()
    assert torch.equal(samples[0], torch.where(taken, second, first))
    assert torch.equal(samples[1], torch.where(taken, second / 2, 0 if drafts[0] else first / 2))


def test_where_the_scan_ends_the_brain_was_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scan of the middle of the ball alone, which reaches from the first slice to the last."""
    monkeypatch.setattr(whole_head, "LARGEST_BRAIN_ML", 100)
    middle = head()[..., 10:20]
    samples, _, translation = translated(middle, Stub(segmenting=True))  # type: ignore[arg-type]
    second = translation.seen[1][0]
    centre = 20, 20
    assert torch.equal(samples[0][centre], second[centre]) and (second[centre] > 0).all()


@pytest.mark.parametrize("image, segmentation", [(head(stripped=True), Stub(segmenting=True)), (head(), None)])
def test_one_look_suffices_for_a_stripped_brain_and_has_to_without_a_segmenter(
    image: MetaTensor, segmentation: Stub | None
) -> None:
    samples, logits, translation = translated(image, segmentation)
    (seen,) = translation.seen
    assert torch.equal(samples[:1], seen)
    if segmentation:
        assert torch.equal(torch.as_tensor(logits), segmentation.infer(MetaTensor(samples[:1])))


def test_of_what_is_no_head_after_all_a_draft_is_not_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A large skull-stripped brain, as that of another species."""
    monkeypatch.setattr(whole_head, "LARGEST_BRAIN_ML", 10)
    samples, logits, translation = translated(head(stripped=True), Stub(segmenting=True))
    assert translation.drafts == [True, False]
    assert logits is None and torch.equal(samples[1], samples[0] / 2)


def test_grey_values_of_a_fixed_window_are_the_same_in_both_looks() -> None:
    _, _, translation = translated(head(), Stub(segmenting=True), window=(0, 100))
    first, second = translation.seen
    assert torch.equal(second, torch.where(between(first), first, 0))


def test_a_brain_between_the_slices_is_no_brain() -> None:
    """Slices of 40 mm, and a ball of 20 mm between two of them, as a segmenter may see it in noise."""
    image = MetaTensor(torch.full((1, 40, 40, 3), 50.0), affine=torch.diag(torch.tensor([2.0, 2.0, 40.0, 1.0])))

    class BetweenSlices(Stub):
        def infer(self, volume: MetaTensor, coarse: bool = False) -> torch.Tensor:
            places = torch.stack(torch.meshgrid(*map(torch.arange, volume.shape[1:]), indexing="ij"))
            found = ((places - torch.tensor([20, 20, 10]).reshape(3, 1, 1, 1)) ** 2).sum(0, keepdim=True) < 5**2
            return torch.cat([~found, found]).float()

    samples, _, translation = translated(image, BetweenSlices(segmenting=True))
    assert len(translation.seen) == 1 and samples.isfinite().all()
