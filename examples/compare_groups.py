"""Compare the volumes of two groups.

    midiff batch scans/ -o results
    python examples/compare_groups.py results/volumes.csv subjects.csv --structure Left-Hippocampus -o groups

`subjects.csv` has the columns `input` (the file name of a scan, or its path as in volumes.csv) and `group` (two
values). The script writes `groups.csv`, with effect size and p-value of each structure, and `groups.png`, a plot of the
volumes of one structure.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from scipy import stats

from midiff_monai.qc.study import contrast

NAMES = ["input", "participant_id", "session_id", "suffix"]
"""Columns of volumes.csv that are not structures. All but the first exist only for BIDS file names."""


def join(volumes: Path, subjects: Path) -> pd.DataFrame:
    """Join volumes and groups: one row per scan, volumes in millilitres."""
    table, groups = pd.read_csv(volumes), pd.read_csv(subjects)[["input", "group"]]
    if not groups["input"].isin(table["input"]).any():
        table["input"] = table["input"].map(lambda path: Path(path).name)
    return table.merge(groups, on="input", validate="one_to_one")


def compare(table: pd.DataFrame) -> pd.DataFrame:
    """Compute group means, Cohen's d and the p-value of Welch's test for each structure."""
    (first_name, first), (second_name, second) = table.drop(columns=NAMES, errors="ignore").groupby("group")
    first, second = first.drop(columns="group"), second.drop(columns="group")
    pooled = ((first.var() + second.var()) / 2) ** 0.5
    result = pd.DataFrame({first_name: first.mean(), second_name: second.mean()})
    result["difference_in_sd"] = (second.mean() - first.mean()) / pooled
    result["p"] = stats.ttest_ind(first, second, equal_var=False).pvalue
    # one test per structure: control the false discovery rate (Benjamini and Hochberg, JRSS B 1995)
    result["p_fdr"] = stats.false_discovery_control(result["p"].fillna(1))
    return result.rename_axis("structure")


def draw(table: pd.DataFrame, structure: str, path: Path) -> None:
    """Plot each scan as a point, by group."""
    figure, axes = plt.subplots(figsize=(4, 4), layout="constrained")
    for position, (name, group) in enumerate(table.groupby("group")):
        axes.plot([position] * len(group), group[structure], "o", alpha=0.5, label=f"{name} (n = {len(group)})")
    axes.set(ylabel=f"{structure} (ml)", xticks=[], xlim=(-0.5, 1.5))
    axes.legend()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    """Write the table and the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("volumes", type=Path)
    parser.add_argument("subjects", type=Path)
    parser.add_argument("--structure", default="Left-Hippocampus")
    parser.add_argument("-o", "--output", default="groups", help="path of the output files without extension")
    arguments = parser.parse_args()
    table = join(arguments.volumes, arguments.subjects)
    if len(names := sorted(table["group"].dropna().unique())) != 2:
        parser.error(f"the scans must be of two groups, not of {len(names)}: {', '.join(map(str, names))}")
    if len(contrasts := sorted(set(table["input"].map(contrast)))) > 1:
        parser.error(
            f"volumes of different contrasts are not comparable: keep one of {', '.join(contrasts)} in the subjects"
        )
    result = compare(table)
    result.to_csv(f"{arguments.output}.csv", float_format="%.4g")
    draw(table, arguments.structure, Path(f"{arguments.output}.png"))
    print(result.sort_values("p").head(10).round(3))


if __name__ == "__main__":
    main()
