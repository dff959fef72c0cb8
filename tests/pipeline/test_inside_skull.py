"""What a segmentation may hold in a whole head: nothing outside the skull, whose space is a stand-in here."""

from __future__ import annotations

from typing import Any

import ball_heads
import pytest
import torch
from monai.data import MetaTensor

from midiff_monai.labels import FREESURFER_IDS
from midiff_monai.pipeline.intracranial import inside_skull, space_of
from midiff_monai.pipeline.models import Models
from midiff_monai.pipeline.volume import foreground_of, segment_volume
from midiff_monai.transforms.brain_distance import SURFACE

AFFINE = torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0]))
HEAD = torch.from_numpy(ball_heads.head(0))
BALL = torch.from_numpy(ball_heads.RADII < 30)


class Labeller:
    """A segmenter at 2 mm that labels everything as one class of white matter."""

    def setting(self, name: str) -> Any:
        return {"fast": True}[name]

    def conform(self, volume: MetaTensor) -> MetaTensor:
        return volume

    def infer(self, volume: MetaTensor, coarse: bool = False) -> torch.Tensor:
        logits = torch.zeros(len(FREESURFER_IDS), *volume.shape[1:])
        logits[FREESURFER_IDS.index(2)] = 9.0
        return logits


class Skull:
    """Finds a ball inside the skull, or nothing, and keeps what it was shown."""

    def __init__(self, space: torch.Tensor) -> None:
        self.space = space

    def infer(self, volume: MetaTensor, coarse: bool = False) -> torch.Tensor:
        self.seen = volume.as_tensor()
        return self.space[None].float()


def test_a_mask_is_kept_in_the_space() -> None:
    space = torch.rand(1, 5, 5, 5, generator=torch.Generator().manual_seed(1))
    mask = torch.rand(5, 5, 5, generator=torch.Generator().manual_seed(0)) > 0.5
    assert torch.equal(inside_skull(mask, MetaTensor(space, affine=AFFINE)), mask & (space[0] > 0.5))


def test_an_empty_space_leaves_a_mask_as_it_is() -> None:
    mask = torch.rand(5, 5, 5, generator=torch.Generator().manual_seed(0)) > 0.5
    assert torch.equal(inside_skull(mask, MetaTensor(torch.full((1, 5, 5, 5), 0.4), affine=AFFINE)), mask)


def test_the_space_is_found_from_the_scans_and_the_brain_of_the_classes() -> None:
    skull: Any = Skull(BALL)
    scans = MetaTensor(torch.stack([HEAD, 2 * HEAD]), affine=AFFINE)
    space = space_of(scans, BALL * FREESURFER_IDS.index(2), skull)
    assert torch.equal(skull.seen[:2], scans.as_tensor())
    assert torch.equal(skull.seen[2] > SURFACE, BALL)
    assert torch.equal(space.affine, scans.affine.to(space.affine))


@pytest.mark.parametrize("space, everything", [(BALL, False), (torch.zeros_like(BALL), True)])
def test_nothing_is_labelled_outside_the_skull_of_a_head(space: torch.Tensor, everything: bool) -> None:
    image = MetaTensor(HEAD[None], affine=AFFINE)
    bundles: list[Any] = [Labeller(), Skull(space)]
    models = Models(bundles[0], intracranial=bundles[1])
    found = segment_volume(image, foreground_of(image), models, None)
    labelled = found.labels > 0
    assert found.whole_head and labelled[BALL & (HEAD > 0)].all()
    radii = torch.from_numpy(ball_heads.RADII)[labelled]
    assert (float(radii.max()) > 55) == everything
    assert everything or float(radii.max()) < 30 + 2 * 3**0.5
