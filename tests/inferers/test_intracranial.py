"""The space inside the skull from the logits of a network."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_inference import only_output

from midiff_monai.bundle.choice import INTRACRANIAL
from midiff_monai.inferers import IntracranialSpace
from midiff_monai.training.muse import freesurfer_from_muse


def head(*shape: int) -> torch.Tensor:
    """A scan with the logits of a box of 12 × 12 × 12 voxels and of a smaller one, and a depth that holds both."""
    scan = torch.full(shape, -8.0)
    scan[4:16, 4:16, 4:16] = 8
    scan[-5:-1, -5:-1, -5:-1] = 8
    return torch.stack([scan, (scan > 0).float()])


def network(pair: torch.Tensor) -> torch.Tensor:
    """The scan as it is."""
    return pair[:, :1]


@pytest.mark.parametrize("shape", [(33, 40, 35), (32, 32, 32), (40, 34, 30)])
def test_only_the_largest_component_is_kept_whatever_the_shape(shape: tuple[int, ...]) -> None:
    sizes = []

    def recorded(pair: torch.Tensor) -> torch.Tensor:
        sizes.append(pair.shape)
        return network(pair)

    probability = IntracranialSpace().infer(head(*shape), recorded)
    expected = torch.zeros(shape, dtype=torch.bool)
    expected[4:16, 4:16, 4:16] = True
    assert torch.equal(probability[0] > 0.5, expected)
    assert all(size[:2] == (1, 2) and side % 16 == 0 for size in sizes for side in size[2:])
    # a fill of zeros, whose probability is a half, lies beyond the volume and does not count
    assert probability.sum() == pytest.approx(12**3, rel=0.01)


def test_a_head_and_its_mirror_image_have_mirrored_spaces() -> None:
    torch.manual_seed(0)
    convolution = torch.nn.Conv3d(2, 1, 3, padding=1)
    volume = head(33, 40, 35).abs() / 8 * torch.rand(2, 33, 40, 35)
    inferer = IntracranialSpace(multiple=1)
    straight, mirrored = inferer.infer(volume, convolution), inferer.infer(volume.flip(1), convolution)
    torch.testing.assert_close(straight, mirrored.flip(1))


def test_several_scans_are_averaged() -> None:
    first, depth = head(32, 32, 32)
    scans = torch.stack([first, torch.full_like(first, -8.0), depth])
    probability = IntracranialSpace().infer(scans + 0.01, network)
    assert probability[0, 8, 8, 8] == pytest.approx(0.5, abs=1e-2)


def test_only_the_surroundings_of_the_brain_are_seen() -> None:
    volume = torch.zeros(2, 90, 90, 90)
    volume[1, 40:50, 40:50, 40:50] = 1
    probability = IntracranialSpace(margin=8).infer(volume, lambda pair: torch.full_like(pair[:, :1], 9.0))
    found = (probability[0] > 0.5).nonzero()
    assert found.amin(dim=0).tolist() == [32] * 3 and found.amax(dim=0).tolist() == [57] * 3


def test_nothing_is_found_without_a_brain() -> None:
    assert not IntracranialSpace().infer(torch.zeros(2, 20, 20, 20), network).any()


def test_a_bundle_run_writes_the_mask_of_a_head(shared_data: Path, tmp_path: Path) -> None:
    """The grid of the head has flipped and permuted axes."""
    t1 = nib.Nifti1Image.from_filename(shared_data / "ixi-t1" / "IXI632-HH-2652_T1.nii.gz")
    turned = t1.as_reoriented(np.array([[1, -1], [2, 1], [0, -1]]))
    labels = nib.Nifti1Image.from_filename(shared_data / "ixi-t1" / "IXI632-HH-2652_T1_DLMUSE.nii.gz")
    truth = np.asarray(labels.as_reoriented(np.array([[1, -1], [2, 1], [0, -1]])).dataobj)
    (tmp_path / "in").mkdir()
    nib.save(turned, tmp_path / "in" / "a.nii.gz")
    nib.save(nib.Nifti1Image(freesurfer_from_muse(truth), turned.affine), tmp_path / "in" / "a_dseg.nii.gz")
    file = only_output(INTRACRANIAL, tmp_path)
    assert file.name == "a_desc-intracranial_mask.nii.gz"
    stored = nib.Nifti1Image.from_filename(file)
    np.testing.assert_allclose(stored.affine, turned.affine)
    assert stored.shape == truth.shape
    found = np.asarray(stored.dataobj) > 0
    assert 2 * (found & (truth > 0)).sum() / (found.sum() + (truth > 0).sum()) > 0.97
