"""From file to file, on a thin piece of the phantom, with the shipped weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import ball_heads
import nibabel as nib
import numpy as np
import pandas as pd
import pydicom
import pytest
import torch
from monai.data import MetaTensor
from scipy import ndimage

from midiff_monai import segment, translate
from midiff_monai.bundle.bundle import open_bundle
from midiff_monai.bundle.choice import SEGMENTATION, TRANSLATION
from midiff_monai.bundle.resources import bundle_root
from midiff_monai.bundle.weights import read_metadata
from midiff_monai.errors import InputError, MidiffError, OutputError
from midiff_monai.evaluation.phantom import make_phantom
from midiff_monai.io.inputs import find_jobs
from midiff_monai.io.volumes import reading_warnings
from midiff_monai.networks.wrappers import has_fast_bfloat16
from midiff_monai.pipeline.batch import run_batch
from midiff_monai.pipeline.models import load_models
from midiff_monai.pipeline.options import Settings, Task
from midiff_monai.pipeline.reading import BACKGROUND_CLEARED, read
from midiff_monai.provenance import sha256
from midiff_monai.transforms.foreground import fill_holes
from midiff_monai.transforms.meta import as_plain_tensor
from midiff_monai.transforms.spatial import probabilities_to_labels

BUNDLES = (TRANSLATION, SEGMENTATION)


@pytest.fixture(scope="module")
def thin_phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("input") / "sub 01_PDw.nii.gz"
    nib.save(make_phantom("PD").image.slicer[::2, ::2, 30:36], path)
    return path


def test_segment_writes_everything_on_the_grid_of_the_input(thin_phantom: Path, tmp_path: Path) -> None:
    result = segment([thin_phantom], tmp_path, steps=2, samples=2)[0]
    expected = "_dseg.nii.gz _dseg.tsv _qc.png _report.json _synthT1w.nii.gz _synthT1w_std.nii.gz _volumes.csv"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sub 01_PDw" + ending for ending in expected.split()]
    source = nib.load(thin_phantom)
    for path in (result.paths.segmentation, result.paths.synthetic, result.paths.synthetic_std):
        image = nib.load(path)
        np.testing.assert_allclose(image.affine, source.affine, atol=1e-5)
        assert image.shape == source.shape and image.header.get_xyzt_units()[0] == "mm"
    assert result.segmentation is not None and len(np.unique(result.segmentation)) > 5
    assert result.synthetic is not None and 0 <= result.synthetic.min() and result.synthetic.max() <= 1
    assert result.synthetic_std is not None and result.synthetic_std.max() > 0


@pytest.mark.parametrize("change", ["dust", "offset", "ripples"])
def test_the_pipeline_and_the_bundles_clear_the_background(change: str, tmp_path: Path) -> None:
    """The phantom with a background that is not 0 is read as the phantom, and the report says so."""
    clean = make_phantom("PD").image.slicer[::2, ::2, 20:44]
    voxels = np.asarray(clean.dataobj)
    dust = 1e-5 * np.random.default_rng(0).random(voxels.shape)
    changed = {
        "dust": np.where(voxels == 0, dust, voxels),
        "offset": voxels + 1,
        "ripples": ndimage.shift(voxels, (1e-2, 0, 0), order=3),
    }[change]
    images = []
    for name, data in (("clean", voxels), ("changed", changed)):
        path = tmp_path / f"{name}.nii.gz"
        nib.save(nib.Nifti1Image(data.astype(np.float32), clean.affine), path)
        (job,) = find_jobs(path, tmp_path)
        image = read(job, Settings())
        assert (BACKGROUND_CLEARED in reading_warnings(image)) == (name == "changed")
        prepared = [open_bundle(bundle).setting("preprocessing")({"image": path})["image"] for bundle in BUNDLES]
        images.append([torch.from_numpy(np.asarray(image.dataobj)), *prepared])
    for expected, actual in zip(*images, strict=True):
        assert ((expected != 0) != (actual != 0)).float().mean() < 2e-3
        inside = (expected != 0) & (actual != 0)
        scale = expected[inside].max()
        assert (expected - actual)[inside].abs().mean() < 5e-3 * scale


def test_the_report_holds_all_settings_of_the_run(thin_phantom: Path, tmp_path: Path) -> None:
    report = json.loads(segment([thin_phantom], tmp_path, steps=1, seed=7)[0].paths.report.read_text())
    assert report["settings"]["seed"] == 7 and report["settings"]["steps"] == 1
    assert report["settings"]["samples"] == 1, "the bundle's own value is recorded too"
    for name in (TRANSLATION, SEGMENTATION):
        assert report["weights"][name] == read_metadata(bundle_root(name))["weights_sha256"]


def test_the_report_holds_each_quality_flag_and_its_sentence(thin_phantom: Path, tmp_path: Path) -> None:
    """The thin phantom is cut at the top and at the bottom."""
    report = json.loads(segment([thin_phantom], tmp_path, translated=False)[0].paths.report.read_text())
    kinds = [flag["kind"] for flag in report["flags"]]
    assert "edge" in kinds and all(flag["text"] in report["warnings"] for flag in report["flags"])


def test_volumes_are_those_of_the_label_map(thin_phantom: Path, tmp_path: Path) -> None:
    result = segment([thin_phantom], tmp_path, translated=False)[0]
    table = pd.read_csv(result.paths.volumes).set_index("id")["volume_ml"]
    labels = np.asarray(nib.load(result.paths.segmentation).dataobj)
    voxel = abs(np.linalg.det(result.source.affine[:3, :3])) / 1000
    for label in (2, 41, 3, 42):
        assert table[label] == pytest.approx((labels == label).sum() * voxel, abs=1e-3)
    assert not result.paths.synthetic.exists()


BRAIN = np.where(ball_heads.RADII < 15, 20, ball_heads.brain())
"""A ball with a dark core, as CSF is. Without it, the intensities of a network range over the texture alone."""


@pytest.mark.parametrize("volume, whole_head", [(ball_heads.head(0), True), (BRAIN, False)])
@pytest.mark.parametrize("translated", [True, False])
def test_the_intracranial_volume_is_that_of_heads(
    volume: np.ndarray, whole_head: bool, translated: bool, tmp_path: Path
) -> None:
    path = tmp_path / "ball.nii.gz"
    nib.save(nib.Nifti1Image(volume[:, :, 28:36], np.diag([2, 2, 2, 1])), path)
    result = segment([path], tmp_path, translated=translated)[0]
    assert result.whole_head == whole_head
    table = pd.read_csv(result.paths.volumes).set_index("name")["volume_ml"]
    assert result.paths.intracranial.exists() == (result.intracranial is not None)
    if result.intracranial is None:
        assert np.isnan(table["intracranial"])
    else:
        assert whole_head
        mask = np.asarray(nib.Nifti1Image.from_filename(result.paths.intracranial).dataobj)
        assert table["intracranial"] == pytest.approx(mask.sum() * 0.008, rel=0.2)


def test_the_intracranial_volume_of_a_whole_head_is_found(shared_data: Path, tmp_path: Path) -> None:
    t1 = shared_data / "ixi-t1" / "IXI632-HH-2652_T1.nii.gz"
    result = segment([t1], tmp_path, translated=False, fast=True)[0]
    truth = fill_holes(np.asarray(nib.load(str(t1).replace("_T1.", "_T1_DLMUSE.")).dataobj) > 0)
    mask = np.asarray(nib.load(result.paths.intracranial).dataobj) > 0
    assert 2 * (mask & truth).sum() / (mask.sum() + truth.sum()) > 0.97
    assert result.intracranial_ml == pytest.approx(truth.sum() * 0.008, rel=0.03)
    assert result.report.to_json().count("intracranial_mask") == 3  # the file, and two hashes of the bundle


def test_fast_interpolates_the_probabilities_at_2_mm(thin_phantom: Path, tmp_path: Path) -> None:
    fast, full = (
        segment([thin_phantom], tmp_path / str(fast), translated=False, fast=fast)[0] for fast in (True, False)
    )
    bundle = open_bundle(SEGMENTATION)
    (job,) = find_jobs(thin_phantom, tmp_path)
    source = read(job, Settings())
    image = MetaTensor(np.asarray(source.dataobj, np.float32)[None], affine=torch.from_numpy(source.affine))
    conformed = bundle.conform(image)
    probabilities = bundle.infer(conformed).softmax(dim=0)
    foreground = torch.from_numpy(fill_holes(np.asarray(source.dataobj) != 0))
    grids = as_plain_tensor(conformed[0] != 0), conformed.affine, foreground, source.affine
    np.testing.assert_array_equal(fast.segmentation, probabilities_to_labels(probabilities, *grids))
    assert full.segmentation is not None
    assert (full.segmentation != fast.segmentation).any()
    for result in (fast, full):
        assert json.loads(result.paths.report.read_text())["settings"]["fast"] == (result is fast)


def test_the_same_seed_gives_the_same_voxels(thin_phantom: Path, tmp_path: Path) -> None:
    runs = [
        translate([thin_phantom], tmp_path / str(i), steps=2, seed=seed)[0].synthetic
        for i, seed in enumerate((3, 3, 4))
    ]
    np.testing.assert_array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0], runs[2])


@pytest.mark.parametrize("precision, mixed", [("float32", False), ("bfloat16", True)])
def test_precision_is_that_of_both_networks(precision: str, mixed: bool) -> None:
    models = load_models(Task(settings=Settings(precision=precision)))
    for bundle in (models.translation, models.segmentation):
        assert bundle is not None and bundle.setting("network").enabled is mixed


@pytest.mark.skipif(not has_fast_bfloat16(torch.device("cpu")), reason="the processor has no units for bfloat16")
def test_single_and_mixed_precision_agree(thin_phantom: Path, tmp_path: Path) -> None:
    images: list[np.ndarray] = []
    for precision in ("float32", "bfloat16"):
        result = translate([thin_phantom], tmp_path / precision, precision=precision, device="cpu")[0]
        assert json.loads(result.paths.report.read_text())["settings"]["precision"] == precision
        images.append(result.synthetic)
    brain = images[0] > 0
    assert np.corrcoef(images[0][brain], images[1][brain])[0, 1] >= 0.999
    assert not np.array_equal(*images), "equal voxels would mean equal precision"


def test_existing_results_are_replaced_only_with_overwrite(thin_phantom: Path, tmp_path: Path) -> None:
    translate([thin_phantom], tmp_path, steps=1)
    with pytest.raises(OutputError, match="exists already"):
        translate([thin_phantom], tmp_path, steps=1)
    translate([thin_phantom], tmp_path, steps=1, overwrite=True)


def test_a_single_run_updates_the_files_of_a_batch(thin_phantom: Path, tmp_path: Path) -> None:
    """Files that stay valid remain in the report, and outdated ones are deleted."""
    task = Task(settings=Settings(steps=1, samples=2))
    run_batch(find_jobs([thin_phantom], tmp_path), task, tmp_path)
    (result,) = translate([thin_phantom], tmp_path, steps=1, overwrite=True)
    assert not result.paths.synthetic_std.exists()
    hashes = json.loads(result.paths.report.read_text())["outputs_sha256"]
    assert hashes["segmentation"] == sha256(result.paths.segmentation)
    (outcome,) = run_batch(find_jobs([thin_phantom], tmp_path), task, tmp_path)
    assert outcome.status == "done"


SETTINGS_OUT_OF_RANGE: list[dict[str, str | int]] = [
    {"modality": "XYZ"},
    {"steps": 0},
    {"samples": 0},
    {"device": "abacus"},
    {"precision": "float8"},
]


@pytest.mark.parametrize("setting", SETTINGS_OUT_OF_RANGE)
def test_settings_out_of_range_are_refused_before_anything_is_written(
    thin_phantom: Path, tmp_path: Path, setting: dict[str, str | int]
) -> None:
    with pytest.raises(InputError):
        segment([thin_phantom], tmp_path / "out", **setting)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_one_bad_input_stops_the_run_before_it_starts(thin_phantom: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.nii.gz").touch()
    with pytest.raises(MidiffError, match="empty.nii.gz"):
        segment([thin_phantom, tmp_path / "empty.nii.gz"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_global_random_state_is_touched(thin_phantom: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    translate([thin_phantom], tmp_path, steps=1)
    torch.testing.assert_close(torch.rand(3), expected)


def test_a_dicom_series_gets_a_dicom_seg(
    thin_phantom: Path, write_dicom: Callable[..., list[Path]], tmp_path: Path
) -> None:
    """The same voxels give the same structures, whatever their orientation in the file."""
    image = nib.load(thin_phantom)
    stored = np.round(np.asarray(image.dataobj) / image.get_fdata().max() * 1000).astype(np.int16)
    nib.save(nib.Nifti1Image(stored, image.affine), tmp_path / "same.nii.gz")
    write_dicom(tmp_path / "series", stored, image.affine)
    (from_series,) = segment([tmp_path / "series"], tmp_path / "out", translated=False)
    (from_file,) = segment([tmp_path / "same.nii.gz"], tmp_path / "out", translated=False)
    ids = np.unique(from_file.segmentation)
    for id_ in ids[ids > 0]:
        volumes = [(result.segmentation == id_).sum() for result in (from_series, from_file)]
        assert volumes[0] == pytest.approx(volumes[1], rel=0.05, abs=20)
    seg = pydicom.dcmread(from_series.paths.dicom_seg)
    labels = {segment.SegmentLabel for segment in seg.SegmentSequence}
    assert {"Left-Cerebral-White-Matter", "Right-Cerebral-Cortex"} <= labels
    report = json.loads(from_series.paths.report.read_text())
    assert len(report["input"]["sha256"]) == 64 and report["outputs"]["dicom_seg"].endswith("_dseg.dcm")


def standardized(thin_phantom: Path, path: Path) -> Path:
    """The phantom with a mean of 0 within the head, as many pipelines normalise it."""
    image = nib.load(thin_phantom)
    voxels = np.asarray(image.dataobj, dtype=np.float32)
    head = voxels > 0
    nib.save(
        nib.Nifti1Image(np.where(head, (voxels - voxels[head].mean()) / voxels[head].std(), 0), image.affine), path
    )
    return path


def test_a_volume_with_a_mean_of_0_is_refused(thin_phantom: Path, tmp_path: Path) -> None:
    volume = standardized(thin_phantom, tmp_path / "standardized.nii.gz")
    for translated in (True, False):
        with pytest.raises(InputError, match="of its voxels below 0"):
            segment([volume], tmp_path / "out", translated=translated)
    assert not (tmp_path / "out").exists()


def test_a_window_takes_values_below_0(thin_phantom: Path, tmp_path: Path) -> None:
    image = nib.load(thin_phantom)
    voxels = np.asarray(image.dataobj, dtype=np.float32)
    volume = tmp_path / "ct.nii.gz"
    nib.save(nib.Nifti1Image(np.where(voxels > 0, voxels / voxels.max() * 60, -1000), image.affine), volume)
    assert translate([volume], tmp_path / "out", modality="CT")[0].synthetic is not None
    with pytest.raises(InputError, match="--modality"):
        translate([volume], tmp_path / "out2")


def test_a_volume_of_single_voxels_is_refused(tmp_path: Path) -> None:
    """Nothing is left of it at the resolution of the network."""
    voxels = np.zeros((40, 40, 40), np.float32)
    voxels[3::8, 3::8, 3::8] = np.random.default_rng(0).uniform(1, 2, (5, 5, 5))
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / "dots.nii.gz")
    with pytest.raises(InputError, match=r"dots\.nii\.gz: shows nothing at the resolution of the network"):
        translate([tmp_path / "dots.nii.gz"], tmp_path / "out", steps=1, error_map=True)


@pytest.mark.parametrize("code, warned", [(0, True), (1, False)])
def test_a_header_without_left_and_right_gets_a_warning(
    code: int, warned: bool, thin_phantom: Path, tmp_path: Path
) -> None:
    image = nib.load(thin_phantom)
    image.set_sform(None, 0)
    image.set_qform(image.affine if code else None, code)
    nib.save(image, tmp_path / "sides.nii.gz")
    result = translate([tmp_path / "sides.nii.gz"], tmp_path / "out", steps=1)[0]
    assert any("left" in warning for warning in result.report.warnings) == warned


@pytest.mark.parametrize("setting", [{"modality": "CT"}, {"steps": 3}, {"samples": 2}, {"seed": 0}])
def test_settings_of_the_translation_are_refused_without_one(
    setting: dict[str, str | int], thin_phantom: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=f"--{next(iter(setting))}"):
        segment([thin_phantom], tmp_path, translated=False, **setting)
