"""The bundle of the published method: what its configuration makes of the parts, and what it does without weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from denoisers import training_input
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from small_published import add_weights, copy_small

from midiff_monai.bundle.bundle import open_bundle
from midiff_monai.bundle.resources import bundle_root, read_metadata
from midiff_monai.cli.info import describe_installation
from midiff_monai.errors import BundleError
from midiff_monai.guidance.mutual_information import LocalMutualInformation

ROOT = bundle_root("lmi_published")


def configuration(name: str, **changes: Any) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config(ROOT / "configs" / f"{name}.yaml")
    parser.update(changes)
    return parser


def test_without_weights_it_says_how_to_make_them() -> None:
    assert read_metadata(ROOT)["weights_sha256"] == "" and not (ROOT / "models" / "model.pt").exists()
    with pytest.raises(BundleError) as caught:
        open_bundle("lmi_published")
    hint = "does not exist. Train the bundle with `midiff train lmi_published`."
    assert str(caught.value) == f"{ROOT / 'models' / 'model.pt'}: {hint}"
    facts = describe_installation()["bundles"]["lmi_published"]
    assert facts["trained"] is False and "intact" not in facts


def test_the_network_gets_the_noisy_image_and_two_maximum_maps_on_the_range_of_the_intensities() -> None:
    parser = configuration("train")
    seen, source, noisy = training_input(parser.get_parsed_content("inferer"))
    lmi = LocalMutualInformation(3, 3, "parzen", bins=27, bandwidth=8 / 255, reduction="max")
    torch.testing.assert_close(seen, torch.cat([noisy, lmi(source, source), lmi(source, noisy)], dim=1))
    assert parser.get_parsed_content("network_def::in_channels") == 3


def test_training_learns_the_noise_of_the_t1w_itself_at_all_timesteps() -> None:
    torch.manual_seed(0)
    slabs = torch.rand(64, 1, 32, 32, 1)
    prepare = configuration("train").get_parsed_content("train::prepare_batch")
    images, regression_target, _, options = prepare({"image": slabs})
    assert torch.equal(images, slabs[..., 0]) and torch.equal(options["source"], images)
    assert torch.equal(regression_target, options["noise"]) and options["self_conditioning_passes"] == 1
    quarters = torch.histc(options["timesteps"].float(), 4, 0, 1000)
    assert quarters.min() > 0.1 * quarters.sum()


def test_the_loss_is_the_sum_over_pixels_and_the_mean_over_slices() -> None:
    loss = configuration("train").get_parsed_content("loss")
    assert float(loss(torch.full((2, 1, 3, 4), 2.0), torch.zeros(2, 1, 3, 4))) == 4 * 12


def test_training_slices_are_t1w_as_they_are() -> None:
    """Intensities are scaled linearly and clipped; slices are mirrored and padded."""
    volume = 0.5 + torch.rand(1, 21, 24, 9, generator=torch.Generator().manual_seed(0))
    transforms = configuration("train", pixdim=[1.0, 1.0, 1.0]).get_parsed_content("train::preprocessing").transforms
    data: dict[Any, Any] = {"image": MetaTensor(volume, affine=torch.eye(4))}
    for transform in transforms[2:]:  # without the reading and the clearing of the background
        data = transform(data)
    found = data["image"][0, ..., 0].numpy()
    assert found.shape == (128, 128)
    inside = found[np.ix_(found.any(1), found.any(0))]
    linear = (inside > 0.01) & (inside < 1)
    slices = [turned for k in range(9) for turned in (volume[0, ..., k].numpy(), volume[0, ..., k].flip(0).numpy())]
    correlations = [np.corrcoef(inside[linear], original[linear])[0, 1] for original in slices]
    assert max(correlations) > 0.99999


def test_it_is_sampled_by_all_ancestral_steps_with_the_large_variance_unclipped() -> None:
    inferer = configuration("inference").get_parsed_content("inferer")
    scheduler = inferer.inferer.scheduler
    assert (scheduler.variance_type, scheduler.clip_sample, scheduler.prediction_type) == (
        "fixed_large",
        False,
        "epsilon",
    )
    assert inferer.set_timesteps() == 1000 and inferer.start == "noise" and inferer.shared_noise == 0.0
    assert inferer.conditional_mean is None and len(inferer.runner.tta_views) == 1
    torch.testing.assert_close(scheduler.betas, torch.linspace(1e-4, 0.02, 1000))


def test_without_a_guide_it_starts_from_the_volume(tmp_path: Path) -> None:
    root = copy_small(tmp_path / "sdedit", guided=False)
    add_weights(root)
    bundle = open_bundle(root)
    assert bundle.setting("network_def").conv_in.conv.in_channels == 1
    assert bundle.setting("inferer").set_timesteps() == 4
    assert bundle.infer(MetaTensor(torch.rand(1, 32, 32, 2))).std() > 0.01
