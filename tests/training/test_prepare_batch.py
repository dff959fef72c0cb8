from __future__ import annotations

from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given
from monai.bundle import ConfigParser
from monai.engines import SupervisedTrainer
from monai.transforms import Compose
from numpy.typing import NDArray
from scipy import ndimage

from midiff_monai.bundle import resources
from midiff_monai.guidance.conditional_mean import ConditionalMean
from midiff_monai.guidance.guide import LMIGuide
from midiff_monai.guidance.mutual_information import LocalMutualInformation
from midiff_monai.inferers.guided_diffusion import LMIGuidedInferer
from midiff_monai.networks.schedulers import TrailingDDIMScheduler
from midiff_monai.training.contrast import ContrastRandomizer
from midiff_monai.training.prepare_batch import (
    LMIPrepareBatch,
    crop_to_foreground,
    inner_slabs,
    inner_slices,
    skull_strip,
)

Batch = dict[str, torch.Tensor]

BETAS = np.linspace(1e-4, 2e-2, 1000)


def scheduler(prediction_type: str = "v_prediction") -> TrailingDDIMScheduler:
    return TrailingDDIMScheduler(
        num_train_timesteps=1000,
        schedule="linear_beta",
        beta_start=BETAS[0],
        beta_end=BETAS[-1],
        prediction_type=prediction_type,
    )


def identity(target: torch.Tensor, brain: torch.Tensor) -> torch.Tensor:
    return target


def slabs(seed: int = 0, shape: tuple[int, ...] = (2, 1, 40, 36, 6)) -> Batch:
    """Heads in [0.1, 1] without zeros, each with a brain of 13 by 20 voxels."""
    brain = torch.zeros(shape)
    brain[:, :, 9:22, 12:32, 1:] = 1
    image = 0.1 + 0.9 * torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    return {"image": image, "regions": brain, "signed_distance": 10 * brain.expand(-1, 2, -1, -1, -1) - 5}


# --- slices ---


@given(
    shape=st.tuples(*[st.integers(1, 3)] * 3, st.integers(1, 7)),
    context=st.integers(0, 3),
    margin=st.integers(0, 3),
)
def test_inner_slices_agree_with_indexing(shape: tuple[int, int, int, int], context: int, margin: int) -> None:
    batch, width, height, depth = shape
    volumes = torch.arange(float(np.prod(shape))).reshape(batch, 1, width, height, depth)
    result = inner_slices(volumes, context, margin)
    expected = [
        [volume[0, :, :, min(max(position + offset, 0), depth - 1)] for offset in range(-context, context + 1)]
        for volume in volumes
        for position in range(margin, depth - margin)
    ]
    assert result.shape == (len(expected), 2 * context + 1, width, height)
    for slices, channels in zip(result, expected, strict=True):
        assert torch.equal(slices, torch.stack(channels))


def test_slices_of_slabs_have_real_neighbours() -> None:
    image = torch.rand(2, 1, 8, 10, 7)
    images, labels = inner_slabs(image, 2, 2), inner_slabs((image > 0.5).to(torch.uint8), 0, 2)
    assert images.shape == (2, 5, 8, 10, 3)
    assert labels.shape == (2, 1, 8, 10, 3) and labels.dtype == torch.uint8
    assert torch.equal(images[1, ..., 1], image[1, 0, :, :, 1:6].movedim(-1, 0))  # the second slice is at index 3
    assert torch.equal(images[:, 2:3] > 0.5, labels > 0)


# --- batches of the translation network ---


@pytest.mark.parametrize("skull_strip_prob", [0.0, 1.0])
def test_image_and_source_are_the_same_slices(skull_strip_prob: float) -> None:
    data = slabs()
    images, _, args, kwargs = LMIPrepareBatch(scheduler(), identity, context=1, skull_strip_prob=skull_strip_prob)(data)
    assert args == () and set(kwargs) == {"noise", "timesteps", "source", "self_conditioning_passes"}
    count = 2 * (6 - 2)
    width, height = (16, 32) if skull_strip_prob else (40, 36)
    assert images.shape == kwargs["noise"].shape == (count, 1, width, height)
    assert kwargs["source"].shape == (count, 3, width, height)
    torch.testing.assert_close(2 * kwargs["source"][:, 1:2] - 1, images)
    # the second slice of the first slab is the neighbour of the first one
    torch.testing.assert_close(kwargs["source"][0, 2], kwargs["source"][1, 1])


def test_skull_stripped_batches_contain_only_the_brain() -> None:
    data = slabs()
    stripped, *_ = LMIPrepareBatch(scheduler(), identity, skull_strip_prob=1.0)(data)
    brain = (data["image"] * data["regions"])[..., 1:-1]
    assert float((stripped + 1).sum() / 2) == pytest.approx(float(brain.sum()), rel=1e-5)
    assert int((stripped > -1).sum()) == int((brain > 0).sum())
    whole, *_ = LMIPrepareBatch(scheduler(), identity, skull_strip_prob=0.0)(data)
    assert (whole > -1).all()


def test_margins_are_within_their_range_and_differ_by_volume() -> None:
    """The distance increases by one per voxel along the first axis, from −10, and from −30 in the second channel."""
    torch.manual_seed(0)
    distances = torch.arange(40.0).reshape(1, 1, 40, 1, 1) - torch.tensor([10.0, 30.0]).reshape(1, 2, 1, 1, 1)
    kept = skull_strip(torch.ones(400, 1, 40, 1, 1), distances.expand(400, -1, -1, -1, -1), cerebrum_only_prob=0.3)
    margins = (kept[:, 0, :, 0, 0] == 0).sum(1) - 11
    assert torch.equal(kept, (torch.arange(40) >= 11 + margins[:, None]).float().reshape(kept.shape))
    cerebrum = margins > 10
    assert 0.2 < cerebrum.float().mean() < 0.4
    assert set(torch.where(cerebrum, margins - 20, margins).tolist()) == {-3, -2, -1, 0}


@pytest.mark.parametrize("prob", [0.0, 1.0])
def test_a_second_pass_follows_its_probability(prob: float) -> None:
    prepare = LMIPrepareBatch(scheduler(), identity, self_conditioning_prob=prob)
    assert {prepare(slabs())[3]["self_conditioning_passes"] for _ in range(5)} == {1 + int(prob)}


def test_the_contrast_randomizer_gets_target_and_regions_on_the_same_grid() -> None:
    seen: list[torch.Tensor] = []

    def spy(target: torch.Tensor, brain: torch.Tensor) -> torch.Tensor:
        seen.extend((target, brain))
        return target

    LMIPrepareBatch(scheduler(), spy, skull_strip_prob=1.0)(slabs())
    assert torch.equal(seen[0] > 0, seen[1] > 0) and seen[1].any()


def noise_levels(timesteps: torch.Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights of image and noise under a linear schedule, to be multiplied with (B, 1, H, W)."""
    remaining = np.cumprod(1 - BETAS)[timesteps.numpy()].reshape(-1, 1, 1, 1)
    return np.sqrt(remaining), np.sqrt(1 - remaining)


def test_velocity_is_the_regression_target() -> None:
    images, regression_target, _, kwargs = LMIPrepareBatch(scheduler("v_prediction"), identity)(slabs())
    alpha, sigma = noise_levels(kwargs["timesteps"])
    clean, noise = images.double().numpy(), kwargs["noise"].double().numpy()
    np.testing.assert_allclose(regression_target, alpha * noise - sigma * clean, atol=1e-4)
    # noisy image and velocity together give the clean image
    np.testing.assert_allclose(
        alpha * (alpha * clean + sigma * noise) - sigma * regression_target.numpy(), clean, atol=1e-4
    )


def test_noise_or_image_is_the_regression_target_of_other_schedulers() -> None:
    _, regression_target, _, kwargs = LMIPrepareBatch(scheduler("epsilon"), identity)(slabs())
    assert torch.equal(regression_target, kwargs["noise"])
    images, regression_target, _, _ = LMIPrepareBatch(scheduler("sample"), identity)(slabs())
    assert torch.equal(regression_target, images)


def test_noise_is_normal_and_timesteps_cover_the_schedule() -> None:
    torch.manual_seed(0)
    prepare = LMIPrepareBatch(scheduler(), identity, timestep_power=1.0)
    batches = [prepare(slabs(shape=(4, 1, 40, 36, 6)))[3] for _ in range(20)]
    noise = torch.cat([kwargs["noise"].flatten() for kwargs in batches])
    timesteps = torch.cat([kwargs["timesteps"] for kwargs in batches])
    assert abs(float(noise.mean())) < 0.01 and float(noise.std()) == pytest.approx(1, abs=0.01)
    assert timesteps.dtype == torch.int64 and 0 <= timesteps.min() < 20 and 980 < timesteps.max() <= 999


@pytest.mark.parametrize("timestep_power", [1.0, 2.0, 3.0])
def test_large_powers_draw_large_timesteps(timestep_power: float) -> None:
    torch.manual_seed(0)
    prepare = LMIPrepareBatch(scheduler(), identity, timestep_power=timestep_power)
    drawn = torch.cat([prepare(slabs(shape=(4, 1, 40, 36, 6)))[3]["timesteps"] for _ in range(60)]).double()
    # the mean of 1 − u^n for a uniform u is n / (n + 1)
    assert float(drawn.mean() / 1000) == pytest.approx(timestep_power / (timestep_power + 1), abs=0.04)


@given(
    box=st.tuples(*[st.tuples(st.integers(0, 29), st.integers(1, 12))] * 2),
    multiple=st.sampled_from([2, 4, 8, 16]),
)
def test_crop_keeps_the_foreground_of_all_slabs(box: tuple[tuple[int, int], tuple[int, int]], multiple: int) -> None:
    (x, width), (y, height) = box
    target = torch.zeros(2, 1, 32, 48, 3)
    target[0, 0, x : x + width, y, 1] = 0.5
    target[1, 0, x, y : y + height, 2] = 0.25
    cropped, brain = crop_to_foreground(target, target > 0, multiple=multiple)
    assert cropped.sum() == target.sum() and torch.equal(brain, cropped > 0)
    extents = (min(width, 32 - x), height)
    assert cropped.shape == (2, 1, *(-(-extent // multiple) * multiple for extent in extents), 3)


def test_an_empty_batch_gives_empty_images() -> None:
    channels = {"image": 1, "regions": 1, "signed_distance": 2}
    data = {name: torch.zeros(2, count, 40, 36, 6) for name, count in channels.items()}
    images, regression_target, _, kwargs = LMIPrepareBatch(scheduler(), ContrastRandomizer(), skull_strip_prob=1.0)(
        data
    )
    assert images.shape == regression_target.shape == (8, 1, 16, 16)
    assert (images == -1).all() and (kwargs["source"] == 0).all() and regression_target.isfinite().all()


class Constant(torch.nn.Module):
    """A denoiser with a constant prediction, which checks the shape of its input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels, self.value = channels, torch.nn.Parameter(torch.tensor(3.0))

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor, context: None = None) -> torch.Tensor:
        assert x.shape[1] == self.channels and len(timesteps) == len(x)
        return self.value.expand(len(x), 1, *x.shape[2:])


def test_a_supervised_trainer_accepts_the_batches() -> None:
    """The constant closest to the velocities is their mean, which is nearly zero."""
    guide = LMIGuide(LocalMutualInformation(reduction="none"), ConditionalMean())
    network = Constant(1 + guide.channels(1))
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=1,
        train_data_loader=[slabs(seed, shape=(1, 1, 40, 36, 4)) for seed in range(4)],
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.4),
        loss_function=torch.nn.MSELoss(),
        inferer=LMIGuidedInferer(scheduler(), guide),
        prepare_batch=LMIPrepareBatch(scheduler(), ContrastRandomizer(), skull_strip_prob=1.0),
    )
    trainer.run()
    assert abs(float(network.value.detach())) < 1


# --- real data ---


def in_ras(path: Path) -> NDArray[Any]:
    image = nib.load(path)
    assert isinstance(image, nib.Nifti1Image)
    return np.asarray(nib.as_closest_canonical(image).dataobj)


def test_a_real_head_meets_the_assumptions_of_training(shared_data: Path) -> None:
    """White matter is at 0.7 everywhere, as in `contrast.T1_KNOTS`, and the mask covers the whole brain."""
    image = min((shared_data / "ixi-t1").glob("*_T1.nii.gz"))
    parcellation = image.with_name(image.name.replace("_T1.", "_T1_DLMUSE."))
    parser = ConfigParser()
    parser.read_config(resources.bundle_root("t1_lmi_translation") / "configs" / "train.yaml")
    parser.update({"images": [str(image)]})
    transforms = Compose(parser.get_parsed_content("train#deterministic_transforms"))
    result = transforms(parser.get_parsed_content("datalist")[0])

    labels, raw = in_ras(parcellation), in_ras(image)
    values, mask = result["image"][0].numpy(), result["regions"][0].numpy() > 0
    white_matter = ndimage.binary_erosion(np.isin(labels, parser["white_matter"]))
    assert values.min() >= 0 and values.max() <= 1
    assert np.median(values[white_matter]) == pytest.approx(0.7, abs=0.015)

    def relative_range(volume: NDArray[Any]) -> float:
        """The relative range of white matter over the lobes."""
        lobes = [np.median(volume[white_matter & (labels == lobe)]) for lobe in range(81, 89)]
        return float(np.ptp(lobes) / np.median(lobes))

    assert relative_range(values) < 0.08 < 0.15 < relative_range(raw)
    assert mask[labels > 0].all() and mask.sum() < 1.05 * (labels > 0).sum()
    distances = result["signed_distance"].numpy()
    assert (distances[0][white_matter] > 0).all() and (distances[0][~mask] < 0).all()
    assert (distances[1] <= distances[0]).all()
    assert 0.9 < result["csf_dilation_field"].float().unflatten(0, (2, 3)).norm(dim=1).max() < 1.4
    border = result["regions"][0].numpy() == 2
    assert 1000 < border.sum() and np.isin(labels[border], parser["ventricles"] + parser["white_matter"]).all()
