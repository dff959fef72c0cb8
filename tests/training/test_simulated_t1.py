"""T1w simulated from label maps: order of the tissues, masks, reproducibility, resolution."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from midiff_monai.labels import FREESURFER_IDS, MERGED, STRUCTURES
from midiff_monai.training.simulated_t1 import (
    MEANS,
    MIRRORED_LABELS,
    OUTSIDE_BRAIN,
    RandSimulateT1wd,
    class_indices,
    resampled_at,
)
from midiff_monai.transforms.meta import Data

AIR, WHITE, CORTEX, VENTRICLE, FLUID, BONE, SCALP, CEREBELLUM = 0, 2, 3, 4, 24, 515, 511, 8


@pytest.fixture
def head() -> torch.Tensor:
    """Shells of a head: ventricle, white matter, cortex, CSF, bone, scalp, air; the lowest part is cerebellum."""
    axes = np.stack(np.meshgrid(*[np.arange(64) - 31.5] * 3, indexing="ij"))
    radius = np.linalg.norm(axes, axis=0)
    labels = np.select(
        [radius < 5, radius < 16, radius < 20, radius < 23, radius < 26, radius < 30],
        [VENTRICLE, WHITE, CORTEX, FLUID, BONE, SCALP],
        AIR,
    )
    labels[(radius < 20) & (axes[2] < -12)] = CEREBELLUM
    return torch.from_numpy(labels.astype(np.int16))[None]


def simulated(head: torch.Tensor, seed: int = 0, **options: float) -> Data:
    transform = RandSimulateT1wd("label", **options)  # type: ignore[arg-type]
    transform.set_random_state(seed)
    return transform({"label": head})


@pytest.mark.parametrize("seed", range(5))
def test_white_matter_is_brighter_than_cortex_and_cortex_than_fluid(head: torch.Tensor, seed: int) -> None:
    image = simulated(head, seed, strip_prob=0, ceiling_prob=0, low_resolution_prob=0)["image"]
    white, cortex, fluid = (image[head == label].mean() for label in (WHITE, CORTEX, VENTRICLE))
    assert white > cortex > fluid
    assert image.min() >= 0
    assert image.max() <= 1


def test_a_head_keeps_its_skull_and_loses_only_air(head: torch.Tensor) -> None:
    sample = simulated(head, strip_prob=0)
    assert torch.equal(sample["image"] > 0, head > 0)
    expected = torch.where(head < 100, head, 0)
    assert torch.equal(torch.tensor(FREESURFER_IDS, dtype=torch.int16)[sample["label"].long()], expected)


@pytest.mark.parametrize("seed", range(5))
def test_a_stripped_brain_keeps_its_tissue_and_loses_its_skull(head: torch.Tensor, seed: int) -> None:
    sample = simulated(head, seed, strip_prob=1, cerebrum_only_prob=0)
    brain = (head > 0) & (head < 100) & (head != FLUID)
    kept = sample["image"] > 0
    assert kept[brain].all()
    # three voxels along each axis is the largest margin
    assert not kept[~torch.from_numpy(ndimage.binary_dilation(brain, np.ones((1, 7, 7, 7))))].any()
    assert not sample["label"][~kept].any()


def test_a_cerebrum_has_no_cerebellum(head: torch.Tensor) -> None:
    sample = simulated(head, strip_prob=1, cerebrum_only_prob=1)
    assert not (sample["label"] == FREESURFER_IDS.index(CEREBELLUM))[..., :10].any()


def test_the_same_seed_gives_the_same_voxels_and_leaves_the_generator_alone(head: torch.Tensor) -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first, second, other = (simulated(head, seed)["image"] for seed in (3, 3, 4))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_ceiling_saturates_white_matter_in_some_images(head: torch.Tensor) -> None:
    def saturated(seed: int, ceiling_prob: float) -> float:
        options = {"strip_prob": 1, "low_resolution_prob": 0, "max_noise": 0, "bias": 0}
        image = simulated(head, seed, ceiling_prob=ceiling_prob, **options)["image"]
        return float((image[head == WHITE] == 1).float().mean())

    with_ceiling, without = (np.mean([saturated(seed, prob) for seed in range(12)]) for prob in (1, 0))
    assert with_ceiling > 2 * without


def test_every_label_has_an_intensity_and_every_structure_its_class() -> None:
    right = {MIRRORED_LABELS[label] for label in MEANS}
    assert {*FREESURFER_IDS, *MERGED, *OUTSIDE_BRAIN} - {0} <= MEANS.keys() | right
    assert class_indices(torch.tensor(FREESURFER_IDS)).tolist() == list(range(len(STRUCTURES)))
    assert class_indices(torch.tensor([25, 511])).tolist() == [FREESURFER_IDS.index(2), 0]


def test_mirrored_labels_exchange_left_and_right() -> None:
    names = {structure.id: structure.name for structure in STRUCTURES}
    for label, name in names.items():
        other = names[MIRRORED_LABELS[label]]
        assert other == name.replace("Left", "?").replace("Right", "Left").replace("?", "Right")
        assert MIRRORED_LABELS[MIRRORED_LABELS[label]] == label


def test_a_coarser_spacing_keeps_means_and_removes_detail() -> None:
    volume = torch.rand(1, 1, 24, 24, 24, generator=torch.Generator().manual_seed(0))
    coarse = resampled_at(volume, [4.0, 1.0, 1.0])
    assert abs(float(coarse.mean() - volume.mean())) < 0.01
    assert float(coarse.diff(dim=2).std()) < 0.4 * float(volume.diff(dim=2).std())
    torch.testing.assert_close(resampled_at(volume, [1.0, 1.0, 1.0]), volume)
