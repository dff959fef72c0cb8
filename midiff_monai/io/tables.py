"""Tables of inputs: which volumes, where their results go, and whose they are."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from midiff_monai.errors import InputError
from midiff_monai.io.placeholders import missing_file_error

TABLE_SUFFIXES = {".csv": ",", ".tsv": "\t"}
"""Suffix of a table → what separates its columns."""


class Row(NamedTuple):
    """A row of a table.

    Attributes:
        source: the volume. A relative one starts at the folder of the table.
        folder: folder of its results.
        person: the columns `subject` and `session`, as far as the table has them.
    """

    source: Path
    folder: Path
    person: str


def read_table(table: Path, output: Path) -> Iterator[Row]:
    """Read a table (.csv or .tsv) with a column `input`.

    Args:
        table: its optional columns are `output`, a subfolder of the results, `subject` and `session`.
        output: folder of all results.

    Raises:
        InputError: the table cannot be read, lacks an input, or puts results outside the folder.
    """
    if not table.exists():
        raise missing_file_error(table)
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file, delimiter=TABLE_SUFFIXES[table.suffix.lower()]))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(table, f"cannot be read as a table ({error})", "Check the file") from error
    if not rows:
        raise InputError(table, "has no row", "Give a header with a column `input`, and one volume per row")
    if "input" not in rows[0]:
        columns = ", ".join(str(name) for name in rows[0])
        raise InputError(table, f"has no column `input`, but {columns}", "A .csv has commas, a .tsv has tabulators")
    if not all(row["input"] for row in rows):
        raise InputError(table, "has a row without an input", "Give one volume per row")
    for row in rows:
        folder = (output / (row.get("output") or "")).resolve()
        if output.resolve() not in (folder, *folder.parents):
            raise InputError(table, f"puts results outside {output}", "Correct its column `output`")
        person = " ".join(filter(None, (row.get("subject"), row.get("session") if row.get("subject") else None)))
        yield Row(table.parent / row["input"], output / (row.get("output") or ""), person)
