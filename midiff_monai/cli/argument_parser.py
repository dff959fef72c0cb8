"""A parser that reports a wrong argument in one line, as `midiff` reports all other errors."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

from midiff_monai.cli.exit_codes import ExitCode


class ArgumentParser(argparse.ArgumentParser):
    """An `argparse.ArgumentParser` whose errors are one line, with the option that a typing error may mean.

    Its subparsers are of the same class, so that an unknown argument is reported by the command that it was given to.
    """

    def parse_known_args(  # type: ignore[override]  # it stands for three overloads
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """Parse the arguments.

        Returns:
            The namespace, and an empty list.

        Raises:
            SystemExit: An argument is wrong or unknown.
        """
        known, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(self._unknown(unknown[0].split("=")[0]))
        return known, unknown

    def _unknown(self, argument: str) -> str:
        options = self._option_string_actions if argument.startswith("-") else ()
        near = get_close_matches(argument, options, n=1)
        return f"unknown argument {argument}" + "".join(f": did you mean {option}?" for option in near)

    def error(self, message: str) -> NoReturn:
        """Print an error in one line and exit with the code of wrong usage."""
        stop = "" if message.endswith("?") else "."
        self.exit(ExitCode.USAGE, f"midiff: error: {message}{stop} See `{self.prog} --help`.\n")
