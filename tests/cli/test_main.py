"""The command line: exit codes, one-line errors, no incomplete output."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from unittest.mock import Mock

import nibabel as nib
import numpy as np
import pytest

from midiff_monai.bundle import resources
from midiff_monai.cli.main import main
from midiff_monai.pipeline.batch_report import BatchReportError, Outcome


def save(path: Path, data: np.ndarray, affine: np.ndarray | None = None) -> Path:
    nib.save(nib.Nifti1Image(data.astype(np.float32), np.eye(4) if affine is None else affine), path)
    return path


def ramp(*shape: int) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def truncated(folder: Path) -> Path:
    path = save(folder / "bad.nii.gz", np.random.default_rng(0).random((16, 16, 16)))
    path.write_bytes(path.read_bytes()[:2000])
    return path


def text(folder: Path) -> Path:
    path = folder / "bad.nii"
    path.write_text("no image")
    return path


SHEAR = np.array([[1, 0.5, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
BAD_INPUTS: dict[str, Callable[[Path], Path]] = {
    "missing": lambda folder: folder / "bad.nii.gz",
    "empty folder": lambda folder: folder,
    "truncated": truncated,
    "no image": text,
    "several frames": lambda folder: save(folder / "bad.nii.gz", ramp(8, 8, 8, 3)),
    "flat": lambda folder: save(folder / "bad.nii.gz", ramp(8, 8)),
    "zeros": lambda folder: save(folder / "bad.nii.gz", np.zeros((8, 8, 8))),
    "negative": lambda folder: save(folder / "bad.nii.gz", -1 - ramp(8, 8, 8)),
    "not a number": lambda folder: save(folder / "bad.nii.gz", ramp(8, 8, 8) * np.nan),
    "sheared": lambda folder: save(folder / "bad.nii.gz", ramp(8, 8, 8), SHEAR),
}


@pytest.mark.parametrize("kind", BAD_INPUTS)
def test_a_bad_input_is_one_line_and_exit_code_2(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    path = BAD_INPUTS[kind](tmp_path / "in")
    assert main(["segment", str(path), "-o", str(tmp_path / "out")]) == 2
    message = capsys.readouterr().err.strip()
    assert message.startswith(f"midiff: error: {path}") and message.count("\n") == 0 and message.endswith(".")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def own_bundles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(resources.bundle_root("t1_brain_segmentation").parent, tmp_path / "bundles")
    monkeypatch.setattr(resources, "_folder", lambda kind: tmp_path / kind)
    return tmp_path / "bundles"


@pytest.mark.parametrize("damage", ["missing", "changed"])
def test_weights_with_another_hash_are_refused(
    damage: str, own_bundles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = own_bundles / "t1_brain_segmentation" / "models" / "model.pt"
    weights.unlink() if damage == "missing" else weights.write_bytes(weights.read_bytes() + b"x")
    volume = save(tmp_path / "good.nii.gz", ramp(16, 16, 16))
    assert main(["segment", "--no-translate", str(volume), "-o", str(tmp_path / "out")]) == 2
    assert "model.pt" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*")), "no incomplete file"


def test_output_below_a_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    volume = save(tmp_path / "good.nii.gz", ramp(16, 16, 16))
    assert main(["translate", str(volume), "-o", str(volume / "out")]) == 2
    assert "Choose another folder" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_output_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir(mode=0o500)
    volume = save(tmp_path / "good.nii.gz", ramp(16, 16, 16))
    assert main(["translate", str(volume), "-o", str(tmp_path / "out")]) == 2


def test_info_names_the_weights(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    composite = facts["bundles"].pop("any_contrast_brain_segmentation")
    assert composite["runs"] == ["t1_lmi_translation", "t1_brain_segmentation", "intracranial_mask"]
    assert facts["bundles"].pop("lmi_published")["trained"] is False
    assert facts["bundles"].keys() == {*composite["runs"], "cortical_parcellation"}
    assert all(bundle["intact"] for bundle in facts["bundles"].values())


@pytest.mark.parametrize("arguments", [["info"], ["segment", "--help"]])
def test_a_reader_that_stops_early_is_no_error(arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "midiff_monai", *arguments]
    result = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert result.stderr == ""


def test_info_reports_missing_weights(own_bundles: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (own_bundles / "t1_brain_segmentation" / "models" / "model.pt").unlink()
    assert main(["info", "--json"]) == 0
    bundles = json.loads(capsys.readouterr().out)["bundles"]
    assert not bundles["t1_brain_segmentation"]["intact"] and bundles["t1_lmi_translation"]["intact"]


def test_a_composite_bundle_is_refused_where_it_has_no_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    volume, composite = save(tmp_path / "good.nii.gz", ramp(16, 16, 16)), "any_contrast_brain_segmentation"
    assert main(["segment", str(volume), "--bundle", composite, "-o", str(tmp_path / "out")]) == 2
    assert f"{composite}: runs other bundles" in capsys.readouterr().err
    assert main(["train", composite]) == 2
    assert (
        f"{composite}: cannot be trained. Train one of cortical_parcellation, intracranial_mask, lmi_published, t1_"
        in capsys.readouterr().err
    )


def test_a_modality_is_refused_without_translation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    volume = save(tmp_path / "good.nii.gz", ramp(16, 16, 16))
    for command in ("segment", "batch"):
        options = ["--no-translate", "--modality", "CT", "-o", str(tmp_path / "out")]
        assert main([command, str(volume), *options]) == 2
        assert "--modality: has no effect" in capsys.readouterr().err


def test_a_group_without_participants_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bids", str(tmp_path), str(tmp_path / "out"), "group"]) == 2
    assert "is not a folder of results" in capsys.readouterr().err


@pytest.mark.parametrize("level", ["participant", "group"])
def test_results_in_the_raw_data_set_are_refused(
    level: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sub-01" / "anat").mkdir(parents=True)
    save(tmp_path / "sub-01" / "anat" / "sub-01_PDw.nii.gz", ramp(8, 8, 8))
    (tmp_path / "dataset_description.json").write_text(json.dumps({"Name": "x", "BIDSVersion": "1.9.0"}))
    before = sorted(tmp_path.rglob("*"))
    assert main(["bids", str(tmp_path), str(tmp_path / "sub-01" / ".."), level]) == 2
    assert "is the data set itself" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "x_dseg.nii.gz"), "No space left on device: 'x_dseg.nii.gz'"),
        (MemoryError(), "out of memory"),
        (RuntimeError("CUDA out of memory.\nTried to allocate 9 GiB"), "CUDA out of memory. Tried to allocate 9 GiB"),
    ],
)
def test_a_full_disk_or_memory_is_one_line(
    error: Exception, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("midiff_monai.pipeline.run.run", Mock(side_effect=error))
    assert main(["segment", "x.nii", "-o", str(tmp_path)]) == 1
    printed = capsys.readouterr().err
    assert message in printed and printed.count("\n") == 1


def test_other_runtime_errors_are_not_reported_as_memory_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("midiff_monai.pipeline.run.run", Mock(side_effect=RuntimeError("sizes do not match")))
    with pytest.raises(RuntimeError, match="sizes do not match"):
        main(["segment", "x.nii", "-o", str(tmp_path)])


def test_outcomes_are_printed_even_if_their_report_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(os.fsdecode(bytes(tmp_path) + b"/caf\xe9.nii"))
    path.touch()

    def unreported(*_: object, **__: object) -> None:
        raise BatchReportError(tmp_path / "out", "No space left on device", [Outcome(path, "done")])

    monkeypatch.setattr("midiff_monai.pipeline.batch.run_batch", unreported)
    monkeypatch.setattr("midiff_monai.cli.commands._summarize", lambda folder: None)
    assert main(["batch", str(path), "-o", str(tmp_path / "out")]) == 1
    printed = capsys.readouterr()
    assert printed.out.startswith("done\t") and "No space left" in printed.err


@pytest.mark.parametrize("name", ["segment", "batch"])
def test_an_empty_argument_is_not_the_current_folder(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([name, "", "-o", str(tmp_path)]) == 2
    assert "'': is an empty input" in capsys.readouterr().err


def test_an_unusable_device_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    volume = save(tmp_path / "good.nii.gz", ramp(16, 16, 16))
    assert main(["translate", str(volume), "-o", str(tmp_path / "out"), "--device", "meta"]) == 2
    assert "--device meta: is no device of this machine" in capsys.readouterr().err


def test_a_demo_into_a_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").touch()
    assert main(["demo", "-o", str(tmp_path / "out")]) == 2
    assert "is a file or lies below one" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--version"], ["bids", "--version"]])
def test_version_is_printed(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 0
    expected = {"midiff": metadata.version("midiff-monai")}
    for path in sorted(resources.bundle_root("t1_brain_segmentation").parent.glob("*/configs/metadata.json")):
        expected[path.parts[-3]] = json.loads(path.read_text())["version"]
    assert capsys.readouterr().out == "".join(f"{name} {version}\n" for name, version in expected.items())


def test_a_version_that_cannot_be_read_is_one_line(own_bundles: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (own_bundles / "t1_lmi_translation" / "configs" / "metadata.json").write_text("{")
    assert main(["--version"]) == 2
    error = capsys.readouterr().err
    assert "metadata.json: cannot be read" in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "nowhere/*.nii"], "nowhere/*.nii: matches no volume"),
        (["--data", "nowhere"], "nowhere: does not exist"),
        (["--data", ".", "--target", "a b"], "--target a b: is a part of file names"),
    ],
)
def test_a_bundle_that_cannot_be_made_is_one_line(
    options: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["init", "own", "--target", "FLAIR", *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"midiff: error: {message}") and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", [["train"], ["translate", "x.nii", "-o", "out", "--bundle"], ["info", "--bundle"]])
def test_an_unknown_bundle_is_one_line(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*command, "nowhere"]) == 2
    error = capsys.readouterr().err
    available = (
        "any_contrast_brain_segmentation, cortical_parcellation, intracranial_mask, lmi_published, "
        "t1_brain_segmentation, t1_lmi_translation"
    )
    assert f"nowhere: is not a bundle. Available are: {available}; or" in error
    assert error.count("\n") == 1 and not list(tmp_path.iterdir())
