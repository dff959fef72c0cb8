"""Means over subjects with bootstrap intervals, as CSV and as Markdown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from markdown_table import markdown_table

from midiff_monai.evaluation.metrics import bootstrap_interval

GROUP = ["dataset", "contrast", "method"]
SHOWN = {
    "white matter dice": "white matter",
    "grey matter dice": "grey matter",
    "lateral ventricles dice": "ventricles",
    "white matter tissue dice": "white tissue",
    "grey matter tissue dice": "grey tissue",
    "cerebrospinal fluid tissue dice": "CSF",
    "correlation": "correlation",
    "ssim": "SSIM",
    "through-plane": "through-plane",
}
"""Measure → heading of the first Markdown table. The CSV has all measures."""

SHOWN_OF_SHAPE = {
    f"{structure} {measure}": f"{structure.removeprefix('lateral ')}, {heading}"
    for measure, heading in (("volume error", "volume error"), ("hd95", "HD95 in mm"))
    for structure in ("white matter", "grey matter", "lateral ventricles")
}
"""Measure → heading of the second Markdown table: volume errors and surface distances."""


def summarise(rows: pd.DataFrame) -> pd.DataFrame:
    """Compute number of subjects, mean and 95 % interval for each dataset, contrast, method and measure.

    NaN is ignored. HD95 is infinite if a result lacks the structure. Its mean is then infinite, its interval NaN.
    """
    measures = rows.select_dtypes("number").columns
    return pd.DataFrame(
        [
            dict(zip(GROUP, group, strict=True)) | {"measure": measure} | mean_and_interval(values[measure].dropna())
            for group, values in rows.groupby(GROUP, sort=False)
            for measure in measures
            if values[measure].notna().any()
        ]
    )


def write_summary(rows: pd.DataFrame, folder: Path) -> str:
    """Write summary.csv and summary.md, and return the Markdown text."""
    summary = summarise(rows)
    summary.to_csv(folder / "summary.csv", index=False, float_format="%.5g")
    text = markdown(summary)
    (folder / "summary.md").write_text(text, encoding="utf-8")
    return text


def markdown(summary: pd.DataFrame) -> str:
    """Format two tables per dataset: one line per contrast and method, one column per measure."""
    parts = [
        "Means over subjects with bootstrap 95 % intervals. Structures and tissues are Dice. Volume errors are signed"
        " and relative to the reference. PROTOCOL.md describes the measures."
    ]
    for dataset, rows in summary.groupby("dataset", sort=False):
        subjects = rows["subjects"].max()
        parts += [f"## {dataset}: {subjects} subject{'s' if subjects > 1 else ''}"]
        parts += [_markdown_table(rows, shown) for shown in (SHOWN, SHOWN_OF_SHAPE)]
    return "\n\n".join(parts) + "\n"


def _markdown_table(rows: pd.DataFrame, headings: dict[str, str]) -> str:
    lines = []
    for (contrast, method), measures in rows.groupby(["contrast", "method"], sort=False):
        cells = measures.set_index("measure")
        shown = [_cell(cells.loc[measure]) if measure in cells.index else "" for measure in headings]
        lines.append([contrast, f"`{method}`", *shown])
    return markdown_table(["contrast", "method", *headings.values()], lines)


def _cell(row: pd.Series) -> str:
    interval = f" [{row['low']:.2f}, {row['high']:.2f}]" if row["subjects"] > 1 and np.isfinite(row["low"]) else ""
    return f"{row['mean']:.2f}{interval}"


def mean_and_interval(values: pd.Series) -> dict[str, float]:
    low, high = bootstrap_interval(values) if np.isfinite(values).all() else (np.nan, np.nan)
    return {"subjects": values.size, "mean": values.mean(), "low": low, "high": high}
