from __future__ import annotations

import hashlib
import json
import re
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from midiff_monai.cli.exit_codes import ExitCode
from midiff_monai.io.manifest import RunReport
from midiff_monai.provenance import environment, git_commit, sha256


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    path = tmp_path / "PD.nii.gz"
    path.write_bytes(b"abc")
    return path


def run_git(folder: Path, *arguments: str) -> str:
    cache_key = ["-c", "user.name=Test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(folder), *cache_key, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_exit_codes_are_those_of_the_shell_convention() -> None:
    assert {code.name: int(code) for code in ExitCode} == {"OK": 0, "FAILED": 1, "USAGE": 2, "INTERRUPTED": 130}


@pytest.mark.parametrize(
    ("content", "digest"),
    [  # FIPS 180-2, appendix B, and one file of more than one block
        (b"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        (b"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        (b"a" * 1_000_000, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"),
        (bytes(3 << 20), hashlib.sha256(bytes(3 << 20)).hexdigest()),
    ],
)
def test_sha256_of_known_messages(tmp_path: Path, content: bytes, digest: str) -> None:
    (tmp_path / "weights.pt").write_bytes(content)
    assert sha256(tmp_path / "weights.pt") == digest


class TestManifest:
    def test_contains_the_collected_facts(self, volume: Path, tmp_path: Path) -> None:
        report = RunReport("segment", volume, settings={"steps": 10, "seed": 0, "modality": None})
        report.weights["brain_segmentation"] = "00ff"
        report.outputs["segmentation"] = tmp_path / "PD_dseg.nii.gz"
        report.warnings.append("The volume has Größe zéro.")
        report.write(tmp_path / "PD_report.json")

        manifest = json.loads((tmp_path / "PD_report.json").read_text(encoding="utf-8"))
        assert manifest["input"] == {"path": str(volume), "sha256": hashlib.sha256(b"abc").hexdigest()}
        assert manifest["settings"] == {"modality": None, "seed": 0, "steps": 10}
        assert manifest["weights"] == {"brain_segmentation": "00ff"}
        assert manifest["outputs"] == {"segmentation": str(tmp_path / "PD_dseg.nii.gz")}
        assert manifest["warnings"] == ["The volume has Größe zéro."]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", manifest["started"])

    def test_text_is_independent_of_the_order_of_collection(self, volume: Path) -> None:
        def text(step: int) -> str:
            settings = dict([("seed", 0), ("steps", 10), ("guidance", 2)][::step])
            weights = dict([("b", "2"), ("a", "1")][::step])
            outputs = dict([("segmentation", Path("s")), ("qc_image", Path("p"))][::step])
            return RunReport("segment", volume, settings, weights, outputs, started="now").to_json()

        assert text(1) == text(-1)

    def test_not_a_number_is_refused(self, volume: Path) -> None:
        with pytest.raises(ValueError, match="JSON"):
            RunReport("segment", volume, settings={"guidance": float("nan")}).to_json()


class TestTimings:
    def test_repeated_steps_add_up(self, volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        clock = iter([0.0, 1.5, 10.0, 10.25, 20.0, 22.0])
        monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
        report = RunReport("segment", volume, settings={})
        for step in ("translate", "segment", "translate"):
            with report.timed(step):
                pass
        assert report.timings == {"translate": 3.5, "segment": 0.25}

    def test_a_failed_step_is_timed_and_its_error_passes(self, volume: Path) -> None:
        report = RunReport("segment", volume, settings={})
        with pytest.raises(ZeroDivisionError), report.timed("translate"):
            raise ZeroDivisionError
        assert list(report.timings) == ["translate"]


class TestEnvironment:
    def test_versions_are_those_of_the_packages(self) -> None:
        assert environment()["packages"]["numpy"] == np.__version__

    def test_commit_is_that_of_git_log(self, tmp_path: Path) -> None:
        run_git(tmp_path, "init", "--quiet")
        assert git_commit(tmp_path) is None  # a repository without a commit
        run_git(tmp_path, "commit", "--quiet", "--allow-empty", "--message", "first")
        assert git_commit(tmp_path) == run_git(tmp_path, "log", "-1", "--format=%H")

    def test_changed_code_marks_the_commit_dirty_and_changed_results_do_not(self, tmp_path: Path) -> None:
        run_git(tmp_path, "init", "--quiet")
        for name in ("a.py", "scores.csv"):
            (tmp_path / name).write_text("1")
        run_git(tmp_path, "add", ".")
        run_git(tmp_path, "commit", "--quiet", "--message", "first")
        commit = run_git(tmp_path, "log", "-1", "--format=%H")
        (tmp_path / "scores.csv").write_text("2")
        assert git_commit(tmp_path) == commit
        (tmp_path / "a.py").write_text("2")
        assert git_commit(tmp_path) == f"{commit}-dirty"

    def test_folder_within_another_repository_has_no_commit(self, tmp_path: Path) -> None:
        run_git(tmp_path, "init", "--quiet")
        run_git(tmp_path, "commit", "--quiet", "--allow-empty", "--message", "first")
        (tmp_path / "site-packages").mkdir()
        assert git_commit(tmp_path / "site-packages") is None

    def test_machine_without_git(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        run_git(tmp_path, "init", "--quiet")
        monkeypatch.setenv("PATH", "")
        assert git_commit(tmp_path) is None


def test_input_hash_is_taken_when_the_report_is_created(tmp_path: Path) -> None:
    volume = tmp_path / "still_being_copied.nii"
    volume.write_bytes(b"half")
    report = RunReport("segment", volume, {})
    volume.write_bytes(b"half, and the rest")
    assert report.to_dict()["input"]["sha256"] == hashlib.sha256(b"half").hexdigest()
