"""A table of the volumes of the parcels of a study."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from midiff_monai.parcels import PARCELS
from midiff_monai.qc.study import read_results, write_study_table


def write_parcels_table(folder: Path) -> Path | None:
    """Write `parcels.csv`, the volumes in millilitres of the parcels of every result in a folder and its subfolders.

    The table has one row for each input with parcels, ordered by name. Its columns are `input` and one for each parcel.
    Inputs that failed or were not reached in the last run are left out.

    Returns:
        The path of the table; None if there are no parcels, and thus no table.
    """
    tables = [(subject.input, path) for subject in read_results(folder) if (path := subject.output("parcel_volumes"))]
    if not tables:
        return None
    columns = ["input", *(parcel.name for parcel in PARCELS)]
    rows = [pd.read_csv(path).set_index("name")["volume_ml"].to_dict() | {"input": source} for source, path in tables]
    return write_study_table(pd.DataFrame(rows, columns=columns), folder / "parcels.csv")
