# PYTHON_ARGCOMPLETE_OK
"""The entry point of the `midiff` command: it parses the arguments, runs a command and reports errors in one line."""

from __future__ import annotations

import argparse
import io
import logging
import os
import shlex
import sys
from collections.abc import Sequence
from importlib import metadata

from midiff_monai.cli.commands import COMMANDS
from midiff_monai.cli.exit_codes import ExitCode
from midiff_monai.cli.messages import messages
from midiff_monai.cli.parser import build_parser
from midiff_monai.environment import choose_threads, keep_freed_memory, limit_spinning, make_environment_safe
from midiff_monai.errors import InputError, MidiffError, in_one_line

_logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return the exit code."""
    # Torch reads this variable at its first tensor. With memory pages of 2 MB instead of 4 kB, allocating a large
    # tensor no longer takes as long as computing it.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names can be invalid Unicode
    try:
        parser = build_parser()
        _complete(parser)
        arguments = parser.parse_args(argv)
        with messages(arguments.shown, arguments.log_file):
            return _run(arguments, sys.argv[1:] if argv is None else argv)
    except MidiffError as error:  # no bundle can be read, or the log file cannot be written
        print(f"midiff: error: {error}", file=sys.stderr)
        return ExitCode.USAGE


def _complete(parser: argparse.ArgumentParser) -> None:
    """Answer the shell if it asks for the words that may come next, and exit."""
    if "_ARGCOMPLETE" not in os.environ:
        return
    import argcomplete  # an optional dependency, which the shell needs to ask

    argcomplete.autocomplete(parser)


def _run(arguments: argparse.Namespace, argv: Sequence[str]) -> int:
    """Run a command; the log says what was run, and how it ended."""
    _logger.debug("midiff %s: midiff %s", metadata.version("midiff-monai"), shlex.join(argv))
    try:
        code = _run_reporting_errors(arguments)
    except Exception:
        _logger.critical("stopped by an unexpected error", exc_info=True)
        raise
    _logger.debug("exit code %d", code)
    return code


def _run_reporting_errors(arguments: argparse.Namespace) -> int:
    try:
        _prepare(arguments)
        return COMMANDS[arguments.command](arguments)
    except MidiffError as error:
        _logger.error("%s", error)
        return ExitCode.USAGE
    except BrokenPipeError:  # the reader of the output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing is left to write at exit
        return ExitCode.FAILED
    except (OSError, MemoryError, RuntimeError) as error:
        # a full disk, a lost network share, or no memory left, for which torch raises RuntimeError
        if isinstance(error, RuntimeError) and "memory" not in str(error):
            raise
        _logger.error("%s", in_one_line(error) or "out of memory")
        return ExitCode.FAILED
    except KeyboardInterrupt:
        _logger.info("midiff: interrupted")
        return ExitCode.INTERRUPTED


def _prepare(arguments: argparse.Namespace) -> None:
    """Set what torch reads at its import, which follows in the command."""
    threads = getattr(arguments, "threads", None)
    if threads is not None and threads < 1:
        raise InputError("--threads", f"is {threads}", "Give a whole number from 1")
    make_environment_safe()
    keep_freed_memory()
    limit_spinning()
    choose_threads(threads)
