"""The registration of two scans, against known motions, and the check that they show one head."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from scipy.ndimage import distance_transform_edt

from midiff_monai.evaluation.phantom import make_phantom
from midiff_monai.io.volumes import read_volume
from midiff_monai.transforms.registration import align, as_itk, compare, mutual_information, register

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "multicontrast"


@cache
def phantom(contrast: str, spacing: float = 3.0) -> nib.Nifti1Image:
    return make_phantom(contrast, spacing=(spacing,) * 3).image


def moved(image: nib.Nifti1Image, rotation: float, shift: tuple[float, float, float]) -> nib.Nifti1Image:
    """The image with a person who turned by an angle in radians about the z-axis, and moved by a shift in mm (RAS)."""
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(rotation), -np.sin(rotation)], [np.sin(rotation), np.cos(rotation)]]
    turn[:3, 3] = shift
    return nib.Nifti1Image(np.asarray(image.dataobj), turn @ image.affine)


def test_a_scan_in_another_position_and_grid_is_brought_to_the_first() -> None:
    first, still = phantom("PD"), phantom("T1", spacing=4.0)
    found, alignment = align(first, moved(still, 0.08, (4.0, -5.0, 3.0)))
    expected = sitk.GetArrayFromImage(sitk.Resample(as_itk(still), as_itk(first))).T
    assert found.shape == first.shape and np.array_equal(found.affine, first.affine)
    assert np.corrcoef(np.asarray(found.dataobj).ravel(), expected.ravel())[0, 1] > 0.98
    assert alignment.same_head
    assert alignment.rotation_degrees == pytest.approx(np.rad2deg(0.08), abs=0.5)


def with_scalp(image: nib.Nifti1Image, shift: int) -> nib.Nifti1Image:
    """The brain in a bright shell, which is shifted along the y-axis as fat is in the direction of the frequency."""
    brain = np.pad(np.asarray(image.dataobj), 8)
    around = distance_transform_edt(brain == 0, sampling=3.0)
    shell = np.roll((around > 6) & (around < 15), shift, axis=1)
    affine = image.affine.copy()
    affine[:3, 3] -= affine[:3, :3] @ (8, 8, 8)
    voxels = np.where(shell & (brain == 0), 3 * brain.max(), brain).astype(np.float32)
    return nib.Nifti1Image(voxels, affine)


def test_a_shift_of_fat_does_not_move_the_brain() -> None:
    """The brain lies where the headers say, but the scalp of the second scan appears 3 mm further."""
    first, second = with_scalp(phantom("PD"), 0), with_scalp(phantom("T2"), 1)
    assert align(first, second)[1].shift_mm == pytest.approx(0, abs=0.3)
    away = align(first, moved(second, 0.0, (0.0, 9.0, 0.0)))[1]
    assert away.shift_mm == pytest.approx(9, abs=3.5), "a motion is found, wrong by the shift of the scalp at most"


def test_a_head_that_moved_by_a_centimetre_is_brought_back(shared_data: Path) -> None:
    """In the position of the headers, a deep part of this FLAIR meets skull and air of the T1w."""
    flair, t1 = (as_itk(read_volume(shared_data / f"heads-flair/Subj03_{scan}.nii.gz")) for scan in ("FLAIR", "T1"))
    found, headers = register(flair, t1, most_samples=20_000), sitk.Euler3DTransform()
    assert mutual_information(flair, t1, found) > 1.5 * mutual_information(flair, t1, headers)


def test_one_head_in_two_contrasts_is_recognised_on_one_grid() -> None:
    alignment = compare(phantom("PD"), phantom("T2"))
    assert alignment.same_head and alignment.overlap == pytest.approx(1, abs=0.02)
    assert alignment.rotation_degrees is None and alignment.shift_mm is None


@pytest.mark.parametrize("axis", range(3))
def test_a_head_in_another_position_on_one_grid_is_not_that_head(axis: int) -> None:
    voxels = np.roll(np.asarray(phantom("T2").dataobj), 4, axis)
    assert not compare(phantom("PD"), nib.Nifti1Image(voxels, phantom("T2").affine)).same_head


def test_scans_that_do_not_overlap_are_not_one_head() -> None:
    far = moved(phantom("T2"), 0.0, (1000.0, 0.0, 0.0))
    found, alignment = align(phantom("PD"), far)
    assert not alignment.same_head and alignment.overlap == 0
    assert found is far


def test_noise_is_not_the_head_that_it_lies_on() -> None:
    brain = np.asarray(phantom("PD").dataobj) > 0
    noise = np.random.default_rng(0).uniform(50, 100, brain.shape).astype(np.float32) * brain
    assert not compare(phantom("PD"), nib.Nifti1Image(noise, phantom("PD").affine)).same_head


@pytest.mark.skipif(not DATA.is_dir(), reason="needs the real scans of ../shared/data")
def test_real_scans_of_one_person_are_one_head_and_those_of_two_people_are_not() -> None:
    def load(name: str) -> nib.Nifti1Image:
        return read_volume(DATA / f"{name}.nii.gz")

    first = load("301D00252_PD")
    assert compare(first, load("301D00252_T2")).same_head
    assert compare(first, load("301D00252_FLAIR")).same_head
    assert not compare(first, load("301D00262_T2")).same_head
