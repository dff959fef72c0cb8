"""DICOM files as they lie on disk: with or without preamble, gzip-compressed, empty, or not here yet.

Needs no DICOM package, so that folders can be searched without one.
"""

from __future__ import annotations

import gzip
import io
import re
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from midiff_monai.errors import InputError
from midiff_monai.io.placeholders import COPY_AGAIN, GZIP_MAGIC, missing_file_error, placeholder_fault

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


def content_fault(path: Path) -> tuple[str, str] | None:
    """Return the fault, as a verb phrase, and the hint of a file without content. None for a file with content."""
    try:
        if not path.exists():
            error = missing_file_error(path)
            return error.fault, error.hint
        if path.is_file() and path.stat().st_size == 0:
            return "is empty", COPY_AGAIN
        return placeholder_fault(_read_start(path)) if path.is_file() else None
    except (EOFError, zlib.error, gzip.BadGzipFile):
        return "is damaged", COPY_AGAIN
    except OSError:
        return None


def lost_images(others: Iterable[Path], images: Iterable[Path]) -> dict[Path, str]:
    """Find the files that should be DICOM images but have no content.

    Args:
        others: Files that are not DICOM.
        images: DICOM files. Only files in the same folders and with the same suffixes count as images.

    Returns:
        File → fault, as a verb phrase.
    """
    kinds = {(image.parent, image.suffix.lower()) for image in images}
    named_alike = (path for path in others if (path.parent, path.suffix.lower()) in kinds)
    return {path: fault[0] for path in named_alike if (fault := content_fault(path))}


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
        raise InputError(path, f"expands to more than {MAX_BYTES >> 30} GiB", COPY_AGAIN)
    return io.BytesIO(content)


def _read_start(path: Path) -> bytes:
    with path.open("rb") as file:
        start = file.read(512)
    if start[:2] != GZIP_MAGIC:
        return start
    with gzip.open(path) as compressed:
        return compressed.read(512)
