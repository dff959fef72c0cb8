"""Whether the files of a volume are there, complete, and compressed as their names say."""

from __future__ import annotations

import gzip
import re
import zlib
from pathlib import Path
from typing import BinaryIO

from midiff_monai.errors import InputError
from midiff_monai.io.paths import PAIRED_SUFFIX, volume_files, volume_stem
from midiff_monai.io.placeholders import COPY_AGAIN, GZIP_MAGIC, is_text, missing_file_error, placeholder_fault
from midiff_monai.io.readers import MAX_VOXELS

MAX_BYTES = 8 * MAX_VOXELS
"""Largest accepted size of a decompressed file."""

COMPRESSED_SUFFIX = {".nii": ".nii.gz", ".mgh": ".mgz"}
"""Suffix of a file that is not compressed → suffix of the same file compressed."""

BINARY_SUFFIXES = (*COMPRESSED_SUFFIX, ".gz", ".mgz")
"""Suffixes of volumes whose files begin with a binary header. NRRD and MetaImage begin with text."""

PIECE_BYTES = 2**24

DEFLATED_METAIMAGE = re.compile(rb"^CompressedData\s*=\s*True", re.MULTILINE | re.IGNORECASE)

METAIMAGE_LOCAL = re.compile(rb"^ElementDataFile\s*=\s*LOCAL[ \t\r]*\n", re.MULTILINE)
"""The line after which the voxels of a MetaImage follow in the same file."""


def check_files(path: Path) -> int:
    """Check all files of a volume.

    Returns:
        Size of the file itself in bytes, decompressed.

    Raises:
        InputError: A file is missing, a placeholder, damaged, or not compressed as its name says.
    """
    for file in volume_files(path):
        check_file(file)
    _check_case(path)
    size = _check_compression(path)
    if path.suffix.lower() in (".mha", ".mhd"):
        _check_metaimage(path)
    return size


def check_file(path: Path) -> None:
    """Raise InputError if a file does not exist, is empty or cannot be opened, or is a placeholder or a web page."""
    if not path.exists():
        raise missing_file_error(path)
    if path.is_dir():
        raise InputError(path, "is a folder, not a volume", "Name the volume inside it")
    if path.stat().st_size == 0:
        raise InputError(path, "is empty", COPY_AGAIN)
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as error:
        raise InputError(path, f"cannot be opened ({error.strerror})", "Check its permissions") from error
    if found := placeholder_fault(start):
        raise InputError(path, *found)


def _check_case(path: Path) -> None:
    """nibabel finds the files of a volume if their suffixes are in lower case, or all in upper case."""
    if not path.name.lower().endswith((".nii.gz", *COMPRESSED_SUFFIX, ".mgz", *PAIRED_SUFFIX)):
        return
    files = volume_files(path)
    suffixes = "".join(file.name.removeprefix(volume_stem(file)) for file in files)
    if not (suffixes.islower() or suffixes.isupper()):
        names = " and ".join(file.name for file in files)
        raise InputError(path, f"mixes upper and lower case ({names})", "Write suffixes in lower case")


def _check_compression(path: Path) -> int:
    """Check that a file is compressed as its name says, and intact. Returns its decompressed size in bytes."""
    with path.open("rb") as file:
        start = file.read(512)
    compressed = start[:2] == GZIP_MAGIC
    suffix = path.suffix.lower()
    if suffix in BINARY_SUFFIXES and is_text(start):
        raise InputError(path, "is a text file, not a volume", "Name the volume")
    if suffix == ".gz" and not compressed:
        raise InputError(path, "is named .gz but is not compressed", "Rename it without .gz, or compress it with gzip")
    if suffix == ".mgz" and not compressed:
        raise InputError(path, "is named .mgz but is not compressed", "Rename it to end in .mgh")
    if suffix in COMPRESSED_SUFFIX and compressed:
        wanted = COMPRESSED_SUFFIX[suffix]
        fault = f"is compressed but not named {wanted.removeprefix('.nii')}"
        raise InputError(path, fault, f"Rename it to end in {wanted}")
    return _check_gzip(path) if compressed else path.stat().st_size


def _check_gzip(path: Path) -> int:
    # nibabel stops at the last voxel and never reads the checksum behind it, which alone reveals a flipped byte.
    size = 0
    try:
        with gzip.open(path) as file:
            while piece := file.read(PIECE_BYTES):
                if not size:
                    _check_start(path, piece)
                size += len(piece)
                _check_expansion(path, size)
    except EOFError as error:
        raise InputError(path, "is truncated", COPY_AGAIN) from error
    except (zlib.error, gzip.BadGzipFile) as error:
        raise InputError(path, f"is corrupt ({error})", COPY_AGAIN) from error
    return size


def _check_start(path: Path, start: bytes) -> None:
    """Check the start of the content of a compressed file."""
    if start[:2] == GZIP_MAGIC:
        raise InputError(path, "is compressed twice", "Decompress it once, with gunzip")
    if found := placeholder_fault(start[:512]):
        raise InputError(path, *found)


def _check_expansion(path: Path, size: int) -> None:
    if size > MAX_BYTES:
        raise InputError(path, f"expands to more than {MAX_BYTES >> 30} GiB", "Crop or downsample it")


def _check_metaimage(path: Path) -> None:
    """Check compressed voxels of a MetaImage: ITK reads damaged ones as what happens to be in the memory."""
    with path.open("rb") as file:
        header = file.read(65536)
        if not DEFLATED_METAIMAGE.search(header):
            return
        if local := METAIMAGE_LOCAL.search(header):
            file.seek(local.end())
            _check_deflated(path, file)
    for part in volume_files(path)[1:]:
        with part.open("rb") as file:
            _check_deflated(part, file)


def _check_deflated(path: Path, file: BinaryIO) -> None:
    inflater, size = zlib.decompressobj(wbits=47), 0  # 47: the format of zlib or of gzip, as MetaIO reads both
    try:
        while not inflater.eof and (piece := inflater.unconsumed_tail or file.read(PIECE_BYTES)):
            size += len(inflater.decompress(piece, PIECE_BYTES))
            _check_expansion(path, size)
    except zlib.error as error:
        raise InputError(path, f"is corrupt ({error})", COPY_AGAIN) from error
    if not inflater.eof:
        raise InputError(path, "is truncated", COPY_AGAIN)
