"""How sure the segmenter is of each structure, from its class probabilities."""

from __future__ import annotations

from typing import NamedTuple

import torch

from midiff_monai.labels import FREESURFER_IDS


class Confidence(NamedTuple):
    """The confidence in one structure.

    Attributes:
        soft_dice: Dice that the segmenter expects: of the class probabilities and the labels made of them, in [0, 1].
        entropy: mean entropy in bits of the class probabilities in the voxels of the structure.
        voxels: number of voxels of the structure on the segmenter's grid.
    """

    soft_dice: float
    entropy: float
    voxels: int


def confidence_of(probabilities: torch.Tensor, known: torch.Tensor) -> dict[int, Confidence]:
    """Measure the confidence in every structure that is the most probable one somewhere, by FreeSurfer id.

    The expected overlap of labels y with the truth is the sum of their probabilities, so the soft Dice is
    2 Σ p y / (Σ p + Σ y). It is the expected Dice where the probabilities are calibrated.

    Args:
        probabilities: (C, X, Y, Z), in the order of `labels.FREESURFER_IDS`, background first.
        known: (X, Y, Z), the mask of the foreground.
    """
    inside = probabilities[:, known]  # (C, N)
    largest, classes = inside.max(dim=0)
    entropy = torch.special.entr(inside).sum(dim=0).div(torch.log(torch.tensor(2.0)))
    count = len(FREESURFER_IDS)
    voxels, overlap, uncertain = (
        torch.bincount(classes, weights, count) for weights in (None, largest.double(), entropy.double())
    )
    expected = inside.sum(dim=1, dtype=torch.float64)
    soft_dice, mean_entropy = 2 * overlap / (expected + voxels).clamp(min=1e-6), uncertain / voxels.clamp(min=1)
    rows = zip(FREESURFER_IDS, soft_dice.tolist(), mean_entropy.tolist(), voxels.tolist(), strict=True)
    return {label: Confidence(*row) for label, *row in rows if label and row[-1]}
