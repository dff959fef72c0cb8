"""A prior for slices, from init to translated pictures, as a user would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import binary_fill_holes
from small_slices import disc, write_picture, write_pictures

from midiff_monai.bundle.resources import read_metadata
from midiff_monai.cli.main import main

SHAPE = (80, 96)

SMALL = {"max_epochs": 1, "epoch_length": 2, "volumes_per_batch": 2, "val_steps": 1, "val_interval": 1}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle for slices of PDw after two training steps, on a grid of two pixels."""
    folder = tmp_path_factory.mktemp("trained")
    data = str(write_pictures(folder / "data", shape=SHAPE))
    assert main(["init", str(folder / "pd"), "--target", "PDw", "--data", data, "--spacing", "2"]) == 0
    small = [part for name, value in SMALL.items() for part in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "midiff_monai", "train", "pd", *small]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return folder / "pd"


def test_a_folder_is_answered_in_its_formats_and_bit_depths(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dtypes: dict[str, Any] = {"a/1.png": np.uint16, "a/2.jpg": np.uint8, "b/3.tif": np.uint16}
    for seed, (name, dtype) in enumerate(dtypes.items(), start=5):
        write_picture(tmp_path / "T1" / name, seed, SHAPE, dtype)
    command = ["translate", "--bundle", str(trained), str(tmp_path / "T1"), "-o", str(tmp_path / "out")]
    assert main(command) == 0
    names = ["a/1_synthPDw.png", "a/2_synthPDw.jpg", "b/3_synthPDw.tif"]
    assert capsys.readouterr().out.splitlines() == [str(tmp_path / "out" / name) for name in names]
    reports = {name.replace(Path(name).name, f"{Path(name).stem}_report.json") for name in dtypes}
    files = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert files == {*names, *reports}
    for seed, (name, dtype) in enumerate(zip(names, dtypes.values(), strict=True), start=5):
        written = np.asarray(Image.open(tmp_path / "out" / name))
        assert written.shape == SHAPE and written.dtype == dtype
        filled = disc(seed, SHAPE, dtype) > 0
        assert written[filled].std() > 0.01 * np.iinfo(dtype).max
        if not name.endswith("jpg"):  # JPEG rings around edges
            assert (written[~binary_fill_holes(filled)] == 0).all()
            assert written[filled].min() > 0 and (written[40, 48] > 0), "holes of the object are translated"
    report = json.loads((tmp_path / "out" / "b" / "3_report.json").read_text())
    assert report["weights"] == {"pd": read_metadata(trained)["weights_sha256"]} and not report["warnings"]
    assert main(command) == 2, "results are never replaced in silence"


def test_monai_runs_the_bundle_with_the_same_result(trained: Path, tmp_path: Path) -> None:
    path = write_picture(tmp_path / "T1" / "1.png", 9, SHAPE)
    command = [sys.executable, "-m", "monai.bundle", "run"]
    command += ["--config_file", str(trained / "configs" / "inference.yaml"), "--bundle_root", str(trained)]
    command += ["--dataset_dir", str(tmp_path / "T1"), "--output_dir", str(tmp_path / "monai")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert main(["translate", "--bundle", str(trained), str(path), "-o", str(tmp_path / "out")]) == 0
    by_monai, by_command = (
        np.asarray(Image.open(tmp_path / folder / "1_synthPDw.png")).astype(int) for folder in ("monai", "out")
    )
    assert np.abs(by_monai - by_command).max() <= 1


def test_a_slice_that_cannot_be_used_stops_the_run_before_it_starts(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_picture(tmp_path / "T1" / "1.png", shape=SHAPE)
    write_picture(tmp_path / "T1" / "2.png", shape=(64, 64))
    assert main(["translate", "--bundle", str(trained), str(tmp_path / "T1"), "-o", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "2.png: has 64 x 64 pixels, and the bundle was trained on 96 x 80" in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()
