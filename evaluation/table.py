"""A CSV table that is extended row by row, and drops the rows of outdated weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import pandas as pd

from midiff_monai.bundle.choice import INTRACRANIAL, PARCELLATION, SEGMENTATION, TRANSLATION
from midiff_monai.bundle.resources import bundle_root
from midiff_monai.bundle.weights import read_metadata
from midiff_monai.io.paths import atomic_write
from midiff_monai.provenance import HASH_LENGTH, environment, sha256

BASELINES = Path(__file__).parent / "baselines"
"""Folder of the baselines' weights and configurations."""

BUNDLES = (TRANSLATION, SEGMENTATION, PARCELLATION, INTRACRANIAL)
"""Bundles on whose weights the rows of a table depend."""


class Table:
    """A table that writes each row to disk when it is added.

    Rows of earlier runs are kept if their hashes are those of the installed weights. An empty hash means that the row
    does not depend on the bundle.

    Args:
        path: CSV file. Its rows are read if it exists.
        key: columns that identify a row.
    """

    def __init__(self, path: Path, key: Sequence[str]) -> None:
        self.path, self.key = path, tuple(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        text = [*key, *map(_column, installed_weights())]  # pandas would read some hashes as numbers
        earlier = pd.read_csv(path, dtype=dict.fromkeys(text, str)) if path.exists() else pd.DataFrame()
        self._rows = [row for row in earlier.to_dict("records") if is_current(row)]
        self._done = {self._identity(row) for row in self._rows}

    def has(self, key: Mapping[str, object]) -> bool:
        """Return whether the table has rows with this key."""
        return self._identity(key) in self._done

    def add(self, *rows: Mapping[str, object]) -> None:
        """Add rows and write the table."""
        self._rows += [dict(row) for row in rows]
        self._done |= {self._identity(row) for row in rows}
        with atomic_write(self.path) as temporary:
            self.rows().to_csv(temporary, index=False, float_format="%.5g")

    def rows(self) -> pd.DataFrame:
        """Return all rows."""
        return pd.DataFrame(self._rows)

    def _identity(self, row: Mapping[str, object]) -> tuple[str, ...]:
        return tuple(str(row[name]) for name in self.key)


def weights_columns(weights: Mapping[str, str]) -> dict[str, str | None]:
    """Return the provenance columns of a row: the commit, and the truncated SHA-256 of the weights."""
    hashes = {_column(bundle): weights[bundle][:HASH_LENGTH] for bundle in weights}
    return {"commit": environment()["git_commit"], **hashes}


def is_current(row: Mapping[str, object]) -> bool:
    """Return whether the hashes of a row are those of the installed weights of bundles and baselines."""
    return all(
        pd.isna(row.get(_column(name))) or row[_column(name)] == installed[:HASH_LENGTH]  # type: ignore[call-overload]
        for name, installed in installed_weights().items()
    )


@cache
def installed_weights() -> dict[str, str]:
    """Return the SHA-256 of all weights by the name of their bundle, from its metadata, or of their baseline."""
    bundles = {name: read_metadata(bundle_root(name))["weights_sha256"] for name in BUNDLES}
    return bundles | {path.stem: sha256(path) for path in BASELINES.glob("*.pt")}


def _column(bundle: str) -> str:
    return f"{bundle}_sha256"
