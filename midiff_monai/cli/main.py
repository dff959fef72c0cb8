"""The entry point of the `midiff` command: it parses the arguments, runs a command and reports errors in one line."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence

from midiff_monai.cli.commands import COMMANDS
from midiff_monai.cli.exit_codes import ExitCode
from midiff_monai.cli.parser import build_parser
from midiff_monai.environment import keep_freed_memory, make_environment_safe
from midiff_monai.errors import MidiffError, in_one_line


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return the exit code."""
    # Torch reads this variable at its first tensor. With memory pages of 2 MB instead of 4 kB, allocating a large
    # tensor no longer takes as long as computing it.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names can be invalid Unicode
    arguments = build_parser().parse_args(argv)
    try:
        make_environment_safe()
        keep_freed_memory()
        return COMMANDS[arguments.command](arguments)
    except MidiffError as error:
        print(f"midiff: error: {error}", file=sys.stderr)
        return ExitCode.USAGE
    except (OSError, MemoryError, RuntimeError) as error:
        # a full disk, a lost network share, or no memory left, for which torch raises RuntimeError
        if isinstance(error, RuntimeError) and "memory" not in str(error):
            raise
        print(f"midiff: error: {in_one_line(error) or 'out of memory'}", file=sys.stderr)
        return ExitCode.FAILED
    except KeyboardInterrupt:
        print("midiff: interrupted", file=sys.stderr)
        return ExitCode.INTERRUPTED
