from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from monai.data import MetaTensor
from numpy.typing import NDArray
from scipy import ndimage
from synthetic_images import distance_to

from midiff_monai.errors import InputError
from midiff_monai.labels import FREESURFER_IDS
from midiff_monai.training.label_transforms import (
    BrainMaskd,
    BrainSignedDistanced,
    ClassIndexFromMUSEd,
    IgnoreBoundaryd,
    LabelBoundaryd,
    LabelStructuresd,
    NormalizeTissuesd,
)
from midiff_monai.training.muse import freesurfer_from_muse

AFFINE = torch.diag(torch.tensor([2.0, 2.0, 3.0, 1.0], dtype=torch.float64))

seeds = st.integers(0, 2**31)

Data = dict[Hashable, Any]

# --- NormalizeTissuesd ---


def normalised(truth: NDArray[Any], labels: NDArray[Any], bias: NDArray[Any] | float, **kwargs: Any) -> NDArray[Any]:
    data: Data = {"image": torch.from_numpy(truth * bias).float()[None], "label": torch.from_numpy(labels)[None]}
    tissues: dict[str, Any] = {"tissues": [[2, 41]], "values": [0.7]} | kwargs
    return NormalizeTissuesd("image", "label", **tissues)(data)["image"][0].numpy()


def test_several_tissues_determine_the_field_together() -> None:
    """With white matter outside and grey matter inside, the field is estimated everywhere and the contrast is kept."""
    side = 30
    inner = distance_to((side - 1) / 2, (side, side, side)) < 9
    labels, truth = np.where(inner, 10, 2), np.where(inner, 80.0, 100.0)
    bias = np.exp(0.01 * np.indices((side,) * 3).sum(0))
    result = normalised(truth, labels, bias, tissues=[[2], [10]], values=[0.7, 0.56], sigma=3)
    corners = distance_to((side - 1) / 2, (side, side, side)) > 18
    np.testing.assert_allclose(result[~corners], np.where(inner, 0.56, 0.7)[~corners], rtol=0.06)
    assert np.median(result[inner]) == pytest.approx(0.56, rel=0.01)


@pytest.mark.parametrize("unit", [1.0, 1e4])
def test_normalisation_removes_the_bias_field_of_a_phantom(unit: float) -> None:
    """White matter with rods of CSF. The bias field varies by a sixth along each axis."""
    side = 40
    x, y, z = np.indices((side, side, side))
    csf = (x % 10 < 3) & (y % 10 < 3)
    labels = np.where(csf, 4, np.where(x < side / 2, 2, 41))
    truth = np.where(csf, 0.3, 1.0) * unit
    bias = np.exp(0.08 * sum(np.cos(np.pi * axis / (side - 1)) for axis in (x, y, z)))

    result = normalised(truth, labels, bias, sigma=4)
    assert np.ptp(bias) > 0.45
    np.testing.assert_allclose(result[~csf], 0.7, rtol=0.02)
    np.testing.assert_allclose(result[csf], 0.7 * 0.3, rtol=0.02)


def test_tissue_in_one_corner_scales_the_whole_volume() -> None:
    labels = np.zeros((30, 30, 30), dtype=np.int16)
    labels[:6, :6, :6] = 2
    truth = np.where(labels == 2, 350.0, np.linspace(0, 300, 30))
    result = normalised(truth, labels, 1.0, sigma=2)
    np.testing.assert_allclose(result, truth * 0.7 / 350, atol=1e-5)


def test_partial_volume_does_not_bias_the_tissue_and_bright_voxels_are_clipped() -> None:
    labels = np.zeros((20, 20, 20), dtype=np.int16)
    labels[4:16, 4:16, 4:16] = 2
    core = ndimage.binary_erosion(labels)
    truth = np.where(core, 100.0, np.where(labels, 60.0, 400.0))
    result = normalised(truth, labels, 1.0, sigma=3)
    np.testing.assert_allclose(result[core], 0.7, rtol=1e-4)
    assert result.max() == 1


@pytest.mark.parametrize("kind", ["random", "another protocol", "empty"])
def test_labels_that_yield_no_tissue_are_refused(kind: str) -> None:
    """Random labels are nowhere wide enough for the interior of a tissue. They used to give an image of NaN."""
    rng = np.random.default_rng(0)
    labels = {"random": rng.integers(0, 96, (20, 20, 20)), "another protocol": np.full((20, 20, 20), 7)}
    image = MetaTensor(torch.rand(1, 20, 20, 20), meta={"filename_or_obj": "sub-01_T1.nii.gz"})
    label = torch.from_numpy(labels.get(kind, np.zeros((20, 20, 20))))[None]
    transform = NormalizeTissuesd("image", "label", tissues=[[2, 41], [10]], values=[0.7, 0.58])
    with pytest.raises(InputError, match=r"^sub-01_T1\.nii\.gz: .*no tissue"):
        transform({"image": image, "label": label})


# --- LabelBoundaryd, LabelStructuresd ---


@given(seed=seeds)
def test_boundary_voxels_of_either_tissue_have_a_neighbour_of_the_other(seed: int) -> None:
    labels = np.random.default_rng(seed).integers(0, 9, (6, 5, 4))
    data: Data = {"regions": torch.ones(1, 6, 5, 4), "label": torch.from_numpy(labels)[None]}
    mask = LabelBoundaryd("regions", "label", first=[1, 2], second=[3])(data)["regions"][0]
    assert mask.dtype == torch.float32
    for position in np.ndindex(labels.shape):
        around = labels[tuple(slice(max(index - 1, 0), index + 2) for index in position)]
        other = {1: [3], 2: [3], 3: [1, 2]}.get(int(labels[position]), [])
        assert mask[position] == (2.0 if np.isin(around, other).any() else 1.0)


def test_structures_are_numbered_inside_the_brain_only() -> None:
    labels = torch.tensor([0, 10, 10, 11, 12, 13, 10]).reshape(1, 7, 1, 1)
    mask = torch.tensor([0.0, 1.0, 0.0, 1.0, 1.0, 1.0, 2.0]).reshape(1, 7, 1, 1)
    result = LabelStructuresd("mask", "label", [[10], [11, 12]])({"mask": mask, "label": labels})["mask"]
    assert result.flatten().tolist() == [0, 3, 0, 4, 4, 1, 2] and result.dtype == torch.float32


# --- BrainSignedDistanced ---


def test_signed_distances_are_those_of_brain_and_cerebrum() -> None:
    """A ball of brain in a shell of CSF. Its lower part is cerebellum."""
    distance = distance_to(19.5, (40, 40, 40))
    labels = np.where(distance < 12, 101, np.where(distance < 15, 1, 0))
    labels[:, :, :14][distance[:, :, :14] < 12] = 38
    parcellation = MetaTensor(torch.from_numpy(labels)[None], affine=AFFINE)
    transform = BrainSignedDistanced("signed_distance", outside=[1], hindbrain=[38])
    distances = transform({"signed_distance": parcellation})["signed_distance"]
    torch.testing.assert_close(distances.affine, AFFINE)
    assert distances.shape == (2, 40, 40, 40) and distances.dtype == torch.float32
    away = np.abs(distance - 12) > 1
    np.testing.assert_allclose(distances[0].numpy()[away], (12 - distance)[away].clip(-20, 20), atol=1.0)
    up = np.arange(40)[None, None, :] - 13.5 + np.zeros((40, 40, 40))
    cerebrum = np.minimum(12 - distance, up)
    above = (up > 0) & (np.abs(cerebrum) > 1) & (distance < 12)
    np.testing.assert_allclose(distances[1].numpy()[above], cerebrum[above], atol=1.0)
    assert (distances[1].numpy()[labels == 38] < 0).all()


# --- BrainMaskd, ClassIndexFromMUSEd ---


def brain_mask(labels: NDArray[Any], **kwargs: Any) -> NDArray[np.bool_]:
    mask = BrainMaskd("mask", **kwargs)({"mask": torch.from_numpy(labels)[None]})["mask"]
    assert mask.dtype == torch.float32 and set(mask.unique().tolist()) <= {0.0, 1.0}
    return mask[0].numpy() > 0


def test_mask_fills_sulci_and_ventricles_but_not_the_outside() -> None:
    distance = distance_to(17.5, (36, 36, 36))
    brain = distance < 14
    labels = np.where(brain & (distance > 5), 101, 0)  # a cavity of unlabelled CSF
    labels[16:20, 16:, 10:26] = 0  # a sulcus, 4 voxels wide, open to the outside
    mask = brain_mask(labels)
    assert mask[distance < 11].all()
    assert not mask[distance > 14].any()


@pytest.mark.parametrize("width, filled", [(8, True), (10, False)])
def test_mask_closes_gaps_of_up_to_twice_the_closing(width: int, filled: bool) -> None:
    labels = np.ones((40, 24, 24), dtype=np.int16)
    labels[14 : 14 + width] = 0
    labels[:, :, 20:] = 0  # the gap is open there, otherwise it would be a hole
    gap = brain_mask(labels, closing=4)[14 : 14 + width, 12, 10]
    assert gap.all() if filled else not gap.any()


@given(seed=seeds, density=st.floats(0.0, 0.6), closing=st.integers(1, 4))
def test_mask_covers_its_labels_and_stays_within_their_box(seed: int, density: float, closing: int) -> None:
    labels = (np.random.default_rng(seed).random((9, 10, 8)) < density).astype(np.int16)
    mask = brain_mask(labels, closing=closing)
    assert mask.shape == labels.shape and mask[labels > 0].all()
    for box in ndimage.find_objects(labels):  # one box, or none without labels
        mask[box] = False
    assert not mask.any()


def test_classes_are_the_structures_of_the_parcellation() -> None:
    muse = np.zeros((6, 5, 4), dtype=np.int16)
    muse[0], muse[1], muse[2], muse[3, 0], muse[4] = 60, 59, 101, 11, 100
    muse[2, 2], muse[4, 2] = 95, 95  # the corpus callosum, an unpaired structure
    parcellation = MetaTensor(torch.from_numpy(muse)[None], affine=AFFINE)
    classes = ClassIndexFromMUSEd("label")({"label": parcellation})["label"]
    assert isinstance(classes, MetaTensor) and classes.dtype == torch.uint8
    torch.testing.assert_close(classes.affine, AFFINE)
    np.testing.assert_array_equal(np.array(FREESURFER_IDS)[np.asarray(classes[0])], freesurfer_from_muse(muse))
    # background, left and right thalamus, left cortex, fourth ventricle, from the published table
    assert classes[0, [5, 0, 1, 2, 3], [0, 0, 0, 0, 0], 0].tolist() == [0, 7, 25, 2, 12]


def test_the_boundary_of_a_class_is_ignored_and_its_interior_kept() -> None:
    labels = np.zeros((1, 9, 9, 9), dtype=np.uint8)
    labels[0, 2:7, 2:7, 2:7] = 3
    labels[0, 7:, 7:, 7:] = 5
    marked = IgnoreBoundaryd("label", doubtful=[5])({"label": MetaTensor(labels)})["label"][0].numpy()
    for voxel in np.ndindex(labels.shape[1:]):
        neighbours = {int(labels[0][voxel])}
        for axis, step in ((0, 1), (0, -1), (1, 1), (1, -1), (2, 1), (2, -1)):
            other = np.array(voxel)
            other[axis] = np.clip(other[axis] + step, 0, 8)
            neighbours.add(int(labels[0][tuple(other)]))
        doubtful = len(neighbours) > 1 or labels[0][voxel] == 5
        assert marked[voxel] == (255 if doubtful else labels[0][voxel])
