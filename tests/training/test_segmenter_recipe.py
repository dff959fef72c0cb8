"""The training data of the segmenter's configuration: labels and images of synthetic scans belong together."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigParser

from midiff_monai.bundle.resources import bundle_root
from midiff_monai.labels import FREESURFER_IDS
from midiff_monai.transforms.meta import as_plain_tensor

CONFIGURATION = bundle_root("t1_brain_segmentation") / "configs" / "train.yaml"
LESION, WHITE, SCALP = 25, 2, 511
MARGIN = (25, 25, 30)
"""Voxels that the configuration adds around the brain."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four label maps, of which the last three are held back, and the synthetic T1w of a scan of the first one."""
    generator = np.random.default_rng(0)
    ids = np.array([*FREESURFER_IDS, LESION, SCALP])
    labels = ids[generator.integers(len(ids), size=(16, 16, 16))].astype(np.int16)
    affine = np.array([[0, 0, -1, 0], [1.0, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
    for name in "abcd":
        nib.save(nib.Nifti1Image(labels, affine), tmp_path / f"{name}.nii.gz")
    synthetic = generator.uniform(0.1, 1, labels.shape).astype(np.float32)
    synthetic[:4] = 0
    nib.save(nib.Nifti1Image(synthetic, affine), tmp_path / "a_scan1_synthT1w.nii.gz")
    return tmp_path


def test_labels_of_a_synthetic_scan_are_classes_where_the_image_is_known(folder: Path) -> None:
    parser = ConfigParser()
    parser.read_config(str(CONFIGURATION))
    for key in ("label_map_dir", "synthetic_dir", "dataset_dir"):
        parser[key] = str(folder)
    (sample,) = parser.get_parsed_content("synthetic_scans")
    for transform in parser.get_parsed_content("synthetic_scan#deterministic_transforms"):
        sample = transform(sample)
    inner = tuple(slice(width, -width) for width in MARGIN)
    label, image = (as_plain_tensor(sample[key]).numpy()[0][inner] for key in ("label", "image"))

    stored = (nib.as_closest_canonical(nib.load(folder / name)) for name in ("a.nii.gz", "a_scan1_synthT1w.nii.gz"))
    ids, synthetic = (np.asarray(volume.dataobj) for volume in stored)
    expected = np.where(ids == LESION, WHITE, np.where(ids == SCALP, 0, ids)) * (synthetic > 0)
    np.testing.assert_array_equal(np.array(FREESURFER_IDS)[label], expected)
    assert ((image > 0) == (synthetic > 0)).all()
