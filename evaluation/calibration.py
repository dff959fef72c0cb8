"""Compare the standard deviation of several samples with the error of the synthetic T1w.

    python evaluation/calibration.py --pairs ../shared/data/multicontrast --out evaluation/results

The mean of the samples is aligned to the real T1w by a linear map. The voxels of the brain are sorted by the standard
deviation of the samples, and divided into bins of equal size. There is one row per subject, contrast and bin.
PROTOCOL.md has the details.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from methods import midiff
from numpy.typing import NDArray
from run import reference, subjects
from table import Table, weights_columns
from tqdm import tqdm

from midiff_monai.evaluation.metrics import match_intensity

BINS = 10


def calibrate(
    image: NDArray, synthetic_std: NDArray, reference: NDArray, brain: NDArray[np.bool_], bins: int = BINS
) -> list[dict[str, float]]:
    """Compare the standard deviation with the error, both in the intensities of the reference.

    Args:
        image: mean of the samples (X, Y, Z).
        synthetic_std: standard deviation of the samples, same shape.
        reference: real T1w, same shape.
        brain: mask of the evaluated voxels.
        bins: number of bins of equal size.

    Returns:
        One row per bin: "bin", mean "synthetic_std", mean absolute "error", and their "correlation" over all voxels.
    """
    aligned = match_intensity(image, reference, brain)
    scale = aligned[brain].std() / image[brain].std()
    deviation, error = scale * synthetic_std[brain], np.abs(aligned - reference)[brain]
    correlation = float(np.corrcoef(deviation, error)[0, 1])
    parts = np.array_split(deviation.argsort(), bins)
    means = ({"synthetic_std": deviation[part].mean(), "error": error[part].mean()} for part in parts)
    return [{"bin": number} | row | {"correlation": correlation} for number, row in enumerate(means)]


def main() -> None:
    """Fill the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=Path, required=True, help="folder of SUBJECT_T1.nii.gz and SUBJECT_PD.nii.gz …")
    parser.add_argument("--samples", type=int, default=8, help="number of samples per volume (default: 8)")
    parser.add_argument("--out", type=Path, required=True, help="folder for calibration.csv")
    arguments = parser.parse_args()
    table = Table(arguments.out / "calibration.csv", key=("subject", "contrast", "samples"))
    for subject, contrast, volume, t1 in tqdm(subjects(arguments.pairs)):
        key = {"subject": subject, "contrast": contrast, "samples": arguments.samples}
        if table.has(key):
            continue
        truth = reference(t1)
        with tempfile.TemporaryDirectory() as folder:
            result = midiff(volume, Path(folder), samples=arguments.samples)
        assert result.synthetic is not None and result.synthetic_std is not None and truth.segmentation is not None
        made_by = weights_columns(truth.report.weights | result.report.weights)
        real = np.asarray(truth.source.dataobj)
        rows = calibrate(result.synthetic, result.synthetic_std, real, truth.segmentation > 0)
        table.add(*(key | row | made_by for row in rows))
    print(table.rows().groupby(["contrast", "bin"])[["synthetic_std", "error", "correlation"]].mean().round(3))


if __name__ == "__main__":
    main()
