"""Errors for the user. Each error names the file, the fault and what to do about it."""

from __future__ import annotations

from pathlib import Path


def in_one_line(error: BaseException) -> str:
    """Return the message of an error without its line breaks."""
    return " ".join(str(error).split())


class MidiffError(Exception):
    """Base class of expected errors. The command line prints them in one line and exits with code 2."""


class InputError(MidiffError):
    """An input cannot be used.

    Args:
        path: The file or folder.
        fault: What is wrong, as a verb phrase ("is empty").
        hint: What the user can do, as an imperative sentence without a full stop.
    """

    def __init__(self, path: str | Path, fault: str, hint: str) -> None:
        self.path, self.fault, self.hint = Path(path), fault, hint
        super().__init__(f"{path}: {fault}. {hint}.")


class OutputError(InputError):
    """An output cannot be written. The fields are those of `InputError`."""


class BundleError(InputError):
    """A bundle is missing, incomplete or differs from its metadata. The fields are those of `InputError`."""
