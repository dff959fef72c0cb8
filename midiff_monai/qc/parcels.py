"""A table of the volumes of the parcels of a study."""

from __future__ import annotations

import logging
from pathlib import Path

import pandas as pd

from midiff_monai.errors import in_one_line
from midiff_monai.parcels import PARCELS
from midiff_monai.qc.study import read_results, write_study_table

_logger = logging.getLogger(__name__)


def write_parcels_table(folder: Path) -> Path | None:
    """Write `parcels.csv`, the volumes in millilitres of the parcels of every result in a folder and its subfolders.

    The table has one row for each input with parcels, ordered by name. Its columns are `input` and one for each parcel.
    Inputs that failed or were not reached in the last run are left out, as are tables that cannot be read.

    Returns:
        The path of the table; None if there are no parcels, and thus no table.
    """
    tables = [(subject.input, path) for subject in read_results(folder) if (path := subject.output("parcel_volumes"))]
    rows = [volumes | {"input": source} for source, path in tables if (volumes := _volumes(path))]
    if not rows:
        return None
    columns = ["input", *(parcel.name for parcel in PARCELS)]
    return write_study_table(pd.DataFrame(rows, columns=columns), folder / "parcels.csv")


def _volumes(path: Path) -> dict[str, float]:
    """The millilitres of each parcel in a table; none, with a warning, if it is damaged."""
    try:
        return pd.read_csv(path).set_index("name")["volume_ml"].to_dict()
    except (ValueError, LookupError) as error:
        _logger.warning("%s: cannot be read (%s), and is left out", path, in_one_line(error))
        return {}
