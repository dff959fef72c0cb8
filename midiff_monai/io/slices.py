"""Slices: grey images in PNG, JPEG or TIFF, one slice a file. Each becomes an image (X, Y, 1) in memory."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from numpy.typing import DTypeLike, NDArray
from PIL import Image

from midiff_monai.errors import InputError, in_one_line
from midiff_monai.io.headers import times
from midiff_monai.io.integrity import check_file
from midiff_monai.io.paths import is_slice_name
from midiff_monai.io.readers import READING_WARNINGS
from midiff_monai.io.volumes import check_intensities, read_volume, write_like

STORED_TYPE = "stored type"
"""Key in `image.extra` of a slice: data type of the pixels in its file."""

GREY_MODES = ("L", "I", "F")
"""Modes of Pillow with one channel. Those of 16 bits begin with I;16."""

EQUAL_CHANNELS = "The image has channels of colour, and they are equal: one of them was read, and the result is grey."

PIXEL_GRID = np.diag([1.0, -1.0, 1.0, 1.0])
"""Affine of a slice: pixels of 1 mm stand for an unknown size, and the rows of a picture run from top to bottom."""

BITS_PER_SAMPLE = 258
"""Tag of a TIFF. Pillow reads signed integers of 16 bits as those of 32 bits."""


def read_image(path: str | Path) -> nib.Nifti1Image:
    """Read a volume with `read_volume`, or a slice with `read_slice`, by the suffix of the file."""
    return read_slice(path) if is_slice_name(path) else read_volume(path)


def read_slice(path: str | Path) -> nib.Nifti1Image:
    """Read a grey image and check that the networks can process it.

    Returns:
        An image (X, Y, 1) in memory: float32, finite, not constant, columns of the picture along X. Its affine counts
        pixels, because the size of a pixel is unknown.

    Raises:
        InputError: the file cannot be read completely, has colours or several pages, or is constant.
    """
    path = Path(path)
    check_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow, about metadata
            with Image.open(path) as picture:
                pixels, remarks = _grey_pixels(path, picture)
    except InputError:
        raise
    except Exception as error:  # Pillow's parsers raise their own errors, SyntaxError and struct.error
        fault = f"cannot be read as an image ({in_one_line(error)})"
        raise InputError(path, fault, "Export it again as PNG, JPEG or TIFF") from error
    data = pixels.T[..., None].astype(np.float32)
    check_intensities(path, data)
    image = nib.Nifti1Image(data, PIXEL_GRID)
    image.extra |= {STORED_TYPE: pixels.dtype, READING_WARNINGS: remarks}
    return image


def is_slice(image: nib.Nifti1Image) -> bool:
    """Return whether an image comes from `read_slice`."""
    return STORED_TYPE in image.extra


def check_image_size(image: nib.Nifti1Image, name: Path, size: tuple[int, int] | None) -> None:
    """Check that a slice has as many columns and rows as the slices that a bundle was trained on; None takes any.

    Raises:
        InputError: it has not. Anatomy of another scale would be translated badly.
    """
    if size and image.shape[:2] != size:
        fault = f"has {times(image.shape[:2])} pixels, and the bundle was trained on {times(size)}"
        raise InputError(name, fault, "Resize it or pad it, or use a bundle that was trained on its size")


def stored_range(image: nib.Nifti1Image, value_range: Sequence[float]) -> tuple[float, float]:
    """The intensities in the file of a result where the network gives 0 and 1.

    Args:
        image: the source.
        value_range: the range of the target. (0, 1) is no absolute scale: a slice of integers gets the range of its
            data type.
    """
    low, high = value_range
    if is_slice(image) and (low, high) == (0, 1) and np.issubdtype(image.extra[STORED_TYPE], np.integer):
        return 0.0, float(np.iinfo(image.extra[STORED_TYPE]).max)
    return low, high


def write_image(data: NDArray, reference: nib.Nifti1Image, path: Path, dtype: DTypeLike = np.float32) -> None:
    """Write (X, Y, Z) as the file of the reference is: a volume of the data type, or a slice in its own bit depth."""
    if is_slice(reference):
        write_slice(data, reference.extra[STORED_TYPE], path)
    else:
        write_like(data, reference, path, dtype)


def write_slice(data: NDArray, dtype: DTypeLike, path: Path) -> None:
    """Write a slice (X, Y, 1) in the format that the suffix names. Integers are rounded, and clipped to their range."""
    pixels = data[..., 0].T
    if np.issubdtype(dtype, np.integer):
        pixels = np.rint(pixels).clip(np.iinfo(dtype).min, np.iinfo(dtype).max)
    sitk.WriteImage(sitk.GetImageFromArray(np.ascontiguousarray(pixels, dtype=dtype)), str(path))


def _grey_pixels(path: Path, picture: Image.Image) -> tuple[NDArray, list[str]]:
    """The pixels (rows, columns) of a picture in the data type of its file, and sentences for the report."""
    if (pages := getattr(picture, "n_frames", 1)) > 1:
        raise InputError(path, f"holds {pages} pages", "Save each slice in a file of its own")
    if picture.mode == "1":
        raise InputError(path, "is black and white", "Export the slice in shades of grey")
    if picture.mode in GREY_MODES or picture.mode.startswith("I;16"):
        pixels = np.asarray(picture)
        return pixels.astype(_stored_type(picture, pixels)), []
    channels = np.asarray(picture.convert("RGB"))
    if (channels != channels[..., :1]).any():
        hint = "Export the slice in shades of grey: a colour is no intensity"
        raise InputError(path, f"holds colours ({picture.mode})", hint)
    return channels[..., 0], [EQUAL_CHANNELS]


def _stored_type(picture: Image.Image, pixels: NDArray) -> np.dtype:
    if picture.mode == "I" and picture.format == "PNG":
        return np.dtype(np.uint16)
    if picture.mode == "I" and getattr(picture, "tag_v2", {}).get(BITS_PER_SAMPLE) == (16,):
        return np.dtype(np.int16)
    return pixels.dtype.newbyteorder("=")
