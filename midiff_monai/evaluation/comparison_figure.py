"""The figure of a comparison: the slices of both sets in the space of their features, scores, and pairs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from numpy.typing import NDArray

from midiff_monai.evaluation.comparison import SCORES, Comparison, Picture
from midiff_monai.io.paths import readable_name

COLOURS = {"real": "tab:blue", "synthetic": "tab:orange"}

LABELS = {"psnr": "PSNR / dB", "ssim": "SSIM", "correlation": "correlation", "mutual_information": "MI / bit"}


def draw_comparison(comparison: Comparison) -> Figure:
    """Draw a comparison: features and scores above, the worst and the median pair by correlation below."""
    scored = comparison.pairs.dropna(subset="correlation").sort_values("correlation")
    shown = {"lowest": scored[:1], "median": scored[len(scored) // 2 :][:1]} if len(scored) else {}
    figure = Figure(figsize=(11, 3.6 * (1 + len(shown))), layout="constrained")
    rows = figure.subfigures(1 + len(shown), 1, squeeze=False)[:, 0]
    widths = [2.2] * bool(comparison.distances) + [1.0] * (len(SCORES) if len(scored) else 0)
    panels = list(rows[0].subplots(1, len(widths), width_ratios=widths, squeeze=False)[0]) if widths else []
    if comparison.distances:
        _draw_features(panels.pop(0), comparison)
    for panel, score in zip(panels, SCORES, strict=False):
        _draw_scores(panel, scored[score].to_numpy(), LABELS[score])
    for row, (name, pair) in zip(rows[1:], shown.items(), strict=True):
        path = pair["synthetic"].item()
        row.suptitle(f"{name} correlation, {pair['correlation'].item():.2f}: {readable_name(Path(path))}", size=9)
        _draw_pair(row, comparison.pictures[path])
    return figure


def _draw_features(panel: Axes, comparison: Comparison) -> None:
    """Draw each slice by the first two principal components of the features of both sets."""
    both = np.concatenate([comparison.real_features, comparison.synthetic_features])
    centred = both - both.mean(axis=0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    points = np.split(centred @ axes[:2].T, [len(comparison.real_features)])
    for (name, colour), part in zip(COLOURS.items(), points, strict=True):
        panel.scatter(part[:, 0], part[:, 1], s=6, alpha=0.6, color=colour, label=f"{name}, {len(part)} slices")
    title = ", ".join(f"{name.upper()} {value:.3g}" for name, value in comparison.distances.items())
    panel.set(title=title, xlabel="1st principal component of the features", ylabel="2nd")
    panel.legend(fontsize=8)


def _draw_scores(panel: Axes, scores: NDArray, label: str) -> None:
    """Draw a dot for each pair, and a line at the mean."""
    finite = scores[np.isfinite(scores)]
    panel.scatter(np.linspace(-0.15, 0.15, len(finite)), finite, s=14, color=COLOURS["synthetic"])
    if len(finite):
        panel.axhline(finite.mean(), color="grey", linewidth=1)
    panel.set(title=label, xlim=(-0.5, 0.5), xticks=[])


def _draw_pair(row: SubFigure, picture: Picture) -> None:
    """Draw the real slice, the synthetic one and their difference, all in the range of the real one."""
    high = float(np.percentile(picture.real, 99.5))
    grey = {"cmap": "gray", "vmin": 0.0, "vmax": high}
    signed = {"cmap": "RdBu_r", "vmin": -high / 2, "vmax": high / 2}
    left, middle, right = row.subplots(1, 3)
    for panel, title, image, colours in (
        (left, "real", picture.real, grey),
        (middle, "synthetic, aligned", picture.synthetic, grey),
        (right, "difference", picture.synthetic - picture.real, signed),
    ):
        panel.imshow(image.T, origin="lower", aspect=picture.aspect, **colours)
        panel.set_title(title, size=9)
        panel.axis("off")
