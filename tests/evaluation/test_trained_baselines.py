"""The training configurations of the baselines, and their use with their own weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import methods
import nibabel as nib
import numpy as np
import pytest
import torch
from denoisers import training_input
from monai.bundle import ConfigParser
from table import BASELINES

from midiff_monai.bundle.bundle import open_bundle
from midiff_monai.bundle.choice import TRANSLATION
from midiff_monai.bundle.resources import bundle_root
from midiff_monai.bundle.weights import load_matching_weights
from midiff_monai.evaluation.phantom import make_phantom
from midiff_monai.guidance.mutual_information import LocalMutualInformation
from midiff_monai.labels import MIRRORED
from midiff_monai.provenance import sha256
from midiff_monai.training.label_contrast import RandLabelContrastd

CLASSES = len(MIRRORED)


# --- randomised contrast ---


def painted(seed: int, noise: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """An image, and its labels in columns of a hundred voxels."""
    label = torch.arange(CLASSES, dtype=torch.uint8).reshape(1, -1, 1, 1).expand(1, -1, 10, 10)
    paint = RandLabelContrastd("image", "label", MIRRORED, max_noise_std=noise)
    paint.set_random_state(seed)
    return paint({"image": torch.zeros(label.shape), "label": label})["image"], label


def test_both_sides_of_a_structure_have_the_same_intensity_and_the_outside_is_0() -> None:
    image, label = painted(0)
    values = image[0, :, 0, 0]
    assert torch.equal(values, values[list(MIRRORED)])
    assert not image[label == 0].any() and (values[1:] >= 0.05).all()
    assert len(values.unique()) == 1 + len({min(pair) for pair in list(enumerate(MIRRORED))[1:]})


def test_intensities_fill_their_range_and_noise_differs_by_structure() -> None:
    values = torch.stack([painted(seed)[0][0, 1:, 0, 0] for seed in range(200)])
    np.testing.assert_allclose(values.mean(), 0.525, atol=0.02)
    np.testing.assert_allclose(values.std(), 0.95 / np.sqrt(12), atol=0.02)
    residual = painted(0, noise=0.1)[0] - painted(0)[0]
    deviations = residual[0, 1:].flatten(1).std(1)
    assert deviations.min() < 0.02 and 0.07 < deviations.max() < 0.12


# --- variants of the translation ---


def training(*overlays: str) -> ConfigParser:
    parser = ConfigParser()
    files = [
        bundle_root(TRANSLATION) / "configs" / "train.yaml",
        *(BASELINES / f"{name}.yaml" for name in overlays),
    ]
    parser.read_config([str(file) for file in files])
    return parser


def batch(parser: ConfigParser) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, dict[str, Any]]:
    """The batch of a baseline for slabs of noise: images, regression target, region map, options of the inferer."""
    torch.manual_seed(0)
    slabs = torch.rand(8, 1, 32, 32, 12)
    given = {"image": slabs, "regions": 1 - slabs, "signed_distance": torch.full((8, 2, 32, 32, 12), 9.0)}
    images, regression_target, _, options = parser.get_parsed_content("train::prepare_batch")(given)
    return images, regression_target, given["regions"], options


def test_the_published_guide_learns_the_noise_from_the_t1w_itself_at_all_timesteps() -> None:
    images, regression_target, _, options = batch(training("published_guide", "published_guide_training"))
    assert torch.equal(regression_target, options["noise"]) and options["self_conditioning_passes"] == 1
    torch.testing.assert_close(options["source"], (images + 1) / 2)
    quarters = torch.histc(options["timesteps"].float(), 4, 0, 1000)
    assert quarters.min() > 0.15 * quarters.sum()


def test_the_network_of_the_published_guide_gets_the_noisy_image_and_two_unweighted_maps() -> None:
    inferer = training("published_guide", "published_guide_training").get_parsed_content("inferer")
    seen, source, noisy = training_input(inferer)
    lmi = LocalMutualInformation(3, 3, "parzen", bins=27, bandwidth=8 / 255)
    expected = [noisy, lmi(source, source), lmi(source, (noisy + 1) / 2)]
    torch.testing.assert_close(seen, torch.cat(expected, dim=1))


def test_the_network_of_the_published_guide_starts_from_the_layers_that_fit() -> None:
    unet = training("published_guide", "published_guide_training").get_parsed_content("network_def").network
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    load_matching_weights(unet, bundle_root(TRANSLATION))
    shipped = open_bundle(TRANSLATION).setting("network_def").network.network.state_dict()
    for name, value in unet.state_dict().items():
        fits = value.shape == shipped[name].shape
        assert torch.equal(value, shipped[name] if fits else before[name]), name
        assert fits or name.split(".")[0] in ("conv_in", "out"), name


def test_one_step_is_trained_at_the_last_timestep_only() -> None:
    _, _, _, options = batch(training("one_step_training"))
    assert (options["timesteps"] == 999).all() and options["self_conditioning_passes"] == 1


def test_real_pairs_use_the_real_source_unchanged() -> None:
    _, _, real, options = batch(training("real_pairs_training"))
    middle = options["source"][:, 1].reshape(8, 10, 32, 32)
    torch.testing.assert_close(middle, real[:, 0, :, :, 1:-1].permute(0, 3, 1, 2))


def test_real_pairs_exclude_the_held_out_subject(tmp_path: Path) -> None:
    for subject in "ABC":
        (tmp_path / f"{subject}_T1.nii.gz").touch()
    parser = training("real_pairs_training")
    parser.update({"pairs_dir": str(tmp_path), "held_out": "B"})
    pairs = parser.get_parsed_content("train_datalist")
    assert {Path(pair["image"]).name for pair in pairs} == {"A_T1.nii.gz", "C_T1.nii.gz"}
    assert {Path(pair["regions"]).name for pair in pairs} == {
        f"{s}_{c}.nii.gz" for s in "AC" for c in ("PD", "T2", "FLAIR")
    }


def test_real_pairs_apply_to_subjects_with_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "BASELINES", tmp_path)
    (tmp_path / "real_pairs_A_1.pt").touch()
    assert methods.applies("real_pairs", Path("A_1_PD.nii.gz")) and not methods.applies(
        "real_pairs", Path("A_PD.nii.gz")
    )
    assert methods.applies("published_guide:steps=5", Path("A_PD.nii.gz"))


def test_the_published_method_applies_once_its_bundle_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(methods, "bundle_root", tmp_path.joinpath)
    assert not methods.applies("lmi_published:steps=5", Path("A_PD.nii.gz"))
    weights = tmp_path / "lmi_published" / "models" / "model.pt"
    weights.parent.mkdir(parents=True)
    weights.touch()
    assert methods.applies("lmi_published:steps=5", Path("A_PD.nii.gz"))


@pytest.mark.parametrize(
    "overlays, weights",
    [
        (["published_guide", "published_guide_training"], "published_guide"),
        (["one_step_training"], "one_step"),
        (["real_pairs_training"], "real_pairs_B"),
    ],
)
def test_weights_are_stored_under_the_name_that_is_loaded(overlays: list[str], weights: str, tmp_path: Path) -> None:
    parser = training(*overlays)
    trainer = {"_target_": "types.SimpleNamespace", "run": "$lambda: None"}
    network = {"_target_": "torch.nn.Linear", "in_features": 1, "out_features": 1}
    ema = {"_target_": "types.SimpleNamespace", "ema_model": network}
    parser.update({"train::trainer": trainer, "ema": ema, "held_out": "B", "dist": "none", "rank": 0})
    parser["baselines_dir"] = str(tmp_path)
    parser["run"] = parser["run"][:2]  # without the shutdown of the process group
    parser.get_parsed_content("run")
    (stored,) = tmp_path.iterdir()
    assert stored.name == f"{weights}.pt"


# --- in use ---


@pytest.mark.parametrize("name", ["randomised_contrast", "published_guide", "one_step"])
def test_a_baseline_uses_its_own_weights_and_reports_them(name: str, tmp_path: Path) -> None:
    nib.save(make_phantom("PD").image.slicer[..., 24:34], tmp_path / "X_PD.nii.gz")  # slices with deep grey matter
    result = methods.METHODS[name](tmp_path / "X_PD.nii.gz", tmp_path)
    assert result.report.weights[name] == sha256(BASELINES / f"{name}.pt")
    assert TRANSLATION not in result.report.weights
    assert result.segmentation is not None
    found = set(np.unique(result.segmentation))
    assert {2, 3} <= found or {41, 42} <= found, "white matter and cortex of a side"
