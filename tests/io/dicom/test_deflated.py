"""Deflated DICOM: a small file may expand to any size, even if only its header is read."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import DeflatedExplicitVRLittleEndian

from midiff_monai.errors import InputError
from midiff_monai.io.dicom.reader import DicomSeries, read_series
from midiff_monai.io.dicom.series import find_series

MEBIBYTE = 2**20


@pytest.fixture
def deflated(tmp_path: Path, write_dicom: Callable[..., list[Path]]) -> Path:
    """A small file that pydicom expands to 32 MiB."""
    (path,) = write_dicom(tmp_path, np.zeros((4096, 4096, 1), np.int16), np.eye(4))
    image = dcmread(path)
    image.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    image.save_as(path)
    assert path.stat().st_size < MEBIBYTE // 8
    return path


@pytest.mark.parametrize("known", [False, True])
def test_deflated_file_is_refused_before_it_expands(deflated: Path, known: bool) -> None:
    """When series are searched, and when a series that was found earlier is read again."""
    tracemalloc.start()
    try:
        (series,) = [DicomSeries((deflated,), "1.2", "MR", "PD", "004_PD")] if known else find_series([deflated])
        with pytest.raises(InputError, match=rf"{deflated.name}: is deflated DICOM.*\. Decompress it.*dcmconv \+te"):
            read_series(series)
        assert tracemalloc.get_traced_memory()[1] < 4 * MEBIBYTE
    finally:
        tracemalloc.stop()
