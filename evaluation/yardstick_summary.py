"""Means of the yardstick over subjects with bootstrap intervals, as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from markdown_table import markdown_table
from summary import mean_and_interval
from yardstick_volumes import volume_tables

from midiff_monai.evaluation.scores import MEAN, MEAN_WITHOUT_CSF, REGIONS
from midiff_monai.labels import STRUCTURES

HEADER = (
    "# Yardstick\n\nDice against labels that others made: means over subjects with bootstrap 95 % intervals."
    " PROTOCOL.md describes the data and the measures. yardstick.csv has every subject."
)
SUMMARY = (*REGIONS, MEAN_WITHOUT_CSF, MEAN)
SINGLE = tuple(structure.name for structure in STRUCTURES[1:])


def markdown(rows: pd.DataFrame) -> str:
    """Format the rows of all sources, each under its own heading."""
    return "\n\n".join([HEADER, *(_of_source(name, part) for name, part in rows.groupby("source", sort=False))]) + "\n"


def _of_source(source: str, rows: pd.DataFrame) -> str:
    subjects = list(dict.fromkeys(rows["subject"]))
    parts = [f"## {source}: {', '.join(subjects)}"]
    dice = rows[rows["measure"] == "dice"]
    parts.append(_means(dice, "structure", SUMMARY))
    parts += volume_tables(rows)
    lesions = rows[rows["structure"] == "lesions"]
    if len(lesions):
        parts += ["Share of the voxels of white matter lesions:", _means(lesions, "measure")]
    registered = rows[rows["structure"] == "registration"]
    if len(registered):
        parts += ["Registration of the T1w and its labels:", _by_subject(registered)]
    if dice["structure"].isin(SINGLE).any():
        parts += ["Single structures:", _of_structures(dice)]
    return "\n\n".join(parts)


def _means(rows: pd.DataFrame, column: str, shown: Sequence[str] = ()) -> str:
    """One line for each contrast and settings, one column for each value of `column`."""
    names = [name for name in shown or rows[column].unique() if (rows[column] == name).any()]
    lines = []
    for (contrast, settings), group in rows.groupby(["contrast", "settings"], sort=False):
        cells = [_cell(group.loc[group[column] == name, "value"]) for name in names]
        lines.append([contrast, settings, str(group["subject"].nunique()), *cells])
    return markdown_table(["contrast", "settings", "subjects", *names], lines)


def _of_structures(rows: pd.DataFrame) -> str:
    """One line for each structure, one column for each contrast and settings."""
    groups = dict(list(rows.groupby(["contrast", "settings"], sort=False)))
    names = [contrast if settings == "default" else f"{contrast}, {settings}" for contrast, settings in groups]
    lines = [
        [structure, *(_cell(group.loc[group["structure"] == structure, "value"]) for group in groups.values())]
        for structure in SINGLE
    ]
    return markdown_table(["structure", *names], lines)


def _by_subject(rows: pd.DataFrame) -> str:
    table = rows.pivot_table(index=["subject", "contrast"], columns="measure", values="value", sort=False)
    lines = [[*person, *(f"{value:.3f}" for value in values)] for person, values in table.iterrows()]  # type: ignore[misc]
    return markdown_table(["subject", "contrast", *table.columns], lines)


def _cell(values: pd.Series) -> str:
    known = values.dropna()
    if not known.size:
        return ""
    found = mean_and_interval(known)
    interval = f" [{found['low']:.3f}, {found['high']:.3f}]" if known.size > 1 else ""
    return f"{found['mean']:.3f}{interval}"
