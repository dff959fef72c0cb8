"""Files of a volume that are missing, damaged, or not compressed as their names say."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from midiff_monai.errors import InputError
from midiff_monai.io.volumes import read_volume

VOXELS = np.random.default_rng(0).integers(1, 2000, (12, 10, 8)).astype(np.int16)
AFFINE = np.diag([2.0, 2, 3, 1])
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n"


def refused(path: Path, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_volume(path)


def compressed_metaimage(path: Path) -> Path:
    """Write a compressed MetaImage and return the file with its voxels."""
    sitk.WriteImage(sitk.GetImageFromArray(VOXELS), str(path), True)
    np.testing.assert_array_equal(read_volume(path).get_fdata(), VOXELS.T)
    return path.with_suffix(".zraw") if path.suffix == ".mhd" else path


class TestCompressedMetaImage:
    """ITK reports damaged voxels on stderr alone, and returns what was in the memory."""

    @pytest.mark.parametrize("name", ["a.mha", "a.mhd"])
    @pytest.mark.parametrize("place", [0.5, 0.999])
    def test_a_flipped_byte_is_found(self, name: str, place: float, tmp_path: Path) -> None:
        stored = compressed_metaimage(tmp_path / name)
        content = bytearray(stored.read_bytes())
        content[int(place * len(content))] ^= 0xFF
        stored.write_bytes(content)
        refused(tmp_path / name, "is corrupt")

    @pytest.mark.parametrize("name", ["a.mha", "a.mhd"])
    def test_a_missing_end_is_found(self, name: str, tmp_path: Path) -> None:
        stored = compressed_metaimage(tmp_path / name)
        stored.write_bytes(stored.read_bytes()[:-100])
        refused(tmp_path / name, "is truncated")


class TestNames:
    def test_a_file_that_is_compressed_twice(self, tmp_path: Path) -> None:
        nib.save(nib.Nifti1Image(VOXELS, AFFINE), tmp_path / "a.nii.gz")
        (tmp_path / "a.nii.gz").write_bytes(gzip.compress((tmp_path / "a.nii.gz").read_bytes()))
        refused(tmp_path / "a.nii.gz", r"is compressed twice\. Decompress it once")

    def test_mgz_that_is_not_compressed(self, tmp_path: Path) -> None:
        nib.save(nib.MGHImage(VOXELS, AFFINE), tmp_path / "a.mgh")
        refused((tmp_path / "a.mgh").rename(tmp_path / "a.mgz"), r"named \.mgz but is not compressed.*\.mgh")

    def test_mgh_that_is_compressed(self, tmp_path: Path) -> None:
        nib.save(nib.MGHImage(VOXELS, AFFINE), tmp_path / "a.mgz")
        refused((tmp_path / "a.mgz").rename(tmp_path / "a.mgh"), r"compressed but not named \.mgz.*end in \.mgz")

    def test_a_suffix_in_upper_case_is_read_and_one_of_mixed_case_refused(self, tmp_path: Path) -> None:
        nib.save(nib.Nifti1Image(VOXELS, AFFINE), tmp_path / "a.nii.gz")
        upper = (tmp_path / "a.nii.gz").rename(tmp_path / "A.NII.GZ")
        np.testing.assert_array_equal(read_volume(upper).get_fdata(), VOXELS)
        refused(upper.rename(tmp_path / "A.Nii.gz"), r"mixes upper and lower case \(A\.Nii\.gz\)")

    def test_a_pair_of_mixed_case_is_refused(self, tmp_path: Path) -> None:
        nib.save(nib.Nifti1Pair(VOXELS, AFFINE), tmp_path / "a.img")
        (tmp_path / "a.img").rename(tmp_path / "a.IMG")
        refused(tmp_path / "a.hdr", r"mixes upper and lower case \(a\.hdr and a\.IMG\)")


class TestOtherHalf:
    """A volume of two files is there when both are."""

    @pytest.mark.parametrize(("name", "other"), [("a.hdr", "a.img"), ("a.img", "a.hdr"), ("a.mhd", "a.raw")])
    def test_missing_and_placeholders(self, name: str, other: str, tmp_path: Path) -> None:
        if name == "a.mhd":
            sitk.WriteImage(sitk.GetImageFromArray(VOXELS), str(tmp_path / name))
        else:
            nib.save(nib.Nifti1Pair(VOXELS, AFFINE), tmp_path / "a.img")
        read_volume(tmp_path / name)
        (tmp_path / other).write_bytes(LFS)
        refused(tmp_path / name, rf"{other}: is a pointer of Git LFS")
        (tmp_path / other).unlink()
        refused(tmp_path / name, rf"{other}: does not exist")
        (tmp_path / other).symlink_to("../.git/annex/objects/a/b")
        refused(tmp_path / name, rf"{other}: is a placeholder of git-annex")
