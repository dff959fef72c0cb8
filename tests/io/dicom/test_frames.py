"""Series that are not a volume. Each is a valid series with one fault, and the error names that fault."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate
from pydicom.pixels import get_decoder
from pydicom.uid import HTJ2KLossless

from midiff_monai.errors import InputError
from midiff_monai.io.dicom.reader import read_series
from midiff_monai.io.dicom.series import find_series

AFFINE = np.array([[-0.9, 0, 0, 40], [0, -0.9, 0, 50], [0, 0, 3, -20], [0, 0, 0, 1]])


@pytest.fixture
def files(tmp_path: Path, write_dicom: Callable[..., list[Path]]) -> list[Path]:
    voxels = np.random.default_rng(0).integers(1, 2000, (7, 6, 5)).astype(np.int16)
    return write_dicom(tmp_path, voxels, AFFINE)


def edit(path: Path, change: Callable[[Dataset], Any]) -> None:
    image = dcmread(path)
    change(image)
    image.save_as(path)


def shift(path: Path, *millimetres: float) -> None:
    def move(image: Dataset) -> None:
        image.ImagePositionPatient = [
            float(x) + dx for x, dx in zip(image.ImagePositionPatient, millimetres, strict=True)
        ]

    edit(path, move)


def set_value(path: Path, keyword: str, value: Any) -> None:
    edit(path, lambda image: setattr(image, keyword, value))


def read(files: list[Path]) -> np.ndarray:
    (series,) = find_series(files[0].parent.iterdir())
    return read_series(series).affine


def assert_refused(files: list[Path], fault: str) -> None:
    with pytest.raises(InputError, match=fault):
        read(files)


def test_missing_slice_is_named_by_its_neighbours(files: list[Path]) -> None:
    files[2].unlink()
    kept = [*files[:2], *files[3:]]
    assert_refused(kept, rf"3 to 6 mm apart, the widest gap between {files[1].name} and {files[3].name}\. Export every")


def test_growing_spacing_is_refused(files: list[Path]) -> None:
    for k, file in enumerate(files):
        shift(file, 0, 0, 0.1 * k**2)
    assert_refused(files, r"3\.1 to 3\.7 mm apart")


def test_rounded_positions_are_accepted(files: list[Path]) -> None:
    for file, error in zip(files, (0.01, -0.01, 0.01, -0.01, 0.0), strict=True):
        shift(file, 0, 0, error)
    np.testing.assert_allclose(read(files), AFFINE, atol=0.02)


@pytest.mark.parametrize("tilt", [-18, 0.5])
def test_tilted_gantry_is_refused(files: list[Path], tilt: float) -> None:
    for k, file in enumerate(files):
        shift(file, 0, 3 * k * np.tan(np.radians(tilt)), 0)
    assert_refused(files, rf"shifted sideways by up to .* mm \({abs(tilt):.1f} degrees, a tilted gantry\)")


def test_one_slice_out_of_line_is_refused(files: list[Path]) -> None:
    shift(files[2], 0.5, 0, 0)
    assert_refused(files, r"shifted sideways by up to 0\.5 mm")


def test_duplicate_position_names_both_images(files: list[Path]) -> None:
    (copy := files[0].parent / "copy").write_bytes(files[1].read_bytes())
    with pytest.raises(InputError, match="several images at one position") as caught:
        read(files)
    assert copy.name in str(caught.value) and files[1].name in str(caught.value)


def test_mixed_orientations_are_refused(files: list[Path]) -> None:
    set_value(files[4], "ImageOrientationPatient", [0, 1, 0, 0, 0, -1])
    assert_refused(files, f"mixes orientations .* {files[4].name}|mixes orientations .*{files[4].name} and")


@pytest.mark.parametrize(
    ("keyword", "value", "fault"),
    [
        ("FrameOfReferenceUID", "1.2.3", "mixes frames of reference"),
        ("PixelSpacing", [0.9, 1.0], "mixes pixel spacings"),
        ("Rows", 3, "mixes matrix sizes"),
    ],
)
def test_differing_images_are_refused(files: list[Path], keyword: str, value: Any, fault: str) -> None:
    set_value(files[3], keyword, value)
    assert_refused(files, fault)


def test_single_slice_is_refused(files: list[Path]) -> None:
    for file in files[1:]:
        file.unlink()
    assert_refused(files, "series 004_PD_TSE holds a single slice")


@pytest.mark.parametrize("keyword", ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"])
def test_image_without_position_is_refused(files: list[Path], keyword: str) -> None:
    edit(files[1], lambda image: delattr(image, keyword))
    assert_refused(files, rf"{files[1].name}: has no usable position in space \({keyword} is missing\)")


@pytest.mark.parametrize("cosines", [[0] * 6, [1, 0, 0, 1, 0, 0], [2, 0, 0, 0, 1, 0], [1, 0, 0, 0.05, 1, 0]])
def test_orientation_without_right_angles_is_refused(files: list[Path], cosines: list[float]) -> None:
    for file in files:
        set_value(file, "ImageOrientationPatient", cosines)
    assert_refused(files, "does not hold two perpendicular unit vectors")


def test_coarsely_rounded_orientation_is_accepted(tmp_path: Path, write_dicom: Callable[..., list[Path]]) -> None:
    angle = np.radians(17)
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ AFFINE[:3, :3]
    voxels = np.random.default_rng(0).integers(1, 2000, (7, 6, 5)).astype(np.int16)
    files = write_dicom(tmp_path, voxels, affine)
    for file in files:
        edit(
            file, lambda image: setattr(image, "ImageOrientationPatient", [round(x, 4) for x in image[0x200037].value])
        )
    np.testing.assert_allclose(read(files), affine, atol=1e-3)


@pytest.mark.parametrize("spacing", [[0, 0], [0, 0.9], [-0.9, 0.9], [-0.9, -0.9]])
def test_pixel_spacing_must_be_positive(files: list[Path], spacing: list[float]) -> None:
    for file in files:
        set_value(file, "PixelSpacing", spacing)
    assert_refused(files, "PixelSpacing is not positive")


def test_compression_without_a_decoder_names_the_package(files: list[Path]) -> None:
    for file in files:
        image = dcmread(file)
        image.file_meta.TransferSyntaxUID = HTJ2KLossless
        image.PixelData = encapsulate([b"\xff\x4f\xff\x51" + bytes(50)])
        image["PixelData"].is_undefined_length = True
        image.save_as(file)
    if not get_decoder(HTJ2KLossless).is_available:
        assert_refused(files, "needs a package to decompress High-Throughput JPEG 2000 .* Install pylibjpeg")


def test_colours_are_refused(files: list[Path]) -> None:
    set_value(files[1], "PhotometricInterpretation", "RGB")
    assert_refused(files, f"{files[1].name}: is not a greyscale image")


def test_mosaic_is_refused(tmp_path: Path) -> None:
    """A real mosaic of a diffusion series, from the test data of nibabel."""
    shutil.copy(Path(nib.__file__).parent / "nicom" / "tests" / "data" / "0.dcm", tmp_path)
    (series,) = find_series(tmp_path.iterdir())
    with pytest.raises(InputError, match="0.dcm: is a Siemens mosaic"):
        read_series(series)
