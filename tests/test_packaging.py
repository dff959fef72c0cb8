"""The three lists of requirements agree, the wheel is whole, and `make` does not rebuild what is there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
import tomllib
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from midiff_monai.bundle.resources import available_bundles, bundle_root
from midiff_monai.bundle.weights import read_metadata

REPOSITORY = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
RUNTIME = [Requirement(line) for line in PROJECT["dependencies"]]
EXTRAS = {extra: [Requirement(line) for line in lines] for extra, lines in PROJECT["optional-dependencies"].items()}
PINNED = [*RUNTIME, *EXTRAS["test"], *EXTRAS["evaluation"], *EXTRAS["docs"]]
PACKAGE_IN_METADATA = {"monai": "monai", "torch": "pytorch", "numpy": "numpy"}
PYPI_NAME_OF_CONDA = {"pytorch": "torch", "matplotlib-base": "matplotlib"}


def pinned_versions() -> dict[str, str]:
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if not line.startswith("#")]
    assert all(str(pin.specifier).startswith("==") and not pin.url for pin in pins)
    return {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in pins}


def installed_closure(roots: list[Requirement]) -> set[str]:
    """Names of every distribution that `roots` bring in here, short of what torch's own builds differ in."""
    names: set[str] = set()
    queue = [(canonicalize_name(root.name), frozenset(root.extras)) for root in roots]
    seen = set(queue)
    while queue:
        name, extras = queue.pop()
        names.add(name)
        lines = (metadata.requires(name) or []) if name != "torch" else []
        for requirement in map(Requirement, lines):
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
                found = (canonicalize_name(requirement.name), frozenset(requirement.extras))
                queue.extend({found} - seen)
                seen.add(found)
    return names


class TestConstraints:
    @pytest.mark.parametrize("requirement", PINNED, ids=str)
    def test_pin_fulfils_the_requirement(self, requirement: Requirement) -> None:
        assert requirement.specifier.contains(pinned_versions()[canonicalize_name(requirement.name)])

    def test_nothing_that_gets_installed_is_left_free(self) -> None:
        assert installed_closure(PINNED) - pinned_versions().keys() == set()

    @pytest.mark.parametrize("name", available_bundles())
    def test_bundles_name_the_pinned_versions(self, name: str) -> None:
        facts = read_metadata(bundle_root(name))
        named = {package: facts[f"{alias}_version"] for package, alias in PACKAGE_IN_METADATA.items()}
        for package, version in (named | facts["required_packages_version"]).items():
            assert version == pinned_versions()[canonicalize_name(package)], package

    def test_pins_name_no_build_or_machine(self) -> None:
        assert not [version for version in pinned_versions().values() if "+" in version]


def test_citation_is_complete_and_names_this_version() -> None:
    """The keys that the Citation File Format 1.2.0 demands, and the version of the package."""
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0" and {"message", "title", "authors"} <= citation.keys()
    assert citation["version"] == PROJECT["version"] and citation["license"] == PROJECT["license"]
    for reference in citation["references"]:
        assert {"type", "title", "authors"} <= reference.keys()
    method = next(reference for reference in citation["references"] if "doi" in reference)
    assert f"https://doi.org/{method['doi']}" in (REPOSITORY / "README.md").read_text(encoding="utf-8")


def test_pytorch_is_as_new_as_monai_demands() -> None:
    """An older one, such as one of conda, would be replaced by another build while pip installs MONAI."""
    of_monai = next(item for item in map(Requirement, metadata.requires("monai") or []) if item.name == "torch")
    (ours,) = [item for item in RUNTIME if item.name == "torch"]
    assert lowest(ours) >= lowest(of_monai)


def lowest(requirement: Requirement) -> Version:
    return max(Version(item.version) for item in requirement.specifier if item.operator == ">=")


class TestConda:
    """environment.yml asks for what pyproject.toml asks for, under conda's names."""

    @staticmethod
    def conda_requirements() -> dict[str, Requirement]:
        entries = yaml.safe_load((REPOSITORY / "environment.yml").read_text())["dependencies"]
        lines = [entry for entry in entries if isinstance(entry, str) and entry != "pip"]
        lines += [line for entry in entries if isinstance(entry, dict) for line in entry["pip"]]
        requirements = map(Requirement, lines)
        return {
            canonicalize_name(PYPI_NAME_OF_CONDA.get(requirement.name, requirement.name)): requirement
            for requirement in requirements
        }

    def test_same_packages_extras_and_versions(self) -> None:
        conda = self.conda_requirements()
        python = conda.pop("python")
        wanted = {canonicalize_name(item.name): item for item in [*RUNTIME, *EXTRAS["itk"], *EXTRAS["generative"]]}
        assert conda.keys() == wanted.keys()
        for name, requirement in wanted.items():
            assert conda[name].specifier == requirement.specifier, name
            assert conda[name].extras == requirement.extras, name
        assert python.specifier == SpecifierSet(PROJECT["requires-python"])


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of this package with a made-up bundle, built by its own build backend and unpacked."""
    tree = tmp_path_factory.mktemp("tree")
    for name in ("pyproject.toml", "LICENSE", ".gitignore"):
        shutil.copy(REPOSITORY / name, tree)
    (tree / "README.md").write_text("# midiff")
    shutil.copytree(REPOSITORY / "midiff_monai", tree / "midiff_monai", ignore=shutil.ignore_patterns("__pycache__"))
    for path in (
        "transforms/flair.yaml",
        "presets/ixi-pd.yaml",
        "samplers/ddim.yaml",
        "bundles/made_up/configs/metadata.json",
        "bundles/made_up/models/model.pt",
        "bundles/made_up/models/checkpoint_epoch=3.pt",
        "bundles/made_up/cache/0a1b.pt",
        "bundles/made_up/eval/metrics.csv",
    ):
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).touch()
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", "dist"]
    subprocess.run(command, cwd=tree, check=True, capture_output=True)
    (wheel,) = (tree / "dist").glob("*.whl")
    site_packages = tmp_path_factory.mktemp("site-packages")
    zipfile.ZipFile(wheel).extractall(site_packages)
    return site_packages


class TestWheel:
    def test_carries_weights_but_neither_caches_nor_checkpoints(self, installed: Path) -> None:
        root = installed / "midiff_monai" / "_resources"
        carried = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
        assert carried == {
            "transforms/flair.yaml",
            "presets/ixi-pd.yaml",
            "samplers/ddim.yaml",
            "bundles/made_up/configs/metadata.json",
            "bundles/made_up/models/model.pt",
        }

    def test_carries_the_parts_of_the_study_page(self, installed: Path) -> None:
        parts = REPOSITORY / "midiff_monai" / "qc" / "_page"
        carried = installed / "midiff_monai" / "qc" / "_page"
        assert {path.name: path.read_bytes() for path in carried.iterdir()} == {
            path.name: path.read_bytes() for path in parts.iterdir()
        }

    def test_adds_one_name_to_the_import_path(self, installed: Path) -> None:
        assert {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")} == {"midiff_monai"}

    def test_resources_are_found_from_elsewhere(self, installed: Path, tmp_path: Path) -> None:
        code = "from midiff_monai.bundle import resources; print(resources.bundle_root('made_up'))"
        finished = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(installed)},
            check=True,
            capture_output=True,
            text=True,
        )
        assert Path(finished.stdout.strip()) == installed / "midiff_monai" / "_resources" / "bundles" / "made_up"

    def test_carries_the_licence(self, installed: Path) -> None:
        (licence,) = installed.glob("*.dist-info/licenses/LICENSE")
        assert licence.read_bytes() == (REPOSITORY / "LICENSE").read_bytes()


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
class TestMake:
    @pytest.fixture
    def tree(self, tmp_path: Path) -> Path:
        """A checkout whose environment is newer than its requirements."""
        for name in ("Makefile", "pyproject.toml", "constraints.txt"):
            shutil.copy(REPOSITORY / name, tmp_path)
            os.utime(tmp_path / name, (1_000_000_000, 1_000_000_000))
        for name in (".venv/bin/python", ".venv/.runtime", ".venv/.test", ".venv/.docs"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
            os.utime(tmp_path / name, (1_500_000_000, 1_500_000_000))
        return tmp_path

    @staticmethod
    def make(tree: Path, *arguments: str) -> str:
        # these tests run under `make test` themselves, and a make within a make says where it is
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
        command = ["make", *arguments]
        return subprocess.run(command, cwd=tree, check=True, capture_output=True, text=True, env=environment).stdout

    def planned(self, tree: Path, target: str) -> str:
        return self.make(tree, "--dry-run", target)

    @pytest.mark.parametrize("target", ["demo", "test", "lint", "docs", "figures", "evaluation"])
    def test_environment_is_kept(self, tree: Path, target: str) -> None:
        plan = self.planned(tree, target)
        assert ".venv/bin/" in plan and "install" not in plan and "venv .venv" not in plan

    @pytest.mark.parametrize("changed", ["pyproject.toml", "constraints.txt"])
    def test_changed_requirements_are_installed_into_it(self, tree: Path, changed: str) -> None:
        os.utime(tree / changed)
        plan = self.planned(tree, "test")
        assert plan.count("install -c constraints.txt") == 3 and "venv .venv" not in plan

    @pytest.mark.parametrize("target", ["demo", "test", "lint", "docs", "figures", "evaluation"])
    def test_fresh_checkout_gets_an_environment_first(self, tree: Path, target: str) -> None:
        shutil.rmtree(tree / ".venv")
        plan = self.planned(tree, target)
        first = plan.index("install -c constraints.txt torch\n")
        assert plan.index("-m venv .venv") < first < plan.index("touch")

    @pytest.mark.parametrize(
        ("target", "installed"),
        [
            ("demo", ["torch", "-e ."]),
            ("test", ["torch", "-e .", "-e .[test,evaluation,docs]"]),
            ("docs", ["torch", "-e .", "-e .[docs]"]),
        ],
    )
    def test_a_target_installs_no_more_than_it_needs(self, tree: Path, target: str, installed: list[str]) -> None:
        shutil.rmtree(tree / ".venv")
        assert re.findall(r"install -c constraints.txt (.*)", self.planned(tree, target)) == installed

    def test_an_installation_is_announced(self, tree: Path) -> None:
        shutil.rmtree(tree / ".venv")
        assert self.planned(tree, "demo").count('echo "==') == 3

    def test_help_names_every_target(self, tree: Path) -> None:
        named = {line.split()[1] for line in self.make(tree).splitlines()}
        assert named == {"help", "demo", "test", "lint", "docs", "figures", "evaluation", "clean"}


def test_continuous_integration_script_runs_anywhere() -> None:
    script = REPOSITORY / ".ci" / "run"
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", str(script)], check=True)
