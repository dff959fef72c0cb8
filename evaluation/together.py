"""Score scans that are translated together, beside each alone and beside the mean of their synthetic T1w.

    python evaluation/together.py --pairs ../shared/data/multicontrast --out evaluation/results
    python evaluation/together.py --simulated-heads 1 --label-maps ../shared/data/label-maps --full --out …
    python evaluation/register.py --scans ../shared/data/open-ms --subject raw-patient01 --out open-ms-heads
    python evaluation/together.py --pairs open-ms-heads --full --out evaluation/results

The reference is that of `run.py`: the segmentation of the same subject's real T1w, or the label map of a simulated
scan. Scans on other grids than the T1w come second, and are not scored alone. Everything is computed at 2 mm unless
`--full` is given. Existing rows are kept.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from methods import true_labels
from run import subjects
from table import Table, weights_columns
from yardstick_scans import HELD_BACK, simulate_head

from midiff_monai import segment, segment_image
from midiff_monai.evaluation.scores import score
from midiff_monai.io.volumes import image_like
from midiff_monai.pipeline.computation import Computation
from midiff_monai.pipeline.result import Result

COMBINATIONS = (("PD", "T2"), ("T2", "FLAIR"))
"""A dual echo, and two scans that most protocols have."""

KEY = ("dataset", "resolution", "subject", "scans", "method")

MEASURES = (
    *("white matter tissue dice", "grey matter tissue dice", "cerebrospinal fluid tissue dice"),
    *("white matter dice", "grey matter dice", "lateral ventricles dice", "correlation", "ssim"),
)


class Subject:
    """The scans of a subject, and what is computed of them.

    Args:
        t1: the real T1w, SUBJECT_T1.nii.gz.
        on_grid: the contrasts of the scans on its grid.
        fast: compute at 2 mm.
    """

    def __init__(self, t1: Path, on_grid: Collection[str], fast: bool) -> None:
        self.t1, self.on_grid, self.fast = t1, on_grid, fast
        self.name = t1.name.removesuffix("_T1.nii.gz")
        self._alone: dict[str, Result] = {}

    def reference(self) -> Result:
        """The segmented T1w, with the labels of SUBJECT_dseg.nii.gz if they exist."""
        result = self._segment([self.t1], translated=False)
        if (truth := true_labels(self.t1)).exists():
            result.segmentation = np.asarray(nib.load(truth).dataobj)
        return result

    def alone(self, contrast: str) -> Result:
        """The result of one scan, computed once."""
        if contrast not in self._alone:
            self._alone[contrast] = self._segment([self.scan(contrast)])
        return self._alone[contrast]

    def together(self, contrasts: Sequence[str]) -> Result:
        """The result of several scans at once."""
        return self._segment([self.scan(contrast) for contrast in contrasts], together=True)

    def mean(self, contrasts: Sequence[str]) -> Computation:
        """The segmentation of the mean of the synthetic T1w of several scans."""
        synthetic = [self.alone(contrast).synthetic for contrast in contrasts]
        image = image_like(np.mean(synthetic, axis=0), self.alone(contrasts[0]).source, np.float32)
        return segment_image(image, translated=False, fast=self.fast).computation

    def scan(self, contrast: str) -> Path:
        """The file of a scan, which may not exist."""
        return self.t1.with_name(f"{self.name}_{contrast}.nii.gz")

    def _segment(self, scans: Sequence[Path], **options: bool) -> Result:
        with tempfile.TemporaryDirectory() as folder:
            return segment(scans, folder, fast=self.fast, **options)[0]


def fill(table: Table, dataset: str, subject: Subject) -> None:
    """Compute the missing rows of a subject."""
    identity = {"dataset": dataset, "resolution": "2 mm" if subject.fast else "full", "subject": subject.name}
    todo = [key for key in _keys(identity, subject) if not table.has(key)]
    truth = subject.reference() if todo else None
    for key in todo:
        assert truth is not None
        contrasts = key["scans"].split("+")
        compute = getattr(subject, key["method"])
        result = compute(key["scans"] if key["method"] == "alone" else contrasts)
        scores = score(result, truth)
        weights = truth.report.weights | subject.alone(contrasts[0]).report.weights
        row = key | {name: scores[name] for name in MEASURES} | weights_columns(weights)
        table.add(row)
        print(*key.values(), *(f"{scores[name]:.3f}" for name in MEASURES), flush=True)


def _keys(identity: Mapping[str, str], subject: Subject) -> list[dict[str, str]]:
    """The keys of the rows of a subject."""
    found: list[dict[str, str]] = []
    for contrasts in (each for each in COMBINATIONS if all(subject.scan(contrast).exists() for contrast in each)):
        alone = [contrast for contrast in contrasts if contrast in subject.on_grid]
        found += [{**identity, "scans": contrast, "method": "alone"} for contrast in alone]
        # the result lies on the grid of the first
        scans = "+".join(sorted(contrasts, key=lambda contrast: contrast not in subject.on_grid))
        methods = ("mean", "together") if len(alone) == len(contrasts) else ("together",)
        found += [{**identity, "scans": scans, "method": method} for method in methods]
    return list({tuple(key.values()): key for key in found}.values())


def main() -> None:
    """Fill the table, and print its means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=Path, nargs="+", default=[], help="folders of SUBJECT_T1.nii.gz and the others")
    parser.add_argument("--simulated-heads", type=int, default=0, metavar="N", help=f"heads of N of {HELD_BACK}")
    parser.add_argument("--label-maps", type=Path, help="folder of the label maps")
    parser.add_argument("--full", action="store_true", help="compute at the resolution of the scans")
    parser.add_argument("--out", type=Path, required=True, help="folder for together.csv")
    arguments = parser.parse_args()
    table = Table(arguments.out / "together.csv", KEY)
    with tempfile.TemporaryDirectory() as folder:
        simulated = Path(folder) / "simulated-heads-1mm"
        for name in HELD_BACK[: arguments.simulated_heads]:
            simulate_head(arguments.label_maps / f"{name}.nii.gz", simulated)
        for pairs in (*arguments.pairs, simulated):
            for t1 in sorted(pairs.glob("*_T1.nii.gz")):
                on_grid = {contrast for _, contrast, _, reference in subjects(pairs) if reference == t1}
                fill(table, pairs.resolve().name, Subject(t1, on_grid, not arguments.full))
    print(table.rows().groupby(list(KEY[:2] + KEY[3:]))[list(MEASURES)].mean().round(3).to_string())


if __name__ == "__main__":
    main()
