"""Where the messages of a command go: to the terminal and, on request, to a file. Needs the standard library alone."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from midiff_monai.errors import OutputError
from midiff_monai.io.paths import VOLUME_SUFFIXES

VERBOSE, NORMAL, QUIET = logging.DEBUG, logging.INFO, logging.ERROR
"""What the terminal shows: each step; what happens and what to check; errors only."""

PREFIXES = {logging.WARNING: "midiff: warning: ", logging.ERROR: "midiff: error: "}

_package = logging.getLogger("midiff_monai")


@contextmanager
def messages(shown: int, log_file: Path | None) -> Iterator[None]:
    """Send the messages of the package to the terminal and to a file while the `with` body runs.

    Args:
        shown: the lowest level that the terminal shows: `VERBOSE`, `NORMAL` or `QUIET`.
        log_file: gets every message with its time, after what it holds already, and the warnings of other packages.

    Raises:
        OutputError: the file cannot be written, or its name is that of a volume.
    """
    handlers = [(_package, _terminal(shown))]
    if log_file:
        handlers.append((logging.getLogger(), _file(log_file)))
    level = _package.level
    _package.setLevel(logging.DEBUG)
    for logger, handler in handlers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        _package.setLevel(level)
        for logger, handler in handlers:
            logger.removeHandler(handler)
            handler.close()


class _Prefixed(logging.Formatter):
    """Warnings and errors say from which program they come."""

    def format(self, record: logging.LogRecord) -> str:
        """The message in one piece, without time and level."""
        return PREFIXES.get(record.levelno, "") + record.getMessage()


def _terminal(shown: int) -> logging.Handler:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Prefixed())
    handler.setLevel(shown)
    handler.addFilter(lambda record: not record.exc_info)  # Python itself prints the traceback of a crash
    return handler


def _file(path: Path) -> logging.Handler:
    if path.name.lower().endswith(VOLUME_SUFFIXES):  # `--log-file scan.nii.gz other.nii.gz` must not damage the scan
        raise OutputError(path, "has the name of a volume", "Give the name of a text file after --log-file")
    try:
        handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        hint = "Name a file in a folder that exists and can be written"
        raise OutputError(path, f"cannot be written ({error.strerror or error})", hint) from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    return handler
