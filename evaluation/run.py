"""Score methods on volumes of other contrasts against the segmentation of the same subjects' real T1w.

    python evaluation/run.py --pairs ../shared/data/multicontrast --out evaluation/results
    python evaluation/run.py --simulated 4 --label-maps ../shared/data/label-maps --out evaluation/results
    python evaluation/run.py --pairs … --methods midiff:steps=1 midiff:steps=10 --out evaluation/results/steps

PROTOCOL.md describes the data, the methods and the measures. Existing rows are kept, unless the weights have changed.
The means and their intervals are computed at the end.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
from methods import METHODS, ON_T1, WITHOUT_IMAGE, WITHOUT_STRUCTURES, Method, applies, direct, midiff, true_labels
from summary import write_summary
from table import Table, weights_columns
from tqdm import tqdm

from midiff_monai.evaluation.scores import score
from midiff_monai.evaluation.simulation import simulate_pairs
from midiff_monai.io.affines import same_grid
from midiff_monai.pipeline.result import Result

__all__ = ["direct", "midiff", "score", "subjects"]

CONTRASTS = ("PD", "T2", "FLAIR", "CT")


class Job(NamedTuple):
    """A row to compute: its key in the table, the volume, and the real T1w."""

    dataset: str
    subject: str
    contrast: str
    method: str
    volume: Path
    t1: Path

    @property
    def key(self) -> dict[str, str]:
        """The columns that identify the row."""
        return {name: getattr(self, name) for name in ("dataset", "subject", "contrast", "method")}


def subjects(pairs: Path) -> list[tuple[str, str, Path, Path]]:
    """List (subject, contrast, volume, real T1w) for each SUBJECT_CONTRAST.nii.gz that is on the grid of the T1w."""
    found = []
    for t1 in sorted(pairs.glob("*_T1.nii.gz")):
        subject = t1.name.removesuffix("_T1.nii.gz")
        for contrast in CONTRASTS:
            volume = pairs / f"{subject}_{contrast}.nii.gz"
            if volume.exists() and _on_one_grid(volume, t1):
                found.append((subject, contrast, volume, t1))
    return found


def jobs(pairs: Path, methods: list[str]) -> list[Job]:
    """List the rows of a folder of pairs. A method on the T1w has one row per subject."""
    found = []
    for subject, contrast, volume, t1 in subjects(pairs):
        for name in (name for name in methods if applies(name, volume)):
            on_t1 = name.partition(":")[0] in ON_T1
            found.append(
                Job(pairs.resolve().name, subject, *(("T1", name, t1) if on_t1 else (contrast, name, volume)), t1)
            )
    return list(dict.fromkeys(found))


@lru_cache(maxsize=1)
def reference(t1: Path) -> Result:
    """Return a subject's reference: its segmented T1w, with the labels of SUBJECT_dseg.nii.gz if they exist."""
    with tempfile.TemporaryDirectory() as folder:
        result = direct(t1, Path(folder))
    if (truth := true_labels(t1)).exists():
        result.segmentation = np.asarray(nib.load(truth).dataobj)
    return result


def parse_method(name: str) -> Method:
    """Return a method by its name with optional settings: "midiff" or "midiff:steps=5,samples=4".

    Raises:
        ValueError: the method does not exist, or a setting is not an integer.
    """
    base, _, settings = name.partition(":")
    if base not in METHODS:
        raise ValueError(f"{base} is not one of {', '.join(METHODS)}")
    pairs = (setting.split("=") for setting in settings.split(",") if setting)
    return partial(METHODS[base], **{key: int(value) for key, value in pairs})


def fill(table: Table, todo: list[Job]) -> None:
    """Compute the missing rows one by one."""
    for job in tqdm([job for job in todo if not table.has(job.key)]):
        truth = reference(job.t1)
        with tempfile.TemporaryDirectory() as folder:
            result = parse_method(job.method)(job.volume, Path(folder))
        method = job.method.partition(":")[0]
        scores = score(result, truth, method not in WITHOUT_STRUCTURES, method not in WITHOUT_IMAGE)
        table.add(job.key | scores | weights_columns(truth.report.weights | result.report.weights))


def main() -> None:
    """Fill the table and write the summary."""
    arguments = parse_arguments()
    table = Table(arguments.out / "scores.csv", key=("dataset", "subject", "contrast", "method"))
    with tempfile.TemporaryDirectory() as folder:
        simulated, heads = Path(folder) / "simulated", Path(folder) / "simulated-heads"
        simulate_pairs(arguments.label_maps, arguments.simulated, simulated)
        simulate_pairs(arguments.label_maps, arguments.simulated_heads, heads, heads=True)
        todo = [job for pairs in (*arguments.pairs, simulated, heads) for job in jobs(pairs, arguments.methods)]
        if not todo:
            raise SystemExit("run.py: error: no SUBJECT_T1.nii.gz with another contrast beside it, and no label map")
        fill(table, todo)
    print(write_summary(table.rows(), arguments.out))


def parse_arguments() -> argparse.Namespace:
    """Read and check the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--pairs", type=Path, nargs="+", default=[], help="folders of SUBJECT_T1.nii.gz and SUBJECT_PD.nii.gz …"
    )
    parser.add_argument("--simulated", type=int, default=0, metavar="N", help="pairs from the first N label maps")
    parser.add_argument("--simulated-heads", type=int, default=0, metavar="N", help="the same with whole heads")
    parser.add_argument("--label-maps", type=Path, help="folder of the label maps")
    parser.add_argument(
        "--methods",
        nargs="+",
        default=list(METHODS),
        help=f"of {', '.join(METHODS)}, with optional settings such as midiff:steps=5 (default: all)",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for scores.csv, summary.csv and summary.md")
    arguments = parser.parse_args()
    simulated = arguments.simulated + arguments.simulated_heads
    if bool(simulated) != bool(arguments.label_maps) or not (arguments.pairs or simulated):
        parser.error("give --pairs, or --simulated or --simulated-heads together with --label-maps")
    try:
        for name in arguments.methods:
            parse_method(name)
    except ValueError as error:
        parser.error(str(error))
    return arguments


def _on_one_grid(volume: Path, t1: Path) -> bool:
    image, target = nib.load(volume), nib.load(t1)
    return same_grid(image.shape[:3], image.affine, target.shape[:3], target.affine)


if __name__ == "__main__":
    main()
