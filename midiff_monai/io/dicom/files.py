"""DICOM files as they lie on disk: with or without preamble, gzip-compressed, empty, or not here yet.

Needs no DICOM package, so that folders can be searched without one.
"""

from __future__ import annotations

import gzip
import io
import re
import zlib
from pathlib import Path
from typing import BinaryIO

from midiff_monai.errors import InputError
from midiff_monai.io.placeholders import missing_file_error, placeholder_fault

GZIP_MAGIC = b"\x1f\x8b"

MAX_BYTES = 2**32
"""Largest accepted size of a decompressed file."""

_VALUE_REPRESENTATIONS = rb"(AE|AS|CS|DA|DS|IS|LO|LT|OB|PN|SH|ST|TM|UI|UL|UN|US)"

FIRST_ELEMENT = re.compile(
    rb"[\x02\x08]\x00.\x00" + _VALUE_REPRESENTATIONS  # explicit value representation, little endian
    + rb"|\x00\x08\x00." + _VALUE_REPRESENTATIONS  # explicit value representation, big endian
    + rb"|\x08\x00([\x01\x05\x08\x12-\x18]\x00[^\x00]|\x00\x00\x04)\x00\x00\x00",  # implicit value representation
    re.DOTALL,
)  # fmt: skip
"""Start of a DICOM file without preamble: an element of group 0002 or 0008 (PS3.5, 7.1)."""


def is_dicom(path: Path) -> bool:
    """Return whether a file starts like DICOM, or cannot be opened: reading it reports the reason later."""
    if not path.is_file():
        return False
    try:
        start = _read_start(path)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        return False
    except OSError:
        return True
    return start[128:132] == b"DICM" or FIRST_ELEMENT.match(start) is not None


def absence(path: Path) -> str:
    """Return why a file has no content, as a verb phrase. Empty for a file with content."""
    try:
        if not path.exists():
            return missing_file_error(path).fault
        if path.is_file() and path.stat().st_size == 0:
            return "is empty"
        found = placeholder_fault(_read_start(path)) if path.is_file() else None
        return found[0] if found else ""
    except (EOFError, zlib.error, gzip.BadGzipFile):
        return "is damaged"
    except OSError:
        return ""


def open_dicom(path: Path) -> BinaryIO:
    """Open a file for reading. A gzip-compressed file is decompressed in memory.

    Raises:
        InputError: A compressed file expands to more than `MAX_BYTES`.
    """
    with path.open("rb") as file:
        compressed = file.read(2) == GZIP_MAGIC
    if not compressed:
        return path.open("rb")
    with gzip.open(path) as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise InputError(path, f"expands to more than {MAX_BYTES >> 30} GiB", "Copy or export it again")
    return io.BytesIO(content)


def _read_start(path: Path) -> bytes:
    with path.open("rb") as file:
        start = file.read(512)
    if start[:2] != GZIP_MAGIC:
        return start
    with gzip.open(path) as compressed:
        return compressed.read(512)
