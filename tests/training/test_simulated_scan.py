"""Scans of random contrasts simulated from label maps, and white matter lesions in them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from midiff_monai.labels import FREESURFER_IDS
from midiff_monai.training.contrast import ContrastRandomizer
from midiff_monai.training.simulated_lesions import LESION_OF, with_lesions
from midiff_monai.training.simulated_scan import RandSimulateScand
from midiff_monai.transforms.meta import Data

AIR, WHITE, CORTEX, VENTRICLE, FLUID, BONE, SCALP, LESION = 0, 2, 3, 4, 24, 515, 511, 25
FLAIR, T1 = (0.0, 1.0, 0.0, 0.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0, 0.0, 0.0)
"""Probabilities of `TISSUE_ORDERS`."""


@pytest.fixture
def head() -> torch.Tensor:
    """Shells of a head: ventricle, white matter, cortex, CSF, bone, scalp, air; the right half is the other side."""
    radius = np.linalg.norm(np.stack(np.meshgrid(*[np.arange(64) - 31.5] * 3, indexing="ij")), axis=0)
    labels = np.select(
        [radius < 5, radius < 18, radius < 22, radius < 24, radius < 27, radius < 30],
        [VENTRICLE, WHITE, CORTEX, FLUID, BONE, SCALP],
        AIR,
    )
    labels[32:][labels[32:] == WHITE] = 41
    return torch.from_numpy(labels)[None]


def simulated(head: torch.Tensor, orders: tuple[float, ...], seed: int, **options: float) -> Data:
    randomizer = ContrastRandomizer(orders, csf_gm_overlap_prob=0, gm_wm_overlap_prob=0, level_std=0)
    options = {"low_resolution_prob": 0, "strip_prob": 0, "bias": 0, "max_noise": 0} | options
    transform = RandSimulateScand("label", contrast_randomizer=randomizer, **options)  # type: ignore[arg-type]
    transform.set_random_state(seed)
    return transform({"label": head})


@pytest.mark.parametrize("share", [0.01, 0.1])
def test_lesions_take_their_share_of_the_white_matter_and_nothing_else(head: torch.Tensor, share: float) -> None:
    torch.manual_seed(0)
    changed = with_lesions(head, share)
    lesions = changed != head
    white = torch.isin(head, torch.tensor(list(LESION_OF)))
    assert white[lesions].all()
    assert int(lesions.sum()) == pytest.approx(share * int(white.sum()), rel=0.01)
    for tissue, lesion in LESION_OF.items():
        assert (head[changed == lesion] == tissue).all()


def test_most_lesions_lie_at_the_ventricles(head: torch.Tensor) -> None:
    torch.manual_seed(0)
    distance = torch.from_numpy(ndimage.distance_transform_edt(head[0] != VENTRICLE))[None]
    white = torch.isin(head, torch.tensor(list(LESION_OF)))
    lesions = with_lesions(head, 0.05) != head
    assert distance[lesions].median() < distance[white].median() / 2


def test_without_white_matter_nothing_changes() -> None:
    grey = torch.full((1, 8, 8, 8), CORTEX)
    assert torch.equal(with_lesions(grey, 0.5), grey)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("orders", "lesions_are_brighter"), [(FLAIR, True), (T1, False)])
def test_lesions_lie_beyond_cortex(
    head: torch.Tensor, orders: tuple[float, ...], lesions_are_brighter: bool, seed: int
) -> None:
    with_blob = head.clone()
    with_blob[:, 18:24, 29:35, 29:35] = LESION
    image = simulated(with_blob, orders, seed, lesion_prob=0, structure_std=0)["image"]
    lesion, cortex = image[:, 20:22, 31:33, 31:33].mean(), image[head == CORTEX].mean()
    white = image[with_blob == 41].mean()
    assert (lesion > cortex) == lesions_are_brighter
    assert (lesion - cortex) * (cortex - white) > 0


def test_lesions_count_as_white_matter(head: torch.Tensor) -> None:
    sample = simulated(head, FLAIR, 1, lesion_prob=1, largest_lesion_share=0.3)
    ids = torch.tensor(FREESURFER_IDS)[sample["label"].long()]
    assert torch.equal(ids, torch.where(head < 100, head, 0))


def test_air_of_a_head_has_noise_and_the_background_of_a_brain_is_0(head: torch.Tensor) -> None:
    air = head == AIR
    assert simulated(head, FLAIR, 0)["image"][air].std() > 0
    assert not simulated(head, FLAIR, 0, strip_prob=1)["image"][air].any()


def test_the_same_seed_gives_the_same_scan(head: torch.Tensor) -> None:
    first, second, other = (simulated(head, FLAIR, seed, lesion_prob=0.5)["image"] for seed in (3, 3, 4))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
