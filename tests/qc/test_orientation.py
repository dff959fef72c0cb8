"""The orientation of a head, on the phantom and on real scans, with right and wrong headers."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import aff2axcodes, axcodes2ornt, inv_ornt_aff, ornt_transform
from numpy.typing import NDArray

from midiff_monai.evaluation.phantom import make_phantom
from midiff_monai.io.volumes import read_volume
from midiff_monai.qc import orientation
from midiff_monai.qc.flags import MAX_GAIN_BITS, quality_flags
from midiff_monai.qc.measures import Measures
from midiff_monai.qc.orientation import CLASSES, Orientation, average_head, measure_orientation

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"

WRONG = {
    "upside down": np.diag([1.0, 1, -1, 1]),
    "back to front": np.diag([1.0, -1, 1, 1]),
    "upside down and back to front": np.diag([1.0, -1, -1, 1]),
    "with exchanged axes": np.eye(4)[[0, 2, 1, 3]],
}
"""What a wrong header does → how it changes the world coordinates."""

REAL = (
    *("multicontrast/301D00252_PD.nii.gz", "multicontrast/301D00293_T2.nii.gz", "open-ms/raw-patient01_T1.nii.gz"),
    *("freesurfer-1mm/bert_T1.mgz", "heads-flair/Subj05_FLAIR.nii.gz", "odd/head_CT_8bit.nii.gz"),
    *("odd/thick5.5mm_FLAIR.nii.gz", "odd/stroke_T2.nii.gz"),
)
"""Stripped brains with and without cerebellum, whole heads, thick slices, CT."""


def measured(voxels: NDArray, affine: NDArray[np.float64]) -> Orientation:
    found = measure_orientation(voxels, affine, np.zeros(voxels.shape, np.int16))
    assert found is not None
    return found


def kinds(found: Orientation | None) -> list[str]:
    return [flag.kind for flag in quality_flags(Measures({}, {}, orientation=found))]


@pytest.fixture(scope="module")
def phantom() -> tuple[NDArray, NDArray[np.float64]]:
    image = make_phantom("PD", spacing=(2, 2, 3)).image
    return np.asarray(image.dataobj), image.affine


def test_the_phantom_lies_as_its_header_says(phantom: tuple) -> None:
    found = measured(*phantom)
    assert found.gain == 0 and found.axes == found.best_axes == "LAS" and not found.change
    assert kinds(found) == []


@pytest.mark.parametrize("axes", ["RAS", "LPS", "PIR", "SLA"])
def test_the_storage_order_does_not_matter(phantom: tuple, axes: str) -> None:
    voxels, affine = phantom
    change = ornt_transform(axcodes2ornt("LAS"), axcodes2ornt(axes))
    stored = nib.apply_orientation(voxels, change)
    found = measured(stored, affine @ inv_ornt_aff(change, voxels.shape))
    assert found.bits == pytest.approx(measured(*phantom).bits, abs=0.02)
    assert found.gain == 0 and found.best_axes == axes


@pytest.mark.parametrize("change", WRONG)
def test_a_wrong_header_is_flagged_and_the_true_axes_are_named(phantom: tuple, change: str) -> None:
    voxels, affine = phantom
    found = measured(voxels, WRONG[change] @ affine)
    assert found.change == change and "LAS" in (found.best_axes, found.mirrored_axes)
    assert found.axes == "".join(aff2axcodes(WRONG[change] @ affine))
    (flag,) = quality_flags(Measures({}, {}, orientation=found))
    assert flag.kind == "axes" and flag.value == found.gain > MAX_GAIN_BITS
    assert f"the head lies {change}" in flag.text and "LAS" in flag.text


def test_left_and_right_cannot_be_told(phantom: tuple) -> None:
    voxels, affine = phantom
    assert kinds(measured(voxels, np.diag([-1.0, 1, 1, 1]) @ affine)) == []


def test_noise_is_no_head() -> None:
    noise = np.random.default_rng(0).random((70, 80, 70)).astype(np.float32)
    assert kinds(measured(noise, np.diag([2.0, 2, 2, 1]))) == ["anatomy"]


def test_nothing_is_said_of_slabs_large_voxels_and_constant_volumes(phantom: tuple) -> None:
    voxels, affine = phantom
    coarse = np.ascontiguousarray(voxels[::3, ::3, ::2])
    assert measure_orientation(coarse, affine @ np.diag([3, 3, 2, 1]), np.zeros(coarse.shape, np.int16)) is None
    slab = voxels[:, :, 20:50]
    assert measure_orientation(slab, affine, np.zeros(slab.shape, np.int16)) is None
    assert measure_orientation(np.ones_like(voxels), affine, np.zeros(voxels.shape, np.int16)) is None
    assert kinds(None) == []


def test_mutual_information_of_known_distributions() -> None:
    assert orientation.mutual_information_bits(np.eye(4) / 4) == pytest.approx(2)
    assert orientation.mutual_information_bits(np.outer([0.3, 0.7], [0.2, 0.5, 0.3])) == pytest.approx(0)


def test_all_orientations_are_rotations() -> None:
    assert len({matrix.tobytes() for matrix in orientation.ORIENTATIONS}) == 24
    assert all(np.linalg.det(matrix) == pytest.approx(1) for matrix in orientation.ORIENTATIONS)
    np.testing.assert_array_equal(orientation.ORIENTATIONS[0], np.eye(3))


def test_the_average_head_has_its_parts_in_their_places() -> None:
    head = average_head()
    assert head.shape == (len(CLASSES), *orientation.SHAPE)
    np.testing.assert_allclose(head.sum(axis=0), 1, atol=0.02)
    np.testing.assert_allclose(head, head[:, ::-1], atol=0.6)  # about the same on both sides
    places = np.indices(orientation.SHAPE)
    centres = {
        name: [np.average(axis, weights=part) for axis in places] for name, part in zip(CLASSES, head, strict=True)
    }
    brainstem, cortex, ventricles = (centres[name] for name in ("cerebellum and brain stem", "cortex", "ventricles"))
    assert brainstem[2] < cortex[2] - 4 and brainstem[1] < ventricles[1] - 2


@pytest.mark.parametrize("name", REAL)
def test_real_scans(name: str) -> None:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{path} is missing")
    image = read_volume(path)
    voxels = np.asarray(image.dataobj)
    assert kinds(measured(voxels, image.affine)) == []
    for change in ("upside down", "with exchanged axes"):
        assert measured(voxels, WRONG[change] @ image.affine).change == change


@pytest.mark.parametrize("name", ["lowfield1_T2w", "lowfield_coronal_T2w"])
def test_nothing_is_said_of_real_slabs(name: str) -> None:
    path = DATA / "odd" / f"{name}.nii.gz"
    if not path.exists():
        pytest.skip(f"{path} is missing")
    image = read_volume(path)
    voxels = np.asarray(image.dataobj)
    assert measure_orientation(voxels, image.affine, np.zeros(voxels.shape, np.int16)) is None
