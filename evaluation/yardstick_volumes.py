"""Errors of the volumes of the yardstick, as Markdown."""

from __future__ import annotations

import pandas as pd
from markdown_table import markdown_table

from midiff_monai.evaluation.scores import REGIONS

FOUND_ML, TRUE_ML = "ml", "true ml"
"""Measures: the volume of a structure in the result, and in the truth."""

T1 = "T1"
"""Contrast that other contrasts of the same person are compared with."""

FEWEST = 5
"""Number of subjects from which a correlation is computed."""


def volume_tables(rows: pd.DataFrame) -> list[str]:
    """Compare the volumes of a source with the truth, and with those of the same person's T1w.

    Args:
        rows: rows of yardstick.csv of one source.

    Returns:
        A heading and a table for each comparison. None without volumes.
    """
    found, true = _volumes(rows, FOUND_ML), _volumes(rows, TRUE_ML)
    if true.empty:
        return []
    found = found[list(true)]
    parts = ["Error of volumes in %, mean ± standard deviation, and correlation with the truth:", _table(found, true)]
    contrasts = found.index.get_level_values("contrast")
    others, of_t1 = found[contrasts != T1], found[contrasts == T1].droplevel("contrast")
    others = others[others.droplevel("contrast").index.isin(of_t1.index)]
    if others.empty:
        return parts
    t1 = of_t1.loc[others.droplevel("contrast").index].set_index(others.index)
    return [*parts, "Difference from the volumes of the same person's T1w in %, and correlation:", _table(others, t1)]


def _volumes(rows: pd.DataFrame, measure: str) -> pd.DataFrame:
    """Volumes in ml, one row for each contrast, settings and subject, one column for each region."""
    of_measure = rows[(rows["measure"] == measure) & rows["structure"].isin(REGIONS)]
    table = of_measure.pivot_table(
        index=["contrast", "settings", "subject"], columns="structure", values="value", sort=False
    )
    return table[[region for region in REGIONS if region in table]]


def _table(found: pd.DataFrame, reference: pd.DataFrame) -> str:
    """One line for each contrast and settings, one column for each region."""
    rows = []
    for key, group in found.groupby(["contrast", "settings"], sort=False):
        truth = reference.loc[group.index]
        rows.append([*key, str(len(group)), *(_cell(group[region], truth[region]) for region in found)])
    return markdown_table(["contrast", "settings", "subjects", *found], rows)


def _cell(found: pd.Series, reference: pd.Series) -> str:
    errors = 100 * (found / reference - 1)
    if len(errors) == 1:
        return f"{errors.iloc[0]:+.1f}"
    correlation = f", r {found.corr(reference):.2f}" if len(errors) >= FEWEST else ""
    return f"{errors.mean():+.1f} ± {errors.std():.1f}{correlation}"
