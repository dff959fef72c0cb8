"""Provenance of a result: package versions, git commit, file hashes."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGE = "midiff-monai"

HASH_LENGTH = 12
"""Characters of a hash that stand for it in a table."""

SOURCE_FILES = ("*.py", "*.yaml", "*.pt", "*/metadata.json")
"""Files that decide a result: code, configurations and weights. Changes of these mark a commit as "-dirty"."""

REPORTED_PACKAGES = (PACKAGE, "torch", "monai", "nibabel", "numpy")
"""Packages whose versions every manifest records."""


@cache  # git is slow, and a batch writes many reports
def environment() -> dict[str, Any]:
    """Return the versions of Python, the platform and the packages, and the git commit.

    The version of a package that is not installed is None. The commit is None outside a git checkout.
    """
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in REPORTED_PACKAGES},
        "git_commit": git_commit(Path(__file__).resolve().parents[1]),
    }


def sha256(*paths: Path) -> str:
    """Return the hexadecimal SHA-256 of the concatenated contents of files. Files are read in blocks of 1 MiB."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def git_commit(checkout: Path) -> str | None:
    """Return the commit hash of HEAD, or None if `checkout` is not the root of a git repository with a commit.

    The suffix "-dirty" is appended if `SOURCE_FILES` differ from that commit.
    """
    # A wheel in a virtual environment may lie inside another repository. That repository must not be reported.
    if not (checkout / ".git").exists():
        return None
    try:
        commit = _git(checkout, "rev-parse", "--verify", "--quiet", "HEAD").stdout.strip()
        if not commit:
            return None
        changed = _git(checkout, "diff", "--quiet", "HEAD", "--", *SOURCE_FILES).returncode
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
