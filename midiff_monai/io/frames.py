"""Files that hold several volumes of one scan, such as the two echoes of a dual echo."""

from __future__ import annotations

import math
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.spatialimages import SpatialImage

from midiff_monai.errors import InputError
from midiff_monai.io.headers import times
from midiff_monai.io.volumes import load_image, validate_volume

MOST_FRAMES = 8
"""Most frames of a file that count as contrasts of one scan. Multi-echo scans have fewer, time series more."""


def read_frames(path: Path) -> list[nib.Nifti1Image]:
    """Read the frames of a file (X, Y, Z, N), or its single volume (X, Y, Z), each in the form of `read_volume`.

    Raises:
        InputError: The file cannot be read completely, a frame is not a usable volume, or there are more frames than
            `MOST_FRAMES`.
    """
    image = load_image(path)
    frames = math.prod(image.shape[3:])
    if frames <= 1:
        return [validate_volume(path, image)]
    if frames > MOST_FRAMES or image.shape[-1] != frames:
        fault = f"holds {frames} frames (shape {times(image.shape)}), as a time series does"
        raise InputError(path, fault, f"Extract those to use, 2 to {MOST_FRAMES} different contrasts")
    return [validate_volume(path, _frame(image, number)) for number in range(frames)]


def _frame(image: SpatialImage, number: int) -> SpatialImage:
    """One frame of an image, with its header. `image.slicer` needs an affine, which `headers` chooses only later."""
    return type(image)(np.asanyarray(image.dataobj[..., number]), image.affine, image.header, extra=image.extra)
