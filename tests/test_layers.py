"""Imports flow one way: a module may use what lies below it, never what lies above."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = REPOSITORY / "midiff_monai"

LAYERS = (
    {"conditional_mean", "errors", "labels", "lmi", "lmi_numba", "paths", "report", "resources"},
    {
        "atrophy",
        "augmentation",
        "baselines",
        "dicom",
        "dicom_frames",
        "dicom_seg",
        "dicom_series",
        "diffusion",
        "formats",
        "geometry",
        "inputs",
        "metrics",
        "networks",
        "parcellation",
        "phantom",
        "pseudo_source",
        "quality",
        "saving",
        "schedulers",
        "segmentation",
        "slices",
        "study",
        "training",
        "transforms",
        "translation",
        "volumes",
    },
    {"bundles", "figures", "results", "study_page", "viewer"},
    {"installation", "whole_head"},
    {"bids", "pipeline"},
    {"batch"},
    {"cluster"},
    {"cli", "demo", "__main__"},
)
LAYER_OF = {module: level for level, modules in enumerate(LAYERS) for module in modules}
STDLIB_ONLY = ("bids", "errors", "inputs", "paths", "report", "resources")
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")


def imported_names(source: str) -> set[str]:
    """Dotted names that a module of `midiff_monai` imports, wherever in its text the import stands."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = ".".join(filter(None, ["midiff_monai" if node.level else "", node.module]))
            # `from midiff_monai import lmi` names the module only in what follows "import".
            names.update(f"{origin}.{alias.name}" if origin == "midiff_monai" else origin for alias in node.names)
    return names


def imported_siblings(source: str) -> set[str]:
    """Modules of `midiff_monai` that `source` imports; names taken from the package itself come back as they are."""
    return {name.split(".")[1] for name in imported_names(source) if name.startswith("midiff_monai.")}


def siblings_of(module: str) -> set[str]:
    return imported_siblings((PACKAGE / f"{module}.py").read_text())


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "source",
    [
        "import midiff_monai.lmi",
        "import midiff_monai.lmi as local_mutual_information",
        "from midiff_monai import lmi",
        "from midiff_monai.lmi import LMIMap",
        "from . import lmi",
        "from .lmi import LMIMap",
        "def late():\n    from midiff_monai.lmi import LMIMap",
        "if TYPE_CHECKING:\n    from midiff_monai.lmi import LMIMap",
    ],
)
def test_every_way_of_importing_is_seen(source: str) -> None:
    assert imported_siblings(source) == {"lmi"}


@pytest.mark.parametrize("source", ["import torch.nn", "from torch import nn", "import lmi", "x = 'midiff_monai.lmi'"])
def test_nothing_else_is_taken_for_an_import(source: str) -> None:
    assert imported_siblings(source) == set()


@pytest.mark.parametrize("module", MODULES)
def test_module_has_a_layer(module: str) -> None:
    assert module in LAYER_OF, f"give {module}.py a layer in {Path(__file__).name} and in CONTRIBUTING.md"


def test_the_map_for_contributors_has_the_same_layers() -> None:
    text = (REPOSITORY / "CONTRIBUTING.md").read_text().partition("```")[2].partition("bundles/<name>")[0]
    mapped: dict[str, int] = {}
    for line in text.splitlines()[2:]:
        level = int(line[3]) if line.startswith("  L") else max(mapped.values())
        mapped |= {name.removesuffix(".py").strip("_") or name: level for name in re.findall(r"\w+\.py", line[6:26])}
    expected = {module.strip("_"): level for module, level in LAYER_OF.items()}
    assert mapped == expected


@pytest.mark.parametrize("module", MODULES)
def test_module_imports_nothing_from_above(module: str) -> None:
    """Names other than modules come from `midiff_monai/__init__.py`, which stands above all; only the version may."""
    siblings = siblings_of(module) - {"__version__"}
    assert siblings <= LAYER_OF.keys(), "import from the module itself, not from the package"
    above = {sibling for sibling in siblings if LAYER_OF[sibling] > LAYER_OF[module]}
    assert not above


def test_no_import_goes_in_circles() -> None:
    TopologicalSorter({module: siblings_of(module) for module in MODULES}).prepare()  # CycleError names the circle


@pytest.mark.parametrize("module", STDLIB_ONLY)
def test_stdlib_only(module: str) -> None:
    roots = {name.split(".")[0] for name in imported_names((PACKAGE / f"{module}.py").read_text())}
    assert roots - {"midiff_monai"} <= sys.stdlib_module_names


@pytest.mark.parametrize("module", STDLIB_ONLY)
def test_light_module_loads_no_heavy_package(module: str) -> None:
    """Seen at run time too, since `midiff_monai/__init__.py` is imported along with each module."""
    code = f"import sys, midiff_monai.{module}; print({{'torch', 'monai', 'numpy'}} & sys.modules.keys())"
    assert run_python(code).stdout.strip() == "set()"


def test_lmi_does_without_monai() -> None:
    source = (PACKAGE / "lmi.py").read_text()
    assert not {name for name in imported_names(source) if name.split(".")[0] == "monai"}


@pytest.mark.parametrize("folder", ["transforms", "evaluation", "bundles"])
def test_folder_is_no_import_package(folder: str) -> None:
    """A package called `transforms` would hide a user's own, and a bundle's `scripts` that of another bundle."""
    assert not list((REPOSITORY / folder).rglob("__init__.py"))


def test_help_is_quick_to_appear() -> None:
    code = """
import sys
from midiff_monai.cli import main
try:
    main(["--help"])
except SystemExit as stop:
    assert stop.code == 0
print("\\nloaded:", {"torch", "monai", "numpy"} & sys.modules.keys())
"""
    finished = run_python(code)
    assert finished.stdout.endswith("loaded: set()\n"), finished.stdout + finished.stderr
