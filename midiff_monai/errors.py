"""Errors that a user can act on: each names the file, the fault and the mend."""

from __future__ import annotations

from pathlib import Path


def in_one_line(error: Exception) -> str:
    """What an error says, without its line breaks."""
    return " ".join(str(error).split())


class MidiffError(Exception):
    """Base of every error that `midiff` reports in one line and answers with exit code 2."""


class InputError(MidiffError):
    """An input cannot be used.

    Args:
        path: the offending file or folder.
        fault: what is wrong with it, as a clause ("is empty").
        mend: what the user can do about it, as an imperative sentence without its full stop.
    """

    def __init__(self, path: str | Path, fault: str, hint: str) -> None:
        self.path, self.fault, self.hint = Path(path), fault, hint
        super().__init__(f"{path}: {fault}. {hint}.")


class OutputError(InputError):
    """An output cannot be written; same fields as `InputError`."""


class BundleError(InputError):
    """A bundle is missing, incomplete or not the one its metadata describes; same fields as `InputError`."""
