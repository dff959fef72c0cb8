"""Real against synthetic volumes: which belong together, what is scored, what is written, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from ball_heads import brain
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import pearsonr

from midiff_monai.cli.main import main
from midiff_monai.errors import InputError, OutputError
from midiff_monai.evaluation.comparison import SCORES, UNPAIRED
from midiff_monai.evaluation.comparison_report import as_text, comparison_paths, run_comparison
from midiff_monai.evaluation.distribution import FEATURES
from midiff_monai.evaluation.pairing import find_pairs, pair_by_name, subject_of
from midiff_monai.provenance import sha256

GRID = np.diag([2.0, 2.0, 2.0, 1.0])


def save(path: Path, voxels: NDArray, affine: NDArray = GRID) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels.astype(np.float32), affine), path)
    return path


def noisy(seed: int) -> NDArray:
    """The ball with noise inside."""
    inside = brain() > 0
    return brain() + 5 * inside * np.random.default_rng(seed).normal(size=inside.shape)


@pytest.mark.parametrize(
    ("name", "subject"),
    [
        ("sub-01_T1w.nii.gz", "sub-01"),
        ("sub-01_ses-2_PDw_synthT1w.nii.gz", "sub-01_ses-2"),
        ("sub-01_desc-synthetic_T1w.nii.gz", "sub-01"),
        ("sub-01_desc-syntheticPDw_T1w.nii.gz", "sub-01"),
        ("IXI002-Guys-0828-T1.nii", "IXI002-Guys-0828"),
        ("scan_synth.mha", "scan"),
        ("scan.mgz", "scan"),
        ("sub-01/T1w.nii.gz", "sub-01"),
        ("sub-01/FLAIR_synthT1w.nii.gz", "sub-01"),
        ("synthetic_03.nii.gz", "synthetic_03"),
    ],
)
def test_the_subject_is_the_name_without_contrast(name: str, subject: str) -> None:
    assert subject_of(Path(name)) == subject


def test_several_synthetic_volumes_have_one_real_volume() -> None:
    real = [Path("real/a_T1w.nii"), Path("real/b_T1w.nii")]
    made = [Path(f"{name}_synthT1w.nii") for name in ("a_PDw", "a_T2w", "c_PDw")]
    sides = ({path: subject_of(path) for path in side} for side in (real, made))
    assert pair_by_name(*sides) == {made[0]: real[0], made[1]: real[0]}


def test_two_real_volumes_of_a_subject_are_refused() -> None:
    with pytest.raises(InputError, match=r"a_T2w.nii: is of the same subject as a_T1w.nii.*pattern"):
        pair_by_name({Path("a_T1w.nii"): "a", Path("a_T2w.nii"): "a"}, {})


def test_of_results_the_synthetic_volumes_are_compared(tmp_path: Path) -> None:
    for subject in "ab":
        save(tmp_path / f"real/{subject}_T1w.nii.gz", brain())
        for ending in ("synthT1w", "synthT1w_std", "dseg"):
            save(tmp_path / f"results/{subject}_PDw_{ending}.nii.gz", brain())
        (tmp_path / f"results/{subject}_PDw_report.json").touch()
    for item in (tmp_path / "results", tmp_path / "results/*.nii.gz"):
        real, made, partners = find_pairs(tmp_path / "real", item)
        assert [path.name for path in made] == ["a_PDw_synthT1w.nii.gz", "b_PDw_synthT1w.nii.gz"]
        assert list(partners.values()) == real


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Real volumes a, b, c; a synthetic a in other units, a noisy b, c on another grid, and d."""
    folder = tmp_path_factory.mktemp("comparison")
    volumes = {name: noisy(seed) for seed, name in enumerate("abc")}
    for name, voxels in volumes.items():
        save(folder / f"real/{name}_T1w.nii.gz", voxels)
    other_units = np.where(volumes["a"] != 0, 0.001 * volumes["a"] + 0.1, 0)
    save(folder / "made/a_T2w_synthT1w.nii.gz", other_units)
    save(folder / "made/b_T2w_synthT1w.nii.gz", volumes["b"] + 5 * (noisy(7) - brain()))
    save(folder / "made/c_T2w_synthT1w.nii.gz", volumes["c"][:-1])
    save(folder / "made/d_T2w_synthT1w.nii.gz", noisy(9))
    return folder / "real", folder / "made"


@pytest.fixture(scope="module")
def compared(folders: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out")
    run_comparison(*folders, out)
    return out


def test_pairs_are_scored_in_the_foreground(folders: tuple[Path, Path], compared: Path) -> None:
    rows = pd.read_csv(
        compared / "comparison_pairs.csv", keep_default_na=False, na_values={name: "" for name in SCORES}
    )
    assert [Path(name).name[0] for name in rows["synthetic"]] == list("abcd")
    first, second, third, fourth = rows.to_dict("records")
    assert first["correlation"] == pytest.approx(1) and first["ssim"] == pytest.approx(1) and first["psnr"] > 80
    paths = folders[1] / "b_T2w_synthT1w.nii.gz", folders[0] / "b_T1w.nii.gz"
    images = [np.asarray(nib.load(path).dataobj) for path in paths]  # type: ignore[attr-defined]
    inside = images[1] > 0
    assert second["correlation"] == pytest.approx(pearsonr(*(image[inside] for image in images)).statistic, abs=1e-4)
    assert second["mutual_information"] < first["mutual_information"] and second["psnr"] < first["psnr"]
    assert third["note"].startswith("not on the grid of") and np.isnan(third["psnr"])
    assert fourth["note"] == UNPAIRED and fourth["real"] == ""


def test_the_summary_has_means_over_pairs_and_names_the_features(compared: Path) -> None:
    summary = pd.read_csv(compared / "comparison.csv").set_index("metric")
    pairs = pd.read_csv(compared / "comparison_pairs.csv")
    assert list(summary.index) == ["fid", "kid", *SCORES]
    for score in SCORES:
        assert summary["value"][score] == pytest.approx(pairs[score].mean(), rel=1e-4)
        assert summary["min"][score] == pytest.approx(pairs[score].min(), rel=1e-4)
    assert (summary["real"][["psnr", "ssim"]] == 2).all() and set(summary["features"][["fid", "kid"]]) == {FEATURES}
    assert 0 < summary["real"]["fid"] < summary["synthetic"]["fid"]


def test_the_record_names_inputs_settings_and_commit(folders: tuple[Path, Path], compared: Path) -> None:
    record = json.loads((compared / "comparison.json").read_text())
    assert list(map(len, record["inputs"].values())) == [3, 4]
    volume = folders[0] / "a_T1w.nii.gz"
    assert record["inputs"]["real"][str(volume)] == sha256(volume)
    assert record["settings"]["pairing"] == "by name" and record["settings"]["features"] == FEATURES
    assert record["outputs_sha256"]["summary"] == sha256(compared / "comparison.csv")
    assert "git_commit" in record["environment"] and set(record["weights"]) == {"t1_brain_segmentation"}
    assert any("not on the grid of" in note for note in record["notes"])


def test_the_figure_is_a_picture(compared: Path) -> None:
    with Image.open(compared / "comparison.png") as picture:
        assert min(picture.size) > 500 and len(set(picture.convert("L").tobytes())) > 50


def test_a_set_is_at_no_distance_from_itself(folders: tuple[Path, Path], tmp_path: Path) -> None:
    found, paths = run_comparison(folders[0], folders[0], tmp_path, pairing="none")
    assert found.distances["fid"] == pytest.approx(0, abs=1e-6) and found.distances["kid"] < 0
    assert list(found.summary()["metric"]) == ["fid", "kid"] and paths.figure.is_file()
    assert "biased upwards" in as_text(found)
    with pytest.raises(OutputError, match="exists already"):
        run_comparison(folders[0], folders[0], tmp_path, pairing="none")


def test_one_pair_has_scores_and_no_distances(folders: tuple[Path, Path], tmp_path: Path) -> None:
    real, made = (str(folder / "b_*.nii.gz") for folder in folders)
    found, _ = run_comparison(real, made, tmp_path)
    assert list(found.summary()["metric"]) == list(SCORES)
    assert as_text(found).endswith("FID and KID need two volumes on either side.")


@pytest.mark.parametrize(
    ("real", "made", "options", "message"),
    [
        ("empty", "made", [], "empty: holds no volume"),
        ("real", "empty", [], "empty: holds no volume"),
        ("real", "nowhere", [], "nowhere: does not exist"),
        ("real", "made", ["--paired"], "d_T2w_synthT1w.nii.gz: has no real volume of its name (d) in "),
        ("real/a*", "made", ["--unpaired"], "a*: holds a single volume, and there is no pair"),
        ("real", "made/d*", [], "d*: holds a single volume, and there is no pair"),
        ("mixed", "made", [], "a_T2w.nii.gz: is of the same subject as "),
        ("damaged", "made", [], "b_T1w.nii.gz: is truncated"),
    ],
)
def test_wrong_input_is_one_line(
    real: str,
    made: str,
    options: list[str],
    message: str,
    folders: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "empty").mkdir()
    for name, folder in zip(("real", "made"), folders, strict=True):
        (tmp_path / name).symlink_to(folder)
    for name in ("mixed/a_T1w", "mixed/a_T2w", "damaged/a_T1w", "damaged/b_T1w"):
        save(tmp_path / f"{name}.nii.gz", brain())
    damaged = tmp_path / "damaged/b_T1w.nii.gz"
    damaged.write_bytes(damaged.read_bytes()[:2000])
    monkeypatch.chdir(tmp_path)
    assert main(["compare", real, made, "-o", "out", *options]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and "/dev/null" not in error
    assert not (tmp_path / "out").exists()


def test_the_files_lie_in_the_folder(tmp_path: Path) -> None:
    assert comparison_paths(tmp_path).report == tmp_path / "comparison.json"
