"""Compare ways to segment volumes of other contrasts with the segmentation of the same subjects' real T1w.

    python evaluation/run.py --pairs ../shared/data/multicontrast --out evaluation/results/multicontrast.csv

See PROTOCOL.md for what is compared with what, and why. Rows that the table has already are not computed again.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from tqdm import tqdm

from midiff_monai.baselines import match_histogram
from midiff_monai.labels import GROUPS
from midiff_monai.metrics import correlation, dice
from midiff_monai.phantom import make_phantom
from midiff_monai.pipeline import segment
from midiff_monai.report import environment
from midiff_monai.results import Result
from midiff_monai.volumes import read_volume, write_like

STRUCTURES = ("white matter", "grey matter", "lateral ventricles")
Method = Callable[[Path, Path], Result]


def midiff(volume: Path, folder: Path) -> Result:
    """Through the synthetic T1w."""
    return segment([volume], folder)[0]


def direct(volume: Path, folder: Path) -> Result:
    """The volume as it is, taken for a T1w."""
    return segment([volume], folder, translated=False)[0]


def histogram(volume: Path, folder: Path, invert: bool = False) -> Result:
    """After its histogram was matched to that of a T1w: the template phantom's."""
    source = read_volume(volume)
    reference = np.asarray(make_phantom("T1", noise=0, bias=0).image.dataobj)
    path = folder / "matched.nii.gz"
    write_like(match_histogram(np.asarray(source.dataobj), reference, invert), source, path, np.float32)
    return segment([path], folder / "matched", translated=False)[0]


def inverted_histogram(volume: Path, folder: Path) -> Result:
    """The same, dark and bright turned around."""
    return histogram(volume, folder, invert=True)


METHODS: dict[str, Method] = {method.__name__: method for method in (midiff, direct, histogram, inverted_histogram)}


def score(result: Result, truth: Result) -> dict[str, float]:
    """Dice of the structures, and the correlation of the images in the brain."""
    assert result.segmentation is not None and truth.segmentation is not None
    scores = {name: dice(result.segmentation, truth.segmentation, GROUPS[name]) for name in STRUCTURES}
    image = result.source.dataobj if result.synthetic is None else result.synthetic
    brain = truth.segmentation > 0
    return scores | {"correlation": correlation(np.asarray(image), np.asarray(truth.source.dataobj), brain)}


def subjects(pairs: Path) -> list[tuple[str, str, Path, Path]]:
    """Every (subject, contrast, volume, real T1w) of a folder of SUBJECT_CONTRAST.nii.gz on the T1w's grid."""
    found = []
    for t1 in sorted(pairs.glob("*_T1.nii.gz")):
        subject = t1.name.removesuffix("_T1.nii.gz")
        for contrast in ("PD", "T2", "FLAIR"):
            volume = pairs / f"{subject}_{contrast}.nii.gz"
            if volume.exists() and nib.load(volume).shape[:3] == nib.load(t1).shape[:3]:
                found.append((subject, contrast, volume, t1))
    return found


def main() -> None:
    """Fill the table, one row a subject, contrast and method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=Path, required=True, help="folder of SUBJECT_T1.nii.gz and SUBJECT_PD.nii.gz …")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS, help="(default: all)")
    parser.add_argument("--out", type=Path, required=True, help="CSV to fill")
    arguments = parser.parse_args()
    rows = pd.read_csv(arguments.out).to_dict("records") if arguments.out.exists() else []
    done = {(row["subject"], row["contrast"], row["method"]) for row in rows}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    jobs = [(*case, name) for case in subjects(arguments.pairs) for name in arguments.methods]
    truths: dict[str, Result] = {}
    for subject, contrast, volume, t1, name in tqdm([job for job in jobs if (job[0], job[1], job[4]) not in done]):
        with tempfile.TemporaryDirectory() as folder:
            truths[subject] = truths.get(subject) or direct(t1, Path(folder) / "truth")
            result = METHODS[name](volume, Path(folder))
        row = {"subject": subject, "contrast": contrast, "method": name} | score(result, truths[subject])
        rows.append(row | {"commit": environment()["git_commit"], **_hashes(result)})
        pd.DataFrame(rows).to_csv(arguments.out, index=False, float_format="%.4f")
    table = pd.DataFrame(rows).groupby(["contrast", "method"])[[*STRUCTURES, "correlation"]].mean()
    print(table.round(3))


def _hashes(result: Result) -> dict[str, str]:
    return {f"{bundle}_sha256": digest[:12] for bundle, digest in result.report.weights.items()}


if __name__ == "__main__":
    main()
