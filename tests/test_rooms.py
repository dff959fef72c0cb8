"""Each room of the package imports only from the rooms that `MAY_IMPORT` names, and never in a circle."""

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

SHARED = {"environment", "errors", "labels", "machine", "parcels", "provenance"}
"""Modules beside the rooms, which every room may import."""

MAY_IMPORT: dict[str, set[str]] = {
    "guidance": set(),
    "io": set(),
    "transforms": set(),
    "networks": set(),
    "inferers": {"guidance", "transforms"},
    "training": {"inferers", "transforms"},
    "bundle": {"io", "transforms"},
    "qc": {"io", "transforms"},
    "pipeline": {"bundle", "inferers", "io", "qc", "transforms"},
    "evaluation": {"bundle", "guidance", "inferers", "io", "pipeline", "transforms"},
    "cli": {"bundle", "evaluation", "io", "pipeline", "qc"},
}

ROOT_MODULES = {"__init__": {"pipeline", "guidance", "inferers"}, "__main__": {"cli"}}

LIGHT = (
    "bundle.resources",
    "cli.main",
    "environment",
    "errors",
    "io.inputs",
    "io.manifest",
    "io.paths",
    "machine",
    "pipeline.bids",
    "provenance",
)
"""Modules that the command needs to parse its arguments. They must not import torch, directly or indirectly."""

MODULES = sorted(".".join(path.relative_to(PACKAGE).with_suffix("").parts) for path in PACKAGE.rglob("*.py"))


def imported_names(source: str) -> set[str]:
    """Dotted names that a module imports, at any place in its text. Relative imports are refused."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "write imports from the root of the package"
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def source_of(module: str) -> str:
    return (PACKAGE / f"{module.replace('.', '/')}.py").read_text()


def imported_parts(module: str) -> set[str]:
    """Rooms and root modules of the package that a module imports."""
    names = (name.split(".") for name in imported_names(source_of(module)))
    return {parts[1] for parts in names if parts[0] == "midiff_monai"} - {"__version__"}


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "source",
    [
        "import midiff_monai.io.paths",
        "import midiff_monai.io.paths as paths",
        "from midiff_monai.io import paths",
        "from midiff_monai.io.paths import OutputPaths",
        "def late():\n    from midiff_monai.io.paths import OutputPaths",
        "if TYPE_CHECKING:\n    from midiff_monai.io.paths import OutputPaths",
    ],
)
def test_every_way_of_importing_is_seen(source: str) -> None:
    assert {name.split(".")[1] for name in imported_names(source)} == {"io"}


def test_every_room_is_in_the_table() -> None:
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and not path.name.startswith("_")}
    assert rooms == MAY_IMPORT.keys()
    assert {module for module in MODULES if "." not in module} == SHARED | ROOT_MODULES.keys()


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_from_the_rooms_below_it(module: str) -> None:
    room = module.split(".")[0]
    if room in SHARED:
        assert not imported_parts(module) - SHARED
        return
    allowed = ROOT_MODULES[room] if room in ROOT_MODULES else MAY_IMPORT[room] | {room}
    assert imported_parts(module) <= allowed | SHARED


def test_rooms_have_an_order() -> None:
    TopologicalSorter(MAY_IMPORT).prepare()  # CycleError names the circle


def test_no_module_imports_itself_in_a_circle() -> None:
    graph = {}
    for module in MODULES:
        names = {name.removeprefix("midiff_monai.") for name in imported_names(source_of(module))}
        graph[module] = {found for name in names for found in (name, name.rpartition(".")[0]) if found in MODULES}
    TopologicalSorter(graph).prepare()


def test_the_table_for_contributors_is_the_same() -> None:
    text = (REPOSITORY / "CONTRIBUTING.md").read_text()
    rows = re.findall(r"^\| `(\w+)/` \|[^|]*\|([^|]*)\|$", text, flags=re.MULTILINE)
    assert {room: set(re.findall(r"`(\w+)`", allowed)) for room, allowed in rows} == MAY_IMPORT


@pytest.mark.parametrize("module", [module for module in MODULES if module.startswith("guidance.")])
def test_the_method_needs_torch_alone(module: str) -> None:
    """So that it can be reused without the rest. Numba is optional, and numpy comes with both."""
    roots = {name.split(".")[0] for name in imported_names(source_of(module))} - {"__future__"}
    assert roots - {"midiff_monai"} - sys.stdlib_module_names <= {"torch", "numpy", "numba"}


@pytest.mark.parametrize("module", LIGHT)
def test_light_module_loads_no_heavy_package(module: str) -> None:
    code = f"import sys, midiff_monai.{module}; print({{'torch', 'monai', 'numpy'}} & sys.modules.keys())"
    assert run_python(code).stdout.strip() == "set()"


@pytest.mark.parametrize("folder", ["transforms", "evaluation", "bundles"])
def test_folder_is_no_import_package(folder: str) -> None:
    """A package called `transforms` would hide a user's own package of that name."""
    assert not list((REPOSITORY / folder).rglob("__init__.py"))


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_are_quick_to_appear(option: str) -> None:
    code = f"""
import sys
from midiff_monai.cli.main import main
try:
    main(["{option}"])
except SystemExit as stop:
    assert stop.code == 0
print("\\nloaded:", {{"torch", "monai", "numpy"}} & sys.modules.keys())
"""
    finished = run_python(code)
    assert finished.stdout.endswith("loaded: set()\n"), finished.stdout + finished.stderr
