"""The derivative data set of a BIDS run: sidecars, and what the BIDS validator says of it."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from bids_validator import VALIDATOR, validated
from small_dataset import write_dataset

from midiff_monai.io.manifest import RunReport
from midiff_monai.io.volumes import read_volume, write_like
from midiff_monai.labels import write_label_table
from midiff_monai.parcels import write_parcel_table
from midiff_monai.pipeline.bids import find_jobs
from midiff_monai.pipeline.bids_files import write_description, write_sidecars

QUALITY = {"score": 0.71, "interval": [0.63, 0.79], "structures": {}}


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return write_dataset(tmp_path)


def write_derivative(dataset: Path, output: Path) -> None:
    """All files of a run, with empty images instead of the models' results."""
    jobs = find_jobs(dataset, output)
    write_description(dataset, output)
    for job in jobs:
        job.paths.segmentation.parent.mkdir(parents=True, exist_ok=True)
        for role, path in asdict(job.paths).items():
            kind = np.int16 if role in ("segmentation", "lesions", "parcels") else np.float32
            if role == "dicom_seg":  # BIDS data sets contain no DICOM series
                continue
            if path.name.endswith(".nii.gz"):
                nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), kind), np.eye(4)), path)
            else:
                path.write_text("x")
        RunReport("segment", job.source, {}, quality=QUALITY).write(job.paths.report)
        write_label_table(job.paths.label_table)
        write_parcel_table(job.paths.parcel_table)
    for name in ("batch_report.csv", "volumes.csv", "parcels.csv", "index.html", "_viewer/niivue.js"):
        (output / name).parent.mkdir(exist_ok=True)
        (output / name).write_text("x")
    write_sidecars(jobs, dataset)


def facts_beside(image: Path) -> dict[str, Any]:
    return json.loads(image.with_name(image.name.replace(".nii.gz", ".json")).read_text())


def test_sidecars_name_the_source(dataset: Path, tmp_path: Path) -> None:
    write_derivative(dataset, tmp_path / "out")
    images = sorted((tmp_path / "out").rglob("*.nii.gz"))
    described = [path for path in images if not path.name.endswith(("_std.nii.gz", "_entropy.nii.gz", "_error.nii.gz"))]
    for image in described:
        facts = facts_beside(image)
        (source,) = facts["Sources"]
        assert (dataset / source.removeprefix("bids:raw:")).is_file()
    description = json.loads((tmp_path / "out" / "dataset_description.json").read_text())
    assert (tmp_path / "out" / description["DatasetLinks"]["raw"]).resolve() == dataset.resolve()


def test_the_sidecar_of_a_segmentation_has_the_expected_dice(dataset: Path, tmp_path: Path) -> None:
    write_derivative(dataset, tmp_path / "out")
    segmentation, *_ = sorted((tmp_path / "out").rglob("*_dseg.nii.gz"))
    assert facts_beside(segmentation)["ExpectedDice"] == QUALITY
    report = segmentation.with_name(segmentation.name.replace("_dseg.nii.gz", "_report.json"))
    report.write_text("damaged")
    write_sidecars(find_jobs(dataset, tmp_path / "out"), dataset)
    assert "ExpectedDice" not in facts_beside(segmentation)


@pytest.mark.parametrize(("beyond_the_brain", "stripped"), [(2, True), (20, False)])
def test_the_sidecar_says_whether_the_skull_is_stripped(
    beyond_the_brain: int, stripped: bool, dataset: Path, tmp_path: Path
) -> None:
    """Unlabelled voxels of the synthetic T1w are scalp, unless they are few."""
    job = find_jobs(dataset, tmp_path / "out")[0]
    job.paths.synthetic.parent.mkdir(parents=True)
    labels = np.zeros(60, np.int16)
    labels[:18] = 3
    image = np.zeros(60, np.float32)
    image[: 18 + beyond_the_brain] = 0.5
    for path, voxels in ((job.paths.segmentation, labels), (job.paths.synthetic, image)):
        nib.save(nib.Nifti1Image(voxels.reshape(3, 4, 5), np.eye(4)), path)
    write_sidecars([job], dataset)
    assert facts_beside(job.paths.synthetic)["SkullStripped"] is stripped


@pytest.mark.parametrize(("side", "stripped"), [(50, True), (60, False)])
def test_without_a_segmentation_the_size_decides_skull_stripped(
    side: int, stripped: bool, dataset: Path, tmp_path: Path
) -> None:
    """The boxes have 1500 and 2592 ml."""
    job = find_jobs(dataset, tmp_path / "out")[0]
    job.paths.synthetic.parent.mkdir(parents=True)
    image = np.zeros((side + 2,) * 3, np.float32)
    image[1:-1, 1:-1, 1:-1] = 0.5
    nib.save(nib.Nifti1Image(image, np.diag([2, 2, 3, 1])), job.paths.synthetic)
    write_sidecars([job], dataset)
    assert facts_beside(job.paths.synthetic)["SkullStripped"] is stripped


@pytest.mark.skipif(VALIDATOR is None, reason="the BIDS validator (bids-validator-deno) is not installed")
def test_the_validator_finds_no_error(dataset: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    write_derivative(dataset, output)
    assert validated(output) == []
    stray = output / "sub-01" / "anat" / "sub-01_nonsense.nii.gz"
    shutil.copy(next(output.rglob("*_dseg.nii.gz")), stray)
    assert validated(output), "the validator finds this error, so an empty list means something"


@pytest.mark.skipif(VALIDATOR is None, reason="the BIDS validator (bids-validator-deno) is not installed")
def test_results_of_a_scan_with_four_axes_are_valid(dataset: Path, tmp_path: Path) -> None:
    """A scan with one frame on a fourth axis gives results with three axes, as BIDS asks of anatomical images."""
    for scan in dataset.rglob("*.nii.gz"):
        voxels = np.random.default_rng(0).integers(1, 900, (4, 5, 6, 1)).astype(np.int16)
        nib.save(nib.Nifti1Image(voxels, np.diag([1, 1, 3, 1])), scan)
    output = tmp_path / "out"
    write_derivative(dataset, output)
    for job in find_jobs(dataset, output):
        source = read_volume(job.source)
        write_like(np.asarray(source.dataobj), source, job.paths.synthetic, np.float32)
        write_like(np.zeros(source.shape), source, job.paths.segmentation, np.int16)
    assert validated(output) == []
    four_axes = nib.Nifti1Image(np.zeros((4, 5, 6, 1), np.float32), np.eye(4))
    nib.save(four_axes, next(output.rglob("*_T1w.nii.gz")))
    assert any("T1W_FILE_WITH_TOO_MANY_DIMENSIONS" in error for error in validated(output))


@pytest.mark.parametrize("damage", ["truncated", "another grid"])
def test_a_damaged_result_does_not_prevent_other_sidecars(damage: str, dataset: Path, tmp_path: Path) -> None:
    write_derivative(dataset, tmp_path / "out")
    jobs = find_jobs(dataset, tmp_path / "out")
    for sidecar in (tmp_path / "out").rglob("*_T1w.json"):
        sidecar.unlink()
    if damage == "truncated":
        content = jobs[0].paths.synthetic.read_bytes()
        jobs[0].paths.synthetic.write_bytes(content[: len(content) // 2])
    else:
        nib.save(nib.Nifti1Image(np.zeros((5, 4, 4), np.int16), np.eye(4)), jobs[0].paths.segmentation)
    write_sidecars(jobs, dataset)
    told = [facts_beside(job.paths.synthetic) for job in jobs]
    assert ["SkullStripped" in facts for facts in told] == [False] + [True] * (len(jobs) - 1)
    assert all(facts["Sources"] for facts in told)
