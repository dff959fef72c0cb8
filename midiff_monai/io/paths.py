"""Names of input and output files, and atomic writing."""

from __future__ import annotations

import glob
import itertools
import os
import re
import secrets
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from midiff_monai.errors import InputError, OutputError

PAIRED_SUFFIX = {".hdr": ".img", ".img": ".hdr"}
DATA_FILE = re.compile(rb"^(?:ElementDataFile\s*=|data ?file:)\s*(.+?)\s*$", re.MULTILINE | re.IGNORECASE)
"""The line of a MetaImage or NRRD header that names the file with the voxels."""

NUMBERED_SLICES = re.compile(r"([^%]*%\d?\dd[^%]*?|[^%]*%d[^%]*?) (\d+) (\d+)(?: ([1-9]\d*))?(?: \d+)?")
"""Numbered files with one slice each: a printf pattern, first number, last number, optional step (s%03d.raw 0 45 1)."""

MAX_SLICES = 2**16
"""Limit on the number of slice files. A damaged header may declare any number."""

MAX_NAME_BYTES = 255
"""Longest file name of common file systems, in bytes."""

STALE_SECONDS = 86400.0
"""A temporary file that did not change for this long was left by a killed run."""

CONTRAST = re.compile(r"(?:.*[_.-])?(T1w?|T2w?|T2star|PDw?|FLAIR|SWI|CT|PETw?|inplaneT[12])", re.IGNORECASE)
"""A file name without its suffix that ends in the name of a contrast."""

VOLUME_SUFFIXES = (".nii.gz", ".nii", ".mgz", ".mgh", ".nrrd", ".nhdr", ".mha", ".mhd", ".hdr", ".img")

SLICE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
"""Formats of single slices. A bundle translates either volumes or slices."""


def is_slice_name(path: str | Path) -> bool:
    """Return whether a file has the suffix of a slice, in upper or lower case."""
    return str(path).lower().endswith(SLICE_SUFFIXES)


def volume_stem(path: str | Path) -> str:
    """Return the file name without folder and suffix. `.nii.gz` counts as one suffix.

    >>> volume_stem("study.2/sub-01_PDw.nii.gz")
    'sub-01_PDw'

    Raises:
        InputError: The suffix is not one of `VOLUME_SUFFIXES` or `SLICE_SUFFIXES` (in upper or lower case).
    """
    name = Path(path).name
    for suffix in VOLUME_SUFFIXES + SLICE_SUFFIXES:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    raise InputError(path, "does not have the suffix of a volume", f"Convert it to one of {' '.join(VOLUME_SUFFIXES)}")


def without_contrast(stem: str) -> str:
    """Return a file name without suffix, without the contrast that it ends in.

    >>> without_contrast("sub-01_PDw"), without_contrast("scan_7"), without_contrast("T1")
    ('sub-01', 'scan_7', '')
    """
    match = CONTRAST.fullmatch(stem)
    return stem[: match.start(1)].rstrip("_.-") if match else stem


def volume_files(path: Path) -> tuple[Path, ...]:
    """Return all files of a volume: the file itself, and separate files with its voxels or its header.

    The others end with the first that is missing.
    """
    if (half := PAIRED_SUFFIX.get(path.suffix.lower())) is not None:
        halves = path.with_suffix(half), path.with_suffix(half.upper())
        return path, next(filter(Path.is_file, halves), halves[0])
    # a damaged header may hold anything
    files = [path.parent / name for name in _data_files(path) if name and "\0" not in name]
    present = list(itertools.takewhile(Path.is_file, files))
    return path, *present, *files[len(present) :][:1]


def _data_files(path: Path) -> list[str]:
    if not path.name.lower().endswith((".mhd", ".nhdr")):
        return []
    try:
        with path.open("rb") as file:
            header = file.read(65536)
    except OSError:  # read_volume reports it
        return []
    found = DATA_FILE.search(header)
    name = os.fsdecode(found[1]) if found else ""
    if name.split()[:1] == ["LIST"]:
        return os.fsdecode(header[found.end() :]).split("\n")[1:]  # type: ignore[union-attr]
    if numbered := NUMBERED_SLICES.fullmatch(name):
        first, last, step = (int(number or 1) for number in numbered.groups()[1:])
        return [numbered[1] % number for number in range(first, last + 1, step)[:MAX_SLICES]]
    return [] if name == "LOCAL" else [name]


def files_below(folder: Path, excluding: Path) -> list[Path]:
    """List the files of a folder and of its subfolders. Hidden folders are skipped, links are followed.

    Args:
        folder: The folder to search. Each real folder is searched once.
        excluding: A folder to skip.

    Raises:
        InputError: A folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise InputError(error.filename, f"cannot be read ({error.strerror})", "Check its permissions") from error

    found: list[Path] = []
    seen = {excluding.resolve()}
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=refuse):
        real = Path(parent).resolve()
        if real in seen:  # a link may point to a parent folder
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if name[0] != "."]
        found += [Path(parent) / name for name in names]
    return found


def check_writable(
    out_dir: str | Path, paths_to_write: Iterable[Path], overwrite: bool, inputs: Iterable[Path] = ()
) -> None:
    """Create the output folder and check, before the computation, that every output can be written.

    Args:
        out_dir: Output folder. It is created with its parents if it does not exist.
        paths_to_write: All files the run writes.
        overwrite: Whether existing files may be replaced.
        inputs: All files the run reads. They are never replaced, even with `overwrite`.

    Raises:
        OutputError: The folder is a file or not writable; or an output has too long a name, exists already, or is an
            input.
    """
    make_folder(Path(out_dir))
    sources = {os.path.realpath(path) for path in inputs}
    for path in paths_to_write:
        if len(os.fsencode(_temporary_name(path))) > MAX_NAME_BYTES:
            raise OutputError(path, "has too long a name for a file", "Shorten the name of the input")
        if os.path.realpath(path) in sources:
            raise OutputError(path, "is an input of this run and would be overwritten", "Choose another folder with -o")
        if path.exists() and not overwrite:
            raise OutputError(path, "exists already", "Use --overwrite, or choose another folder with -o")


def readable_name(path: Path) -> str:
    """The name of a file for titles. File names can be invalid Unicode."""
    return os.fsencode(path.name).decode(errors="replace")


def make_folder(folder: Path) -> None:
    """Create a folder with its parents. Raises OutputError if it is not writable."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Permission bits do not show read-only mounts, quotas and access lists. Only a trial write does.
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (FileExistsError, NotADirectoryError):
        raise OutputError(folder, "is a file or lies below one", "Choose another folder with -o") from None
    except OSError as error:
        reason = error.strerror or error
        raise OutputError(folder, f"cannot be written ({reason})", "Choose another folder with -o") from error


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Write a file atomically: it appears under its name only when it is complete and on disk.

    The `with` body writes to the temporary path it receives. That path is in the same folder, so the rename is atomic.
    It ends with the name of `path`, so libraries choose the same format from the suffix. If the body raises, the
    temporary file is removed and an existing file at `path` stays unchanged.

    Yields:
        The temporary path. No file exists there yet.
    """
    for left in path.parent.glob(f".????????.{glob.escape(path.name)}"):
        _remove_if_stale(left)
    temporary = path.with_name(_temporary_name(path))
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _temporary_name(path: Path) -> str:
    return f".{secrets.token_hex(4)}.{path.name}"


def _remove_if_stale(temporary: Path) -> None:
    with suppress(OSError):  # another run may remove or finish the file, or another user may own it
        if time.time() - temporary.stat().st_mtime > STALE_SECONDS:
            temporary.unlink()
