"""The registration of two scans of a head, compared with a known motion."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import register
import SimpleITK as sitk

from midiff_monai.evaluation.phantom import make_phantom


def test_a_known_motion_between_two_contrasts_is_found(tmp_path: Path) -> None:
    fixed, still = (phantom(name, tmp_path) for name in ("PD", "T1"))
    motion = sitk.Euler3DTransform((0, 0, 0), 0.06, -0.04, 0.05, (3.0, -4.0, 2.0))
    moving = sitk.Resample(still, still, motion.GetInverse(), sitk.sitkLinear, 0.0)
    found = register.register(fixed, moving)
    for point in np.random.default_rng(0).uniform(-60, 60, (20, 3)):  # mm, within the head
        assert np.linalg.norm(np.subtract(found.TransformPoint(point), motion.TransformPoint(point))) < 0.5


def phantom(contrast: str, folder: Path) -> sitk.Image:
    path = folder / f"{contrast}.nii.gz"
    nib.save(make_phantom(contrast, spacing=(3, 3, 3)).image, path)
    return sitk.ReadImage(str(path), sitk.sitkFloat32)
