"""Compare the volumes of two groups.

    midiff batch scans/ -o results
    python examples/compare_groups.py results/volumes.csv subjects.csv --structure Left-Hippocampus -o groups

`subjects.csv` has the columns `input` (the file name of a scan, or its path as in volumes.csv) and `group` (two
values). Further columns, such as age, can be covariates:

    python examples/compare_groups.py results/volumes.csv subjects.csv --covariates intracranial age quality

Volumes of different contrasts are never compared: their errors differ. `--suffix PDw` chooses the scans of one
contrast, and `--suffix PDw+T2w` people whose PDw and T2w were translated together.

`quality` is the expected Dice of a scan's segmentation. The volumes are adjusted for the covariates by a linear model.
Without the option, the covariate is the intracranial volume, if volumes.csv has it for all scans: larger heads have
larger structures. `--covariates` alone means none.

The script writes `groups.csv`, with effect size and p-value of each structure, and `groups.png`, a plot of the volumes
of one structure.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy import stats

from midiff_monai.labels import INTRACRANIAL
from midiff_monai.qc.study import contrast

NAMES = ["input", "participant_id", "session_id", "suffix"]
"""Columns of volumes.csv that are not structures. All but the first exist only for BIDS file names."""

QUALITY = "quality"
"""The expected Dice of a scan's segmentation. It can be a covariate, and is not compared."""


UNKNOWN = "unknown"
"""Contrast of a scan whose name does not tell."""


def read(path: Path, *needed: str) -> pd.DataFrame:
    """Read a table. Raises ValueError if it cannot be read, or lacks a column that is needed."""
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if missing := [name for name in needed if name not in table]:
        raise ValueError(f"{path} has no column {', '.join(missing)}, but {', '.join(table)}")
    return table


def join(volumes: Path, subjects: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Join volumes and groups, one row per scan: the volumes in ml; the columns of subjects.csv and the contrast."""
    table, groups = read(volumes, "input"), read(subjects, "input", "group").dropna(subset="group")
    if not groups["input"].isin(table["input"]).any():
        table["input"] = table["input"].map(lambda path: Path(path).name)
    scans = table[["input"]].merge(groups, on="input", validate="one_to_one")
    measured = table.set_index("input").loc[scans["input"]].reset_index()
    return measured.drop(columns=NAMES, errors="ignore"), scans.assign(suffix=contrasts(measured))


def contrasts(table: pd.DataFrame) -> pd.Series:
    """Return the contrasts of the rows of volumes.csv, such as "PDw+T2w" of scans that were translated together."""
    named = table["input"].map(contrast).replace("", UNKNOWN)
    return table["suffix"].fillna(named) if "suffix" in table else named


def of_one_contrast(
    volumes: pd.DataFrame, scans: pd.DataFrame, suffix: str | None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rows of both tables whose contrast is `suffix`, or all rows if they have one contrast alone.

    Raises:
        ValueError: no scan has the contrast, or there are several and none is chosen.
    """
    found = sorted(set(scans["suffix"]))
    if suffix is None and len(found) > 1:
        kinds = ", ".join(found)
        raise ValueError(f"volumes of different contrasts are not comparable: choose one of {kinds} with --suffix")
    if suffix is not None and suffix not in found:
        raise ValueError(f"no scan has the contrast {suffix}: they have {', '.join(found)}")
    chosen = scans["suffix"].isin(found if suffix is None else [suffix])
    return volumes[chosen].reset_index(drop=True), scans[chosen].reset_index(drop=True)


def choose_covariates(names: list[str] | None, volumes: pd.DataFrame, scans: pd.DataFrame) -> pd.DataFrame:
    """Return the covariates (N, K), columns of either table; by default the intracranial volume if it is known.

    Raises:
        ValueError: a covariate does not exist, or is not a number in every scan.
    """
    if names is None:
        names = [INTRACRANIAL] if INTRACRANIAL in volumes and volumes[INTRACRANIAL].notna().all() else []
    columns = scans.drop(columns=volumes.columns, errors="ignore").join(volumes)
    if missing := [name for name in names if name not in columns]:
        raise ValueError(f"neither table has a column {', '.join(missing)}")
    covariates = columns[names].apply(pd.to_numeric, errors="coerce")
    for name, count in covariates.isna().sum().items():
        if count:
            raise ValueError(f"{name} is not a number in {count} scans: leave them out of the subjects")
    return covariates.astype(float)


def adjust(volumes: pd.DataFrame, second: pd.Series, covariates: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray]:
    """Fit a linear model of group and covariates to each volume (analysis of covariance).

    Args:
        volumes: (N, S).
        second: (N,), True for the scans of the second group.
        covariates: (N, K).

    Returns:
        The volumes at the mean of the covariates (N, S), and the p-value of the group for each (S,).
    """
    centred = (covariates - covariates.mean()).to_numpy()
    design = np.column_stack([np.ones(len(volumes)), second, centred])
    coefficients, *_ = np.linalg.lstsq(design, volumes.to_numpy(), rcond=None)
    freedom = len(volumes) - design.shape[1]
    variance = ((volumes - design @ coefficients) ** 2).sum().to_numpy() / freedom
    error = np.sqrt(variance * np.linalg.pinv(design.T @ design)[1, 1])
    return volumes - centred @ coefficients[2:], 2 * stats.t.sf(np.abs(coefficients[1]) / error, freedom)


def compare(volumes: pd.DataFrame, group: pd.Series, p: np.ndarray | None = None) -> pd.DataFrame:
    """Compute group means, Cohen's d and the p-value of each structure; without `p`, that of Welch's test."""
    (first_name, first), (second_name, second) = volumes.groupby(group)
    pooled = ((first.var() + second.var()) / 2) ** 0.5
    result = pd.DataFrame({first_name: first.mean(), second_name: second.mean()})
    result["difference_in_sd"] = (second.mean() - first.mean()) / pooled
    result["p"] = stats.ttest_ind(first, second, equal_var=False).pvalue if p is None else p
    # one test per structure: control the false discovery rate (Benjamini and Hochberg, JRSS B 1995)
    result["p_fdr"] = stats.false_discovery_control(result["p"].fillna(1))
    return result.rename_axis("structure")


def draw(volumes: pd.Series, group: pd.Series, label: str, path: Path) -> None:
    """Plot each scan as a point, by group."""
    figure, axes = plt.subplots(figsize=(4, 4), layout="constrained")
    for position, (name, values) in enumerate(volumes.groupby(group)):
        axes.plot([position] * len(values), values, "o", alpha=0.5, label=f"{name} (n = {len(values)})")
    axes.set(ylabel=label, xticks=[], xlim=(-0.5, 1.5))
    axes.legend()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def check(scans: pd.DataFrame) -> None:
    """Raise ValueError unless the scans are of two groups."""
    if len(names := sorted(scans["group"].unique())) != 2:
        raise ValueError(f"the scans must be of two groups, not of {len(names)}: {', '.join(map(str, names))}")


def run(arguments: argparse.Namespace) -> pd.DataFrame:
    """Write the table and the plot; returns the table.

    Raises:
        ValueError: the tables do not allow the comparison.
    """
    volumes, scans = of_one_contrast(*join(arguments.volumes, arguments.subjects), arguments.suffix)
    check(scans)
    covariates, group = choose_covariates(arguments.covariates, volumes, scans), scans["group"]
    # a volume that is not known in every scan, such as the intracranial one of stripped brains, is not compared
    volumes = volumes.drop(columns=[*covariates.columns, QUALITY], errors="ignore").dropna(axis="columns")
    if arguments.structure not in volumes:
        raise ValueError(f"there is no volume of {arguments.structure} to compare")
    unit = "" if arguments.structure.endswith(("_fraction", "_count")) else " (ml)"
    p, label, names = None, arguments.structure + unit, ", ".join(covariates)
    if names:
        if len(scans) < len(covariates.columns) + 3:
            raise ValueError(f"{len(scans)} scans are too few for the covariates {names}")
        volumes, p = adjust(volumes, group == max(group), covariates)
        label = f"{label}, adjusted for {names}"
    print(f"contrast: {scans['suffix'][0]}; covariates: {names or 'none'}")
    result = compare(volumes, group, p)
    result.to_csv(f"{arguments.output}.csv", float_format="%.4g")
    draw(volumes[arguments.structure], group, label, Path(f"{arguments.output}.png"))
    return result


def main() -> None:
    """Compare the groups that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("volumes", type=Path)
    parser.add_argument("subjects", type=Path)
    parser.add_argument("--suffix", help="contrast of the scans to compare, if the subjects have several")
    parser.add_argument("--structure", default="Left-Hippocampus")
    parser.add_argument("--covariates", nargs="*", metavar="COLUMN", help="columns of either table; none without names")
    parser.add_argument("-o", "--output", default="groups", help="path of the output files without extension")
    arguments = parser.parse_args()
    try:
        print(run(arguments).sort_values("p").head(10).round(3))
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
