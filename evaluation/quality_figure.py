"""The figure of the quality score: expected against true Dice, and the ROC of poor segmentations."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from quality_scans import GOOD

from midiff_monai.qc.flags import MIN_QUALITY


def draw(scans: pd.DataFrame, structures: pd.DataFrame, path: Path) -> None:
    """Draw the figure.

    Args:
        scans: with the columns `source`, `fault`, `dice`, `expected`, `low` and `high`.
        structures: with the columns `dice` and `expected`, a row for each structure of each scan.
        path: PNG file.
    """
    figure, (by_scan, by_structure, roc) = plt.subplots(1, 3, figsize=(13, 4.2), layout="constrained")
    for (source, spoiled), chosen in scans.groupby(["source", scans["fault"] != GOOD]):
        marker = "x" if spoiled else "o"
        label = f"{source}, {'spoiled' if spoiled else 'good'}"
        errors = [chosen["expected"] - chosen["low"], chosen["high"] - chosen["expected"]]
        by_scan.errorbar(chosen["expected"], chosen["dice"], xerr=errors, fmt=marker, label=label, linewidth=0.7)
    by_scan.axhline(MIN_QUALITY, color="grey", linewidth=0.5)
    by_scan.axvline(MIN_QUALITY, color="grey", linewidth=0.5)
    by_scan.set(title="Scans", xlabel="expected mean Dice, with 90 % interval", ylabel="true mean Dice")
    by_scan.legend(fontsize=7)
    by_structure.plot(structures["expected"], structures["dice"], ".", markersize=3, alpha=0.5)
    by_structure.set(title="Structures", xlabel="expected Dice", ylabel="true Dice")
    for axes in (by_scan, by_structure):
        axes.plot([0, 1], [0, 1], color="grey", linestyle=":")
        axes.set(xlim=(0, 1), ylim=(0, 1))
    roc.plot(*roc_curve(scans["dice"] < MIN_QUALITY, scans["expected"]), marker=".")
    roc.set(
        title=f"Scans below {MIN_QUALITY}", xlabel="share of good scans flagged", ylabel="share of poor scans flagged"
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)


def roc_curve(poor: pd.Series, expected: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Return the shares of good and of poor scans at or below each expected Dice."""
    ordered = poor.to_numpy()[np.argsort(expected.to_numpy(), kind="stable")]
    shares = [np.concatenate([[0], np.cumsum(chosen)]) / max(chosen.sum(), 1) for chosen in (~ordered, ordered)]
    return shares[0], shares[1]
