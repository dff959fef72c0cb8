"""The example scripts, run from the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from midiff_monai.evaluation.phantom import make_phantom

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
ENVIRONMENT = os.environ | {
    "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),  # for the command midiff
    "NIPYPE_NO_ET": "1",  # else Nipype asks a server for its latest version
}


def run(script: str, *arguments: str | Path) -> str:
    command = [sys.executable, str(EXAMPLES / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=ENVIRONMENT).stdout


@pytest.fixture
def echoes(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"scan_{contrast}w.nii.gz" for contrast in ("PD", "T2")]
    for path in paths:
        nib.save(make_phantom(path.name[5:7]).image.slicer[::2, ::2, 30:34], path)  # type: ignore[arg-type]
    return paths


def test_groups_are_compared_by_welchs_test(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    names = [f"sub-{index:02}.nii.gz" for index in range(20)]
    volumes = pd.DataFrame(
        {"input": [f"/data/{name}" for name in names], "Left-Hippocampus": random.normal(4, 0.4, 20)}
    )
    volumes["participant_id"] = [name.removesuffix(".nii.gz") for name in names]
    volumes["3rd-Ventricle"] = random.normal(1, 0.2, 20)
    volumes.to_csv(tmp_path / "volumes.csv", index=False)
    groups = ["control", "patient"] * 10
    pd.DataFrame({"input": names, "group": groups}).iloc[::-1].to_csv(tmp_path / "subjects.csv", index=False)
    run("compare_groups.py", tmp_path / "volumes.csv", tmp_path / "subjects.csv", "-o", tmp_path / "groups")
    table = pd.read_csv(tmp_path / "groups.csv").set_index("structure")
    for structure in ("Left-Hippocampus", "3rd-Ventricle"):
        expected = stats.ttest_ind(volumes[structure][::2], volumes[structure][1::2], equal_var=False).pvalue
        assert table.loc[structure, "p"] == pytest.approx(expected, rel=1e-3)
    assert (tmp_path / "groups.png").stat().st_size > 5000


@pytest.fixture
def aging(tmp_path: Path) -> pd.DataFrame:
    """A study whose hippocampi depend on head size, age and group: written as volumes.csv and subjects.csv."""
    random = np.random.default_rng(1)
    table = pd.DataFrame({"input": [f"sub-{index:02}.nii.gz" for index in range(30)], "group": ["a", "b"] * 15})
    table["intracranial"] = random.normal(1500, 150, 30)
    table["age"] = random.normal(70, 8, 30)
    group = np.tile([0.0, 1.0], 15)
    table["Left-Hippocampus"] = 0.0025 * table["intracranial"] - 0.02 * table["age"] - 0.2 * group
    table["Left-Hippocampus"] += random.normal(0, 0.1, 30)
    table[["input", "Left-Hippocampus", "intracranial"]].to_csv(tmp_path / "volumes.csv", index=False)
    table[["input", "group", "age"]].to_csv(tmp_path / "subjects.csv", index=False)
    return table


def partial_correlation_p(table: pd.DataFrame, covariates: list[str]) -> float:
    """The p-value of the partial correlation of group and hippocampus: t = r √(ν / (1 − r²)), ν = N − 2 − K."""
    columns = pd.get_dummies(table[["group", "Left-Hippocampus", *covariates]], drop_first=True, dtype=float)
    precision = np.linalg.inv(columns[["group_b", "Left-Hippocampus", *covariates]].corr())
    r = -precision[0, 1] / np.sqrt(precision[0, 0] * precision[1, 1])
    freedom = len(table) - 2 - len(covariates)
    return float(2 * stats.t.sf(abs(r) * np.sqrt(freedom / (1 - r**2)), freedom))


@pytest.mark.parametrize(
    "arguments, covariates",
    [
        ([], ["intracranial"]),
        (["--covariates", "intracranial", "age"], ["intracranial", "age"]),
        (["--covariates"], []),
    ],
)
def test_volumes_are_adjusted_for_covariates(
    arguments: list[str], covariates: list[str], aging: pd.DataFrame, tmp_path: Path
) -> None:
    files = tmp_path / "volumes.csv", tmp_path / "subjects.csv"
    printed = run("compare_groups.py", *files, "-o", tmp_path / "groups", *arguments)
    assert f"covariates: {', '.join(covariates) or 'none'}" in printed
    found = pd.read_csv(tmp_path / "groups.csv").set_index("structure")
    assert ("intracranial" in found.index) == (not covariates)
    row = found.loc["Left-Hippocampus"]
    if covariates:
        assert row["p"] == pytest.approx(partial_correlation_p(aging, covariates), rel=1e-3)
    else:
        first, second = (values["Left-Hippocampus"] for _, values in aging.groupby("group"))
        assert row["p"] == pytest.approx(stats.ttest_ind(first, second, equal_var=False).pvalue, rel=1e-3)
    if len(covariates) == 2:
        assert row["b"] - row["a"] == pytest.approx(-0.2, abs=0.08)


def test_stripped_brains_are_compared_without_head_size(aging: pd.DataFrame, tmp_path: Path) -> None:
    aging.loc[3, "intracranial"] = np.nan
    aging[["input", "Left-Hippocampus", "intracranial"]].to_csv(tmp_path / "volumes.csv", index=False)
    files = tmp_path / "volumes.csv", tmp_path / "subjects.csv"
    assert "covariates: none" in run("compare_groups.py", *files, "-o", tmp_path / "groups")
    assert pd.read_csv(tmp_path / "groups.csv")["structure"].tolist() == ["Left-Hippocampus"]


@pytest.mark.parametrize(
    "arguments, fault",
    [
        (["--covariates", "height"], "neither table has a column height"),
        (["--covariates", "sex"], "sex is not a number in 30 scans"),
        (["--structure", "Hippocampus"], "no volume of Hippocampus"),
    ],
)
def test_unusable_columns_are_refused_with_one_line(
    arguments: list[str], fault: str, aging: pd.DataFrame, tmp_path: Path
) -> None:
    aging.assign(sex="F")[["input", "group", "sex"]].to_csv(tmp_path / "subjects.csv", index=False)
    with pytest.raises(subprocess.CalledProcessError) as caught:
        run("compare_groups.py", tmp_path / "volumes.csv", tmp_path / "subjects.csv", *arguments)
    assert caught.value.returncode == 2 and fault in caught.value.stderr and "Traceback" not in caught.value.stderr


@pytest.mark.parametrize("groups", [["a", "a", "a"], ["a", "b", "c"]])
def test_one_group_or_three_groups_are_refused_with_one_line(groups: list[str], tmp_path: Path) -> None:
    paths = [f"sub-{index}.nii.gz" for index in range(3)]
    pd.DataFrame({"input": paths, "Left-Hippocampus": 3.0}).to_csv(tmp_path / "volumes.csv", index=False)
    pd.DataFrame({"input": paths, "group": groups}).to_csv(tmp_path / "subjects.csv", index=False)
    with pytest.raises(subprocess.CalledProcessError) as caught:
        run("compare_groups.py", tmp_path / "volumes.csv", tmp_path / "subjects.csv")
    assert caught.value.returncode == 2 and f"of {len(set(groups))}: a" in caught.value.stderr


@pytest.fixture
def contrasts(tmp_path: Path) -> tuple[Path, Path]:
    """Eight scans of BIDS: four PDw, and four PDw that were translated together with a T2w."""
    names = [f"sub-{index}_PDw.nii.gz" for index in range(8)]
    table = pd.DataFrame({"input": names, "suffix": ["PDw"] * 4 + ["PDw+T2w"] * 4})
    table["Left-Hippocampus"] = [3.0, 3.2, 4.0, 4.2, 5.0, 5.2, 6.0, 6.2]
    groups = pd.DataFrame({"input": names, "group": ["a", "a", "b", "b"] * 2})
    paths = tmp_path / "volumes.csv", tmp_path / "subjects.csv"
    table.to_csv(paths[0], index=False)
    groups.to_csv(paths[1], index=False)
    return paths


@pytest.mark.parametrize("suffix, means", [("PDw", [3.1, 4.1]), ("PDw+T2w", [5.1, 6.1])])
def test_scans_of_the_chosen_contrast_are_compared(
    suffix: str, means: list[float], contrasts: tuple[Path, Path], tmp_path: Path
) -> None:
    printed = run("compare_groups.py", *contrasts, "--suffix", suffix, "-o", tmp_path / "groups")
    assert f"contrast: {suffix};" in printed
    assert pd.read_csv(tmp_path / "groups.csv")[["a", "b"]].iloc[0].tolist() == pytest.approx(means)


@pytest.mark.parametrize(
    "arguments, fault", [([], "choose one of PDw, PDw+T2w"), (["--suffix", "T2w"], "they have PDw, PDw+T2w")]
)
def test_scans_of_several_contrasts_are_not_mixed(
    arguments: list[str], fault: str, contrasts: tuple[Path, Path]
) -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        run("compare_groups.py", *contrasts, *arguments)
    assert caught.value.returncode == 2 and fault in caught.value.stderr


def test_names_outside_bids_tell_the_contrast_too(tmp_path: Path) -> None:
    paths = ["1_PDw.nii.gz", "2_PDw.nii.gz", "3_T2w.nii.gz", "scan.nii.gz"]
    volumes = pd.DataFrame({"input": paths, "Left-Hippocampus": [3.0, 3.1, 3.2, 3.3]})
    volumes.to_csv(tmp_path / "volumes.csv", index=False)
    pd.DataFrame({"input": paths, "group": ["a", "b", "a", "b"]}).to_csv(tmp_path / "subjects.csv", index=False)
    with pytest.raises(subprocess.CalledProcessError) as caught:
        run("compare_groups.py", tmp_path / "volumes.csv", tmp_path / "subjects.csv")
    assert caught.value.returncode == 2 and "choose one of PDw, T2w, unknown" in caught.value.stderr


def test_another_tool_gets_the_synthetic_t1w(echoes: list[Path], tmp_path: Path) -> None:
    tool = [sys.executable, "-c", "import sys; print('given', sys.argv[1])", "{t1}"]
    printed = run("t1_for_another_tool.py", echoes[0], "-o", tmp_path / "work", "--", *tool)
    given = Path(printed.split("given ")[1].strip())
    assert given.is_file() and nib.load(given).shape == nib.load(echoes[0]).shape  # type: ignore[attr-defined]


@pytest.mark.parametrize("script", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_every_script_has_a_help_text(script: str) -> None:
    if "nipype" in script:
        pytest.importorskip("nipype")
    assert "usage" in run(script, "--help")


def test_scans_with_the_same_name_are_distinguished_by_folder(tmp_path: Path) -> None:
    paths = [f"/data/sub-{index}/PD.nii.gz" for index in range(4)]
    pd.DataFrame({"input": paths, "Left-Hippocampus": [3.0, 3.2, 4.0, 4.1]}).to_csv(
        tmp_path / "volumes.csv", index=False
    )
    groups = pd.DataFrame({"input": paths, "group": ["a", "a", "b", "b"]})
    groups.to_csv(tmp_path / "subjects.csv", index=False)
    run("compare_groups.py", tmp_path / "volumes.csv", tmp_path / "subjects.csv", "-o", tmp_path / "groups")
    table = pd.read_csv(tmp_path / "groups.csv")
    assert table["a"][0] == pytest.approx(3.1) and table["b"][0] == pytest.approx(4.05)


def test_a_table_that_cannot_be_compared_is_named(tmp_path: Path) -> None:
    (tmp_path / "volumes.csv").write_text("input,Left-Hippocampus\na.nii,3\n")
    (tmp_path / "subjects.csv").write_text("input,age\na.nii,70\n")
    for subjects, fault in (("subjects.csv", "has no column group, but input, age"), ("none.csv", "cannot be read")):
        with pytest.raises(subprocess.CalledProcessError) as error:
            run("compare_groups.py", tmp_path / "volumes.csv", tmp_path / subjects, "-o", tmp_path / "groups")
        assert error.value.returncode == 2 and f"{subjects} {fault}" in error.value.stderr


def test_a_nipype_workflow_joins_the_volumes_of_its_scans(echoes: list[Path], tmp_path: Path) -> None:
    pytest.importorskip("nipype")
    printed = run("nipype_workflow.py", *echoes, "-o", tmp_path / "work", "--no-translate", "--fast")
    joined = pd.read_csv(printed.strip().splitlines()[-1], index_col="scan")
    assert list(joined.index) == [str(path) for path in echoes]
    own = [pd.read_csv(path, index_col="name")["volume_ml"] for path in sorted(tmp_path.rglob("*_volumes.csv"))]
    assert sorted(joined["brain"]) == sorted(table["brain"] for table in own)
