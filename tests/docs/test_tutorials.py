"""The tutorials are run as they stand, in an empty folder, and what they print is compared with what they show."""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from math import isclose
from pathlib import Path
from typing import Any, NamedTuple

import pytest

TUTORIALS = Path(__file__).resolve().parents[2] / "docs" / "tutorials"
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


class Block(NamedTuple):
    """A block of code and the output that the tutorial shows after it, None where it shows none."""

    language: str
    code: str
    shown: str | None


def blocks(markdown: str) -> Iterator[Block]:
    """The blocks of Python and of bash, each with the `text` block that follows it."""
    fences = FENCE.findall(markdown)
    for (language, code), following in zip(fences, [*fences[1:], ("", "")], strict=True):
        if language in ("python", "bash"):
            yield Block(language, code, following[1] if following[0] == "text" else None)


def run_python(code: str, variables: dict[str, Any]) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "<tutorial>", "exec"), variables)
    return printed.getvalue()


def run_bash(code: str) -> str:
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, f"{code}{done.stderr[-3000:]}"
    return done.stdout


def assert_alike(printed: str, shown: str) -> None:
    """The words are the same. Numbers may differ by a twentieth, as they do between processors."""
    found, expected = (" ".join(text.split()) for text in (printed, shown))
    assert NUMBER.sub("#", found) == NUMBER.sub("#", expected)
    for one, other in zip(NUMBER.findall(found), NUMBER.findall(expected), strict=True):
        assert isclose(float(one), float(other), rel_tol=0.05, abs_tol=0.03), f"{one}, not {other}, in:\n{printed}"


@pytest.mark.parametrize("tutorial", sorted(TUTORIALS.glob("*.md")), ids=lambda path: path.stem)
def test_a_tutorial_does_what_it_shows(tutorial: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    variables: dict[str, Any] = {}
    for block in blocks(tutorial.read_text(encoding="utf-8")):
        printed = run_python(block.code, variables) if block.language == "python" else run_bash(block.code)
        if block.shown is not None:
            assert_alike(printed, block.shown)


def test_other_words_and_other_numbers_are_noticed() -> None:
    assert_alike("white matter: 0.85\n", "white  matter: 0.84")
    with pytest.raises(AssertionError):
        assert_alike("white matter: 0.85", "grey matter: 0.85")
    with pytest.raises(AssertionError):
        assert_alike("white matter: 0.85", "white matter: 0.75")
