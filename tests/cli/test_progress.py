"""What a command says before and while it computes, with made-up speeds and clocks."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from fake_pipeline import fake_models

from midiff_monai.cli import progress
from midiff_monai.cli.main import main
from midiff_monai.cli.messages import NORMAL, QUIET
from midiff_monai.cli.progress import about, announce_batch, announce_volumes, tell_remaining_time
from midiff_monai.io.inputs import Job, find_jobs
from midiff_monai.pipeline.batch_report import Outcome, Status
from midiff_monai.pipeline.estimate import Extent
from midiff_monai.pipeline.models import Models
from midiff_monai.pipeline.options import Mode, Settings, Task
from midiff_monai.pipeline.workers import Workers


@pytest.fixture(autouse=True)
def made_up_speed(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A machine that computes a millilitre in a second; the command has two threads."""
    monkeypatch.setattr("midiff_monai.pipeline.estimate.measure_speed", lambda *_: None)
    monkeypatch.setattr("midiff_monai.pipeline.estimate.estimate_seconds", lambda extent, *_: extent.box_ml)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)
    caplog.set_level(logging.INFO, "midiff_monai")


def arguments(shown: int = NORMAL, **others: Any) -> argparse.Namespace:
    return argparse.Namespace(shown=shown, **{"workers": None, "scheduler": None} | others)


def models_on(device: str, mode: Mode = Mode.SEGMENT) -> Models:
    return fake_models(Task(mode, Settings(device=torch.device(device))))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("mode", "device", "boxes", "line"),
    [
        (
            Mode.SEGMENT,
            "cpu",
            [40],
            "Segmenting 1 volume by way of a synthetic T1w, with 2 threads: about 40 seconds",
        ),
        (Mode.TRANSLATE, "cuda:1", [100, 200, 300], "Translating 3 volumes to T1w, on cuda:1: about 10 minutes"),
        (Mode.SEGMENT_DIRECTLY, "cpu", [3], "Segmenting 1 volume without translation, with 2 threads: a few seconds"),
    ],
)
def test_the_first_line_says_what_is_done_and_how_long_it_takes(
    mode: Mode, device: str, boxes: list[float], line: str, caplog: pytest.LogCaptureFixture
) -> None:
    announce_volumes(arguments(), Task(mode), models_on(device, mode), [Extent(box, False) for box in boxes])
    assert caplog.messages == [line]


@pytest.fixture
def scans(tmp_path: Path) -> list[Job]:
    """Jobs of ten volumes with a box of a litre; two of them have results."""
    for number in range(10):
        voxels = np.random.default_rng(0).integers(1, 900, (10, 10, 10)).astype(np.float32)
        nib.save(nib.Nifti1Image(voxels, np.diag([10, 10, 10, 1])), tmp_path / f"{number}.nii")
    return find_jobs(tmp_path, tmp_path / "out")


@pytest.mark.parametrize(
    ("workers", "line"),
    [
        (Workers(0, 2), "Segmenting 10 volumes by way of a synthetic T1w, with 2 threads: about 3 hours"),
        (
            Workers(5, 1),
            "Segmenting 10 volumes by way of a synthetic T1w, 5 at a time, each with 1 thread: about 35 min",
        ),
        (None, "Segmenting 10 volumes by way of a synthetic T1w, on the cluster tcp://host:8786"),
    ],
)
def test_a_batch_is_estimated_from_its_first_volume(
    workers: Workers | None, line: str, scans: list[Job], caplog: pytest.LogCaptureFixture
) -> None:
    announce_batch(arguments(scheduler="tcp://host:8786"), Task(), scans, workers, models_on("cpu"))
    assert caplog.messages[0].startswith(line)
    assert workers is None or caplog.messages[0].endswith("if all are like 0.nii")


def test_a_batch_whose_first_volume_cannot_be_read_has_no_estimate(
    scans: list[Job], caplog: pytest.LogCaptureFixture
) -> None:
    scans[0].source.write_bytes(b"")
    announce_batch(arguments(), Task(), scans, Workers(2, 1), models_on("cpu"))
    assert caplog.messages == ["Segmenting 10 volumes by way of a synthetic T1w, 2 at a time, each with 1 thread"]


def test_a_manifest_that_cannot_be_read_does_not_stop_the_batch(
    scans: list[Job], caplog: pytest.LogCaptureFixture
) -> None:
    scans[3].paths.report.mkdir(parents=True)
    announce_batch(arguments(), Task(), scans, Workers(2, 1), models_on("cpu"))
    assert "10 volumes" in caplog.messages[0] and "results" not in caplog.messages[0]


def test_volumes_with_results_do_not_count(
    scans: list[Job], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = {job.paths.report for job in scans[:8]}
    monkeypatch.setattr(progress, "read_earlier_manifest", lambda paths: {"complete": paths.report in done})
    announce_batch(arguments(), Task(), scans, Workers(2, 1), models_on("cpu"))
    announce_batch(arguments(), Task(overwrite=True), scans, Workers(2, 1), models_on("cpu"))
    some, all_of_them = caplog.messages
    assert "10 volumes by way of a synthetic T1w, 8 of which have results, 2 at a time" in some
    assert "about 15 minutes if all are like 8.nii" in some
    assert "results" not in all_of_them and "about 85 minutes if all are like 0.nii" in all_of_them


def test_without_dask_a_batch_names_the_package(
    scans: list[Job], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "has_dask", lambda: False)
    announce_batch(arguments(), Task(), scans, Workers(0, 2), models_on("cpu"))
    announce_batch(arguments(workers=0), Task(), scans, Workers(0, 2), models_on("cpu"))
    assert [message for message in caplog.messages if "midiff-monai[cluster]" in message] == caplog.messages[1:2]


def test_quiet_is_quiet(scans: list[Job], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("midiff_monai.pipeline.estimate.measure_speed", None)
    announce_volumes(arguments(QUIET), Task(), models_on("cpu"), [Extent(3, False)])
    announce_batch(arguments(QUIET), Task(), scans, Workers(2, 1), models_on("cpu"))
    assert caplog.messages == []


def outcomes_of(statuses: list[Status]) -> list[Outcome]:
    return [Outcome(Path(f"{number}.nii"), status) for number, status in enumerate(statuses)]


def test_the_remaining_time_follows_from_the_time_so_far(caplog: pytest.LogCaptureFixture) -> None:
    times = iter(range(0, 3000, 60))  # each volume takes a minute
    outcomes = outcomes_of(["done"] * 30)
    assert list(tell_remaining_time(outcomes, 30, lambda: next(times))) == outcomes
    assert caplog.messages[:2] == ["1 of 30 volumes, about 30 minutes left", "4 of 30 volumes, about 25 minutes left"]
    assert len(caplog.messages) == 10 and caplog.messages[-1] == "28 of 30 volumes, about 2 minutes left"


def test_volumes_that_were_done_before_take_no_time(caplog: pytest.LogCaptureFixture) -> None:
    clock = iter([0, 0, 0, 600, 1200])
    list(tell_remaining_time(outcomes_of(["skipped", "skipped", "failed", "done"]), 4, lambda: next(clock)))
    assert caplog.messages == ["3 of 4 volumes, about 10 minutes left"]


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "a few seconds"), (94, "about 90 seconds"), (96, "about 2 minutes")]
)
def test_durations_are_as_coarse_as_an_estimate(seconds: float, words: str) -> None:
    assert about(seconds) == words


@pytest.mark.parametrize("threads", ["0", "-2"])
def test_threads_that_make_no_sense_are_one_line(threads: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["segment", "missing.nii", "-o", "out", "--threads", threads]) == 2
    assert capsys.readouterr().err == f"midiff: error: --threads: is {threads}. Give a whole number from 1.\n"
