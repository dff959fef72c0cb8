"""Score the white matter lesions that the pipeline finds against masks that others made.

    python evaluation/lesions.py --data ../shared/data --out evaluation/results

Writes lesions.csv, with a row for each scan, and lesions_summary.csv, with means. Existing rows are kept, unless the
weights have changed. `--segmentations FOLDER` keeps the segmentations, in which lesions have not been looked for, and
uses them again. PROTOCOL.md describes the data, and says which scans the thresholds were chosen on.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from table import Table, weights_columns
from tqdm import tqdm

from midiff_monai.evaluation.lesion_scores import lesion_scores
from midiff_monai.io.affines import voxel_volume_ml
from midiff_monai.io.inputs import find_jobs
from midiff_monai.io.manifest import read_earlier_manifest
from midiff_monai.pipeline.lesions import separate_lesions
from midiff_monai.pipeline.options import Settings, Task
from midiff_monai.pipeline.reading import read
from midiff_monai.pipeline.run import segment
from midiff_monai.transforms.lesions import MISTAKEN

KEY = ("source", "subject")

TUNING = ("Subj02", "Subj03", "Subj05", "Subj08", "301D00252", "301D00293")
"""Subjects on whose scans the thresholds were chosen. All others are held out."""

SOURCES = {
    "heads-flair": "*_FLAIR_WMH.nii.gz",
    "multicontrast": "*_lesions.nii.gz",
    "open-ms": "*_lesions.nii.gz",
}
"""Folder → pattern of its masks."""


class Case(NamedTuple):
    """A FLAIR, and the mask of its lesions on the same grid."""

    source: str
    subject: str
    volume: Path
    mask: Path

    @property
    def key(self) -> dict[str, str]:
        """The columns that identify the case."""
        return {"source": self.source, "subject": self.subject}


def cases(data: Path) -> Iterator[Case]:
    """List the FLAIR of a folder of data. A source whose files are absent has none."""
    for source, pattern in SOURCES.items():
        for mask in sorted((data / source).glob(pattern)):
            subject = mask.name.partition("_")[0]
            yield Case(source, subject, mask.with_name(f"{subject}_FLAIR.nii.gz"), mask)


def score(case: Case, segmentations: Path) -> dict[str, object]:
    """Segment a scan, unless its segmentation exists, look for lesions, and compare them with the mask."""
    (job,) = find_jobs(case.volume, segmentations / case.source)
    if not job.paths.segmentation.exists():
        segment(case.volume, job.paths.segmentation.parent, lesions=False)
    source, stored = read(job, Settings()), nib.Nifti1Image.from_filename(job.paths.segmentation)
    image, labels = np.asarray(source.dataobj, dtype=np.float32), np.asarray(stored.dataobj)
    truth = np.asarray(nib.Nifti1Image.from_filename(case.mask).dataobj).reshape(labels.shape) > 0
    relabelled = separate_lesions(image, labels, source.affine, Task())
    found = relabelled.lesions.mask
    scores = lesion_scores(np.zeros_like(truth) if found is None else found, truth, voxel_volume_ml(source.affine))
    before, after = (_share_elsewhere(each, truth) for each in (labels, relabelled.labels))
    shares: dict[str, object] = {"mislabelled_before": before, "mislabelled_after": after}
    part = "tuning" if case.subject in TUNING else "held out"
    hashes = weights_columns(read_earlier_manifest(job.paths)["weights"])
    return case.key | {"part": part} | scores | shares | {"reason": relabelled.lesions.reason} | hashes


def _share_elsewhere(labels: NDArray[np.integer], truth: NDArray[np.bool_]) -> float:
    """Return the share of the voxels of the true lesions with a label that a lesion can be taken for, or with none."""
    return float(np.isin(labels[truth], (0, *MISTAKEN)).mean())


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Average over the subjects of each source and part.

    The volume error is relative, and a median. The correlation is that of true and found volumes over subjects.
    """
    rows = rows.assign(volume_error=(rows["found_ml"] / rows["true_ml"] - 1).abs())
    groups = rows.groupby(["source", "part"], sort=False)
    means = groups[["dice", "recall", "precision", "mislabelled_before", "mislabelled_after"]].mean()
    return means.assign(
        subjects=groups.size(),
        volume_error=groups["volume_error"].median(),
        volume_correlation=groups[["found_ml", "true_ml"]].apply(
            lambda group: group["found_ml"].corr(group["true_ml"])
        ),
    ).reset_index()


def main() -> None:
    """Fill the table and write the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the development data")
    parser.add_argument("--out", type=Path, required=True, help="folder for lesions.csv and lesions_summary.csv")
    parser.add_argument("--segmentations", type=Path, help="folder that keeps the segmentations (default: none)")
    arguments = parser.parse_args()
    table = Table(arguments.out / "lesions.csv", KEY)
    with tempfile.TemporaryDirectory() as temporary:
        for case in tqdm(list(cases(arguments.data))):
            if not table.has(case.key):
                table.add(score(case, arguments.segmentations or Path(temporary)))
    summary(table.rows()).to_csv(arguments.out / "lesions_summary.csv", index=False, float_format="%.3f")


if __name__ == "__main__":
    main()
