"""The registration of two scans of a head, compared with a known motion."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import register
import SimpleITK as sitk
from scipy.ndimage import affine_transform

from midiff_monai.evaluation.phantom import make_phantom


def test_a_known_motion_between_two_contrasts_is_found(tmp_path: Path) -> None:
    fixed, still = (phantom(name, tmp_path) for name in ("PD", "T1"))
    motion = sitk.Euler3DTransform((0, 0, 0), 0.06, -0.04, 0.05, (3.0, -4.0, 2.0))
    moving = sitk.Resample(still, still, motion.GetInverse(), sitk.sitkLinear, 0.0)
    found = register.register(fixed, moving)
    for point in np.random.default_rng(0).uniform(-60, 60, (20, 3)):  # mm, within the head
        assert np.linalg.norm(np.subtract(found.TransformPoint(point), motion.TransformPoint(point))) < 0.5


def test_the_measures_of_a_registration_are_those_of_the_motion(tmp_path: Path) -> None:
    fixed, still = (phantom(name, tmp_path) for name in ("PD", "T1"))
    motion = sitk.Euler3DTransform((0, 0, 0), 0.0, 0.0, 0.0, (3.0, -4.0, 12.0))
    rest = sitk.Euler3DTransform()
    assert register.distance(motion, rest, np.random.default_rng(0).normal(size=(5, 3))) == pytest.approx(13)
    assert register.mutual_information(fixed, still, rest) > register.mutual_information(fixed, still, motion)
    values = sitk.GetArrayFromImage(fixed)
    counts = np.histogram(values, bins=46)[0]  # of the 50 bins of the metric, four are padding
    shares = counts[counts > 0] / values.size
    entropy = -(shares * np.log(shares)).sum()
    assert register.mutual_information(fixed, fixed, rest) == pytest.approx(entropy, rel=0.25)


def oblique(shape: tuple[int, int, int], seed: int) -> nib.Nifti1Image:
    affine = np.diag([2.0, 1.5, 3.0, 1.0])
    affine[:3, :3] = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0] @ affine[:3, :3]
    affine[:3, 3] = (5.0, -7.0, 11.0)
    return nib.Nifti1Image(np.arange(np.prod(shape), dtype=np.int16).reshape(shape), affine)


@pytest.mark.parametrize("seed", range(3))
def test_a_voxel_has_the_same_position_in_itk(seed: int) -> None:
    image = oblique((4, 5, 6), seed)
    converted = register.as_itk(image)
    for voxel in ((0, 0, 0), (3, 1, 5), (2, 4, 0)):
        x, y, z = nib.affines.apply_affine(image.affine, voxel)
        assert converted.TransformIndexToPhysicalPoint(voxel) == pytest.approx((-x, -y, z))
        assert converted[voxel] == image.dataobj[voxel]


def test_moved_labels_are_those_with_the_largest_trilinear_weight() -> None:
    labels = np.random.default_rng(0).integers(0, 4, (7, 6, 5)).astype(np.int16)
    corner = (0.4, 0.3, 0.2)
    grid = nib.Nifti1Image(np.zeros((6, 5, 4), np.float32), nib.affines.from_matvec(np.eye(3), corner))
    masks = [(labels == label).astype(float) for label in range(4)]
    shares = [affine_transform(mask, np.eye(3), corner, grid.shape, order=1) for mask in masks]
    found = register.move_labels(nib.Nifti1Image(labels, np.eye(4)), grid)
    np.testing.assert_array_equal(found, np.argmax(shares, axis=0))
    away = sitk.TranslationTransform(3, (-1.0, 0.0, 0.0))  # LPS: to the right
    found = register.move_labels(nib.Nifti1Image(labels, np.eye(4)), nib.Nifti1Image(labels, np.eye(4)), away)
    np.testing.assert_array_equal(found[:-1], labels[1:])
    assert not found[-1].any()


def test_moved_labels_do_not_depend_on_the_order_of_the_ids() -> None:
    """Between voxels, eight neighbours have the same weight, so that ties are common."""
    labels = np.random.default_rng(0).choice([2, 3], (12, 12, 12)).astype(np.int16)
    between = nib.affines.from_matvec(2 * np.eye(3), (0.5, 0.5, 0.5))
    grid = nib.Nifti1Image(np.zeros((5, 5, 5), np.float32), between)
    found, exchanged = (register.move_labels(nib.Nifti1Image(each, np.eye(4)), grid) for each in (labels, 5 - labels))
    np.testing.assert_array_equal(exchanged, 5 - found)


def phantom(contrast: str, folder: Path) -> sitk.Image:
    path = folder / f"{contrast}.nii.gz"
    nib.save(make_phantom(contrast, spacing=(3, 3, 3)).image, path)
    return sitk.ReadImage(str(path), sitk.sitkFloat32)
