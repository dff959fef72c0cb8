"""Does the spread of several samples tell where the synthetic T1w is wrong?

    python evaluation/calibration.py --pairs ../shared/data/multicontrast --out evaluation/results

Within the brain, after the linear alignment of the mean to the real T1w, voxels are sorted by the standard deviation of
the samples into bins of one size. One row a subject, contrast and bin; see PROTOCOL.md.
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
    """Compare the spread with the error, both in the grey values of the reference.

    Args:
        image: (X, Y, Z), mean of the samples.
        spread: their standard deviation, same shape.
        reference: the real T1w, same shape.
        brain: the voxels that count.
        bins: number of them, of equal size.

    Returns:
        A row a bin: "bin", mean "synthetic_std", mean absolute "error", and the "correlation" of both over all voxels.
    """
    aligned = match_intensity(image, reference, brain)
    scale = aligned[brain].std() / image[brain].std()
    deviation, error = scale * synthetic_std[brain], np.abs(aligned - reference)[brain]
    correlation = float(np.corrcoef(deviation, error)[0, 1])
    parts = np.array_split(deviation.argsort(), bins)
    return [
        {
            "bin": number,
            "synthetic_std": deviation[part].mean(),
            "error": error[part].mean(),
            "correlation": correlation,
        }
        for number, part in enumerate(parts)
    ]


def main() -> None:
    """Fill the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=Path, required=True, help="folder of SUBJECT_T1.nii.gz and SUBJECT_PD.nii.gz …")
    parser.add_argument("--samples", type=int, default=8, help="samples a volume (default: 8)")
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
