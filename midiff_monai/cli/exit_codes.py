"""The exit codes of the `midiff` command."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What `midiff` returns to the shell."""

    OK = 0
    """Every case was done."""
    FAILED = 1
    """At least one case failed; the others were done."""
    USAGE = 2
    """The arguments, an input, an output folder or a bundle cannot be used; nothing was computed."""
    INTERRUPTED = 130
    """Stopped with Ctrl-C (128 + SIGINT)."""
