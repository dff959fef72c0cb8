"""Draw the figures of the tables, and figures of the template phantom.

    python evaluation/figures.py --results evaluation/results --out evaluation/figures

It draws the figures whose tables exist (scores.csv, steps/scores.csv, calibration.csv). With --phantom CONTRAST it also
runs the models on the phantom. No figure shows a patient.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from phantom_figures import draw_denoising, draw_panel
from summary import summarise

from midiff_monai.evaluation.scores import STRUCTURES

MEASURES = (*(f"{structure} dice" for structure in STRUCTURES), "correlation")
DOTS_PER_INCH = 100


def draw_methods(rows: pd.DataFrame) -> Figure:
    """Draw mean and 95 % interval of each method: one row per dataset and contrast, one column per measure.

    Methods on the real T1w are excluded, because there is no other method to compare them with.
    """
    rows = rows[rows["contrast"] != "T1"]
    summary = summarise(rows).set_index(["dataset", "contrast", "measure"]).sort_index()
    groups = list(dict.fromkeys(zip(rows["dataset"], rows["contrast"], strict=True)))
    figure = Figure(figsize=(14, 2.2 * len(groups)), layout="constrained")
    panels = figure.subplots(len(groups), len(MEASURES), squeeze=False, sharex="col")
    for line, group in zip(panels, groups, strict=True):
        for panel, measure in zip(line, MEASURES, strict=True):
            if (*group, measure) in summary.index:
                _draw_intervals(panel, summary.loc[[(*group, measure)]][::-1])
            panel.set_title(f"{' '.join(group)}: {measure}", size=9)
    return figure


def draw_bland_altman(rows: pd.DataFrame) -> Figure:
    """Draw the volume difference to the real T1w over the mean of both volumes, for midiff and direct segmentation.

    Simulated datasets are excluded. Their reference is a label map, so the bias of the segmenter counts as well.
    """
    rows = rows[rows["method"].isin(["midiff", "direct"]) & ~rows["dataset"].str.startswith("simulated")]
    figure = Figure(figsize=(12, 4), layout="constrained")
    for panel, structure in zip(figure.subplots(1, len(STRUCTURES)), STRUCTURES, strict=True):
        for (method, contrast), part in rows.groupby(["method", "contrast"], sort=False):
            mean, difference = bland_altman(part, structure)
            panel.scatter(mean, difference, marker="o" if method == "midiff" else "x", label=f"{method}, {contrast}")
        mean, difference = bland_altman(rows[rows["method"] == "midiff"], structure)
        for level in (difference.mean(), *limits_of_agreement(difference)):
            panel.axhline(level, color="grey", linestyle="--", linewidth=1)
        panel.set(title=structure, xlabel="mean of both / ml", ylabel="difference from the real T1w / ml")
    panel.legend(fontsize=8)
    return figure


def bland_altman(rows: pd.DataFrame, structure: str) -> tuple[pd.Series, pd.Series]:
    """Compute mean and difference (result − reference) of a structure's volumes in ml.

    Bland and Altman, Lancet 1986.
    """
    reference = rows[f"{structure} reference ml"]
    difference = reference * rows[f"{structure} volume error"]
    return reference + difference / 2, difference


def limits_of_agreement(difference: pd.Series) -> tuple[float, float]:
    """Compute mean ± 1.96 standard deviations."""
    return difference.mean() - 1.96 * difference.std(), difference.mean() + 1.96 * difference.std()


def draw_steps(rows: pd.DataFrame) -> Figure:
    """Draw the measures over the number of steps, from the rows of the methods midiff:steps=N."""
    steps = rows["method"].str.extract(r"^midiff:steps=(\d+)$")[0].astype(float)
    rows = rows.assign(steps=steps).dropna(subset="steps")
    figure = Figure(figsize=(14, 3.2), layout="constrained")
    for panel, measure in zip(figure.subplots(1, len(MEASURES)), MEASURES, strict=True):
        for contrast, part in rows.groupby("contrast", sort=False):
            panel.plot(part.groupby("steps")[measure].mean(), marker="o", label=contrast)
        panel.set(title=measure, xlabel="steps", xscale="log")
    panel.legend(fontsize=8)
    return figure


def draw_calibration(rows: pd.DataFrame) -> Figure:
    """Draw the mean absolute error over the mean standard deviation: one point per bin, one line per contrast."""
    figure = Figure(figsize=(5, 4.5), layout="constrained")
    panel = figure.subplots()
    for contrast, part in rows.groupby("contrast", sort=False):
        means = part.groupby("bin")[["synthetic_std", "error", "correlation"]].mean()
        label = f"{contrast}, r = {means['correlation'].iloc[0]:.2f}"
        panel.plot(means["synthetic_std"], means["error"], marker="o", label=label)
    # mean absolute value of a normal error with this standard deviation
    panel.axline((0, 0), slope=float(np.sqrt(2 / np.pi)), color="grey", linestyle="--", label="calibrated")
    panel.set(xlabel="standard deviation of the samples", ylabel="mean absolute error")
    panel.legend(fontsize=8)
    return figure


def draw_reliability(bins: pd.DataFrame) -> Figure:
    """Draw the share of right labels over the calibrated probability: one panel a source, one line per contrast."""
    bins = bins[(bins["way"] == "default") & (bins["calibrated"] == 1)]
    sources = list(dict.fromkeys(bins["source"]))
    figure = Figure(figsize=(4.2 * len(sources), 4), layout="constrained")
    for panel, source in zip(figure.subplots(1, len(sources), squeeze=False)[0], sources, strict=True):
        for contrast, part in bins[bins["source"] == source].groupby("contrast", sort=False):
            means = part.groupby("bin")[["probability", "accuracy"]].mean()
            panel.plot(means["probability"], means["accuracy"], marker="o", label=contrast)
        panel.axline((0, 0), slope=1, color="grey", linestyle="--", label="calibrated")
        panel.set(title=source, xlabel="probability of the label", ylabel="share of right labels")
        panel.legend(fontsize=8)
    return figure


def _draw_intervals(panel, summary: pd.DataFrame) -> None:  # type: ignore[no-untyped-def]
    # a single subject or an infinite mean has no interval
    ends = summary[["low", "high"]].sub(summary["mean"], axis=0).abs().fillna(0)
    panel.barh(summary["method"], summary["mean"], xerr=ends.to_numpy().T, color="#7a9cc6", capsize=2)
    panel.tick_params(labelsize=8)


FIGURES: dict[str, tuple[str, Callable[[pd.DataFrame], Figure]]] = {
    "methods": ("scores.csv", draw_methods),
    "bland_altman": ("scores.csv", draw_bland_altman),
    "steps": ("steps/scores.csv", draw_steps),
    "calibration": ("calibration.csv", draw_calibration),
    "reliability": ("calibrated_probability_bins.csv", draw_reliability),
}


def main() -> None:
    """Draw every figure whose table exists."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True, help="folder of the tables")
    parser.add_argument("--out", type=Path, required=True, help="folder for the figures")
    parser.add_argument("--phantom", choices=("PD", "T2", "FLAIR"), help="run the models on this phantom too")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, (table, draw) in FIGURES.items():
        if (arguments.results / table).exists():
            figure = draw(pd.read_csv(arguments.results / table))
            figure.savefig(arguments.out / f"{name}.png", dpi=DOTS_PER_INCH)
    if arguments.phantom:
        draw_panel().savefig(arguments.out / "phantom.png", dpi=DOTS_PER_INCH)
        draw_denoising(arguments.phantom).savefig(arguments.out / "denoising.png", dpi=DOTS_PER_INCH)


if __name__ == "__main__":
    main()
