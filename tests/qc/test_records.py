"""Records read from the files that runs and batches write, and from those of version 0.3."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from midiff_monai.errors import InputError
from midiff_monai.io.manifest import RunReport
from midiff_monai.qc.flags import Flag
from midiff_monai.qc.records import flags_of_version_0_3, read_batch_report, read_manifest, read_records

HEADER = "input,status,seconds,warnings,error,report\n"


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """The manifest of a run with one warning and one flag."""
    (tmp_path / "a.nii").touch()
    flag = Flag("edge", 12.0, "The anatomy touches the edge.")._asdict()
    report = RunReport("segment", tmp_path / "a.nii", {}, warnings=["Check it.", flag["text"]], flags=[flag])
    report.write(tmp_path / "a_report.json")
    return tmp_path / "a_report.json"


def test_flags_of_a_manifest_have_kind_value_and_text(manifest: Path) -> None:
    record = read_manifest(manifest)
    assert record is not None and record.status == "done"
    assert record.warnings == ("Check it.", "The anatomy touches the edge.")
    assert record.flags == (Flag("edge", 12.0, "The anatomy touches the edge."),)


OLD_SENTENCES = {
    "edge": "Touches the edge of the volume: superior (12 cm²). Part may be cut off.",
    "absent": "Not found: Left-Lateral-Ventricle.",
    "edge_correlation": "Edges of the synthetic T1w hardly follow the source: correlation 0.10.",
    "synthetic_std": "The samples disagree: mean standard deviation 0.200.",
}


def test_flags_of_version_0_3_are_recognised_by_their_sentences(manifest: Path) -> None:
    report = json.loads(manifest.read_text())
    del report["flags"]
    manifest.write_text(json.dumps(report | {"warnings": ["Check it.", *OLD_SENTENCES.values()]}))
    record = read_manifest(manifest)
    assert record is not None
    assert {flag.kind: flag.text for flag in record.flags} == OLD_SENTENCES
    assert flags_of_version_0_3(["Check it."]) == []


def test_excluded_inputs_have_no_record(tmp_path: Path) -> None:
    rows = ["in/a,excluded,0,,is a localizer,", "in/b,passed over,0,,is a localizer,", "in/c,failed,0,,,c_report.json"]
    (tmp_path / "batch_report.csv").write_text(HEADER + "\n".join(rows))
    assert list(read_batch_report(tmp_path / "batch_report.csv")) == ["c_report.json"]


def test_a_batch_report_with_a_damaged_number_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "batch_report.csv").write_text(HEADER + "in/a.nii,done,one,,,a_report.json")
    with pytest.raises(InputError, match="is not a batch report as midiff writes it"):
        read_batch_report(tmp_path / "batch_report.csv")


def test_records_of_one_result_belong_together(manifest: Path) -> None:
    folder = manifest.parent
    facts = {
        "input": "a.nii",
        "status": "failed",
        "seconds": 2,
        "error": "is empty",
        "ended": "2026-01-01T00:00:00+00:00",
    }
    (folder / "a_error.json").write_text(json.dumps(facts))
    (folder / "batch_report.csv").write_text(HEADER + "a.nii,done,,,,a_report.json")
    ((result, records),) = read_records(folder).items()
    assert result == "a_report.json"
    assert records.manifest and records.failure and records.row
    assert (records.failure.error, records.failure.seconds, records.row.seconds) == ("is empty", 2, None)
