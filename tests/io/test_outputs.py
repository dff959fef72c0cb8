"""The names of the files that a run writes, in folders of results and in BIDS derivatives."""

from __future__ import annotations

from dataclasses import astuple, fields
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from midiff_monai.io.outputs import OUTPUTS, OutputPaths, bids_outputs, output_paths, report_beside, roles_of

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
    assert len(volumes) == 3 and [report_beside(volume) for volume in volumes] == [None] * 3
    (tmp_path / paths.report).touch()
    assert [report_beside(volume) for volume in volumes] == [tmp_path / paths.report] * 3
    assert report_beside(tmp_path / "sub-2_dseg.nii.gz") is None


def test_every_output_of_one_volume() -> None:
    names = [path.name for path in astuple(output_paths("in/sub-01_PDw.nii.gz", "out"))]
    assert names == [
        "sub-01_PDw_synthT1w.nii.gz",
        "sub-01_PDw_synthT1w_std.nii.gz",
        "sub-01_PDw_dseg.nii.gz",
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
