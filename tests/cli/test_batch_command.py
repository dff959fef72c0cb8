"""`midiff batch` and `midiff bids` in a shell: exit codes, signals, kills, and the voxels of single runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from bids_validator import VALIDATOR, validated

from midiff_monai import segment
from midiff_monai.evaluation.phantom import make_phantom

SUBJECTS = 6


def image_of(path: Path) -> nib.Nifti1Image:
    image = nib.load(path)
    assert isinstance(image, nib.Nifti1Image)
    return image


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thin T1w pieces of the phantom with different noise. One lies in a subfolder."""
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
    deadline = time.monotonic() + 300
    while not list(output.glob("*_report.json")):
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="module")
def one_by_one(scans: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    folder = tmp_path_factory.mktemp("one_by_one")
    results = segment(sorted(scans.rglob("*.nii.gz")), folder, translated=False)
    return {result.paths.segmentation.name: result.segmentation for result in results}  # type: ignore[misc]


def assert_all_done(output: Path, one_by_one: dict[str, np.ndarray]) -> None:
    """The complete files; one that a killed process has left is hidden."""
    found = {path.name: np.asarray(image_of(path).dataobj) for path in output.rglob("[!.]*_dseg.nii.gz")}
    assert found.keys() == one_by_one.keys()
    for name, segmentation in found.items():
        np.testing.assert_array_equal(segmentation, one_by_one[name])


def test_a_batch_gives_the_results_of_single_runs_and_reports_bad_volumes(
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
def test_an_interrupted_batch_continues(
    blow: signal.Signals, scans: Path, one_by_one: dict[str, np.ndarray], tmp_path: Path
) -> None:
    process = midiff("batch", scans, "--no-translate", "-o", tmp_path / "out")
    wait_for_a_result(tmp_path / "out")
    process.send_signal(blow)
    process.communicate(timeout=120)
    if blow != signal.SIGKILL:
        assert process.returncode == 130 and "pending" in statuses(tmp_path / "out")
    for path in (tmp_path / "out").glob("[!.]*.nii.gz"):
        image_of(path).get_fdata()  # complete or absent
    process = midiff("batch", scans, "--no-translate", "-o", tmp_path / "out")
    process.communicate(timeout=300)
    assert process.returncode == 0 and set(statuses(tmp_path / "out")) == {"skipped", "done"}
    assert_all_done(tmp_path / "out", one_by_one)


def test_ctrl_c_lets_worker_processes_finish_too(
    scans: Path, one_by_one: dict[str, np.ndarray], tmp_path: Path
) -> None:
    """A terminal sends the signal to the whole process group."""
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


def children(process: subprocess.Popen[str]) -> list[int]:
    """The workers that a batch has started."""
    threads = Path(f"/proc/{process.pid}/task").iterdir()
    pids = [pid for thread in threads for pid in (thread / "children").read_text().split()]
    return [int(pid) for pid in pids if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs the /proc of Linux")
def test_a_killed_worker_loses_no_volume(scans: Path, one_by_one: dict[str, np.ndarray], tmp_path: Path) -> None:
    pytest.importorskip("distributed", reason="needs the extra [cluster]")
    process = midiff("batch", scans, "--no-translate", "--workers", "2", "-o", tmp_path / "out")
    wait_for_a_result(tmp_path / "out")
    os.kill(children(process)[0], signal.SIGKILL)
    errors = process.communicate(timeout=300)[1]
    assert process.returncode == 0, errors
    assert_all_done(tmp_path / "out", one_by_one)


def test_odd_paths_and_old_formats_are_accepted(scans: Path, one_by_one: dict[str, np.ndarray], tmp_path: Path) -> None:
    image = image_of(scans / "sub-0_T1w.nii.gz")
    folder = tmp_path / "Größe 1"
    folder.mkdir()
    (folder / "link.nii.gz").symlink_to(scans / "sub-0_T1w.nii.gz")
    voxels = np.asarray(image.dataobj)[::-1].astype(np.float32)  # ANALYZE is stored from right to left
    nib.AnalyzeImage(voxels, np.diag([-2, 2, 3, 1])).to_filename(folder / "old.hdr")
    odd = tmp_path / os.fsdecode(b"caf\xe9.nii.gz")
    odd.symlink_to(folder / ".." / "Größe 1" / "link.nii.gz")
    output = folder / ".." / "out ü"
    process = midiff("batch", folder, odd, "--no-translate", "-o", output)
    errors = process.communicate(timeout=300)[1]
    assert process.returncode == 0, errors
    expected = one_by_one["sub-0_T1w_dseg.nii.gz"]
    for path in (output / "link_dseg.nii.gz", output / os.fsdecode(b"caf\xe9_dseg.nii.gz")):
        np.testing.assert_array_equal(np.asarray(image_of(path).dataobj), expected)
    assert (output / "old_dseg.nii.gz").is_file() and (output / "index.html").is_file()


def test_a_folder_of_dicom_gets_dicom_results(
    scans: Path, write_dicom: Callable[..., list[Path]], tmp_path: Path
) -> None:
    """Two patients in one folder whose series have the same name, and a broken file."""
    image = image_of(scans / "sub-0_T1w.nii.gz")
    voxels = np.round(image.get_fdata() / image.get_fdata().max() * 1000).astype(np.int16)
    for patient in "ab":
        for file in write_dicom(tmp_path / patient, voxels, image.affine, PatientID=patient):
            file.rename(tmp_path / f"{patient}{file.name}")
    number = b"\x20\x00\x11\x00IS\x02\x00"  # the series number, which is 4
    intact = next(tmp_path.glob("a*0")).read_bytes()
    (tmp_path / "broken").write_bytes(intact.replace(number + b"4 ", number + b"x "))
    process = midiff("batch", tmp_path, "--no-translate", "-o", tmp_path / "out")
    printed, errors = process.communicate(timeout=300)
    assert process.returncode == 1, errors
    assert sorted(statuses(tmp_path / "out")) == ["done", "done", "failed"] and "broken" in printed
    assert len(list((tmp_path / "out").glob("*_dseg.dcm"))) == 2


def test_two_batches_in_one_folder_leave_every_file_complete(
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
    assert not list(output.rglob(".*")), "no incomplete file is left"


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
    assert process.returncode == 0
    assert pd.read_csv(output / "volumes.csv")["participant_id"].tolist() == ["sub-0", "sub-1"]
    if VALIDATOR:
        assert validated(output) == []


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
