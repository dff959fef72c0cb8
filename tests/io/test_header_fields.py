"""Fields of NIfTI headers other than those of the grid: codes, dimensions, data types and scale factors."""

from __future__ import annotations

import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nifti_headers import NIFTI, SCALED, SCANNER, VOXELS, fields, sform, write

from midiff_monai.errors import InputError
from midiff_monai.io.volumes import read_volume, reading_warnings, states_orientation


class TestOtherFields:
    @pytest.mark.parametrize("name", NIFTI)
    def test_an_unknown_code_does_not_lose_the_orientation(self, name: str, tmp_path: Path) -> None:
        image = read_volume(write(tmp_path / name, fields(sform_code=9, qform_code=0)))
        np.testing.assert_allclose(image.affine, SCANNER, atol=1e-5)
        assert states_orientation(image) and reading_warnings(image)[0].startswith("The header has an unknown sform")

    def test_an_sform_of_no_numbers_gives_way_to_the_qform(self, tmp_path: Path) -> None:
        broken = SCANNER.copy()
        broken[0, 3] = np.nan
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            image = read_volume(write(tmp_path / "a.nii", sform(broken, 1)))
        np.testing.assert_allclose(image.affine, SCANNER, atol=1e-5)
        assert "The qform is used, because the sform has a non-finite affine" in reading_warnings(image)[0]

    @pytest.mark.parametrize("qfac", [0, 7, np.nan])
    def test_an_invalid_handedness_is_1(self, qfac: float, tmp_path: Path) -> None:
        def edit(header: nib.Nifti1Header) -> None:
            header["pixdim"][0], header["sform_code"] = qfac, 0
            header["quatern_b"] = header["quatern_c"] = header["quatern_d"] = 0

        np.testing.assert_allclose(
            read_volume(write(tmp_path / "a.nii", edit)).affine[:3, :3], np.diag([0.9, 0.9, 3]), atol=1e-5
        )

    @pytest.mark.parametrize("name", ["a.nii", "two.nii", "a.nii.gz"])
    @pytest.mark.parametrize("offset", [0, 348])
    def test_an_offset_inside_the_header_is_that_of_the_first_voxel(
        self, offset: int, name: str, tmp_path: Path
    ) -> None:
        image = read_volume(write(tmp_path / name, fields(vox_offset=offset)))
        np.testing.assert_array_equal(image.get_fdata(), VOXELS)
        assert "are read from byte" in reading_warnings(image)[0]

    @pytest.mark.parametrize("code", [-3, 6, 1000])
    def test_an_unknown_sform_code_counts_as_none(self, code: int, tmp_path: Path) -> None:
        image = read_volume(write(tmp_path / "a.nii", sform(SCALED, code)))
        np.testing.assert_allclose(image.affine, SCANNER, atol=1e-5)

    def test_unused_axes_of_size_0_are_ignored(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.nii", fields(dim=[5, 12, 10, 8, 0, -1, 1, 1]))
        np.testing.assert_array_equal(read_volume(path).get_fdata(), VOXELS)

    @pytest.mark.parametrize("offset", [np.nan, -1])
    def test_an_invalid_offset_is_that_of_the_first_voxel(self, offset: float, tmp_path: Path) -> None:
        np.testing.assert_array_equal(
            read_volume(write(tmp_path / "a.nii", fields(vox_offset=offset))).get_fdata(), VOXELS
        )

    @pytest.mark.parametrize("size", [0, 17, 10**6, -16])
    def test_a_damaged_header_extension_is_ignored(self, size: int, tmp_path: Path) -> None:
        path = write(tmp_path / "a.nii", fields(vox_offset=368))
        content = path.read_bytes()
        extension = bytes([1, 0, 0, 0]) + np.array([size, 4], "<i4").tobytes() + b"12345678"
        path.write_bytes(content[:348] + extension + content[352:])
        np.testing.assert_array_equal(read_volume(path).get_fdata(), VOXELS)

    @pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "two.nii"])
    @pytest.mark.parametrize(("surplus", "slices"), [(0, 0), (100, 0), (240, 1), (VOXELS.nbytes, 8)])
    def test_voxels_that_the_header_does_not_declare_give_a_warning(
        self, surplus: int, slices: int, name: str, tmp_path: Path
    ) -> None:
        """As of a time series whose header says that it has three axes."""
        path = write(tmp_path / name)
        with nib.openers.Opener(str(path)) as file:
            content = file.read()
        with nib.openers.Opener(str(path), "wb") as file:
            file.write(content + bytes(surplus))
        expected = [f"The file holds {slices} slices more than its header declares: check its dimensions."]
        assert reading_warnings(read_volume(path)) == (expected if slices else [])


class TestIntensities:
    @pytest.mark.parametrize("name", NIFTI)
    @pytest.mark.parametrize("slope", [0, np.nan, np.inf])
    def test_an_invalid_slope_means_no_scaling(self, slope: float, name: str, tmp_path: Path) -> None:
        path = write(tmp_path / name, fields(scl_slope=slope, scl_inter=5))
        np.testing.assert_array_equal(read_volume(path).get_fdata(), VOXELS)

    def test_an_invalid_intercept_is_0(self, tmp_path: Path) -> None:
        image = read_volume(write(tmp_path / "a.nii", fields(scl_slope=2, scl_inter=np.nan)))
        np.testing.assert_array_equal(image.get_fdata(), 2 * VOXELS)
        assert "intercept" in reading_warnings(image)[0]

    @pytest.mark.parametrize("endianness", ["<", ">"])
    @pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"])
    def test_every_real_data_type_of_either_byte_order_is_read(
        self, dtype: str, endianness: str, tmp_path: Path
    ) -> None:
        voxels = (VOXELS % 120).astype(dtype)
        for name in NIFTI:
            path = write(tmp_path / name, voxels=voxels, endianness=endianness)
            np.testing.assert_array_equal(read_volume(path).get_fdata(), VOXELS % 120)

    @pytest.mark.parametrize(
        ("code", "bits", "fault"),
        [
            (32, 64, "complex numbers"),
            (1792, 128, "complex numbers"),
            (128, 24, "colours"),
            (2304, 32, "colours"),
            (1, 1, "cannot be read as an image"),
            (1536, 128, "cannot be read as an image"),
            (999, 16, "cannot be read as an image"),
        ],
    )
    def test_other_data_types_are_refused(self, code: int, bits: int, fault: str, tmp_path: Path) -> None:
        path = write(tmp_path / "a.nii", fields(datatype=code, bitpix=bits))
        with pytest.raises(InputError, match=fault) as caught:
            read_volume(path)
        assert "\n" not in str(caught.value)
