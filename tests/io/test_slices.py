"""Slices: what Pillow and ITK write is read, and what is written is read by them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray
from PIL import Image
from small_slices import disc, write_picture

from midiff_monai.errors import InputError
from midiff_monai.io.slices import (
    EQUAL_CHANNELS,
    check_image_size,
    is_slice,
    read_image,
    stored_range,
    write_image,
    write_slice,
)
from midiff_monai.io.volumes import reading_warnings, states_orientation

STORED = [
    (".png", np.uint8),
    (".png", np.uint16),
    (".tif", np.uint8),
    (".tiff", np.uint16),
    (".tif", np.int16),
    (".tif", np.float32),
    (".jpg", np.uint8),
    (".JPEG", np.uint8),
]


def pixels(dtype: Any) -> NDArray:
    return (disc(1, dtype=np.uint16).astype(np.float64) / 200).astype(dtype)  # up to 250


@pytest.mark.parametrize(("suffix", "dtype"), STORED)
def test_pixels_are_those_that_itk_wrote(suffix: str, dtype: Any, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix}"
    sitk.WriteImage(sitk.GetImageFromArray(pixels(dtype)), str(path))
    image = read_image(path)
    assert image.shape == (48, 40, 1) and is_slice(image) and states_orientation(image)
    expected = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    np.testing.assert_array_equal(np.asarray(image.dataobj)[..., 0], expected.T)


@pytest.mark.parametrize(("suffix", "dtype"), STORED)
def test_results_have_the_bit_depth_of_the_source(suffix: str, dtype: Any, tmp_path: Path) -> None:
    path, out = tmp_path / f"x{suffix}", tmp_path / f"y{suffix}"
    sitk.WriteImage(sitk.GetImageFromArray(pixels(dtype)), str(path))
    source = read_image(path)
    write_image(np.asarray(source.dataobj) * 0.5, source, out)
    written = sitk.ReadImage(str(out))
    assert written.GetPixelID() == sitk.ReadImage(str(path)).GetPixelID()
    tolerance = 10 if "j" in suffix.lower() else 0.5  # JPEG is lossy
    expected = np.asarray(source.dataobj)[..., 0].T * 0.5
    np.testing.assert_allclose(sitk.GetArrayFromImage(written), expected, atol=tolerance)


def test_big_endian_tiffs_are_read(tmp_path: Path) -> None:
    Image.frombytes("I;16B", (48, 40), pixels(np.uint16).astype(">u2").tobytes()).save(tmp_path / "x.tif")
    np.testing.assert_array_equal(np.asarray(read_image(tmp_path / "x.tif").dataobj)[..., 0].T, pixels(np.uint16))


def test_the_top_of_a_picture_is_the_front_of_the_brain(tmp_path: Path) -> None:
    """So the network sees slices the way round that the shipped prior was trained on."""
    affine = read_image(write_picture(tmp_path / "x.png")).affine
    np.testing.assert_array_equal(affine @ [0, 1, 0, 0], [0, -1, 0, 0])


def test_integers_are_clipped_to_their_range(tmp_path: Path) -> None:
    write_slice(np.array([[[-3.0]], [[254.6]], [[300.0]]]), np.uint8, tmp_path / "x.png")
    assert np.asarray(Image.open(tmp_path / "x.png")).tolist() == [[0, 255, 255]]


@pytest.mark.parametrize(
    ("dtype", "given", "expected"),
    [
        (np.uint8, (0, 1), (0, 255)),
        (np.uint16, (0, 1), (0, 65535)),
        (np.float32, (0, 1), (0, 1)),
        (np.uint8, (-5.0, 60.0), (-5.0, 60.0)),
    ],
)
def test_a_relative_scale_fills_the_range_of_integers(dtype: Any, given: Any, expected: Any, tmp_path: Path) -> None:
    image = read_image(write_picture(tmp_path / "x.tif", dtype=dtype))
    assert stored_range(image, given) == expected


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P"])
def test_equal_channels_are_read_as_one(mode: str, tmp_path: Path) -> None:
    Image.fromarray(pixels(np.uint8)).convert(mode).save(tmp_path / "x.png")
    image = read_image(tmp_path / "x.png")
    np.testing.assert_array_equal(np.asarray(image.dataobj)[..., 0].T, pixels(np.uint8))
    assert reading_warnings(image) == [EQUAL_CHANNELS]


# --- bad input ---


def coloured(path: Path) -> None:
    Image.fromarray(np.stack([pixels(np.uint8), pixels(np.uint8), 255 - pixels(np.uint8)], -1)).save(path)


def two_pages(path: Path) -> None:
    page = Image.fromarray(pixels(np.uint8))
    page.save(path, format="TIFF", save_all=True, append_images=[page])


def truncated(path: Path) -> None:
    write_picture(path)
    path.write_bytes(path.read_bytes()[:-200])


def not_finite(path: Path) -> None:
    Image.fromarray(np.where(pixels(np.float32) > 100, np.nan, 1).astype(np.float32)).save(path, format="TIFF")


@pytest.mark.parametrize(
    ("write", "suffix", "fault"),
    [
        (coloured, ".png", r"holds colours \(RGB\). Export the slice in shades of grey"),
        (two_pages, ".tif", "holds 2 pages"),
        (truncated, ".png", "cannot be read as an image"),
        (truncated, ".jpg", "cannot be read as an image"),
        (truncated, ".tif", "cannot be read as an image"),
        (not_finite, ".tif", "that are NaN or infinite"),
        (lambda path: path.write_text("no picture"), ".png", "cannot be read as an image"),
        (lambda path: path.touch(), ".png", "is empty"),
        (lambda path: Image.new("L", (48, 40)).save(path), ".png", "is constant: every voxel is 0"),
        (lambda path: Image.fromarray(pixels(np.uint8) > 100).save(path), ".png", "is black and white"),
        (lambda path: None, ".png", "does not exist"),
    ],
)
def test_one_line_says_why_a_file_is_refused(write: Any, suffix: str, fault: str, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix}"
    write(path)
    with pytest.raises(InputError, match=fault) as caught:
        read_image(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def test_another_size_than_in_training_is_refused(tmp_path: Path) -> None:
    image = read_image(write_picture(tmp_path / "x.png"))
    check_image_size(image, tmp_path / "x.png", (48, 40))
    with pytest.raises(InputError, match="has 48 x 40 pixels, and the bundle was trained on 40 x 48"):
        check_image_size(image, tmp_path / "x.png", (40, 48))
