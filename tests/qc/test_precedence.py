"""Which of several records about one result decides on its status."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from midiff_monai.qc.records import BatchRow, FailureRecord, ManifestRecord, Record, Records
from midiff_monai.qc.study import decisive_record

NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)
HOUR = timedelta(hours=1)

COMPLETE = ManifestRecord(Path("a_report.json"), "a.nii", NOON, 9.0, report={"command": "segment"})
INTERRUPTED = ManifestRecord(Path("a_report.json"), "a.nii", NOON, error="was interrupted")
DAMAGED = ManifestRecord(Path("a_report.json"), error="is no run manifest")
FAILURE = FailureRecord("a.nii", NOON, 1.0, "is empty")


def row(status: str, time: datetime = NOON) -> BatchRow:
    return BatchRow("a.nii", time, status)


@pytest.mark.parametrize(
    ("records", "decisive", "status"),
    [
        (Records(COMPLETE), "manifest", "done"),
        (Records(INTERRUPTED), "manifest", "failed"),
        (Records(DAMAGED), "manifest", "failed"),
        (Records(None, FAILURE), "failure", "failed"),
        (Records(COMPLETE, FAILURE), "failure", "failed"),
        (Records(INTERRUPTED, FAILURE), "failure", "failed"),
        (Records(None, None, row("failed")), "row", "failed"),
        (Records(None, None, row("pending")), "row", "pending"),
        (Records(COMPLETE, None, row("skipped")), "row", "skipped"),
        (Records(COMPLETE, FAILURE, row("done")), "row", "done"),
        (Records(INTERRUPTED, None, row("done")), "row", "done"),
        # a run after the batch has succeeded
        (Records(COMPLETE, None, row("failed")), "manifest", "done"),
        (Records(COMPLETE, None, row("failed", NOON + HOUR)), "manifest", "done"),
        (Records(COMPLETE, None, row("pending", NOON - HOUR)), "manifest", "done"),
        # it has not
        (Records(COMPLETE, None, row("pending", NOON)), "row", "pending"),
        (Records(COMPLETE, None, row("pending", NOON + HOUR)), "row", "pending"),
        (Records(COMPLETE, FAILURE, row("failed")), "row", "failed"),
        (Records(COMPLETE, FAILURE, row("pending", NOON - HOUR)), "row", "pending"),
        (Records(INTERRUPTED, None, row("failed")), "row", "failed"),
        (Records(INTERRUPTED, None, row("pending", NOON - HOUR)), "row", "pending"),
        (Records(DAMAGED, None, row("pending", NOON - HOUR)), "row", "pending"),
    ],
)
def test_table_of_cases(records: Records, decisive: str, status: str) -> None:
    record = decisive_record(records)
    assert record is getattr(records, decisive)
    assert record.status == status


TIMES = st.sampled_from([NOON - HOUR, NOON, NOON + HOUR])
ROWS = st.builds(row, st.sampled_from(["done", "skipped", "failed", "pending"]), TIMES)
RECORDS = st.builds(
    Records,
    st.sampled_from([None, COMPLETE, INTERRUPTED, DAMAGED]),
    st.sampled_from([None, FAILURE]),
    st.none() | ROWS,
).filter(any)


@given(RECORDS)
def test_one_of_the_records_decides(records: Records) -> None:
    assert any(decisive_record(records) is record for record in records)


@given(RECORDS)
def test_an_incomplete_run_is_done_only_if_the_batch_says_so(records: Records) -> None:
    record = decisive_record(records)
    if record.status == "done" and records.manifest is not COMPLETE:
        assert record is records.row


@given(RECORDS)
def test_agrees_with_layering_the_records_in_order(records: Records) -> None:
    """The rule stated as a sequence of updates: manifest, failure record, then the rows that are not outdated."""
    manifest, failure, batch = records
    layered: Record | None = failure or manifest
    done = layered is not None and layered.status == "done"
    repaired = batch is not None and batch.status == "failed" and done
    done_since = batch is not None and batch.status == "pending" and done and manifest.time > batch.time  # type: ignore[union-attr]
    if batch is not None and not repaired and not done_since:
        layered = batch
    assert decisive_record(records) is layered
