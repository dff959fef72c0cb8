"""What every test shares: modest numbers of threads, no display, and the path to the development data."""

from __future__ import annotations

import os
from pathlib import Path

import hypothesis
import pytest

# Read by torch, ITK and matplotlib when they are first imported, hence before any test module imports them.
os.environ.setdefault("OMP_NUM_THREADS", str(min(2, os.cpu_count() or 1)))
os.environ.setdefault("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", os.environ["OMP_NUM_THREADS"])
os.environ.setdefault("MPLBACKEND", "Agg")

# A deadline per example would fail on a busy machine, not on a wrong result.
hypothesis.settings.register_profile("midiff", deadline=None, print_blob=True)
hypothesis.settings.load_profile("midiff")

_SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real volumes beside the checkout; they may not be redistributed, so not every machine has them."""
    if not _SHARED_DATA.is_dir():
        pytest.skip("needs the development data in ../shared/data (see its README.md), which is not distributed")
    return _SHARED_DATA
