"""What the documentation site is generated from: the parser, the package, links, equations."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import command_reference
from docstrings import missing_docstrings
from equations import Equations
from hooks import INCLUDED, REPOSITORY, api_pages
from links import rewrite_links

from midiff_monai.bundle.resources import bundle_root, overlay_path
from midiff_monai.cli.commands import COMMANDS

PACKAGE = REPOSITORY / "midiff_monai"
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
PYTHON = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_every_command_and_option_is_in_the_reference() -> None:
    reference = command_reference()
    commands = re.findall(r"^## midiff ([\w-]+)$", reference, flags=re.MULTILINE)
    assert set(commands) == COMMANDS.keys()
    for option in ("--modality", "--samples", "--participant-label", "--no-translate", "--workers", "--log-file"):
        assert f"`{option}`" in reference
    assert "%(" not in reference


def test_every_public_object_has_a_docstring() -> None:
    assert missing_docstrings(PACKAGE) == []


def test_missing_docstrings_are_found(tmp_path: Path) -> None:
    box = 'class Box:\n    """A box."""\n    def open(self): ...\n    def _lock(self): ...\n'
    code = f'"""A module."""\n\n{box}\ndef close(): ...\n'
    (tmp_path / "boxes.py").write_text(code)
    (tmp_path / "__init__.py").touch()
    name = tmp_path.name
    assert missing_docstrings(tmp_path) == sorted([name, f"{name}.boxes.Box.open", f"{name}.boxes.close"])


def test_every_room_has_a_page() -> None:
    rooms = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert api_pages().keys() == rooms | {"top"}
    assert all((REPOSITORY / source).is_file() for source in INCLUDED)


@pytest.mark.parametrize(
    ("link", "rewritten"),
    [
        ("../evaluation/PROTOCOL.md#data", "../results/protocol.md#data"),
        ("../Makefile", "../files/Makefile"),
        ("../no/such.file", "../no/such.file"),
        ("https://monai.io", "https://monai.io"),
        ("#here", "#here"),
    ],
)
def test_links_lead_within_the_site(link: str, rewritten: str) -> None:
    pages = {"evaluation/PROTOCOL.md": "results/protocol.md"}
    found = rewrite_links(f"[a]({link})", "docs/x.md", "how-to/x.md", pages, {"Makefile": "files/Makefile"}.get)
    assert found == f"[a]({rewritten})"


def test_equations_become_mathml_untouched_by_markdown() -> None:
    equations = Equations()
    markdown = equations.take_out("Let $`x_t`$ be\n\n```math\n\\frac{a_1}{b_*}\n```\n")
    assert "_" not in markdown and "$" not in markdown
    html = equations.put_back(markdown)
    assert html.count("<math") == 2 and "<msub>" in html and 'display="block"' in html


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_python_in_the_documentation_imports_what_exists(page: Path) -> None:
    for code in PYTHON.findall(page.read_text(encoding="utf-8")):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("midiff_monai"):
                module = importlib.import_module(node.module or "")
                assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)


def resolve(config: dict, identifier: str) -> None:
    """Raise LookupError for an id that a configuration does not have."""
    part: Any = config
    for name in re.split("::|#", identifier):
        part = part[name]


@pytest.mark.parametrize(
    ("title", "files"),
    [
        (
            "`inference.yaml` of `t1_lmi_translation` and `t1_brain_segmentation`",
            ["t1_lmi_translation/inference", "t1_brain_segmentation/inference"],
        ),
        ("`t1_lmi_translation`", ["t1_lmi_translation/inference"]),
        ("`t1_brain_segmentation`", ["t1_brain_segmentation/inference"]),
        ("`cortical_parcellation`", ["cortical_parcellation/inference", "cortical_parcellation/train"]),
        ("`intracranial_mask`", ["intracranial_mask/train"]),
        ("`train.yaml` of `cortical_parcellation` alone", ["cortical_parcellation/train"]),
        ("`train.yaml`", ["t1_lmi_translation/train", "t1_brain_segmentation/train"]),
        ("`train.yaml` of `t1_lmi_translation` alone", ["t1_lmi_translation/train"]),
        ("`train.yaml` of `t1_brain_segmentation` alone", ["t1_brain_segmentation/train"]),
    ],
)
def test_documented_ids_exist(title: str, files: list[str]) -> None:
    page = (REPOSITORY / "docs" / "reference" / "bundle-ids.md").read_text(encoding="utf-8")
    section = page.partition(f"## {title}\n")[2].partition("\n## ")[0]
    identifiers = [name for row in re.findall(r"^\| (`[^|]*) \|", section, re.MULTILINE) for name in row.split(", ")]
    assert identifiers
    for file in files:
        bundle, _, config = file.partition("/")
        parsed = yaml.safe_load((bundle_root(bundle) / "configs" / f"{config}.yaml").read_text(encoding="utf-8"))
        for identifier in identifiers:
            resolve(parsed, identifier.strip("`"))


def test_the_documented_overlay_is_the_one_for_ct() -> None:
    (shown,) = re.findall(r"```yaml\n(.*?)```", (REPOSITORY / "docs/how-to/modality.md").read_text("utf-8"), re.DOTALL)
    assert yaml.safe_load(shown) == yaml.safe_load(overlay_path("CT").read_text(encoding="utf-8"))


def test_the_first_page_is_short() -> None:
    assert len((REPOSITORY / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
