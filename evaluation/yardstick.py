"""Score the pipeline against labels that others made, on real and simulated scans.

    python evaluation/yardstick.py --data ../shared/data --out evaluation/results
    python evaluation/yardstick.py --data … --out … --only freesurfer-1mm/bert 'heads-flair/Subj0*/FLAIR'

Writes yardstick.csv, with a row for each subject, contrast and measure, and yardstick.md, with means over subjects.
Existing rows are kept, unless the weights have changed. PROTOCOL.md describes the data and the measures.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterable, Sequence
from fnmatch import fnmatch
from math import isnan
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from register import labels_on_grid
from table import Table, weights_columns
from tqdm import tqdm
from yardstick_scans import Case, Scan, cases
from yardstick_summary import markdown
from yardstick_volumes import FOUND_ML, TRUE_ML

from midiff_monai.evaluation.parcellations import NOT_SCORED
from midiff_monai.evaluation.scores import lesion_shares, region_dice, region_volumes, structure_dice
from midiff_monai.io.affines import voxel_volume_ml
from midiff_monai.pipeline.result import Result
from midiff_monai.pipeline.run import segment

KEY = ("source", "subject", "contrast", "settings")

OF_TRANSLATION = ("modality", "steps", "samples", "seed")
"""Settings that have no effect on a volume that is not translated."""


def fill(table: Table, todo: Iterable[Case], settings: Sequence[str]) -> None:
    """Compute the missing rows case by case."""
    text = " ".join(settings) or "default"
    missing = [case for case in todo if not table.has(case.key | {"settings": text})]
    with tempfile.TemporaryDirectory() as folder:
        for case in tqdm(missing):
            scan = case.read(Path(folder))
            result = answer(scan, parse_settings(settings))
            common = case.key | {"settings": text} | weights_columns(result.report.weights)
            scores = score(result, scan).items()
            table.add(*(common | {"structure": name, "measure": measure, "value": x} for (name, measure), x in scores))


def answer(scan: Scan, settings: dict[str, Any]) -> Result:
    """Segment a scan by the public pipeline."""
    if not scan.translated:
        settings = {name: value for name, value in settings.items() if name not in OF_TRANSLATION}
    elif scan.modality:
        settings = settings | {"modality": scan.modality}
    with tempfile.TemporaryDirectory() as folder:
        return segment([scan.volume], folder, translated=scan.translated, **settings)[0]


def score(result: Result, scan: Scan) -> dict[tuple[str, str], float]:
    """Compare a result with the truth: (structure, measure) → value."""
    truth = np.asarray(scan.truth.dataobj)
    counted = truth != NOT_SCORED
    assert result.segmentation is not None
    labels = nib.Nifti1Image(result.segmentation, result.source.affine)
    found, truth = labels_on_grid(labels, scan.truth) * counted, truth * counted
    dices = region_dice(found, truth) | (structure_dice(found, truth) if scan.structures else {})
    scores = {(name, "dice"): value for name, value in dices.items()}
    for measure, volume in ((FOUND_ML, found), (TRUE_ML, truth)):
        volumes = region_volumes(volume, voxel_volume_ml(scan.truth.affine))
        scores |= {(name, measure): value for name, value in volumes.items()}
    if scan.lesions is not None:
        shares = lesion_shares(found, np.asarray(scan.lesions.dataobj) > 0)
        scores |= {("lesions", f"share labelled {name}"): value for name, value in shares.items()}
    if not isnan(intracranial := result.intracranial_ml):
        scores |= {("intracranial", FOUND_ML): intracranial}
    return scores | dict(scan.known)


def chosen(found: Iterable[Case], patterns: Sequence[str]) -> list[Case]:
    """Return the cases that match one of the patterns SOURCE, SOURCE/SUBJECT or SOURCE/SUBJECT/CONTRAST."""

    def matches(case: Case, pattern: str) -> bool:
        return all(map(fnmatch, case.key.values(), pattern.split("/")))

    return [case for case in found if any(matches(case, pattern) for pattern in patterns)]


def parse_settings(settings: Sequence[str]) -> dict[str, Any]:
    """Return NAME=VALUE as keywords of `midiff_monai.segment`. A whole number becomes an integer."""
    pairs = (setting.split("=", 1) for setting in settings)
    return {name: int(value) if value.isdecimal() else value for name, value in pairs}


def main() -> None:
    """Fill the table and write the summary."""
    arguments = parse_arguments()
    todo = chosen(cases(arguments.data), arguments.only)
    if not todo:
        raise SystemExit(f"yardstick.py: error: {arguments.data} has no scan of the yardstick that --only allows")
    table = Table(arguments.out / "yardstick.csv", KEY)
    fill(table, todo, arguments.settings)
    (arguments.out / "yardstick.md").write_text(markdown(table.rows()), encoding="utf-8")


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the development data")
    parser.add_argument(
        "--only",
        nargs="+",
        default=["*"],
        metavar="PATTERN",
        help="SOURCE, SOURCE/SUBJECT or SOURCE/SUBJECT/CONTRAST, with wildcards (default: all)",
    )
    parser.add_argument(
        "--settings",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="settings of midiff_monai.segment, such as steps=10; they are a column of the table (default: none)",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for yardstick.csv and yardstick.md")
    return parser.parse_args()


if __name__ == "__main__":
    main()
