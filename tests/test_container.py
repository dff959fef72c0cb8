"""The images are built from what the package needs, and the SLURM scripts call the BIDS App. No image is built here."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tomllib

from midiff_monai.cli.parser import build_parser

REPOSITORY = Path(__file__).resolve().parents[1]
CONTAINER = REPOSITORY / "container"
DEFINITION = (CONTAINER / "midiff.def").read_text()
PYPROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
NEEDED = {
    *PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"],
    *PYPROJECT["project"]["license-files"],
    PYPROJECT["project"]["readme"],
    "pyproject.toml",
    "constraints.txt",
    "container/install.sh",
}
"""What `pip install` reads in a checkout, the pins, and the script that calls it."""


def test_docker_sees_what_the_package_needs() -> None:
    lines = (REPOSITORY / ".dockerignore").read_text().splitlines()
    assert {line[1:] for line in lines if line.startswith("!")} == NEEDED and "*" in lines


def test_apptainer_copies_what_the_package_needs() -> None:
    assert set(re.findall(r"^    (\S+) /source/$", DEFINITION, re.MULTILINE)) == NEEDED


@pytest.mark.parametrize("argument", ["base", "torch_index"])
def test_both_images_have_the_same_defaults(argument: str) -> None:
    dockerfile = (REPOSITORY / "Dockerfile").read_text()
    (of_docker,) = re.findall(rf"^ARG {argument.upper()}=(.*)$", dockerfile, re.MULTILINE)
    (of_apptainer,) = re.findall(rf"^    {argument}=(.*)$", DEFINITION, re.MULTILINE)
    assert of_docker == of_apptainer


def test_a_user_unknown_to_the_image_has_a_name_and_a_home() -> None:
    """MONAI asks for the user's name at its import, and matplotlib keeps its fonts below the home folder."""
    (line,) = re.findall(r"^ENV (.*)$", (REPOSITORY / "Dockerfile").read_text(), re.MULTILINE)
    environment = dict(item.split("=", 1) for item in line.split())
    code = "import getpass, os, pwd; pwd.getpwuid = {}.__getitem__; print(getpass.getuser(), os.path.expanduser('~'))"
    command = [sys.executable, "-c", code]
    printed = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    assert printed.split()[1] == "/tmp"  # the one folder that is writable in a read-only image


@pytest.mark.parametrize("engine", ["apptainer", "podman"])
def test_a_slurm_task_processes_its_participant(engine: str, tmp_path: Path) -> None:
    """A stand-in for the container engine prints its arguments, one a line."""
    (tmp_path / engine).write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / engine).chmod(0o755)
    for label in ("01", "02", "10"):
        (tmp_path / "a study" / f"sub-{label}").mkdir(parents=True)
    environment = os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    environment |= {"SLURM_ARRAY_TASK_ID": "3", "SLURM_CPUS_PER_TASK": "4"}
    command = ["bash", str(CONTAINER / f"slurm-{engine}.sh"), "image", "a study", "out", "--suffix", "PDw"]
    printed = subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True).stdout
    arguments = printed.splitlines()
    parsed = build_parser().parse_args(["bids", *arguments[arguments.index("image") + 1 :]])
    assert (parsed.dataset, parsed.output) == (tmp_path / "a study", tmp_path / "out")
    assert (parsed.level, parsed.participant_label, parsed.suffix) == ("participant", ["sub-10"], ["PDw"])
    assert parsed.output.is_dir() and "OMP_NUM_THREADS=4" in arguments
