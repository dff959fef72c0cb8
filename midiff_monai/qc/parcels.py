"""A table of the volumes of the parcels of a study."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from midiff_monai.io.paths import atomic_write
from midiff_monai.parcels import PARCELS
from midiff_monai.qc.study import read_study


def write_parcels_table(folder: Path) -> Path | None:
    """Write `parcels.csv`, the volumes in millilitres of the parcels of every result in a folder and its subfolders.

    The table has one row for each input with parcels, ordered by name. Its columns are `input` and one for each parcel.
    Inputs that failed or were not reached in the last run are left out.

    Returns:
        The path of the table; None if there are no parcels, and thus no table.
    """
    done = [subject for subject in read_study(folder) if subject.status in ("done", "skipped")]
    tables = [(subject.input, path) for subject in done if (path := subject.output("parcel_volumes"))]
    if not tables:
        return None
    columns = ["input", *(parcel.name for parcel in PARCELS)]
    rows = [pd.read_csv(path).set_index("name")["volume_ml"].to_dict() | {"input": source} for source, path in tables]
    path = folder / "parcels.csv"
    with atomic_write(path) as temporary:
        pd.DataFrame(rows, columns=columns).to_csv(
            temporary, index=False, float_format="%.4f", errors="surrogateescape"
        )
    return path
