"""`midiff batch` and `midiff bids` as a shell runs them: exit codes, signals, kills, the same voxels as one by one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from midiff_monai import segment
from midiff_monai.phantom import make_phantom

SUBJECTS = 6


def image_of(path: Path) -> nib.Nifti1Image:
    image = nib.load(path)
    assert isinstance(image, nib.Nifti1Image)
    return image


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thin T1w pieces of the phantom, each of other noise; one in a subfolder."""
    folder = tmp_path_factory.mktemp("scans")
    (folder / "late").mkdir()
    for index in range(SUBJECTS):
        image = make_phantom("T1", seed=index).image.slicer[::2, ::2, 30:34]  # type: ignore[arg-type]
        nib.save(image, folder / ("late" if index == SUBJECTS - 1 else ".") / f"sub-{index}_T1w.nii.gz")
    return folder


def midiff(*arguments: str | Path, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "midiff_monai", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def statuses(output: Path) -> list[str]:
    return pd.read_csv(output / "batch_report.csv")["status"].tolist()


def wait_for_a_result(output: Path) -> None:
    deadline = time.monotonic() + 120
    while not list(output.glob("*_report.json")):
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="module")
def one_by_one(scans: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    folder = tmp_path_factory.mktemp("one_by_one")
    results = segment(sorted(scans.rglob("*.nii.gz")), folder, translated=False)
    return {result.paths.segmentation.name: result.segmentation for result in results}  # type: ignore[misc]


def assert_all_done(output: Path, one_by_one: dict[str, np.ndarray]) -> None:
    found = {path.name: np.asarray(image_of(path).dataobj) for path in output.rglob("*_dseg.nii.gz")}
    assert found.keys() == one_by_one.keys()
    for name, segmentation in found.items():
        np.testing.assert_array_equal(segmentation, one_by_one[name])


def test_good_volumes_come_out_as_alone_and_bad_ones_are_told_of(
    scans: Path, one_by_one: dict[str, np.ndarray], tmp_path: Path
) -> None:
    bad = tmp_path / "bad.nii.gz"
    bad.write_bytes((scans / "sub-0_T1w.nii.gz").read_bytes()[:500])
    process = midiff("batch", bad, scans, "--no-translate", "-o", tmp_path / "out")
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 1 and statuses(tmp_path / "out") == ["failed"] + ["done"] * SUBJECTS
    assert f"failed\t{bad}\t{bad}: is truncated" in printed
    assert_all_done(tmp_path / "out", one_by_one)
    assert len(pd.read_csv(tmp_path / "out" / "volumes.csv")) == SUBJECTS


@pytest.mark.parametrize("blow", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_batch_goes_on_where_it_was(
    blow: signal.Signals, scans: Path, one_by_one: dict[str, np.ndarray], tmp_path: Path
) -> None:
    process = midiff("batch", scans, "--no-translate", "-o", tmp_path / "out")
    wait_for_a_result(tmp_path / "out")
    process.send_signal(blow)
    process.communicate(timeout=120)
    if blow != signal.SIGKILL:
        assert process.returncode == 130 and "pending" in statuses(tmp_path / "out")
    for path in (tmp_path / "out").glob("[!.]*.nii.gz"):
        image_of(path).get_fdata()  # whole, or not there
    process = midiff("batch", scans, "--no-translate", "-o", tmp_path / "out")
    process.communicate(timeout=300)
    assert process.returncode == 0 and set(statuses(tmp_path / "out")) == {"skipped", "done"}
    assert_all_done(tmp_path / "out", one_by_one)


def test_ctrl_c_lets_worker_processes_finish_too(
    scans: Path, one_by_one: dict[str, np.ndarray], tmp_path: Path
) -> None:
    """A terminal sends the signal to the whole group of processes."""
    pytest.importorskip("distributed", reason="needs the extra [cluster]")
    command: list[str | Path] = ["batch", scans, "--no-translate", "--workers", "2", "-o", tmp_path / "out"]
    process = midiff(*command, start_new_session=True)
    wait_for_a_result(tmp_path / "out")
    os.killpg(process.pid, signal.SIGINT)
    errors = process.communicate(timeout=120)[1]
    assert process.returncode == 130, errors
    assert set(statuses(tmp_path / "out")) == {"done", "pending"}
    process = midiff(*command)
    errors = process.communicate(timeout=300)[1]
    assert process.returncode == 0, errors
    assert_all_done(tmp_path / "out", one_by_one)


def test_two_batches_on_one_folder_leave_every_file_whole(
    scans: Path, one_by_one: dict[str, np.ndarray], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    batches = [midiff("batch", scans, "--no-translate", "-o", output) for _ in range(2)]
    for batch in batches:
        errors = batch.communicate(timeout=300)[1]
        assert batch.returncode == 0, errors
    assert set(statuses(output)) <= {"done", "skipped"} and len(statuses(output)) == SUBJECTS
    assert_all_done(output, one_by_one)
    assert len(pd.read_csv(output / "volumes.csv")) == SUBJECTS
    for report in output.rglob("*_report.json"):
        assert json.loads(report.read_text())
    assert not list(output.rglob(".*")), "nothing half-written is left"


def test_a_bids_app_runs_by_participant_and_by_group(scans: Path, tmp_path: Path) -> None:
    raw, output = tmp_path / "raw", tmp_path / "out"
    for index in range(2):
        anat = raw / f"sub-{index}" / "anat"
        anat.mkdir(parents=True)
        (anat / f"sub-{index}_T1w.nii.gz").symlink_to(scans / f"sub-{index}_T1w.nii.gz")
    run: list[str | Path] = ["bids", raw, output, "participant", "--suffix", "T1w", "--no-translate"]
    process = midiff(*run)
    assert process.communicate(timeout=60)[1].count("dataset_description.json") == 1 and process.returncode == 2
    (raw / "dataset_description.json").write_text(json.dumps({"Name": "x", "BIDSVersion": "1.9.0"}))
    for label in ("0", "sub-1"):
        process = midiff(*run, "--participant-label", label)
        process.communicate(timeout=300)
        assert process.returncode == 0
    names = {path.name for path in (output / "sub-1" / "anat").iterdir()}
    ends = ["dseg.json", "dseg.nii.gz", "dseg.tsv", "qc.png", "report.json", "volumes.csv"]
    assert names == {f"sub-1_desc-midiff_{end}" for end in ends}
    process = midiff("bids", raw, output, "group")
    process.communicate(timeout=60)
    assert process.returncode == 0 and len(pd.read_csv(output / "volumes.csv")) == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["batch", "{}", "-o", "{}/out"],
        ["batch", "{}/x.csv", "-o", "{}/out"],
        ["batch", "{}/x.nii", "-o", "{}/out", "--workers", "-1"],
    ],
)
def test_nothing_to_do_is_exit_code_2_and_one_line(arguments: list[str], tmp_path: Path) -> None:
    process = midiff(*(argument.format(tmp_path) for argument in arguments))
    message = process.communicate(timeout=60)[1]
    assert process.returncode == 2 and message.startswith("midiff: error: ") and message.count("\n") == 1
    assert not (tmp_path / "out").exists()
