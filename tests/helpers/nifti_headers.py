"""NIfTI files whose headers are edited without any check."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

SCANNER = np.array([[-0.9, 0, 0, 40], [0, 0.9, 0, -50], [0, 0, 3, -20], [0, 0, 0, 1.0]])
SCALED = np.diag([1.15, 1.1, 1.2, 1]) @ SCANNER
VOXELS = np.random.default_rng(0).integers(0, 2000, (12, 10, 8)).astype(np.int16)
NIFTI = ["a.nii", "a.nii.gz", "two.nii", "a.hdr"]
Edit = Callable[[nib.Nifti1Header], Any]


def write(path: Path, edit: Edit = lambda header: None, voxels: NDArray = VOXELS, endianness: str = "<") -> Path:
    """Write a NIfTI file with qform and sform of the scanner, and a header that is edited without any check."""
    image_class = nib.Nifti2Image if "two" in path.name else nib.Nifti1Pair if ".hdr" in path.name else nib.Nifti1Image
    image = image_class(voxels, SCANNER, image_class.header_class(endianness=endianness), dtype=voxels.dtype)
    image.set_qform(SCANNER, 1)
    image.set_sform(SCANNER, 1)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)
    opener = nib.openers.Opener
    with opener(str(path)) as file:
        content = file.read()
    header = image_class.header_class.from_fileobj(nib.openers.Opener(str(path)), check=False)
    edit(header)
    size = header.sizeof_hdr
    with opener(str(path), "wb") as file:
        file.write(header.binaryblock[:size] + content[size:])
    return path


def sform(matrix: NDArray[np.float64], code: int, qform_code: int = 1) -> Edit:
    def edit(header: nib.Nifti1Header) -> None:
        header["srow_x"], header["srow_y"], header["srow_z"] = matrix[:3]
        header["sform_code"], header["qform_code"] = code, qform_code

    return edit


def fields(**values: Any) -> Edit:
    def edit(header: nib.Nifti1Header) -> None:
        for name, value in values.items():
            header[name] = value

    return edit


def pixdim(*sizes: float, **values: Any) -> Edit:
    def edit(header: nib.Nifti1Header) -> None:
        fields(**values)(header)
        header["pixdim"][1:4] = sizes

    return edit
