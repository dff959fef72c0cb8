"""Learn the quality score from scans with known labels, and validate it on others.

    python evaluation/quality.py collect --data ../shared/data --out evaluation/results/quality --work FOLDER
    python evaluation/quality.py fit --out evaluation/results/quality
    python evaluation/quality.py validate --out evaluation/results/quality --figures evaluation/results/figures

`collect` makes good and spoiled scans, segments them with `--fast` and one step, and adds a row for each structure to
scans.csv; it continues where it was stopped. `fit` writes the model of the package. `validate` writes what it predicts
for the scans that were not used in the fit. PROTOCOL.md has the details.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from itertools import chain, zip_longest
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from quality_figure import draw
from quality_fit import FITTED, compare, fit, per_scan, summary, with_intervals
from quality_scans import Labelled, Planned, real_scans, simulated_scans
from table import Table, weights_columns
from tqdm import tqdm

from midiff_monai.errors import InputError
from midiff_monai.evaluation.metrics import dice
from midiff_monai.evaluation.parcellations import NOT_SCORED
from midiff_monai.io.inputs import find_jobs
from midiff_monai.labels import STRUCTURES
from midiff_monai.pipeline.models import Models, load_models
from midiff_monai.pipeline.options import Mode, Settings, Task
from midiff_monai.pipeline.result import Result
from midiff_monai.pipeline.run import process
from midiff_monai.qc.quality import FILE, quality_model

KEY = ("scan", "settings")


def plan(data: Path) -> list[Planned]:
    """List all scans; those of learning and of validation in turn."""
    kinds: tuple[Iterator[Planned], ...] = (
        *(simulated_scans(data, held_back) for held_back in (False, True)),
        real_scans(data),
    )
    return [scan for scan in chain.from_iterable(zip_longest(*kinds)) if scan is not None]


def collect(planned: list[Planned], table: Table, work: Path, fast: bool) -> None:
    """Add the rows of the scans that the table lacks."""
    models: dict[bool, tuple[Task, Models]] = {}
    settings = "fast" if fast else "default"
    for scan in tqdm(planned):
        key = {"scan": scan.name, "settings": settings}
        if table.has(key):
            continue
        if scan.translated not in models:
            steps = 1 if fast and scan.translated else None
            mode = Mode.SEGMENT if scan.translated else Mode.SEGMENT_DIRECTLY
            task = Task(mode, Settings(fast=fast, steps=steps, lesions=False), overwrite=True)
            models[scan.translated] = task, load_models(task)
        made = stored(scan, work / f"{scan.name}.nii.gz")
        (job,) = find_jobs(work / f"{scan.name}.nii.gz", work / settings)
        try:
            result = process(job, *models[scan.translated])
        except InputError as error:  # midiff refuses it, which is the best answer
            tqdm.write(str(error))
            continue
        about = {"source": scan.source, "fault": scan.fault, "translated": scan.translated}
        common = key | about | weights_columns(result.report.weights)
        table.add(*(common | row for row in rows_of(result, made.labels)))


def stored(scan: Planned, path: Path) -> Labelled:
    """Make a scan, or read the copy of it that an earlier call has kept."""
    truth = path.with_name(path.name.replace(".nii.gz", "_truth.nii.gz"))
    if not truth.exists():
        made = scan.make()
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(made.image, made.affine), path)
        nib.save(nib.Nifti1Image(made.labels, made.affine), truth)
    image, labels = (nib.Nifti1Image.from_filename(name) for name in (path, truth))
    return Labelled(np.asarray(image.dataobj), np.asarray(labels.dataobj), image.affine)


def rows_of(result: Result, truth: np.ndarray) -> Iterator[dict[str, object]]:
    """Return a row for each structure in the result or in the truth."""
    assert result.segmentation is not None
    counted = truth != NOT_SCORED
    found, truth = result.segmentation * counted, truth * counted
    measures = result.measures()
    of_scan = {"edge_correlation": measures.edge_correlation, "brain_ml": sum(measures.volumes.values())}
    for structure in STRUCTURES[1:]:
        score = dice(found, truth, [structure.id])
        if not np.isnan(score):
            expected = result.soft_dice.get(structure.id, 0.0)
            yield {"structure": structure.name, "dice": score, "soft_dice": expected} | of_scan


def write_model(table: Table) -> None:
    """Fit the model to the scans of the label maps, and write it into the package."""
    rows = table.rows()
    model = fit(rows[(rows["source"] == FITTED) & (rows["settings"] == "fast")])
    rounded = json.loads(json.dumps(model._asdict()), parse_float=lambda number: round(float(number), 4))
    FILE.write_text(json.dumps(rounded, indent=1) + "\n", encoding="utf-8")


def validate(table: Table, out: Path, figures: Path) -> None:
    """Write the expected and the true Dice of the scans that were not used in the fit, a summary and the figure."""
    rows, model = table.rows(), quality_model()
    held_back = rows[(rows["source"] != FITTED) & (rows["settings"] == "fast")]
    compared = compare(model, held_back)
    scans = with_intervals(model, per_scan(compared))
    scans.to_csv(out / "validation.csv", index=False, float_format="%.4f")
    real = scans["source"] != "held-back maps"
    sets = {"all": scans, "real scans": scans[real], "held-back label maps": scans[~real]}
    found = pd.DataFrame({name: summary(chosen) for name, chosen in sets.items()})
    print(found.round(3))
    found.round(3).rename_axis("measure").to_csv(out / "summary.csv")
    draw(scans, compared, figures / "quality.png")


def main() -> None:
    """Collect, fit or validate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["collect", "fit", "validate"])
    parser.add_argument("--out", type=Path, required=True, help="folder for scans.csv, validation.csv and summary.csv")
    parser.add_argument("--data", type=Path, help="collect: folder of the development data")
    parser.add_argument("--work", type=Path, help="collect: folder that keeps the scans and their results")
    parser.add_argument("--default", action="store_true", help="collect: without --fast and one step")
    parser.add_argument("--only", nargs="+", metavar="SCAN", help="collect: names of scans (default: all)")
    parser.add_argument("--figures", type=Path, help="validate: folder for quality.png")
    arguments = parser.parse_args()
    table = Table(arguments.out / "scans.csv", KEY)
    if arguments.command == "collect":
        planned = [scan for scan in plan(arguments.data) if not arguments.only or scan.name in arguments.only]
        collect(planned, table, arguments.work, not arguments.default)
    elif arguments.command == "fit":
        write_model(table)
    else:
        validate(table, arguments.out, arguments.figures)


if __name__ == "__main__":
    main()
