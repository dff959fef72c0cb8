"""What a process needs before its dependencies are imported: variables, threads, and how freed memory is kept.

MONAI asks for the user's name, matplotlib for its backend and a configuration folder, torch and numba for cache
folders. In a container, on a cluster or below a notebook these can be missing, unwritable or meant for another
process. Nothing here needs more than the standard library.
"""

from __future__ import annotations

import ctypes
import getpass
import os
import tempfile
from collections.abc import MutableMapping
from pathlib import Path

from midiff_monai.errors import InputError, OutputError
from midiff_monai.machine import thread_limit, usable_processors

CACHE_FOLDERS = {
    "MPLCONFIGDIR": "matplotlib",
    "NUMBA_CACHE_DIR": "numba",
    "TORCHINDUCTOR_CACHE_DIR": "torchinductor",
    "XDG_CACHE_HOME": "cache",
}
"""Variables that name a folder below the home folder unless they are set, and a name for that folder."""

MALLOC_OPTIONS = {
    "MALLOC_TRIM_THRESHOLD_": (-1, 2**31 - 1),
    "MALLOC_TOP_PAD_": (-2, 2**26),
    "MALLOC_MMAP_MAX_": (-4, 0),
}
"""Variable that glibc reads at its start → the same option of mallopt(3), and its value in bytes or blocks."""

ITK_THREADS = "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", ITK_THREADS)
"""Variables from which torch, NumPy and ITK take the number of their threads; torch obeys the first two."""

SPIN_COUNT = 1_000
"""Turns of the loop in which a thread of torch waits for the others before it sleeps; some tens of microseconds. Of two
runs with --fast at once, on two cores, each took 97 s with 10 000 turns, 60 s with 1000 and 62 s with none. One run
alone takes about 50 s with each of them."""


def make_environment_safe(variables: MutableMapping[str, str] = os.environ) -> None:
    """Set what dependencies need at their import. Values that a user has set stay, unless they cannot work.

    - `MPLBACKEND` becomes "Agg", because pictures are only written to files. A notebook passes a backend on to the
      processes it starts, where the module of that backend may not be installed.
    - `USER` is set where neither the environment nor the password database has the user's name.
    - `HOME` and the cache folders point to a temporary folder where the home folder cannot be written.
    - `TMPDIR` is removed where it cannot be written, so that another folder for temporary files is found.

    Raises:
        InputError: the working folder was removed, where torch cannot start.
        OutputError: temporary files can be written nowhere.
    """
    try:
        os.getcwd()
    except FileNotFoundError as error:
        raise InputError(".", "does not exist any more", "Change to a folder that exists") from error
    variables["MPLBACKEND"] = "Agg"
    if not _has_user_name():
        variables["USER"] = "user"
    if "TMPDIR" in variables and not _is_writable(Path(variables["TMPDIR"])):
        del variables["TMPDIR"]
    home = Path(variables.get("HOME", ""))
    if not variables.get("HOME") or not _is_writable(home):
        _move_home(variables, _temporary_folder())


def keep_freed_memory(variables: MutableMapping[str, str] = os.environ) -> None:
    """Let this process and those that it starts keep the memory that they free, for their next allocation.

    A network allocates and frees blocks of many megabytes in each layer. The C library glibc returns such blocks to the
    kernel, which clears every page again at the next allocation. Settings of the user stay. Other C libraries have no
    such option.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if set_option is None or "GLIBC_TUNABLES" in variables or not MALLOC_OPTIONS.keys().isdisjoint(variables):
        return
    for variable, (option, value) in MALLOC_OPTIONS.items():
        set_option(option, value)
        variables[variable] = str(value)


def return_freed_memory() -> None:
    """Return the memory that this process has freed and kept to the kernel.

    The volumes of a run have different sizes, and their blocks leave gaps of different sizes. The memory that is kept
    would thus grow from volume to volume.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim:
        trim(0)


def limit_spinning(variables: MutableMapping[str, str] = os.environ) -> None:
    """Let the threads of torch, and of processes that are started, wait for each other for a bounded time.

    The threads of an operation wait for the last one in a loop that occupies their cores. The OpenMP runtime of torch
    on Linux, GNU libgomp, ends the loop after 300 000 turns, which take more than ten milliseconds. Where two processes
    share the cores, the thread that is waited for often gets none meanwhile. A thread that sleeps at once is slow to
    wake up for the next operation. `SPIN_COUNT` bridges the gap between two operations. Settings of the user stay.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & variables.keys():
        variables["GOMP_SPINCOUNT"] = str(SPIN_COUNT)


def choose_threads(threads: int | None = None, variables: MutableMapping[str, str] = os.environ) -> None:
    """Set the number of threads of this process and of those that it starts.

    Args:
        threads: replaces all settings. None keeps those of the user, and without any takes one for each usable core.
        variables: the environment.
    """
    if threads:
        variables.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
        return
    default = str(thread_limit(variables) or usable_processors(variables))
    for name in ("OMP_NUM_THREADS", ITK_THREADS):
        variables.setdefault(name, default)


def _move_home(variables: MutableMapping[str, str], folder: Path) -> None:
    variables["HOME"] = str(folder)
    for variable, name in CACHE_FOLDERS.items():
        variables.setdefault(variable, str(folder / name))


def _temporary_folder() -> Path:
    """A private folder of this user for the caches, the same in each run."""
    try:
        folder = Path(tempfile.gettempdir()) / f"midiff-{getattr(os, 'getuid', getpass.getuser)()}"
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:  # no temporary folder, or one that another user has made
        fault = f"cannot be used for temporary files ({error.strerror or error})"
        raise OutputError(tempfile.tempdir or "/tmp", fault, "Set TMPDIR to a folder that can be written") from error
    if not _is_writable(folder):
        raise OutputError(folder, "belongs to another user", "Set TMPDIR to a folder that can be written")
    return folder


def _has_user_name() -> bool:
    try:
        getpass.getuser()
    except (KeyError, ImportError, OSError):  # the error differs with the platform and the version of Python
        return False
    return True


def _is_writable(folder: Path) -> bool:
    """Whether a file can be created in a folder. Permission bits do not show read-only mounts and quotas."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
