"""Resampling of images to the grid of a network, and back to the grid of their file."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, LoadImaged, Orientationd, Spacing
from scipy import ndimage
from synthetic_images import brain_in_air, distance_to

from midiff_monai.labels import FREESURFER_IDS
from midiff_monai.transforms.spatial import InvertMaskedSpacingd, InvertProbabilitiesToLabelsd, MaskedSpacingd

Data = dict[Hashable, Any]


# --- MaskedSpacingd ---


def resampled(volume: torch.Tensor, spacing: tuple[float, float, float], pixdim: float = 2.0) -> Data:
    image = MetaTensor(volume, affine=torch.diag(torch.tensor([*spacing, 1.0])))
    return MaskedSpacingd("image", pixdim=(pixdim,) * 3)({"image": image})


def test_a_flat_brain_stays_flat_up_to_its_surface() -> None:
    """Plain interpolation would darken its outer voxels."""
    inside = torch.from_numpy(distance_to(19.5, (40, 40, 40)) < 15.3)[None]
    result = resampled(70.0 * inside, (0.9, 0.9, 1.5))["image"]
    np.testing.assert_allclose(result[result > 0], 70, rtol=1e-4)
    volumes = [float((image > 0).sum()) * voxel for image, voxel in ((inside, 0.9 * 0.9 * 1.5), (result, 8.0))]
    assert volumes[1] == pytest.approx(volumes[0], rel=0.03)


def test_blur_depends_on_the_downsampling_factor_of_each_axis() -> None:
    """The second moments of an impulse response in a full foreground. An upsampled axis is not blurred."""
    volume = torch.ones(1, 41, 41, 9)
    volume[0, 20, 20, 4] = 1001
    image = MetaTensor(volume, affine=torch.diag(torch.tensor([0.5, 0.8, 3.0, 1.0])))
    transform = MaskedSpacingd("image", pixdim=(2.0, 2.0, 2.0))
    transform.spacing = Spacing((0.5, 0.8, 3.0))  # blur without resampling
    response = transform({"image": image})["image"][0].numpy() - 1
    weights, offsets = response / 1000, np.indices((41, 41, 9)) - np.array([20, 20, 4]).reshape(3, 1, 1, 1)
    assert weights.sum() == pytest.approx(1, abs=1e-3)
    deviations = np.sqrt((weights * offsets**2).sum(axis=(1, 2, 3)).clip(0))
    np.testing.assert_allclose(deviations, [(4 - 1) / 2, (2.5 - 1) / 2, 0], rtol=0.05, atol=1e-3)


def test_a_linear_function_of_the_world_is_preserved() -> None:
    """Without zeros, the transform is a blur and a linear interpolation. Both preserve linear functions."""
    world = torch.from_numpy(np.indices((30, 28, 20))).float()
    volume = 10 + (world * torch.tensor([1.2, 1.0, 1.5]).reshape(3, 1, 1, 1)).sum(0)[None]
    result = resampled(volume, (1.2, 1.0, 1.5))["image"]
    grid = torch.from_numpy(np.indices(result.shape[1:])).float()
    inner = (slice(3, -3),) * 3
    torch.testing.assert_close(
        result[0][inner].as_subclass(torch.Tensor), (10 + 2 * grid.sum(0))[inner], atol=0.01, rtol=0
    )


def test_the_foreground_is_stored_with_its_holes_filled() -> None:
    volume = brain_in_air(0)
    volume[0, 12, 12, 12] = 0
    data = resampled(volume, (2.0, 2.0, 2.0))
    assert data["image_foreground"].dtype == torch.bool
    np.testing.assert_array_equal(data["image_foreground"][0], ndimage.binary_fill_holes(volume[0].numpy() != 0))
    assert data["image_foreground"][0, 12, 12, 12] and data["image"][0, 12, 12, 12] == 0


# --- InvertMaskedSpacingd, InvertProbabilitiesToLabelsd ---


@pytest.fixture
def conformed(tmp_path: Path) -> tuple[Data, nib.Nifti1Image]:
    """A file of intensity 200 + x + 2 z in world coordinates (mm), and its image in RAS at 2 mm."""
    affine = nib.affines.from_matvec(np.array([[0, 0, 3], [-1.5, 0, 0], [0, -1, 0]]), [-20, 14, 11])
    world = nib.affines.apply_affine(affine, np.moveaxis(np.indices((20, 24, 14)), 0, -1))
    image = nib.Nifti1Image((200 + world[..., 0] + 2 * world[..., 2]).astype(np.float32), affine)
    nib.save(image, tmp_path / "image.nii.gz")
    transforms = [
        LoadImaged("image", image_only=True, ensure_channel_first=True),
        Orientationd("image", axcodes="RAS", labels=None),
        MaskedSpacingd("image", pixdim=(2, 2, 2)),
    ]
    return Compose(transforms)({"image": str(tmp_path / "image.nii.gz")}), image  # type: ignore[return-value]


def test_images_are_restored_on_the_grid_of_their_file(conformed: tuple[Data, nib.Nifti1Image]) -> None:
    data, image = conformed
    grid = data["image"].affine.clone()
    restored = InvertMaskedSpacingd(["mean", "twice"], "image")(
        {**data, "mean": data["image"], "twice": 2 * data["image"]}
    )
    interior = (slice(4, -4),) * 3
    for key, factor in ("mean", 1), ("twice", 2):
        np.testing.assert_allclose(restored[key].affine, image.affine)
        assert restored[key].shape == (1, *image.shape)
        np.testing.assert_allclose(restored[key][0][interior], factor * image.get_fdata()[interior], atol=1e-3)
    torch.testing.assert_close(restored["image"].affine, grid)


def test_segmentations_are_restored_as_freesurfer_labels(conformed: tuple[Data, nib.Nifti1Image]) -> None:
    data, image = conformed
    probabilities = torch.zeros(len(FREESURFER_IDS), *data["image"].shape[1:])
    left, right = FREESURFER_IDS.index(3), FREESURFER_IDS.index(42)
    probabilities[right] = torch.sigmoid((data["image"][0].as_tensor() - 200) / 100)
    probabilities[left] = 1 - probabilities[right]
    segmentation = InvertProbabilitiesToLabelsd("pred", "image")({**data, "pred": probabilities})["pred"]
    expected, interior = np.where(image.get_fdata() > 200, 42, 3), (slice(4, -4),) * 3
    certain = np.abs(image.get_fdata()[interior] - 200) > 0.5
    np.testing.assert_allclose(segmentation.affine, image.affine)
    np.testing.assert_array_equal(segmentation[0].numpy()[interior][certain], expected[interior][certain])


class OnAccelerator:
    """An image on an accelerator, which supports nothing but the copy to the CPU."""

    def __init__(self, image: torch.Tensor) -> None:
        self.image = image

    def cpu(self) -> torch.Tensor:
        return self.image


@pytest.mark.parametrize("restore", [InvertMaskedSpacingd, InvertProbabilitiesToLabelsd])
def test_images_on_an_accelerator_are_restored_on_the_cpu(restore: type[InvertMaskedSpacingd]) -> None:
    """In runs of the bundles, the evaluator does not move the foreground to the accelerator."""
    image = MetaTensor(torch.rand(1, 12, 12, 12), meta={"original_affine": np.eye(4), "spatial_shape": (12, 12, 12)})
    data = MaskedSpacingd("image", pixdim=(2, 2, 2))({"image": image})
    data["pred"] = torch.rand(len(FREESURFER_IDS), *data["image"].shape[1:])
    on_accelerator = {key: OnAccelerator(data[key]) for key in ("image", "pred")}
    expected, found = (restore("pred", "image")(given)["pred"] for given in (data, data | on_accelerator))
    assert expected.any() and torch.equal(found, expected)
