"""The notebooks of the examples are run cell by cell, and hold no output of an earlier run."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))


def code_cells(notebook: Path) -> list[str]:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def run_cell(code: str, variables: dict[str, Any]) -> Any:
    """Run a cell as Jupyter does: the value of an expression at its end is what the notebook shows."""
    body = ast.parse(code).body
    shown = ast.Expression(body.pop().value) if isinstance(body[-1], ast.Expr) else None  # type: ignore[attr-defined]
    exec(compile(ast.Module(body, []), "<cell>", "exec"), variables)
    return eval(compile(shown, "<cell>", "eval"), variables) if shown else None


def test_the_first_scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    variables: dict[str, Any] = {}
    shown = [run_cell(code, variables) for code in code_cells(EXAMPLES / "first_scan.ipynb")]
    plt.close("all")
    assert shown[0] == (98, 116, 47)
    page = shown[1]._repr_html_()
    assert "data:image/png;base64," in page and "Left-Hippocampus" in page
    assert variables["dice"]["white matter"] > 0.8
    assert not list(tmp_path.iterdir()), "nothing is written"


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_is_complete_and_holds_no_output(notebook: Path) -> None:
    content = json.loads(notebook.read_text(encoding="utf-8"))
    assert content["nbformat"] == 4 and content["metadata"]["kernelspec"]["name"] == "python3"
    names = [cell["id"] for cell in content["cells"]]
    assert len(set(names)) == len(names), "the format demands ids that differ"
    for cell in content["cells"]:
        assert not cell.get("outputs") and cell.get("execution_count") is None
