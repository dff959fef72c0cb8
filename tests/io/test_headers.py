"""NIfTI and ANALYZE headers that contradict themselves or that nobody can believe."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import voxel_sizes
from nifti_headers import NIFTI, SCALED, SCANNER, VOXELS, fields, pixdim, sform, write
from numpy.typing import NDArray

from midiff_monai.errors import InputError
from midiff_monai.io.volumes import read_volume, reading_warnings, states_orientation, write_like


@pytest.mark.parametrize("name", NIFTI)
def test_a_consistent_header_gives_no_warning(name: str, tmp_path: Path) -> None:
    image = read_volume(write(tmp_path / name))
    assert reading_warnings(image) == []
    np.testing.assert_allclose(image.affine, SCANNER, atol=1e-5)


SHEARED = SCANNER @ nib.affines.from_matvec([[1, 0.2, 0], [0, 1, 0], [0, 0, 1]])
MIRRORED = np.diag([-1, 1, 1, 1]) @ SCANNER
MOVED = nib.affines.from_matvec(np.eye(3), [0, 0, 9]) @ SCANNER
TURNED = nib.affines.from_matvec([[0.96, -0.28, 0], [0.28, 0.96, 0], [0, 0, 1]]) @ SCANNER
SINGULAR = np.diag([1, 1, 0, 1]) @ SCANNER


@pytest.mark.parametrize("name", NIFTI)
@pytest.mark.parametrize(
    ("matrix", "code", "used", "texts"),
    [
        pytest.param(SCALED, 4, SCANNER, ["0.9 x 0.9 x 3", "1.035 x 0.99 x 3.6", "standard space"], id="scaled, MNI"),
        pytest.param(SCALED, 2, SCANNER, ["standard space"], id="scaled, aligned"),
        pytest.param(SCALED, 1, SCALED, ["1.035 x 0.99 x 3.6", "The sform is used"], id="scaled, scanner"),
        pytest.param(SHEARED, 1, SCANNER, ["the sform has a sheared affine"], id="sheared"),
        pytest.param(SINGULAR, 4, SCANNER, ["the sform has a singular affine"], id="singular"),
        pytest.param(MIRRORED, 1, MIRRORED, ["mirror images", "The sform is used"], id="mirrored"),
        pytest.param(MOVED, 4, MOVED, ["differ by up to 3 voxels", "The sform is used"], id="moved"),
        pytest.param(TURNED, 2, TURNED, ["differ by up to", "The sform is used"], id="turned"),
    ],
)
def test_sform_against_qform_gives_a_warning(
    name: str, matrix: NDArray, code: int, used: NDArray, texts: list[str], tmp_path: Path
) -> None:
    image = read_volume(write(tmp_path / name, sform(matrix, code)))
    np.testing.assert_allclose(image.affine, used, atol=1e-4)
    (warning,) = reading_warnings(image)
    assert all(text in warning for text in texts), warning


def test_sform_without_qform_is_compared_with_the_voxel_size(tmp_path: Path) -> None:
    image = read_volume(write(tmp_path / "a.nii", sform(SCALED, 4, qform_code=0)))
    np.testing.assert_allclose(image.affine, SCALED, atol=1e-4)
    (warning,) = reading_warnings(image)
    assert "1.035 x 0.99 x 3.6 and 0.9 x 0.9 x 3. The sform is used" in warning


def test_a_shift_of_less_than_a_voxel_gives_no_warning(tmp_path: Path) -> None:
    shifted = nib.affines.from_matvec(np.eye(3), [0.4, 0, 1]) @ SCANNER
    assert reading_warnings(read_volume(write(tmp_path / "a.nii", sform(shifted, 1)))) == []


@pytest.mark.parametrize("name", NIFTI)
def test_written_volume_keeps_sform_and_qform_of_a_contradictory_header(name: str, tmp_path: Path) -> None:
    """The result overlays the input in every viewer, whichever of the two the viewer uses."""
    path = write(tmp_path / name, sform(SCALED, 4))
    write_like(VOXELS, read_volume(path), tmp_path / "out.nii.gz", np.int16)
    written = nib.Nifti1Image.from_filename(tmp_path / "out.nii.gz")
    for get, expected in (("get_sform", SCALED), ("get_qform", SCANNER)):
        np.testing.assert_allclose(getattr(written, get)(), expected, atol=1e-4)
    assert (int(written.header["sform_code"]), int(written.header["qform_code"])) == (4, 1)


@pytest.mark.parametrize("name", NIFTI)
@pytest.mark.parametrize("excess", [1e-6, 1e-4, 0.5])
def test_a_quaternion_longer_than_1_is_normalised(excess: float, name: str, tmp_path: Path) -> None:
    """FSL normalises it. The quaternion (0, 0, 0, 1) is a rotation by 180 degrees about z."""
    path = write(tmp_path / name, fields(quatern_b=0, quatern_c=0, quatern_d=1 + excess, sform_code=0))
    image = read_volume(path)
    np.testing.assert_allclose(image.affine[:3, :3], np.diag([-0.9, -0.9, -3]), atol=1e-3)
    assert len(reading_warnings(image)) == (excess > 0.01)
    write_like(VOXELS, image, tmp_path / "out.nii", np.int16)
    np.testing.assert_allclose(nib.load(tmp_path / "out.nii").affine, image.affine, atol=1e-3)  # type: ignore[attr-defined]


@pytest.mark.parametrize("affine", [np.eye(4), np.diag([-1, -1, 1, 1.0])])
def test_an_identity_affine_gives_a_warning(affine: NDArray[np.float64], tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(VOXELS, affine), tmp_path / "a.nii")
    (warning,) = reading_warnings(read_volume(tmp_path / "a.nii"))
    assert "affine of the header is the identity" in warning


def test_voxels_of_1_mm_without_an_orientation_give_a_warning(tmp_path: Path) -> None:
    image = read_volume(write(tmp_path / "a.nii", pixdim(1, 1, 1, sform_code=0, qform_code=0)))
    (warning,) = reading_warnings(image)
    assert "voxel size of 1 x 1 x 1 and no orientation" in warning and not states_orientation(image)


class TestUnits:
    @pytest.mark.parametrize("name", NIFTI)
    @pytest.mark.parametrize(("unit", "factor"), [("meter", 1e-3), ("micron", 1e3)])
    @pytest.mark.parametrize("codes", [(1, 1), (0, 1), (1, 0), (0, 0)])
    def test_metres_and_microns_become_millimetres(
        self, codes: tuple[int, int], unit: str, factor: float, name: str, tmp_path: Path
    ) -> None:
        def edit(header: nib.Nifti1Header) -> None:
            header["sform_code"], header["qform_code"] = codes
            for axis in "xyz":
                header[f"srow_{axis}"] *= factor
                header[f"qoffset_{axis}"] *= factor
            header["pixdim"][1:4] *= factor
            header.set_xyzt_units(unit)

        plain = read_volume(write(tmp_path / "twin.nii", fields(sform_code=codes[0], qform_code=codes[1])))
        image = read_volume(write(tmp_path / name, edit))
        np.testing.assert_allclose(image.affine, plain.affine, atol=1e-3)
        assert reading_warnings(image) == [] and states_orientation(image) == states_orientation(plain) == any(codes)
        write_like(VOXELS, image, tmp_path / "out.nii", np.int16)
        original, written = (nib.load(path) for path in (tmp_path / name, tmp_path / "out.nii"))
        np.testing.assert_allclose(written.affine, original.affine, rtol=1e-6)  # type: ignore[attr-defined]
        assert written.header.get_xyzt_units()[0] == unit  # type: ignore[attr-defined]

    def test_an_identity_is_looked_for_before_the_conversion(self, tmp_path: Path) -> None:
        image = nib.Nifti1Image(VOXELS, np.diag([1000, 1000, 1000, 1.0]))
        image.header.set_xyzt_units("micron")
        nib.save(image, tmp_path / "a.nii")
        found = read_volume(tmp_path / "a.nii")
        np.testing.assert_allclose(found.affine, np.eye(4))
        assert reading_warnings(found) == []

    @pytest.mark.parametrize(("unit", "word"), [("meter", "metres"), ("micron", "microns")])
    def test_a_unit_that_cannot_be_true_gives_a_warning(self, unit: str, word: str, tmp_path: Path) -> None:
        image = read_volume(write(tmp_path / "a.nii", lambda header: header.set_xyzt_units(unit)))
        np.testing.assert_allclose(voxel_sizes(image.affine), [0.9, 0.9, 3], rtol=1e-5)
        (warning,) = reading_warnings(image)
        assert f"lengths in {word}" in warning and "taken as millimetres" in warning

    @pytest.mark.parametrize("unit", [0, 2, 5, 7])
    def test_other_units_are_millimetres(self, unit: int, tmp_path: Path) -> None:
        image = read_volume(write(tmp_path / "a.nii", fields(xyzt_units=unit)))
        np.testing.assert_allclose(image.affine, SCANNER, atol=1e-5)


class TestVoxelSize:
    @pytest.mark.parametrize("name", NIFTI)
    @pytest.mark.parametrize("sizes", [(0, 0, 0), (0.9, 0.9, 0), (np.nan, 0.9, 3)])
    def test_a_missing_voxel_size_is_taken_from_the_sform(
        self, sizes: tuple[float, ...], name: str, tmp_path: Path
    ) -> None:
        image = read_volume(write(tmp_path / name, pixdim(*sizes)))
        np.testing.assert_allclose(image.affine, SCANNER, atol=1e-5)
        (warning,) = reading_warnings(image)
        assert "the voxel size of the sform is used" in warning
        write_like(VOXELS, image, tmp_path / "out.nii", np.int16)
        zooms = nib.Nifti1Image.from_filename(tmp_path / "out.nii").header.get_zooms()
        np.testing.assert_allclose(zooms, [0.9, 0.9, 3], rtol=1e-5)

    @pytest.mark.parametrize("name", NIFTI)
    @pytest.mark.parametrize("qform_code", [0, 1])
    def test_a_missing_voxel_size_without_sform_is_refused(self, qform_code: int, name: str, tmp_path: Path) -> None:
        path = write(tmp_path / name, pixdim(0.9, 0.9, 0, sform_code=0, qform_code=qform_code))
        with pytest.raises(InputError, match=r"has a voxel size of 0\.9 x 0\.9 x 0\. Correct the voxel size"):
            read_volume(path)

    def test_a_missing_voxel_size_of_analyze_is_refused(self, tmp_path: Path) -> None:
        nib.save(nib.AnalyzeImage(VOXELS, None), tmp_path / "a.img")
        content = bytearray((tmp_path / "a.hdr").read_bytes())
        content[80:92] = bytes(12)  # pixdim[1:4]
        (tmp_path / "a.hdr").write_bytes(content)
        with pytest.raises(InputError, match="has a voxel size of 0 x 0 x 0"):
            read_volume(tmp_path / "a.hdr")

    def test_a_negative_voxel_size_is_a_length(self, tmp_path: Path) -> None:
        image = read_volume(write(tmp_path / "a.nii", pixdim(-0.9, 0.9, -3, sform_code=0)))
        np.testing.assert_allclose(image.affine, SCANNER, atol=1e-5)

    def test_the_matrix_file_of_spm_is_compared_with_the_header(self, tmp_path: Path) -> None:
        nib.save(nib.Spm99AnalyzeImage(VOXELS, SCANNER), tmp_path / "a.img")
        assert reading_warnings(read_volume(tmp_path / "a.img")) == []
        content = bytearray((tmp_path / "a.hdr").read_bytes())
        content[88:92] = np.float32(5).tobytes()
        (tmp_path / "a.hdr").write_bytes(content)
        (warning,) = reading_warnings(read_volume(tmp_path / "a.img"))
        assert "0.9 x 0.9 x 5" in warning and "0.9 x 0.9 x 3" in warning


def test_real_headers_give_no_warning_without_a_contradiction(shared_data: Path) -> None:
    for path in (
        sorted(shared_data.glob("multicontrast/*_PD.nii.gz"))[:3] + sorted(shared_data.glob("open-ms/*.gz"))[:3]
    ):
        assert reading_warnings(read_volume(path)) == [], path


def test_a_scan_whose_sform_was_scaled_keeps_its_volume(shared_data: Path, tmp_path: Path) -> None:
    scan = nib.Nifti1Image.from_filename(shared_data / "multicontrast" / "301D00252_PD.nii.gz")
    image = nib.Nifti1Image(np.asarray(scan.dataobj), scan.affine)
    image.set_qform(scan.affine, 1)
    image.set_sform(np.diag([1.15, 1.1, 1.2, 1]) @ scan.affine, 4)
    image.header["pixdim"][1:4] = voxel_sizes(scan.affine)
    nib.save(image, tmp_path / "a.nii.gz")
    volume = read_volume(tmp_path / "a.nii.gz")
    np.testing.assert_allclose(volume.affine, scan.affine, atol=1e-4)
    assert len(reading_warnings(volume)) == 1
