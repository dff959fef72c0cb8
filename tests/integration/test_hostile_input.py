"""Malformed headers, and files that hold more data than their header declares."""

from __future__ import annotations

import gzip
import struct
import tempfile
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import hypothesis.strategies as st
import nibabel as nib
import numpy as np
import pytest
from hypothesis import example, given, settings

from midiff_monai.errors import InputError
from midiff_monai.io import integrity
from midiff_monai.io.volumes import read_volume, write_like

SHAPE = (6, 5, 4)
MEBIBYTE = 2**20


def nifti_bytes() -> bytes:
    data = np.random.default_rng(0).integers(1, 1000, SHAPE).astype(np.int16)
    return nib.Nifti1Image(data, np.diag([2, 2, 3, 1])).to_bytes()


@contextmanager
def limited_memory(mebibytes: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < mebibytes * MEBIBYTE
    finally:
        tracemalloc.stop()


def read_or_refuse(content: bytes, suffix: str) -> nib.Nifti1Image | None:
    with tempfile.TemporaryDirectory() as folder, limited_memory(64):
        path = Path(folder) / f"scan{suffix}"
        path.write_bytes(content)
        try:
            image = read_volume(path)
        except InputError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            return None
        write_like(np.asarray(image.dataobj), image, Path(folder) / "out.nii", np.float32)
        written = nib.load(Path(folder) / "out.nii")
        assert isinstance(written, nib.Nifti1Image)
        np.testing.assert_allclose(written.affine, image.affine, rtol=1e-5, atol=1e-4)
        return image


@settings(max_examples=300)
@given(changes=st.dictionaries(st.integers(0, 351), st.integers(0, 255), min_size=1, max_size=6))
@example(changes={})
@example(changes={111: 95})  # the voxels start at byte 2.5e19
def test_a_header_with_any_bytes_is_read_or_refused(changes: dict[int, int]) -> None:
    """The result is a one-line error or a volume on the header's grid. Memory stays bounded."""
    content = bytearray(nifti_bytes())
    for position, value in changes.items():
        content[position] = value
    image = read_or_refuse(bytes(content), ".nii")
    assert image is not None or changes


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_header_that_declares_a_trillion_voxels_is_refused(suffix: str) -> None:
    content = bytearray(nifti_bytes())
    struct.pack_into("<4h", content, 40, 3, 10000, 10000, 10000)
    stored = gzip.compress(bytes(content)) if suffix.endswith("gz") else bytes(content)
    assert read_or_refuse(stored, suffix) is None


@pytest.mark.parametrize("kind", ["nrrd", "mha", "4-D nrrd", "many channels mha"])
def test_other_formats_that_declare_too_many_voxels_are_refused(kind: str, tmp_path: Path) -> None:
    headers = {
        "nrrd": "NRRD0004\ntype: float\ndimension: 3\nsizes: 10000 10000 10000\nencoding: raw\nendian: little\n\n",
        "4-D nrrd": "NRRD0004\ntype: float\ndimension: 4\nsizes: 100 100 100 1000000\n"
        "encoding: raw\nendian: little\n\n",
        "many channels mha": "NDims = 3\nDimSize = 100 100 100\nElementNumberOfChannels = 1000000\n"
        "ElementType = MET_FLOAT\nElementDataFile = LOCAL\n",
        "mha": "NDims = 3\nDimSize = 10000 10000 10000\nElementType = MET_FLOAT\nElementDataFile = LOCAL\n",
    }
    path = tmp_path / f"scan.{kind.split()[-1]}"
    path.write_bytes(headers[kind].encode() + bytes(64))
    with pytest.raises(InputError, match=r"1e\+12 voxels"):
        read_volume(path)


def test_a_compression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integrity, "MAX_BYTES", 2**28)
    path = tmp_path / "scan.nii.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(nifti_bytes())
        for _ in range(20):
            file.write(bytes(16 * MEBIBYTE))
    with limited_memory(64), pytest.raises(InputError, match="expands to more than"):
        read_volume(path)


@pytest.mark.parametrize("name", ["a b/sub 01.nii.gz", "ü/größe.nii", "x/../y.nii", "link.nii"])
def test_odd_names_are_read(name: str, tmp_path: Path) -> None:
    image = nib.Nifti1Image.from_bytes(nifti_bytes())
    path = tmp_path / name
    for folder in ("a b", "ü", "x"):
        (tmp_path / folder).mkdir()
    nib.save(image, tmp_path / "target.nii" if name == "link.nii" else path)
    if name == "link.nii":
        path.symlink_to(tmp_path / "target.nii")
    np.testing.assert_array_equal(np.asarray(read_volume(path).dataobj), np.asarray(image.dataobj))
