"""Fit the quality model of `midiff_monai.qc.quality`, and compare its predictions with the truth."""

from __future__ import annotations

from math import nan

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats
from scipy.optimize import minimize
from scipy.special import expit

from midiff_monai.qc.flags import MIN_QUALITY
from midiff_monai.qc.quality import FEATURES, NOT_SCORED, QualityModel, features, predict, with_interval, without_side

FITTED = "label maps"
"""Source of the scans of the fit."""

COVERAGE = 0.9

SHRINKAGE = 3.0
"""Penalty on the squared distance of an intercept from their mean, in units of a structure's cross-entropy."""


def fit(rows: pd.DataFrame) -> QualityModel:
    """Fit the model, with intervals from the residuals of label maps that are left out, one by one.

    Args:
        rows: of `quality.collect`, of the scans of the fit.
    """
    rows = rows[rows["structure"] != NOT_SCORED]
    model = _fit(rows)
    maps = rows["scan"].str.partition("-")[0]
    left_out = pd.concat(compare(_fit(rows[maps != name]), rows[maps == name]) for name in maps.unique())
    scans = per_scan(left_out)
    found = left_out.dropna(subset="expected")
    widths = [float(_residuals(table).quantile(COVERAGE)) for table in (found, scans)]
    fitted_on = {"scans": int(rows["scan"].nunique()), "label_maps": sorted(maps.unique()), "made_by": "quality.py fit"}
    return model._replace(structure_width=widths[0], scan_width=widths[1], fitted_on=fitted_on)


def _fit(rows: pd.DataFrame) -> QualityModel:
    """Minimise the cross-entropy of true and expected Dice of the structures that were found."""
    edge = float(rows.drop_duplicates("scan")["edge_correlation"].mean())
    found = rows[rows["soft_dice"] > 0].fillna({"edge_correlation": edge})
    names = found["structure"].map(without_side)
    kinds = sorted(names.unique())
    one_hot = (names.to_numpy()[:, None] == np.array(kinds)).astype(float)
    parts = [
        features(scan["soft_dice"], scan["edge_correlation"].iloc[0]) for _, scan in found.groupby("scan", sort=False)
    ]
    design, truth = np.hstack([np.concatenate(parts), one_hot]), found["dice"].to_numpy()

    def loss(weights: NDArray) -> tuple[float, NDArray]:
        expected = expit(design @ weights)
        intercepts = weights[len(FEATURES) :] - weights[len(FEATURES) :].mean()
        entropy = -(truth * np.log(expected) + (1 - truth) * np.log(1 - expected)).sum()
        gradient = design.T @ (expected - truth)
        gradient[len(FEATURES) :] += 2 * SHRINKAGE * intercepts
        return entropy + SHRINKAGE * (intercepts**2).sum(), gradient

    weights = minimize(loss, np.zeros(design.shape[1]), jac=True, method="L-BFGS-B").x
    coefficients, intercepts = weights[: len(FEATURES)].tolist(), weights[len(FEATURES) :].tolist()
    return QualityModel(coefficients, dict(zip(kinds, intercepts, strict=True)), edge, nan, nan, COVERAGE, {})


def compare(model: QualityModel, rows: pd.DataFrame) -> pd.DataFrame:
    """Add the column `expected`, which is NaN for a structure that was not found, and leave out CSF."""
    rows = rows[rows["structure"] != NOT_SCORED]
    expected = pd.Series(nan, index=rows.index)
    for _, scan in rows[rows["soft_dice"] > 0].groupby("scan"):
        edge = float(scan["edge_correlation"].iloc[0])
        expected[scan.index] = predict(model, scan["structure"].tolist(), scan["soft_dice"], edge)
    return rows.assign(expected=expected)


def per_scan(compared: pd.DataFrame) -> pd.DataFrame:
    """Average each scan: the true Dice of all structures, and the expected Dice of those that were found."""
    keys = ["source", "scan", "fault", "translated"]
    means = compared.groupby(keys, sort=False)[["dice", "expected"]].mean().fillna({"expected": 0.0})
    return means.reset_index()


def with_intervals(model: QualityModel, scans: pd.DataFrame) -> pd.DataFrame:
    """Add the columns `low` and `high` to scans."""
    ends = [with_interval(value, model.scan_width)[1:] for value in scans["expected"]]
    return scans.assign(low=[low for low, _ in ends], high=[high for _, high in ends])


def summary(scans: pd.DataFrame) -> dict[str, float]:
    """Measure how well expected Dice agree with true ones, over scans with intervals."""
    poor = scans["dice"] < MIN_QUALITY
    inside = scans["dice"].between(scans["low"], scans["high"])
    return {
        "scans": len(scans),
        "below the limit": int(poor.sum()),
        "correlation": float(scans["dice"].corr(scans["expected"])),
        "rank correlation": float(stats.spearmanr(scans["dice"], scans["expected"]).statistic),
        "mean error": float((scans["expected"] - scans["dice"]).mean()),
        "mean absolute error": float((scans["expected"] - scans["dice"]).abs().mean()),
        "in the interval": float(inside.mean()),
        "area under the ROC": area_under_roc(poor, -scans["expected"]),
    }


def area_under_roc(positive: pd.Series, score: pd.Series) -> float:
    """Return the share of pairs of a positive and a negative scan in which the positive one has the higher score."""
    if positive.all() or not positive.any():
        return nan
    wins = stats.mannwhitneyu(score[positive], score[~positive]).statistic
    return float(wins / (positive.sum() * (~positive).sum()))


def _residuals(table: pd.DataFrame) -> pd.Series:
    """The distances of true and expected Dice, in the units of the widths of intervals."""
    return (table["dice"] - table["expected"]).abs() / np.sqrt((table["expected"] * (1 - table["expected"])).clip(1e-4))
