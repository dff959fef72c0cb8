"""Refinement in blocks against one pass over the whole volume and interpolation by SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates
from torch import nn

from midiff_monai.inferers.detail import DetailRefiner, RefineProbabilitiesToLabelsd
from midiff_monai.labels import FREESURFER_IDS
from midiff_monai.networks.detail import DetailBranch
from midiff_monai.transforms import MaskedSpacingd
from midiff_monai.transforms.tissue_means import tissue_means

CLASSES = len(FREESURFER_IDS)
COARSE = np.array([[2.0, 0, 0, -20], [0, 2, 0, 10], [0, 0, 2, 5], [0, 0, 0, 1]])
FINE = np.array([[1.0, 0, 0, -20], [0, 1, 0, 10], [0, 0, 1, 5], [0, 0, 0, 1]])


@pytest.fixture
def branch() -> DetailBranch:
    torch.manual_seed(0)
    branch = DetailBranch(classes=CLASSES, squeezed=4, features=4)
    nn.init.normal_(branch.head.weight, std=0.05)
    return branch.eval()


@pytest.fixture
def probabilities() -> MetaTensor:
    """A ball of a few structures in a background, on the coarse grid."""
    axes = np.stack(np.meshgrid(*(np.arange(n) for n in (14, 15, 16)), indexing="ij"))
    distance = np.linalg.norm(axes - np.array([6, 7, 8])[:, None, None, None], axis=0)
    logits = torch.zeros(CLASSES, 14, 15, 16)
    logits[0] = torch.from_numpy(distance - 5).float() * 2
    logits[1:4] += torch.randn(3, 14, 15, 16, generator=torch.Generator().manual_seed(2))
    logits[4:] = -3
    return MetaTensor(logits.softmax(dim=0), affine=torch.from_numpy(COARSE))


@pytest.fixture
def image() -> MetaTensor:
    voxels = 0.1 + 0.9 * torch.rand(1, 27, 29, 31, generator=torch.Generator().manual_seed(3))
    return MetaTensor(voxels, affine=torch.from_numpy(FINE))


def refined_at_once(branch: DetailBranch, probabilities: MetaTensor, image: MetaTensor) -> NDArray[np.float64]:
    """Refined probabilities (C, X', Y', Z') of the whole volume in one pass, with priors interpolated by SciPy."""
    voxels = np.stack(np.meshgrid(*(np.arange(n) for n in image.shape[1:]), indexing="ij")) / 2
    every_second = torch.zeros(1, 1, *probabilities.shape[1:])
    nearest = torch.as_tensor(image)[:, ::2, ::2, ::2]
    every_second[:, :, : nearest.shape[1], : nearest.shape[2], : nearest.shape[3]] = nearest
    means = tissue_means(every_second, torch.as_tensor(probabilities)[None])[0]
    interpolated = [
        np.stack([map_coordinates(np.asarray(channel), voxels, order=1, mode="nearest") for channel in volume])
        for volume in (probabilities, means)
    ]
    with torch.inference_mode():
        inputs = [torch.from_numpy(volume).float()[None] for volume in interpolated]
        logits = branch(torch.as_tensor(image)[None], *inputs)
    return logits[0].softmax(dim=0).numpy().astype(float)


def ids(probabilities: NDArray) -> NDArray[np.int16]:
    return np.array(FREESURFER_IDS, dtype=np.int16)[probabilities.argmax(axis=0)]


@pytest.mark.parametrize("block", [8, 13, 64])
def test_blocks_give_the_labels_of_one_pass(
    branch: DetailBranch, probabilities: MetaTensor, image: MetaTensor, block: int
) -> None:
    mask = torch.ones(image.shape[1:], dtype=torch.bool)
    labels = DetailRefiner(branch, block=block)(probabilities, image, mask, FINE)
    expected = ids(refined_at_once(branch, probabilities, image))
    assert (labels.numpy() == expected).mean() > 0.9999
    assert len(np.unique(expected)) > 3


def test_a_file_with_flipped_and_permuted_axes_gets_the_same_labels(
    branch: DetailBranch, probabilities: MetaTensor, image: MetaTensor
) -> None:
    mask = torch.ones(image.shape[1:], dtype=torch.bool)
    expected = DetailRefiner(branch)(probabilities, image, mask, FINE).numpy()
    permutation = np.array([[0, -1.0, 0, 26], [0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])  # file voxel → image voxel
    file_mask = torch.ones(31, 27, 29, dtype=torch.bool)
    labels = DetailRefiner(branch, block=10)(probabilities, image, file_mask, FINE @ permutation).numpy()
    assert np.array_equal(labels, expected[::-1].transpose(2, 0, 1))


@pytest.mark.parametrize("spacing", [0.7, 3.0])
def test_another_spacing_takes_the_interpolated_probabilities(
    branch: DetailBranch, probabilities: MetaTensor, image: MetaTensor, spacing: float
) -> None:
    shape = tuple(int(n / spacing) for n in image.shape[1:])
    affine = FINE @ np.diag([spacing, spacing, spacing, 1])
    labels = DetailRefiner(branch, block=11)(probabilities, image, torch.ones(shape, dtype=torch.bool), affine)
    voxels = np.stack(np.meshgrid(*(np.arange(n) * spacing for n in shape), indexing="ij"))
    refined = refined_at_once(branch, probabilities, image)
    expected = ids(np.stack([map_coordinates(p, voxels, order=1, mode="nearest") for p in refined]))
    assert (labels.numpy() == expected).mean() > 0.999


def test_a_class_that_the_body_excludes_does_not_come_back(probabilities: MetaTensor, image: MetaTensor) -> None:
    def eager(image: torch.Tensor, prior: torch.Tensor, means: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros_like(prior)
        logits[:, 5] = 50
        return logits

    mask = torch.ones(image.shape[1:], dtype=torch.bool)
    assert (DetailRefiner(eager)(probabilities, image, mask, FINE) == FREESURFER_IDS[5]).any()
    excluded = probabilities.clone()
    excluded[5] = 0
    assert not (DetailRefiner(eager)(excluded, image, mask, FINE) == FREESURFER_IDS[5]).any()


def test_nothing_is_labelled_outside_the_foreground_of_the_file(
    branch: DetailBranch, probabilities: MetaTensor, image: MetaTensor
) -> None:
    mask = torch.zeros(image.shape[1:], dtype=torch.bool)
    mask[5:20, 5:20, 5:20] = True
    labels = DetailRefiner(branch)(probabilities, image, mask, FINE)
    assert labels[mask].any()
    assert not labels[~mask].any()


def test_an_image_without_brain_gets_no_labels(branch: DetailBranch, image: MetaTensor) -> None:
    background = torch.zeros(CLASSES, 14, 15, 16)
    background[0] = 1
    mask = torch.ones(image.shape[1:], dtype=torch.bool)
    assert not DetailRefiner(branch)(MetaTensor(background, affine=torch.from_numpy(COARSE)), image, mask, FINE).any()


def test_the_transform_labels_the_grid_of_the_source_file(branch: DetailBranch) -> None:
    meta = {"original_affine": FINE, "spatial_shape": (26, 28, 30)}
    source = MetaTensor(0.1 + torch.rand(1, 26, 28, 30), affine=torch.from_numpy(FINE), meta=meta)
    data = MaskedSpacingd("image", pixdim=(2, 2, 2))({"image": source})
    probabilities = torch.rand(CLASSES, *data["image"].shape[1:]).softmax(dim=0)
    data |= {"pred": probabilities, "fine": source}
    refiner = DetailRefiner(branch)
    result = RefineProbabilitiesToLabelsd("pred", "image", "fine", refiner)(data)["pred"]
    known = torch.as_tensor(data["image"]) != 0
    coarse = MetaTensor(probabilities * known, affine=data["image"].affine)
    expected = refiner(coarse, source, torch.ones(26, 28, 30, dtype=torch.bool), FINE)
    np.testing.assert_array_equal(result[0], expected)
    np.testing.assert_array_equal(result.affine, FINE)
