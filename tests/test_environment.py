"""Environments in which importing the dependencies used to fail."""

from __future__ import annotations

import getpass
import os
import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest.mock import Mock

import pytest

from midiff_monai.environment import (
    CACHE_FOLDERS,
    ITK_THREADS,
    MALLOC_OPTIONS,
    SPIN_COUNT,
    THREAD_VARIABLES,
    choose_threads,
    keep_freed_memory,
    limit_spinning,
    make_environment_safe,
)
from midiff_monai.errors import InputError, OutputError

UNWRITABLE = "/proc/self"
"""A folder in which not even root can create files."""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_the_backend_of_a_notebook_is_replaced(tmp_path: Path) -> None:
    variables = {"HOME": str(tmp_path), "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    make_environment_safe(variables)
    assert variables == {"HOME": str(tmp_path), "MPLBACKEND": "Agg"}


@pytest.mark.parametrize("home", [None, UNWRITABLE, "/nonexistent"])
def test_caches_move_where_the_home_folder_cannot_be_written(home: str | None, temporary: Path) -> None:
    variables = {"HOME": home} if home else {}
    make_environment_safe(variables)
    folders = [variables[name] for name in ("HOME", *CACHE_FOLDERS)]
    assert all(temporary in Path(folder).parents for folder in folders)
    assert Path(variables["HOME"]).stat().st_mode & 0o777 == 0o700


def test_a_cache_folder_of_the_user_stays(temporary: Path) -> None:
    variables = {"MPLCONFIGDIR": "/somewhere/else"}
    make_environment_safe(variables)
    assert variables["MPLCONFIGDIR"] == "/somewhere/else"


def test_a_working_folder_that_was_removed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(InputError, match="does not exist any more. Change to a folder that exists"):
        make_environment_safe({"HOME": str(tmp_path)})


def test_an_unwritable_tmpdir_is_not_used(tmp_path: Path) -> None:
    variables = {"HOME": str(tmp_path), "TMPDIR": UNWRITABLE}
    make_environment_safe(variables)
    assert "TMPDIR" not in variables


def test_a_user_without_a_name_gets_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(getpass, "getuser", Mock(side_effect=KeyError("getpwuid(): uid not found: 12345")))
    variables = {"HOME": str(tmp_path)}
    make_environment_safe(variables)
    assert variables["USER"]


def test_without_any_temporary_folder_the_error_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", UNWRITABLE)
    with pytest.raises(OutputError, match="Set TMPDIR"):
        make_environment_safe({})


def page_faults(preparation: str) -> int:
    """Number of pages that the kernel clears while a process frees and allocates 64 MB, ten times."""
    code = f"""
import resource
import numpy as np
from midiff_monai.environment import keep_freed_memory
{preparation}
np.ones(2**23)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    np.ones(2**23)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    environment = {name: value for name, value in os.environ.items() if name not in MALLOC_OPTIONS}
    environment["NUMPY_MADVISE_HUGEPAGE"] = "0"
    return int(subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True).stdout)


@pytest.mark.skipif("glibc" not in "".join(platform.libc_ver()), reason="other C libraries have no mallopt")
def test_freed_memory_is_not_cleared_again() -> None:
    assert page_faults("keep_freed_memory()") < page_faults("") / 10


@pytest.mark.skipif("glibc" not in "".join(platform.libc_ver()), reason="other C libraries have no malloc_trim")
def test_kept_memory_is_returned() -> None:
    code = """
from pathlib import Path
import numpy as np
from midiff_monai.environment import keep_freed_memory, return_freed_memory
def resident_mb():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20
keep_freed_memory()
freed, held = np.ones(2**25), np.ones(2**20)
before = resident_mb()
del freed
kept = resident_mb()
return_freed_memory()
print(before - kept, kept - resident_mb())
"""
    environment = {name: value for name, value in os.environ.items() if name not in MALLOC_OPTIONS}
    printed = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True).stdout
    lost, returned = map(float, printed.split())
    assert lost < 1 and returned > 250


def test_processes_that_are_started_keep_freed_memory_too() -> None:
    variables: dict[str, str] = {}
    keep_freed_memory(variables)
    assert not variables or variables.keys() == MALLOC_OPTIONS.keys()


def test_memory_settings_of_the_user_stay() -> None:
    variables = {"MALLOC_TOP_PAD_": "0"}
    keep_freed_memory(variables)
    assert variables == {"MALLOC_TOP_PAD_": "0"}


@pytest.mark.parametrize("arguments", [["info", "--json"], ["segment", "--no-translate", "SCAN", "-o", "OUT"]])
def test_a_container_without_user_home_and_backend_runs_the_command(arguments: list[str], tmp_path: Path) -> None:
    """The password database is emptied within the process, because the tests may run as root."""
    import nibabel as nib
    import numpy as np

    voxels = np.random.default_rng(0).random((20, 24, 8)).astype(np.float32)
    nib.save(nib.Nifti1Image(voxels, np.diag([8.0, 8, 8, 1])), tmp_path / "scan.nii.gz")
    arguments = [{"SCAN": str(tmp_path / "scan.nii.gz"), "OUT": str(tmp_path / "out")}.get(a, a) for a in arguments]
    code = f"""
import pwd, sys
def getpwuid(uid): raise KeyError("uid not found")
pwd.getpwuid = getpwuid
from midiff_monai.cli.main import main
sys.exit(main({arguments!r}))
"""
    hidden = {"USER", "LOGNAME", "LNAME", "USERNAME", "XDG_CACHE_HOME", "MPLCONFIGDIR"}
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    environment |= {"HOME": UNWRITABLE, "MPLBACKEND": "module://not_installed", "TMPDIR": str(tmp_path)}
    finished = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    assert "Traceback" not in finished.stderr


def test_waiting_is_bounded_unless_the_user_has_said_how_to_wait() -> None:
    variables: dict[str, str] = {}
    limit_spinning(variables)
    assert variables == {"GOMP_SPINCOUNT": str(SPIN_COUNT)}
    for setting in ({"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": "infinity"}):
        variables = dict(setting)
        limit_spinning(variables)
        assert variables == setting


def test_threads_are_those_of_the_option_of_the_user_or_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("midiff_monai.environment.usable_processors", lambda variables: 6)
    cases: list[tuple[dict[str, str], int | None, dict[str, str]]] = [
        ({}, None, {"OMP_NUM_THREADS": "6", ITK_THREADS: "6"}),
        ({"OMP_NUM_THREADS": "4,1"}, None, {"OMP_NUM_THREADS": "4,1", ITK_THREADS: "4"}),
        ({ITK_THREADS: "1"}, None, {"OMP_NUM_THREADS": "6", ITK_THREADS: "1"}),
        ({"OMP_NUM_THREADS": "4", "MKL_NUM_THREADS": "1"}, 3, dict.fromkeys(THREAD_VARIABLES, "3")),
    ]
    for given, option, expected in cases:
        variables = dict(given)
        choose_threads(option, variables)
        assert variables == expected


@pytest.mark.skipif(platform.system() != "Linux", reason="torch has another OpenMP runtime there")
def test_the_runtime_of_torch_obeys() -> None:
    """The runtime itself says which settings it has taken, when torch loads it."""
    code = """
import os, sys
from midiff_monai.environment import choose_threads, limit_spinning
choose_threads(1)
limit_spinning()
assert "torch" not in sys.modules
import torch
print(torch.get_num_threads())
"""
    hidden = {*THREAD_VARIABLES, "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    environment["OMP_DISPLAY_ENV"] = "VERBOSE"
    finished = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    if "GOMP_SPINCOUNT" not in finished.stderr:
        pytest.skip("this build of torch has another OpenMP runtime than GNU libgomp")
    assert re.search(rf"GOMP_SPINCOUNT = '{SPIN_COUNT}'", finished.stderr)
    assert re.search(r"OMP_NUM_THREADS = '1'", finished.stderr) and finished.stdout == "1\n"
