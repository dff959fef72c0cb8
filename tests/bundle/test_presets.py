"""Presets of public data sets: each finds its target among the files of the real layout, and no other file."""

from __future__ import annotations

from pathlib import Path

import pytest

from midiff_monai.bundle.presets import preset_pattern, preset_plan
from midiff_monai.bundle.resources import available_presets
from midiff_monai.errors import InputError
from midiff_monai.io.inputs import find_volumes

IXI = [
    f"IXI-{contrast}/{subject}-{contrast}.nii.gz"
    for contrast in ("T1", "T2", "PD", "MRA")
    for subject in ("IXI002-Guys-0828", "IXI012-HH-1211", "IXI600-IOP-1140")
] + ["IXI-DTI/IXI002-Guys-0828-DTI-00.nii.gz"]

RESECT = [
    f"NIFTI/Case{case}/{name}"
    for case in (1, 2, 27)
    for name in (f"MRI/Case{case}-T1.nii.gz", f"MRI/Case{case}-FLAIR.nii.gz", f"US/Case{case}-US-before.nii.gz")
]

EASY_RESECT = [
    f"NIFTI/Case{case}/Case{case}-{name}-resize.nii" for case in (1, 2, 27) for name in ("T1", "FLAIR", "US-before")
] + ["CuRIOUS2020-TestData/NIFTI/TestCase1-FLAIR-resize.nii", "CuRIOUS2020-TestData/NIFTI/TestCase1-T1w-resize.nii"]

GOLD_ATLAS = [
    f"{patient}/{name}.nii.gz"
    for patient in ("1_01_P", "2_10_P", "3_04_P")
    for name in ("CT", "CT_deformed", "T1", "T2")
]

LAYOUTS = [
    ("ixi-t1", IXI, "-T1.nii.gz"),
    ("ixi-pd", IXI, "-PD.nii.gz"),
    ("curious-t1", RESECT, "-T1.nii.gz"),
    ("curious-flair", RESECT, "-FLAIR.nii.gz"),
    ("curious-t1", EASY_RESECT, "-T1-resize.nii"),
    ("curious-flair", EASY_RESECT, "-FLAIR-resize.nii"),
    ("gold-atlas-ct", GOLD_ATLAS, "/CT.nii.gz"),
    ("gold-atlas-mr", GOLD_ATLAS, "/T2.nii.gz"),
]


@pytest.mark.parametrize(("name", "layout", "end"), LAYOUTS)
def test_it_finds_its_target_alone(name: str, layout: list[str], end: str, tmp_path: Path) -> None:
    root = tmp_path / "data [1]"
    for file in layout:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    expected = sorted(root / file for file in layout if file.endswith(end) and "TestCase" not in file)
    assert len(expected) == 3 and find_volumes(preset_pattern(name, str(root))) == expected


def test_every_preset_is_tested() -> None:
    assert available_presets() == sorted({name for name, _, _ in LAYOUTS})


@pytest.mark.parametrize(
    ("name", "target", "anatomy", "window"),
    [
        ("ixi-t1", "T1w", "brain", None),
        ("ixi-pd", "PDw", "brain", None),
        ("curious-t1", "T1w", "brain", None),
        ("curious-flair", "FLAIR", "brain", None),
        ("gold-atlas-mr", "T2w", "any", None),
        ("gold-atlas-ct", "CT", "any", [-1000, 1500]),
    ],
)
def test_its_plan(name: str, target: str, anatomy: str, window: list[float] | None) -> None:
    plan = preset_plan(name)
    assert (plan.target, plan.anatomy, plan.window) == (target, anatomy, window)
    assert plan.spacing == ([2.5] * 3 if anatomy == "any" else [2.0] * 3)


def test_options_take_the_place_of_its_values() -> None:
    plan = preset_plan("gold-atlas-ct", spacing=[3.0], target="sCT")
    assert (plan.spacing, plan.target, plan.anatomy) == ([3.0], "sCT", "any")


def test_a_pattern_stays_as_it_is(tmp_path: Path) -> None:
    assert preset_pattern("ixi-pd", f"{tmp_path}/*-HH-*-PD.nii.gz") == f"{tmp_path}/*-HH-*-PD.nii.gz"


def test_a_folder_of_another_data_set_is_refused(tmp_path: Path) -> None:
    (tmp_path / "IXI002-Guys-0828-T1.nii.gz").touch()
    with pytest.raises(InputError, match=r"holds no file \*\*/IXI\[0-9\]\*-PD.nii\* of the preset ixi-pd"):
        preset_pattern("ixi-pd", str(tmp_path))
