"""What MkDocs calls while it builds the site: generated pages, links through the repository, equations, docstrings."""

from __future__ import annotations

import ast
import logging
from pathlib import Path
from typing import Any

from accepted_inputs import accepted_inputs
from command_line import command_reference
from docstrings import missing_docstrings, modules
from equations import Equations
from links import rewrite_links
from migration import migration
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGE = REPOSITORY / "midiff_monai"

# path in the repository → page in the site
INCLUDED = {
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "README.md": "index.md",
    "evaluation/PROTOCOL.md": "results/protocol.md",
    "evaluation/ABLATIONS.md": "results/ablations.md",
    "evaluation/results/summary.md": "results/summary.md",
    "evaluation/results/one_millimetre/summary.md": "results/one_millimetre.md",
    "evaluation/results/yardstick.md": "results/yardstick.md",
    "evaluation/results/acquisitions/summary.md": "results/acquisitions.md",
    "evaluation/results/steps/summary.md": "results/steps.md",
    "bundles/t1_lmi_translation/docs/README.md": "results/translation_card.md",
    "bundles/t1_brain_segmentation/docs/README.md": "results/segmentation_card.md",
    "bundles/cortical_parcellation/docs/README.md": "results/parcellation_card.md",
    "bundles/intracranial_mask/docs/README.md": "results/intracranial_card.md",
    "bundles/any_contrast_brain_segmentation/docs/README.md": "results/composite_card.md",
    "bundles/lmi_published/docs/README.md": "results/published_card.md",
    "examples/README.md": "how-to/examples.md",
}

_logger = logging.getLogger("mkdocs.hooks.midiff")
_equations: dict[str, Equations] = {}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made from the repository, and report public objects without a docstring."""
    for name in missing_docstrings(PACKAGE):
        _logger.warning("%s has no docstring", name)
    for source, page in INCLUDED.items():
        if page != "index.md":
            files.append(File.generated(config, page, content=(REPOSITORY / source).read_text(encoding="utf-8")))
    files.append(File.generated(config, "reference/command-line.md", content=command_reference()))
    files.append(File.generated(config, "reference/accepted-inputs.md", content=accepted_inputs()))
    files.append(File.generated(config, "reference/migration.md", content=migration()))
    for room, content in api_pages().items():
        files.append(File.generated(config, f"reference/api/{room}.md", content=content))
    return files


def api_pages() -> dict[str, str]:
    """Return a page for each room of the package, and one, `top`, for the modules beside the rooms."""
    names = modules(PACKAGE)
    rooms = sorted({name.split(".")[1] for name in names if name.count(".") > 1})
    beside = [name for name in names if name.count(".") == 1 and name.split(".")[1] not in {*rooms, "__main__"}]
    pages = {"top": _api_page("Top level", PACKAGE / "__init__.py", beside)}
    for room in rooms:
        inside = [name for name in names if name.startswith(f"{PACKAGE.name}.{room}.")]
        pages[room] = _api_page(f"{room}/", PACKAGE / room / "__init__.py", inside)
    return pages


def _api_page(title: str, init: Path, names: list[str]) -> str:
    purpose = ast.get_docstring(ast.parse(init.read_text(encoding="utf-8"))) or ""
    return "\n\n".join([f"# {title}", purpose, *(f"::: {name}" for name in names)]) + "\n"


def on_page_markdown(markdown: str, page: Any, config: MkDocsConfig, files: Files) -> str:
    """Make links through the repository lead within the site, and take equations out of Markdown's reach."""

    def publish(target: str) -> str | None:
        """Put a file of the repository into the site, unless it is there already."""
        if target.startswith("docs/"):
            return target.removeprefix("docs/")
        file = REPOSITORY / target
        if not file.is_file():
            return None
        place = f"files/{target}"
        if files.get_file_from_path(place) is None:
            files.append(File.generated(config, place, content=file.read_bytes()))
        return place

    place = page.file.src_uri
    sources = {page: source for source, page in INCLUDED.items() if page != "index.md"}
    _equations[place] = Equations()
    source = sources.get(place, f"docs/{place}")
    return _equations[place].take_out(rewrite_links(markdown, source, place, INCLUDED, publish))


def on_page_content(html: str, page: Any, config: MkDocsConfig, files: Files) -> str:
    """Put the equations back."""
    return _equations.pop(page.file.src_uri).put_back(html)
