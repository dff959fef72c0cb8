"""What a user would run, at full size: the demo, and real scans if they are available."""

from __future__ import annotations

import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from ignite.engine import Events
from monai.bundle import ConfigWorkflow

from midiff_monai.bundle.resources import bundle_root
from midiff_monai.evaluation.baselines import match_histogram
from midiff_monai.evaluation.metrics import dice
from midiff_monai.evaluation.phantom import make_phantom
from midiff_monai.io.volumes import read_volume, write_like
from midiff_monai.labels import GROUPS, TISSUES
from midiff_monai.pipeline.run import segment


def bundle_run(name: str, tmp_path: Path, config: str, *overrides: str, processes: int = 1) -> Path:
    """Run a copy of a bundle with MONAI's command, or with PyTorch's launcher for several processes."""
    root = tmp_path / name
    shutil.copytree(bundle_root(name), root)
    configs = root / "configs"
    command = [sys.executable, "-m"]
    command += ["torch.distributed.run", "--nproc_per_node", str(processes), "-m"] if processes > 1 else []
    command += ["monai.bundle", "run", "--meta_file", str(configs / "metadata.json")]
    files = [str(configs / file) for file in config.split("+")]
    command += ["--config_file", str(files) if len(files) > 1 else files[0], "--bundle_root", str(root), *overrides]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return root


@pytest.fixture
def two_subjects(tmp_path: Path, shared_data: Path) -> Path:
    data = tmp_path / "data"
    data.mkdir()
    for subject in sorted((shared_data / "ixi-t1").glob("*_T1.nii.gz"))[:2]:
        for file in subject.parent.glob(subject.name.replace("_T1.nii.gz", "_T1*")):
            (data / file.name).symlink_to(file.resolve())
    return data


@pytest.mark.parametrize(
    "name", ["t1_lmi_translation", "t1_brain_segmentation", "cortical_parcellation", "intracranial_mask"]
)
@pytest.mark.parametrize("processes", [1, 2])
def test_training_records_its_weights(name: str, processes: int, tmp_path: Path, two_subjects: Path) -> None:
    small = ["--dataset_dir", str(two_subjects), "--validation_subjects", "1", "--epoch_length", "2"]
    small += ["--max_epochs", "1", "--val_interval", "1"]
    config = "train.yaml+multi_gpu_train.yaml" if processes > 1 else "train.yaml"
    before = (bundle_root(name) / "models" / "model.pt").read_bytes()
    root = bundle_run(name, tmp_path, config, *small, processes=processes)
    assert (root / "models" / "model.pt").read_bytes() != before
    assert (root / "models" / "checkpoint_epoch=1.pt").exists()


def interrupt() -> None:
    """The effect of Ctrl-C."""
    raise KeyboardInterrupt


def train_small(
    name: str, data: Path, checkpoints: Path, stopped: bool = False, **options: Any
) -> dict[str, torch.Tensor]:
    """Train two short epochs with a bundle's configuration, or interrupt the second one. Returns all weights."""
    configs = bundle_root(name) / "configs"
    options |= {"dataset_dir": str(data), "ckpt_dir": str(checkpoints), "output_dir": str(checkpoints)}
    options |= {"max_epochs": 2, "epoch_length": 2, "volumes_per_batch": 2, "validation_subjects": 1}
    options |= {"val_interval": 9, "validate#dataset#cache_rate": 0.0}
    flow = ConfigWorkflow(str(configs / "train.yaml"), str(configs / "metadata.json"), False, **options)
    flow.initialize()
    trainer, ema = (flow.parser.get_parsed_content(part) for part in ("train#trainer", "ema"))
    if stopped:
        trainer.add_event_handler(Events.ITERATION_COMPLETED(once=3), interrupt)
    with suppress(KeyboardInterrupt):
        trainer.run()
    averaged = {f"ema.{key}": value for key, value in ema.ema_model.state_dict().items()}
    return averaged | flow.parser.get_parsed_content("network_def").state_dict()


@pytest.mark.parametrize(
    "name, narrow",
    [
        ("t1_lmi_translation", {"network_def#network#network#channels": [16, 16, 16, 16]}),
        ("t1_brain_segmentation", {"body#network#filters": [8, 8, 8, 8]}),
    ],
)
def test_an_interrupted_training_resumes_to_the_same_result(
    name: str, narrow: dict[str, list[int]], tmp_path: Path, two_subjects: Path
) -> None:
    whole = train_small(name, two_subjects, tmp_path / "whole", **narrow)
    half = train_small(name, two_subjects, tmp_path / "parts", stopped=True, **narrow)
    resumed = train_small(name, two_subjects, tmp_path / "parts", **narrow)
    torch.testing.assert_close(resumed, whole, rtol=0, atol=1e-7)
    assert max((half[key] - whole[key]).abs().max() for key in whole) > 1e-5


def test_random_contrasts_lie_on_the_grid_of_their_labels(tmp_path: Path, two_subjects: Path) -> None:
    options = ["--dataset_dir", str(two_subjects), "--validation_subjects", "1", "--seed", "3"]
    root = bundle_run("t1_lmi_translation", tmp_path, "train.yaml+random_contrast.yaml", *options)
    (file,) = (root / "random_contrast").iterdir()
    subject, _, seed = file.name.removesuffix(".nii.gz").rpartition("_")
    assert seed == "pseudo3"
    made, t1 = nib.load(file), nib.as_closest_canonical(nib.load(two_subjects / f"{subject}.nii.gz"))
    np.testing.assert_allclose(made.affine, t1.affine, atol=1e-4)
    brain = nib.as_closest_canonical(nib.load(two_subjects / f"{subject}_DLMUSE.nii.gz")).get_fdata() > 0
    assert (made.get_fdata()[brain] > 0).mean() > 0.99
    # another contrast of the same anatomy
    assert abs(np.corrcoef(made.get_fdata()[brain], t1.get_fdata()[brain])[0, 1]) < 0.95


@pytest.mark.parametrize("name, postfix", [("t1_lmi_translation", "synthT1w"), ("t1_brain_segmentation", "dseg")])
def test_bundle_inference_agrees_with_the_command(name: str, postfix: str, tmp_path: Path, shared_data: Path) -> None:
    (tmp_path / "data").mkdir()
    source = read_volume(shared_data / "multicontrast" / "301D00252_PD.nii.gz")
    thin = nib.Nifti1Image(np.asarray(source.dataobj)[:, :, 18:26], source.affine)
    thin.set_sform(source.affine, code=4)
    thin.header.set_xyzt_units("mm", "sec")
    nib.save(thin, tmp_path / "data" / "X.nii.gz")
    root = bundle_run(name, tmp_path, "inference.yaml", "--dataset_dir", str(tmp_path / "data"))
    result = segment([tmp_path / "data" / "X.nii.gz"], tmp_path / "out", translated="translation" in name)[0]
    expected = result.synthetic if "translation" in name else result.segmentation
    folders = (root / "eval", tmp_path / "out")
    found, written = (nib.Nifti1Image.from_filename(folder / f"X_{postfix}.nii.gz") for folder in folders)
    np.testing.assert_allclose(found.affine, source.affine, atol=1e-4)
    np.testing.assert_allclose(np.asarray(found.dataobj), expected, atol=1e-4)
    for field in ("sform_code", "qform_code", "xyzt_units", "datatype"):
        assert found.header[field] == written.header[field], field


@pytest.mark.parametrize("contrast", ["PD", "T2"])
def test_a_real_scan_is_segmented_better_through_its_synthetic_t1w(
    contrast: str, tmp_path: Path, shared_data: Path
) -> None:
    pairs = shared_data / "multicontrast"
    volume = pairs / f"301D00262_{contrast}.nii.gz"
    truth = segment([pairs / "301D00262_T1.nii.gz"], tmp_path / "truth", translated=False)[0]
    source = read_volume(volume)
    matched = match_histogram(np.asarray(source.dataobj), np.asarray(truth.source.dataobj))
    write_like(matched, source, tmp_path / "matched.nii.gz", np.float32)
    ways = {
        "ours": segment([volume], tmp_path / "ours")[0],
        "direct": segment([volume], tmp_path / "direct", translated=False)[0],
        "matched": segment([tmp_path / "matched.nii.gz"], tmp_path / "matched", translated=False)[0],
    }
    for structure in ("white matter", "grey matter", "lateral ventricles"):
        scores = {name: dice(way.segmentation, truth.segmentation, GROUPS[structure]) for name, way in ways.items()}
        assert scores["ours"] > max(scores["direct"], scores["matched"]) + 0.05, (structure, scores)


def test_whole_head_from_another_scanner(tmp_path: Path, shared_data: Path) -> None:
    volume = shared_data / "open-ms" / "raw-patient01_T2.nii.gz"
    result = segment([volume], tmp_path)[0]
    assert nib.load(result.paths.segmentation).shape == nib.load(volume).shape
    assert set(np.unique(result.segmentation)) >= {0, 2, 3, 4, 41, 42, 43}
    volumes = pd.read_csv(result.paths.volumes).set_index("name")["volume_ml"]
    assert 1100 < volumes["intracranial"] < 1900 and 0.6 < volumes["brain"] / volumes["intracranial"] < 0.9


def test_tissues_of_a_ct(tmp_path: Path) -> None:
    """CSF, grey and white matter of the template at 8, 38 and 29 HU, with noise of 4 HU, skull-stripped."""
    tissues = make_phantom(spacing=(1.5, 1.5, 3)).tissues
    truth = np.asarray(tissues.dataobj)
    noise = np.random.default_rng(0).normal(scale=4, size=truth.shape)
    hounsfield = np.where(truth > 0, np.array([0, 8, 38, 29])[truth] + noise, -1000).astype(np.float32)
    nib.save(nib.Nifti1Image(hounsfield, tissues.affine), tmp_path / "a.nii.gz")
    found = segment([tmp_path / "a.nii.gz"], tmp_path / "out", modality="CT")[0].segmentation
    for tissue in ("white matter", "grey matter"):
        value, ids = TISSUES[tissue]
        assert dice(np.where(np.isin(found, ids), 1, 0), truth == value, [1]) > 0.75, tissue
