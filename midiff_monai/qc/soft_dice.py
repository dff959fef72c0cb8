"""The Dice that the segmenter itself expects of each structure, from its class probabilities."""

from __future__ import annotations

import torch

from midiff_monai.labels import FREESURFER_IDS


def soft_dice(probabilities: torch.Tensor, known: torch.Tensor) -> dict[int, float]:
    """Return the soft Dice of every structure that is the most probable one somewhere, by FreeSurfer id.

    The expected overlap of labels y with the truth is the sum of their probabilities, so the soft Dice is
    2 Σ p y / (Σ p + Σ y). It is the expected Dice where the probabilities are calibrated.

    Args:
        probabilities: (C, X, Y, Z), in the order of `labels.FREESURFER_IDS`, background first.
        known: (X, Y, Z), the mask of the foreground.
    """
    inside = probabilities[:, known]  # (C, N)
    largest, classes = inside.max(dim=0)
    count = len(FREESURFER_IDS)
    voxels, overlap = (torch.bincount(classes, weights, count) for weights in (None, largest.double()))
    expected = inside.sum(dim=1, dtype=torch.float64)
    values = 2 * overlap / (expected + voxels).clamp(min=1e-6)
    rows = zip(FREESURFER_IDS, values.tolist(), voxels.tolist(), strict=True)
    return {label: value for label, value, found in rows if label and found}
