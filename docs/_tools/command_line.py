"""The reference of the command line as Markdown, made from the `midiff` parser itself."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from functools import partial

from midiff_monai.cli.parser import build_parser


def command_reference() -> str:
    """Return one section for each subcommand: its usage, then a table of its arguments."""
    parser = build_parser()
    parts = [
        "# Command line",
        "This page is generated from the `midiff` command. `midiff COMMAND --help` prints the same text.",
        _usage(parser),
        *(part for name, command in _subcommands(parser) for part in _section(name, command)),
        "## Exit codes",
        _text(parser.epilog or ""),
    ]
    return "\n\n".join(parts) + "\n"


def _subcommands(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.items()


def _section(name: str, command: argparse.ArgumentParser) -> list[str]:
    rows = [_row(command, action) for action in command._actions if not isinstance(action, argparse._HelpAction)]
    table = "\n".join(["| argument | meaning |", "|---|---|", *rows])
    return [f"## midiff {name}", _text(command.description or ""), _usage(command), table]


def _row(command: argparse.ArgumentParser, action: argparse.Action) -> str:
    names = ", ".join(f"`{option}`" for option in action.option_strings) or f"`{action.metavar or action.dest}`"
    value = _value(action) if action.option_strings else ""
    choices = f" One of: {', '.join(map(str, action.choices))}." if action.choices and not value else ""
    meaning = command._get_formatter()._expand_help(action) if action.help else ""
    required = " (required)" if action.required and action.option_strings else ""
    return f"| {names}{value} | {_text(meaning)}{required}{choices} |"


def _value(action: argparse.Action) -> str:
    if action.nargs == 0:
        return ""
    name = action.metavar or ("{" + ",".join(map(str, action.choices)) + "}" if action.choices else action.dest.upper())
    return f" `{name}`"


def _text(sentence: str) -> str:
    """One line of Markdown that shows a sentence as it is."""
    return re.sub(r"([|*_<>])", r"\\\1", " ".join(sentence.split()))


def _usage(parser: argparse.ArgumentParser) -> str:
    parser.formatter_class = partial(argparse.HelpFormatter, width=100)  # else that of the terminal
    return f"```text\n{parser.format_usage().strip()}\n```"
