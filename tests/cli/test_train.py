"""`midiff train`: what it refuses, and the command that it runs."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from midiff_monai.bundle import resources
from midiff_monai.cli.main import main


@pytest.mark.parametrize("overrides", [["--dataset_dir", "nowhere"], ["--dataset_dir=nowhere", "--max_epochs=2"]])
def test_training_without_data_is_refused(overrides: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "t1_brain_segmentation", *overrides]) == 2
    assert "holds no SUBJECT_T1.nii.gz" in capsys.readouterr().err


@pytest.mark.parametrize("bundle", ["t1_brain_segmentation", "lmi_published"])
def test_training_needs_the_name_of_the_data(bundle: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", bundle]) == 2
    assert "--dataset_dir: is missing" in capsys.readouterr().err


def test_incomplete_training_data_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["train", "t1_brain_segmentation", "--dataset_dir", str(tmp_path)]
    (tmp_path / "A_T1.nii.gz").touch()
    assert main(command) == 2
    assert "A_T1_DLMUSE.nii.gz: does not exist" in capsys.readouterr().err
    (tmp_path / "A_T1_DLMUSE.nii.gz").touch()
    assert main([*command, "--validation_subjects", "1"]) == 2
    assert "holds 1 T1w, and 1 are reserved for validation" in capsys.readouterr().err
    assert main([*command, "--validation_subjects", "abc"]) == 2
    assert "--validation_subjects: is 'abc'" in capsys.readouterr().err


def test_train_prints_and_runs_the_command_of_the_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands: list[list[str]] = []

    def run(command: list[str], check: bool) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        return subprocess.CompletedProcess(command, 3)

    monkeypatch.setattr(subprocess, "run", run)
    for name in "ABCDEFG":
        (tmp_path / f"{name}_T1.nii.gz").touch()
        (tmp_path / f"{name}_T1_DLMUSE.nii.gz").touch()
    overrides = ["--max_epochs", "2", "--dataset_dir", str(tmp_path)]
    assert main(["train", "t1_brain_segmentation", *overrides]) == 3, "the exit code is that of the training"
    (command,) = commands
    assert command[:4] == [sys.executable, "-m", "monai.bundle", "run"]
    options = dict(zip(command[4::2], command[5::2], strict=True))
    root = resources.bundle_root("t1_brain_segmentation")
    assert options.pop("--max_epochs") == "2" and options.pop("--bundle_root") == str(root)
    assert options.pop("--dataset_dir") == str(tmp_path)
    files = {"--config_file": "train.yaml", "--meta_file": "metadata.json", "--logging_file": "logging.conf"}
    assert options == {option: str(root / "configs" / name) for option, name in files.items()}
    assert shlex.split(capsys.readouterr().out) == command
