"""From a label map to its parcels."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from ball_brain import ball_brain
from bundle_inference import only_output

from midiff_monai.bundle.bundle import open_bundle
from midiff_monai.inferers import parcellate
from midiff_monai.parcels import CORTEX_REGIONS, REGIONS, WHITE_MATTER_REGIONS


def test_each_tissue_gets_its_most_probable_region() -> None:
    labels, affine = ball_brain()
    logits = torch.zeros(1, len(REGIONS), 2, 2, 2)
    cortex, white = CORTEX_REGIONS[7], WHITE_MATTER_REGIONS[2]
    logits[:, [REGIONS.index(cortex), REGIONS.index(white)]] = 1
    parcels = parcellate(labels, affine, lambda hemisphere: logits)
    expected = {3: cortex.left, 42: cortex.right, 2: white.left, 41: white.right}
    np.testing.assert_array_equal(parcels, np.vectorize(lambda label: expected.get(label, 0))(labels))


def test_without_a_cerebrum_there_are_no_parcels() -> None:
    labels = np.full((4, 4, 4), 16)
    assert not parcellate(labels, np.eye(4), lambda hemisphere: hemisphere).any()


def test_a_bundle_run_writes_the_parcels_of_a_label_map(tmp_path: Path) -> None:
    """The grid of the label map has flipped and permuted axes."""
    labels, affine = ball_brain()
    labels = np.ascontiguousarray(labels.transpose(1, 2, 0)[::-1])
    affine = affine[:, [1, 2, 0, 3]] @ np.array([[-1, 0, 0, len(labels) - 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    (tmp_path / "in").mkdir()
    nib.save(nib.Nifti1Image(labels, affine), tmp_path / "in" / "a_dseg.nii.gz")
    file = only_output("cortical_parcellation", tmp_path)
    assert file.name == "a_dseg_desc-parcels_dseg.nii.gz"
    stored = nib.Nifti1Image.from_filename(file)
    np.testing.assert_allclose(stored.affine, affine)
    network = open_bundle("cortical_parcellation", device="cpu", amp=False).setting("network")
    np.testing.assert_array_equal(stored.dataobj, parcellate(labels, affine, network))
