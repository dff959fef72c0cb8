"""The Boutiques descriptor of the BIDS App, made from the parser of `midiff bids`.

Boutiques describes a command line so that platforms such as CBRAIN and VIP can offer it (Glatard et al., GigaScience
7:giy016, 2018). To renew the file:

    python docs/_tools/boutiques_descriptor.py > container/boutiques.json
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tomllib

from midiff_monai.cli.parser import EPILOG, build_parser

REPOSITORY = Path(__file__).resolve().parents[2]
READ = {"dataset", "bundle"}
"""Arguments that name existing files. The platform must make these available."""


def descriptor() -> dict[str, Any]:
    """Return the descriptor, as JSON types, by version 0.5 of the Boutiques schema."""
    command = _bids_parser()
    inputs = [_input(command, action) for action in _described(command)]
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {
        "name": "midiff bids",
        "description": f"{command.description} {project['description']}",
        "tool-version": project["version"],
        "schema-version": "0.5",
        "command-line": " ".join(["midiff bids", *(entry["value-key"] for entry in inputs)]),
        "inputs": inputs,
        "groups": list(_groups(command)),
        "output-files": [{"id": "derivative", "name": "BIDS derivative", "path-template": "[OUTPUT]"}],
        "error-codes": [
            {"code": int(code), "description": text.capitalize()}
            for code, text in re.findall(r"\b([1-9]\d*) ([^;.]+)", " ".join(EPILOG.split()))
        ],
    }


def _bids_parser() -> argparse.ArgumentParser:
    (commands,) = (action for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction))
    return commands.choices["bids"]


def _described(command: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """The arguments of a run: all but those that print something and exit."""
    return (action for action in command._actions if action.dest not in ("help", "version"))


def _input(command: argparse.ArgumentParser, action: argparse.Action) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "id": _id(action),
        "name": _id(action).replace("_", " "),
        "description": command._get_formatter()._expand_help(action),
        "type": _type(action),
        "value-key": f"[{_id(action).upper()}]",
        "optional": not action.required,
    }
    if action.option_strings:
        entry["command-line-flag"] = _flag(action)
    if action.choices:
        entry["value-choices"] = list(action.choices)
    if action.type is int:
        entry["integer"] = True
    if isinstance(action, argparse._AppendAction):
        entry |= {"list": True, "list-separator": f" {_flag(action)} "}
    elif action.nargs == "+":
        entry["list"] = True
    return entry


def _id(action: argparse.Action) -> str:
    """The longest spelling of an option, or the name of a positional argument."""
    return _flag(action).removeprefix("--").replace("-", "_") if action.option_strings else action.dest


def _flag(action: argparse.Action) -> str:
    return next(option for option in action.option_strings if option.startswith("--"))


def _type(action: argparse.Action) -> str:
    if action.nargs == 0:
        return "Flag"
    if action.dest in READ:
        return "File"
    return "Number" if action.type in (int, float) else "String"


def _groups(command: argparse.ArgumentParser) -> Iterator[dict[str, Any]]:
    """The sets of options of which at most one can be given."""
    for group in command._mutually_exclusive_groups:
        members = [_id(action) for action in group._group_actions]
        name = " or ".join(members)
        yield {"id": "_or_".join(members), "name": name, "members": members, "mutually-exclusive": True}


if __name__ == "__main__":
    print(json.dumps(descriptor(), indent=2, ensure_ascii=False))
