"""`midiff view` opens the page of results in the user's browser."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from small_study import subjects_of, write_result

from midiff_monai.cli.main import main

MAIN = "import sys; from midiff_monai.cli.main import main; sys.exit(main())"


def run_view(folder: Path, browser: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", MAIN, "view", str(folder)]
    environment = os.environ | {"BROWSER": browser}
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_the_browser_gets_the_page_of_a_single_result(tmp_path: Path) -> None:
    results = tmp_path / "the results"
    results.mkdir()
    write_result(results, "sub-01_PDw")
    browser = tmp_path / "browser.sh"
    browser.write_text(f'#!/bin/sh\nprintf "%s" "$1" > "{tmp_path}/opened"\n')
    browser.chmod(0o755)
    ended = run_view(results, str(browser))
    page = results / "index.html"
    assert (ended.returncode, ended.stdout.strip()) == (0, str(page))
    assert (tmp_path / "opened").read_text() == page.as_uri()
    assert list(subjects_of(page)) == ["sub-01_PDw"]


def test_without_a_browser_the_page_is_written(tmp_path: Path) -> None:
    write_result(tmp_path, "sub-01_PDw")
    ended = run_view(tmp_path, "false")
    assert ended.returncode == 0 and "No browser was found" in ended.stderr
    assert (tmp_path / "index.html").is_file()


def test_a_folder_without_results_is_refused_and_stays_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["view", str(tmp_path)]) == main(["view", str(tmp_path / "none")]) == 2
    printed = capsys.readouterr().err
    assert "holds no results" in printed and "none: is not a folder of results" in printed
    assert not list(tmp_path.iterdir())


def test_the_page_alone_is_written_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_result(tmp_path, "sub-01_PDw")
    monkeypatch.setattr("webbrowser.open", None)
    assert main(["view", str(tmp_path), "--no-browser"]) == 0 and (tmp_path / "index.html").is_file()
