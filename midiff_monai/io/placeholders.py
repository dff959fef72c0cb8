"""Files whose content is not here: links and pointers of git-annex and Git LFS, saved web pages, archives."""

from __future__ import annotations

import os
import re
from pathlib import Path

from midiff_monai.errors import InputError

GZIP_MAGIC = b"\x1f\x8b"
"""First bytes of a file that gzip compressed."""

COPY_AGAIN = "Copy or export it again"
"""Hint for a file that is damaged."""

GET_ANNEX = (
    "is a placeholder of git-annex, its content is not here",
    "Get it first, with `datalad get` or `git annex get`",
)
GET_LFS = "is a pointer of Git LFS, its content is not here", "Get it first, with `git lfs pull`"
DOWNLOAD = "Download the file itself, for example from its link of raw data"
UNPACK = "Unpack it, and give the files in it"
DECOMPRESS = "Decompress it, or compress it with gzip instead"

CONTENTS = (
    (re.compile(rb"version https://(git-lfs\.github\.com|hawser\.github\.com)/"), *GET_LFS),
    (re.compile(rb"(/|\.git/|\.\./)*annex/objects/"), *GET_ANNEX),
    (
        re.compile(rb"(\xef\xbb\xbf)?\s*(<!--.*?-->\s*)*<(!doctype html|html|head|body)", re.I | re.S),
        "is a web page",
        DOWNLOAD,
    ),
    (re.compile(rb"(\xef\xbb\xbf)?\s*<\?xml.*?<Error>", re.S), "is the error message of a server", DOWNLOAD),
    (re.compile(rb"(\xef\xbb\xbf)?\s*\{\s*[\"}]"), "is a JSON document", DOWNLOAD),
    (re.compile(rb"PK\x03\x04"), "is a ZIP archive", UNPACK),
    (re.compile(rb"7z\xbc\xaf\x27\x1c"), "is a 7-Zip archive", UNPACK),
    (re.compile(rb"Rar!\x1a\x07"), "is a RAR archive", UNPACK),
    (re.compile(rb"BZh[1-9]1AY&SY"), "is compressed with bzip2", DECOMPRESS),
    (re.compile(rb"\xfd7zXZ\x00"), "is compressed with xz", DECOMPRESS),
    (re.compile(rb"\x28\xb5\x2f\xfd"), "is compressed with Zstandard", DECOMPRESS),
    (re.compile(rb".{257}ustar", re.S), "is a TAR archive", UNPACK),
)
"""How the content starts, the fault of such a file, and the hint."""


def placeholder_fault(start: bytes) -> tuple[str, str] | None:
    """Return the fault and the hint of a file that is not a volume by its first 512 bytes, otherwise None."""
    return next(((fault, hint) for pattern, fault, hint in CONTENTS if pattern.match(start)), None)


def is_text(start: bytes) -> bool:
    """Whether the first bytes of a file are text in UTF-8. A character may be cut off at their end."""
    text = start.decode("utf-8", errors="ignore")
    whole = len(start) - len(text.encode("utf-8")) < 4  # a character has four bytes at most
    return whole and all(letter.isprintable() or letter in "\ufeff\t\n\r\f" for letter in text)


def missing_file_error(path: Path) -> InputError:
    """Return the error for a path that does not exist: a link without a target, or a wrong path."""
    if not path.is_symlink():
        return InputError(path, "does not exist", "Check the path for typing errors")
    target = Path(os.readlink(path))
    if "annex" in target.parts:
        return InputError(path, *GET_ANNEX)
    return InputError(path, f"is a link to {target}, which does not exist", "Correct the link, or mount its folder")
