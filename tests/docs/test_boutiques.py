"""The Boutiques descriptor is up to date, and the command lines that it stands for parse to the given values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from boutiques_descriptor import descriptor

from midiff_monai.cli.parser import build_parser

DESCRIPTOR = json.loads(
    (Path(__file__).resolve().parents[2] / "container" / "boutiques.json").read_text(encoding="utf-8")
)
INPUTS = {entry["id"]: entry for entry in DESCRIPTOR["inputs"]}
REQUIRED = {"dataset": "/data", "output": "/out", "level": "participant"}
EXCLUSIVE = [group["members"] for group in DESCRIPTOR["groups"]]


def example(entry: dict[str, Any]) -> Any:
    value = entry["value-choices"][-1] if "value-choices" in entry else f"a_{entry['id']}"
    value = {"Flag": True, "Number": 3}.get(entry["type"], value)
    return [value, f"{value}2"] if entry.get("list") else value


def command_line(values: dict[str, Any]) -> list[str]:
    """Replace the keys of the descriptor's command line by flags and values, as Boutiques does."""
    line = DESCRIPTOR["command-line"]
    for name, entry in INPUTS.items():
        value = values.get(name, "")
        if isinstance(value, list):
            value = entry.get("list-separator", " ").join(value)
        text = "" if entry["type"] == "Flag" else str(value)
        flag = entry.get("command-line-flag", "") if value != "" else ""
        line = line.replace(entry["value-key"], f"{flag} {text}")
    return line.split()[1:]


def test_it_is_up_to_date() -> None:
    hint = "python docs/_tools/boutiques_descriptor.py > container/boutiques.json"
    assert descriptor() == DESCRIPTOR, hint


@pytest.mark.parametrize("name", sorted(INPUTS.keys() - REQUIRED.keys() - {"verbose", "quiet"}))
def test_an_option_reaches_the_parser(name: str) -> None:
    value = example(INPUTS[name])
    parsed = vars(build_parser().parse_args(command_line(REQUIRED | {name: value})))
    if name == "no_lesions":
        name, value = "lesions", not value
    assert (str(parsed[name]) if isinstance(parsed[name], Path) else parsed[name]) == value


def test_required_values_reach_the_parser_and_the_rest_keeps_its_defaults() -> None:
    expected = build_parser().parse_args(["bids", "/data", "/out", "participant"])
    assert build_parser().parse_args(command_line(REQUIRED)) == expected


@pytest.mark.parametrize("members", EXCLUSIVE, ids=str)
def test_options_of_a_group_exclude_each_other(members: list[str]) -> None:
    values = {name: example(INPUTS[name]) for name in members}
    with pytest.raises(SystemExit):
        build_parser().parse_args(command_line(REQUIRED | values))
