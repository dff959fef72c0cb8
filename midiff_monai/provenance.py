"""What made a result: versions, commit, hashes."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGE = "midiff-monai"


DECISIVE_FILES = ("*.py", "*.yaml", "*.pt", "*/metadata.json")


REPORTED_PACKAGES = (PACKAGE, "torch", "monai", "nibabel", "numpy")


def usable_processors() -> int:
    """Of the machine's, those that this process may use: a queue lends it some, `taskset` and containers too."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache  # for git is slow, and a batch has many reports
def environment() -> dict[str, Any]:
    """Python, platform, package versions (None where not installed) and, in a checkout, the git commit (else None)."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in REPORTED_PACKAGES},
        "git_commit": git_commit(Path(__file__).resolve().parents[1]),
    }


def sha256(*paths: Path) -> str:
    """Hexadecimal SHA-256 of the contents of files, one after the other; read in pieces, so size does not matter."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def git_commit(checkout: Path) -> str | None:
    """The commit that is checked out, or None where `checkout` is not the top of a repository with one.

    Where code, configurations or weights are not as that commit has them, "-dirty" follows.

    The `.git` test keeps a wheel in a virtual environment from reporting the repository around that environment.
    """
    if not (checkout / ".git").exists():
        return None
    try:
        commit = _git(checkout, "rev-parse", "--verify", "--quiet", "HEAD").stdout.strip()
        if not commit:
            return None
        changed = _git(checkout, "diff", "--quiet", "HEAD", "--", *DECISIVE_FILES).returncode
    except FileNotFoundError:  # git itself is not installed
        return None
    return f"{commit}-dirty" if changed else commit


def _git(checkout: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", "-C", str(checkout), *command], capture_output=True, text=True, check=False)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
