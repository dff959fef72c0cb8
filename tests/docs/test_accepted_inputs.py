"""The generated page on accepted inputs says what a run says."""

from __future__ import annotations

from pathlib import Path

import pytest
from accepted_dicom import DICOM_CASES, SeriesCase, series_reading
from accepted_inputs import GROUPS, READ, REFUSED, WARNED, Case, accepted_inputs, reading

CASES = [case for cases in GROUPS.values() for case in cases]
WITH_WARNING = {
    "ANALYZE, which states no orientation",
    "the identity as affine",
    "sform and voxel size disagree",
    "an unknown code of the sform",
}
WITHOUT_WARNING = {
    "NIfTI-1, compressed or not",
    "NIfTI-2",
    "MGZ of FreeSurfer",
    "NRRD",
    "MetaImage",
    "four axes, one frame",
    "8-bit or 16-bit integers",
    "a few voxels below 0",
    "CT in Hounsfield units",
    "lengths in metres",
    "any orientation, oblique axes, any voxel size from 0.1 to 20 mm",
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.kind)
def test_the_outcome_of_each_kind(case: Case) -> None:
    outcome = READ if case.kind in WITHOUT_WARNING else WARNED if case.kind in WITH_WARNING else REFUSED
    found = reading(case)
    assert found.outcome == outcome, found.message
    assert bool(found.message) == (outcome != READ)
    assert "/tmp" not in found.message


DICOM_OUTCOMES = dict(
    zip(
        (case.kind for case in DICOM_CASES),
        ("read", "read", "read", "read, as several volumes", "read, with a warning", "refused", *["excluded"] * 6),
        strict=True,
    )
)


@pytest.mark.parametrize("case", DICOM_CASES, ids=lambda case: case.kind)
def test_the_outcome_of_each_kind_of_series(case: SeriesCase, tmp_path: Path) -> None:
    found = series_reading(case, tmp_path)
    assert found.outcome == DICOM_OUTCOMES[case.kind], found.message
    assert bool(found.message) == (found.outcome != "read") and str(tmp_path) not in found.message


def test_the_page_has_a_row_for_each_kind() -> None:
    page = accepted_inputs()
    kinds = [case.kind for case in CASES] + [case.kind for case in DICOM_CASES]
    assert all(f"| {kind} | " in page for kind in kinds)
