"""The expected Dice of a segmentation, with an interval: a score that knows when the answer is wrong.

The model is a logistic regression of Dice on the confidence of the segmenter and on the edges of the synthetic T1w. It
was fitted on simulated scans with known labels, good and spoiled, by `evaluation/quality.py`. The intervals are
conformal (Vovk et al., Algorithmic Learning in a Random World, 2005): they hold the given share of the residuals of
label maps that were left out of the fit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from math import isnan, sqrt
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit

from midiff_monai.labels import STRUCTURES

FILE = Path(__file__).parent / "quality_model.json"

NOT_SCORED = "CSF"
"""How much CSF is left around a brain depends on how it was stripped, so the score leaves it out."""

LIMITS = (0.02, 0.995)
"""Range of a soft Dice in the model."""

FEATURES = ("soft_dice", "mean_soft_dice", "edge_correlation")


class Estimate(NamedTuple):
    """An expected Dice with the ends of its interval, all in [0, 1]."""

    dice: float
    low: float
    high: float


class Quality(NamedTuple):
    """What Dice the segmentation of a scan would have with the truth.

    Attributes:
        scan: mean over the structures that were found, without CSF. 0 if none was found.
        structures: of each structure that was found, by FreeSurfer id.
    """

    scan: Estimate
    structures: Mapping[int, Estimate]

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types: `score`, `interval`, and `structures`, by name, with the same two keys."""
        names = {structure.id: structure.name for structure in STRUCTURES}
        found = {names[label]: _as_json(estimate) for label, estimate in self.structures.items()}
        return {**_as_json(self.scan), "structures": found}


class QualityModel(NamedTuple):
    """The fitted model.

    Attributes:
        coefficients: one for each of `FEATURES`.
        intercepts: by name of the structure without its side.
        edge_correlation: mean of the fit, which stands for that of a scan without a synthetic T1w.
        structure_width: half the width of a structure's interval, in units of √(p (1 − p)) at an expected Dice p.
        scan_width: the same for the mean of a scan.
        coverage: share of the residuals within the intervals.
        fitted_on: what the model was fitted on.
    """

    coefficients: Sequence[float]
    intercepts: Mapping[str, float]
    edge_correlation: float
    structure_width: float
    scan_width: float
    coverage: float
    fitted_on: Mapping[str, Any]


@cache
def quality_model() -> QualityModel:
    """Read the model of the package."""
    return QualityModel(**json.loads(FILE.read_text(encoding="utf-8")))


def without_side(name: str) -> str:
    """Return the name of a structure without "Left-" or "Right-"."""
    return name.removeprefix("Left-").removeprefix("Right-")


def features(soft_dice: ArrayLike, edge_correlation: float) -> NDArray[np.float64]:
    """Return the features (N, 3) of N structures of a scan, see `FEATURES`. Soft Dice are in log odds."""
    odds = logit(np.clip(np.asarray(soft_dice, dtype=np.float64), *LIMITS))
    return np.column_stack([odds, np.full_like(odds, odds.mean()), np.full_like(odds, edge_correlation)])


def predict(
    model: QualityModel, names: Sequence[str], soft_dice: ArrayLike, edge_correlation: float
) -> NDArray[np.float64]:
    """Return the expected Dice (N,) of N structures of a scan.

    Args:
        model: see `quality_model`.
        names: of the structures.
        soft_dice: (N,), in [0, 1].
        edge_correlation: of source and synthetic T1w; NaN without a translation.
    """
    known = model.edge_correlation if isnan(edge_correlation) else edge_correlation
    intercepts = np.array([model.intercepts[without_side(name)] for name in names])
    return expit(intercepts + features(soft_dice, known) @ np.array(model.coefficients))


def expected_quality(soft_dice: Mapping[int, float], edge_correlation: float) -> Quality:
    """Estimate the quality of a segmentation.

    Args:
        soft_dice: of each structure that was found, by FreeSurfer id, see `soft_dice.soft_dice`.
        edge_correlation: of source and synthetic T1w; NaN without a translation.
    """
    model = quality_model()
    scored = [structure for structure in STRUCTURES if structure.id in soft_dice and structure.name != NOT_SCORED]
    if not scored:
        return Quality(Estimate(0.0, 0.0, 0.0), {})
    values = [soft_dice[structure.id] for structure in scored]
    dice = predict(model, [structure.name for structure in scored], values, edge_correlation)
    estimates = [with_interval(float(value), model.structure_width) for value in dice]
    by_id = {structure.id: estimate for structure, estimate in zip(scored, estimates, strict=True)}
    return Quality(with_interval(float(dice.mean()), model.scan_width), by_id)


def with_interval(dice: float, width: float) -> Estimate:
    """Add the interval to an expected Dice."""
    half = width * sqrt(dice * (1 - dice))
    return Estimate(dice, max(dice - half, 0.0), min(dice + half, 1.0))


def _as_json(estimate: Estimate) -> dict[str, Any]:
    dice, low, high = (round(value, 3) for value in estimate)
    return {"score": dice, "interval": [low, high]}
