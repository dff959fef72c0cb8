"""The estimate of a run: extents of known boxes, and passes counted against those that are made."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import ball_heads
import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from midiff_monai.inferers.slicewise import foreground_box
from midiff_monai.pipeline import estimate
from midiff_monai.pipeline.estimate import Extent, Speed, estimate_seconds, extent_of, passed_ml
from midiff_monai.pipeline.models import Models, load_models
from midiff_monai.pipeline.options import Mode, Settings, Task
from midiff_monai.pipeline.two_pass import is_whole_head
from midiff_monai.pipeline.volume import foreground_of, segment_volume, translate_volume
from midiff_monai.transforms.meta import as_plain_tensor

VOXEL_ML = 0.008
AFFINE = torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0]))


class Recorder:
    """A bundle on 2 mm that returns its input, or the ball of the brain as labels, and adds up what passes it."""

    def __init__(self, views: int, segments: bool = False) -> None:
        self.views, self.segments, self.passed, self.boxes = views, segments, 0.0, list[float]()

    def setting(self, name: str) -> Any:
        inferer = SimpleNamespace(runner=SimpleNamespace(tta_views=range(self.views)))
        return {"inferer": inferer, "samples": 1, "upsampling": lambda samples, *_: samples, "fast": True}[name]

    def conform(self, volume: MetaTensor) -> MetaTensor:
        return volume

    def infer(self, volume: MetaTensor, coarse: bool = False) -> torch.Tensor:
        voxels = volume.as_tensor()
        self.boxes.append(box_ml(voxels[0]))
        self.passed += self.boxes[-1] * (1 if coarse else self.views)
        if not self.segments:
            return voxels / voxels.max()
        brain = torch.from_numpy(ball_heads.RADII < 45)[None].float()
        return torch.cat([1 - brain, 2 * brain, torch.zeros(31, *brain.shape[1:])])


def box_ml(volume: torch.Tensor) -> float:
    return float(np.prod([side.stop - side.start for side in foreground_box(volume, 1)])) * VOXEL_ML


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("finds_brain", [True, False])
@pytest.mark.parametrize("voxels", [ball_heads.head(0), ball_heads.brain()], ids=["head", "brain"])
def test_the_passes_are_those_that_are_made(
    voxels: np.ndarray, finds_brain: bool, mode: Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    translation, segmentation = Recorder(views=2), Recorder(views=4, segments=True)
    chosen: list[Any] = [segmentation, translation if mode.translates else None]
    models = Models(chosen[0], chosen[1], finds_brain=finds_brain)
    image = MetaTensor(torch.from_numpy(voxels[None]), affine=AFFINE)
    foreground = foreground_of(image)
    translated = translate_volume(image, foreground, models) if mode.translates else None
    if mode.segments:
        segment_volume(image, foreground, models, translated)
    monkeypatch.setattr(estimate, "BRAIN_BOX_ML", min([*translation.boxes, *segmentation.boxes]))
    extent = Extent(box_ml(as_plain_tensor(image[0])), is_whole_head(image))
    assert passed_ml(extent, mode, models) == pytest.approx((translation.passed, segmentation.passed))


def test_the_extent_is_the_box_around_the_foreground() -> None:
    voxels = np.zeros((60, 50, 40), np.float32)
    voxels[10:30, 5:15, 20:36] = 7
    voxels[12:20, 7:9, 22:30] = 0  # a hole
    small = nib.Nifti1Image(voxels, np.diag([-1, 2, 3, 1]))
    assert extent_of(small) == (pytest.approx(20 * 10 * 16 * 6 / 1000), False, 1)
    assert extent_of(nib.Nifti1Image(voxels, np.diag([10, 10, 10, 1]))) == (pytest.approx(3200), True, 1)
    assert extent_of(nib.Nifti1Image(0 * voxels, np.eye(4))) == Extent(0, False)


def test_the_time_is_in_proportion_to_the_samples_and_the_box() -> None:
    speed = Speed(translation=1.0)

    def seconds(box: float, samples: int) -> float:
        models = load_models(Task(Mode.TRANSLATE, Settings(samples=samples)))
        return estimate_seconds(Extent(box, False), speed, Mode.TRANSLATE, models)

    assert seconds(200, 3) == pytest.approx(6 * seconds(100, 1))


@pytest.mark.parametrize("mode", list(Mode))
def test_the_speed_of_the_shipped_bundles_can_be_measured(mode: Mode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "PIECE", (32, 32, 4))
    monkeypatch.setattr(estimate, "FINE_PIECE", 8)
    models = load_models(Task(mode))
    speed = estimate.measure_speed(mode, models)
    assert (speed.translation > 0) == mode.translates and (speed.detail > 0) == mode.segments
    assert speed.segmentation > 0
    fast = load_models(Task(mode, Settings(fast=True)))
    assert estimate.measure_speed(mode, fast).detail == 0


def test_measuring_the_speed_leaves_the_results_as_they_are() -> None:
    models = load_models(Task(Mode.TRANSLATE))
    volume = MetaTensor(torch.rand(1, 32, 32, 3, generator=torch.Generator().manual_seed(0)) + 0.1)
    assert models.translation is not None
    before, state = models.translation.infer(volume), torch.get_rng_state()
    estimate.measure_speed(Mode.TRANSLATE, models)
    assert torch.equal(models.translation.infer(volume), before)
    assert torch.equal(torch.get_rng_state(), state)
