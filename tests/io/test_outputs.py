"""The names of the files that a run writes, in folders of results and in BIDS derivatives."""

from __future__ import annotations

from dataclasses import astuple, fields, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from midiff_monai.io.outputs import (
    OUTPUTS,
    SYNTHETIC_ROLES,
    OutputPaths,
    bids_outputs,
    in_range,
    output_paths,
    report_beside,
    roles_of,
)

STEMS = st.text(st.characters(exclude_characters="/\\\0", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=30)


def test_the_table_and_the_paths_have_the_same_roles() -> None:
    assert [output.role for output in OUTPUTS] == [field.name for field in fields(OutputPaths)]


def test_stages_share_no_role() -> None:
    stages = [roles_of(stage) for stage in ("translation", "segmentation", "check", "record")]  # type: ignore[arg-type]
    assert sum(stages, []) == [output.role for output in OUTPUTS]


def test_a_scan_with_an_ambiguous_name_keeps_its_suffix_in_the_description() -> None:
    assert bids_outputs("sub-1", Path("anat")).segmentation == Path("anat/sub-1_desc-midiff_dseg.nii.gz")
    assert bids_outputs("sub-1", Path("anat"), "PDw").synthetic == Path("anat/sub-1_desc-syntheticPDw_T1w.nii.gz")


@pytest.mark.parametrize(
    "paths", [output_paths("sub-1_PDw.nii", ""), bids_outputs("sub-1", Path()), bids_outputs("sub-1", Path(), "PDw")]
)
def test_a_result_is_known_by_the_report_beside_it(paths: OutputPaths, tmp_path: Path) -> None:
    volumes = [tmp_path / path for path in astuple(paths) if path.name.endswith(".nii.gz")]
    assert len(volumes) == 9 and [report_beside(volume) for volume in volumes] == [None] * 9
    (tmp_path / paths.report).touch()
    assert [report_beside(volume) for volume in volumes] == [tmp_path / paths.report] * 9
    assert report_beside(tmp_path / "sub-2_dseg.nii.gz") is None


def test_every_output_of_one_volume() -> None:
    names = [path.name for path in astuple(output_paths("in/sub-01_PDw.nii.gz", "out"))]
    assert names == [
        "sub-01_PDw_synthT1w.nii.gz",
        "sub-01_PDw_synthT1w_std.nii.gz",
        "sub-01_PDw_synthT1w_error.nii.gz",
        "sub-01_PDw_dseg.nii.gz",
        "sub-01_PDw_desc-probability_probseg.nii.gz",
        "sub-01_PDw_desc-probability_entropy.nii.gz",
        "sub-01_PDw_desc-lesions_mask.nii.gz",
        "sub-01_PDw_desc-intracranial_mask.nii.gz",
        "sub-01_PDw_desc-parcels_dseg.nii.gz",
        "sub-01_PDw_desc-parcels_dseg.tsv",
        "sub-01_PDw_desc-parcels_volumes.csv",
        "sub-01_PDw_dseg.dcm",
        "sub-01_PDw_dseg.tsv",
        "sub-01_PDw_volumes.csv",
        "sub-01_PDw_qc.png",
        "sub-01_PDw_report.json",
        "sub-01_PDw_error.json",
    ]


@given(stem=STEMS, other=STEMS)
@example(stem=".", other="..")
def test_outputs_are_distinct_and_lie_in_the_folder(stem: str, other: str) -> None:
    outputs = set(astuple(output_paths(f"in/{stem}.nii", "out")))
    assert {path.parent for path in outputs} == {Path("out")}
    assert len(outputs) == len(fields(OutputPaths))
    if not other.startswith(stem) and not stem.startswith(other):
        assert outputs.isdisjoint(astuple(output_paths(f"in/{other}.nii", "out")))


def test_the_target_names_the_synthetic_volume_alone() -> None:
    t1w, flair = output_paths("sub-1_PDw.nii", ""), output_paths("sub-1_PDw.nii", "", "FLAIR")
    assert flair.synthetic.name == "sub-1_PDw_synthFLAIR.nii.gz"
    assert flair.synthetic_std.name == "sub-1_PDw_synthFLAIR_std.nii.gz"
    synthetic = {role: getattr(t1w, role) for role in SYNTHETIC_ROLES}
    assert replace(flair, **synthetic) == t1w
    assert bids_outputs("sub-1", Path("anat"), target="CT").synthetic == Path("anat/sub-1_desc-synthetic_CT.nii.gz")


@pytest.mark.parametrize("paths", [output_paths("x.nii", "", "FLAIR"), bids_outputs("sub-1", Path(), "T2w", "FLAIR")])
def test_a_result_of_another_target_is_known_by_the_report_beside_it(paths: OutputPaths, tmp_path: Path) -> None:
    (tmp_path / paths.report).touch()
    for path in (paths.synthetic, paths.synthetic_std, paths.segmentation):
        assert report_beside(tmp_path / path) == tmp_path / paths.report


def test_hounsfield_units_are_restored() -> None:
    image = np.array([0.0, 0.5, 1.0])
    np.testing.assert_array_equal(in_range(image, "synthetic", (-1000, 1500)), [-1000, 250, 1500])
    np.testing.assert_array_equal(in_range(image, "synthetic_std", (-1000, 1500)), [0, 1250, 2500])
    assert in_range(image, "segmentation", (-1000, 1500)) is in_range(image, "synthetic", (0.0, 1.0)) is image
