"""What the terminal and the log file are told."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import nibabel as nib
import numpy as np
import pytest

from midiff_monai.cli.main import main
from midiff_monai.cli.messages import NORMAL, QUIET, VERBOSE, messages

_logger = logging.getLogger("midiff_monai.example")


def say(shown: int, log_file: Path | None = None) -> None:
    with messages(shown, log_file):
        _logger.debug("read, 1.0 s")
        _logger.info("Loading")
        _logger.warning("%s: look", "a.nii")
        _logger.error("a.nii: is empty")


@pytest.mark.parametrize(
    ("shown", "lines"),
    [
        (VERBOSE, ["read, 1.0 s", "Loading", "midiff: warning: a.nii: look", "midiff: error: a.nii: is empty"]),
        (NORMAL, ["Loading", "midiff: warning: a.nii: look", "midiff: error: a.nii: is empty"]),
        (QUIET, ["midiff: error: a.nii: is empty"]),
    ],
)
def test_the_terminal_shows_what_was_asked_for(
    shown: int, lines: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    say(shown)
    say(shown)  # the handlers of the first time are gone
    assert capsys.readouterr().err.splitlines() == lines * 2


def test_the_file_gets_everything_after_what_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_text("before\n")
    say(QUIET, path)
    first, *lines = path.read_text().splitlines()
    assert first == "before"
    assert [re.sub(r"^[\d :,-]+", "", line) for line in lines] == [
        "DEBUG read, 1.0 s",
        "INFO Loading",
        "WARNING a.nii: look",
        "ERROR a.nii: is empty",
    ]


def test_the_log_of_a_command_says_what_was_run_and_how_it_ended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log.txt"
    assert main(["segment", "missing file.nii", "-o", "out", "--quiet", "--log-file", str(log)]) == 2
    lines = log.read_text().splitlines()
    assert f"midiff segment 'missing file.nii' -o out --quiet --log-file {log}" in lines[0]
    assert "missing file.nii: does not exist" in lines[1] and lines[-1].endswith("exit code 2")
    assert capsys.readouterr().err.startswith("midiff: error: missing file.nii: does not exist")


def test_the_steps_of_a_volume_are_in_the_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scan, log = tmp_path / "scan.nii.gz", tmp_path / "log.txt"
    voxels = np.random.default_rng(0).integers(1, 900, (12, 10, 8)).astype(np.float32)
    nib.save(nib.Nifti1Image(voxels, np.diag([6, 6, 6, 1])), scan)
    command = ["segment", str(scan), "-o", str(tmp_path / "out"), "--no-translate", "--fast", "--log-file", str(log)]
    assert main([*command, "--verbose"]) == 0
    printed, text = capsys.readouterr(), log.read_text()
    assert printed.out == f"{tmp_path / 'out' / 'scan_dseg.nii.gz'}\n"
    for step in ("read", "segment", "check", "write"):
        assert re.search(rf"{scan}: {step}, \d+\.\d s$", printed.err, re.MULTILINE)
        assert f"DEBUG {scan}: {step}, " in text
    assert f"wrote {tmp_path / 'out' / 'scan_volumes.csv'}" in text and "opened " in text


def test_the_log_holds_the_traceback_of_a_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("midiff_monai.pipeline.run.run", Mock(side_effect=RuntimeError("sizes do not match")))
    log = tmp_path / "log.txt"
    with pytest.raises(RuntimeError, match="sizes do not match"):
        main(["segment", "x.nii", "-o", str(tmp_path), "--log-file", str(log)])
    assert "Traceback" in log.read_text() and "sizes do not match" in log.read_text()
    assert capsys.readouterr().err == "", "Python prints it"


@pytest.mark.parametrize("name", ["scan.nii.gz", "missing/log.txt", "."])
def test_a_log_file_that_cannot_be_used_is_one_line(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scan = tmp_path / "scan.nii.gz"
    scan.write_bytes(b"voxels")
    assert main(["info", "--log-file", str(tmp_path / name)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"midiff: error: {tmp_path / name}: ") and error.count("\n") == 1
    assert scan.read_bytes() == b"voxels" and len(list(tmp_path.iterdir())) == 1


def test_quiet_and_verbose_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["info", "--quiet", "--verbose"])
    assert stop.value.code == 2 and "not allowed with" in capsys.readouterr().err


def test_the_shell_is_told_the_words_that_may_come_next(tmp_path: Path) -> None:
    """The protocol of argcomplete: the line in the environment, the candidates in a file."""
    pytest.importorskip("argcomplete")
    answer, line = tmp_path / "answer", "midiff demo --contrast F"
    environment = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_STDOUT_FILENAME": str(answer), "_ARGCOMPLETE_IFS": "\n"}
    environment |= {"COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_TYPE": "9"}
    subprocess.run([sys.executable, "-m", "midiff_monai"], env=os.environ | environment, check=True)
    assert answer.read_text().split() == ["FLAIR"]
