"""Comparisons of slices, and with the features of a local Inception network."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.stats import pearsonr
from small_slices import disc, write_picture
from tiny_inception import write_tiny_inception

from midiff_monai.cli.main import main
from midiff_monai.evaluation.comparison_report import run_comparison
from midiff_monai.evaluation.metrics import frechet_distance
from midiff_monai.evaluation.pairing import find_pairs
from midiff_monai.provenance import sha256


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Real slices 0 to 3 of two people, and synthetic ones: 0 and 1 at half the intensity, 2 of another slice."""
    for number in range(4):
        write_picture(tmp_path / f"real/p{number // 2}/{number % 2}.png", number, shape=(64, 72))
    for number, seed in ((0, 0), (1, 1), (2, 9)):
        path = tmp_path / f"made/p{number // 2}/{number % 2}_synthT1w.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((disc(seed, (64, 72)) // 2).astype(np.uint8)).save(path)
    return tmp_path / "real", tmp_path / "made"


def test_slices_are_paired_by_folder_and_name(folders: tuple[Path, Path]) -> None:
    """Slice 0 of one person is not that of another."""
    real, made, partners = find_pairs(*folders)
    assert (len(real), len(made)) == (4, 3)
    found = {path.relative_to(folders[1]).as_posix(): partner for path, partner in partners.items()}
    assert found == {f"{name}_synthT1w.png": folders[0] / f"{name}.png" for name in ("p0/0", "p0/1", "p1/0")}


def test_slices_are_scored(folders: tuple[Path, Path], tmp_path: Path) -> None:
    assert main(["compare", *map(str, folders), "-o", str(tmp_path / "out"), "-q"]) == 0
    first, second, third = pd.read_csv(tmp_path / "out/comparison_pairs.csv").to_dict("records")
    for pair in (first, second):
        assert pair["correlation"] > 0.999 and pair["ssim"] > 0.99
    pictures = [np.asarray(Image.open(third[side]), float) for side in ("synthetic", "real")]
    foreground = pictures[1] > 0
    # the dark core, which the foreground encloses, belongs to it
    core = np.hypot(np.linspace(-1, 1, 64)[:, None], np.linspace(-1, 1, 72)) <= 0.25
    inside = foreground | core
    expected = pearsonr(pictures[0][inside], pictures[1][inside]).statistic
    assert third["correlation"] == pytest.approx(expected, abs=0.01)
    summary = pd.read_csv(tmp_path / "out/comparison.csv").set_index("metric")
    assert summary.loc["fid", ["real", "synthetic"]].tolist() == [4, 3] and summary["value"]["fid"] > 0


def test_a_set_of_slices_is_at_no_distance_from_itself(folders: tuple[Path, Path], tmp_path: Path) -> None:
    same, _ = run_comparison(folders[0], folders[0], tmp_path / "same", pairing="none")
    other, _ = run_comparison(folders[0], folders[1], tmp_path / "other", pairing="none")
    assert same.distances["fid"] == pytest.approx(0, abs=1e-6)
    assert other.distances["fid"] > 0.01


def test_slices_and_volumes_are_not_compared(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "volumes").mkdir()
    (tmp_path / "volumes/a.nii").touch()
    assert main(["compare", str(folders[0]), str(tmp_path / "volumes"), "-o", str(tmp_path / "out")]) == 2
    assert f"volumes: holds volumes, and {folders[0]} holds slices" in capsys.readouterr().err


def test_features_of_a_local_inception(folders: tuple[Path, Path], tmp_path: Path) -> None:
    """FID of the mean and the maximum of each slice, which the tiny network computes."""
    inception = write_tiny_inception(tmp_path / "tiny.pt")
    command = ["compare", *map(str, folders), "-o", str(tmp_path / "out"), "--inception", str(inception), "-q"]
    assert main(command) == 0
    summary = pd.read_csv(tmp_path / "out/comparison.csv").set_index("metric")
    assert set(summary["features"][["fid", "kid"]]) == {f"tiny {sha256(inception)[:12]}"}
    record = json.loads((tmp_path / "out/comparison.json").read_text())
    assert record["weights"]["tiny.pt"] == sha256(inception)
    found, _ = run_comparison(*folders, tmp_path / "again", inception=inception)
    assert found.real_features.shape == (4, 2) and (found.real_features[:, 1] == 255).all()
    expected = frechet_distance(found.synthetic_features, found.real_features)
    assert summary["value"]["fid"] == pytest.approx(expected, rel=1e-4)


def test_weights_without_a_network_are_refused(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"weight": torch.zeros(3)}, tmp_path / "weights.pth")
    (tmp_path / "text.pt").write_text("no network")
    unreadable = "cannot be read as TorchScript"
    for name, fault in {"weights.pth": unreadable, "text.pt": unreadable, "absent.pt": "does not exist"}.items():
        command = ["compare", *map(str, folders), "-o", str(tmp_path / "out"), "--inception", str(tmp_path / name)]
        assert main(command) == 2
        error = capsys.readouterr().err
        assert f"{name}: {fault}" in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()
