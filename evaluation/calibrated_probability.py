"""Fit and test the calibration of the probabilities that `midiff segment --probability` writes.

    python evaluation/calibrated_probability.py --data ../shared/data --samples runs/probability --out results

Each scan is segmented once, and the probabilities of some of its voxels are kept in the folder of samples. Writes
calibrated_probability.csv, with a row for each scan and each way to segment it, and calibrated_probability_bins.csv,
with a row for each bin. A scan is tested with the calibration of the other subjects. The bundle has the calibration of
all scans. PROTOCOL.md has the details.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from probability_samples import WAYS, Sample, sample_scan, stripped
from table import installed_weights, weights_columns
from tqdm import tqdm
from yardstick import chosen
from yardstick_scans import Case, label_maps

from midiff_monai.bundle.choice import SEGMENTATION
from midiff_monai.evaluation.phantom import CONTRASTS
from midiff_monai.inferers.certainty import ConfidenceCalibration
from midiff_monai.provenance import HASH_LENGTH

BINS = 15

INTERCEPTS, SLOPES = np.linspace(-0.7, 0.7, 57), np.linspace(-30, 10, 41)
"""What `fit` chooses from."""

SCANS = ("label-maps-stripped", *(f"label-maps/*/{contrast}" for contrast in CONTRASTS))


class Labels(NamedTuple):
    """The labelled voxels of a sample.

    Attributes:
        probability: (N,), of the label of each voxel, before the calibration.
        right: (N,), whether it is the true one.
    """

    probability: torch.Tensor
    right: NDArray[np.bool_]

    @classmethod
    def of(cls, sample: Sample) -> Labels:
        """The most probable classes of a sample, whatever they are."""
        probabilities = torch.from_numpy(sample.logs).float().softmax(dim=1)
        probability, label = probabilities.max(dim=1)
        return cls(probability, label.numpy() == sample.truth)


def costs(labels: Labels, slopes: Sequence[float]) -> NDArray[np.float64]:
    """Return the expected calibration error at each of `INTERCEPTS` and of the slopes."""
    settings = itertools.product(INTERCEPTS.tolist(), slopes)
    errors = [expected_calibration_error(reliability(labels, ConfidenceCalibration(*setting))) for setting in settings]
    return np.reshape(errors, (len(INTERCEPTS), len(slopes)))


def fit(costs_of_scans: Iterable[NDArray[np.float64]], slopes: Sequence[float]) -> ConfidenceCalibration:
    """Return the calibration with the smallest mean of the `costs` of scans, which count alike.

    The likelihood is no criterion here: a few confident errors in hard scans drive it to temperatures that make the
    probabilities of most scans too low.
    """
    means = np.mean(list(costs_of_scans), axis=0)
    intercept, slope = np.unravel_index(means.argmin(), means.shape)
    return ConfidenceCalibration(float(INTERCEPTS[intercept]), slopes[int(slope)])


def reliability(labels: Labels, calibration: ConfidenceCalibration | None) -> pd.DataFrame:
    """Sort the voxels by the probability of their label into bins of equal width; None does not calibrate it.

    Returns:
        The columns bin, voxels, probability and accuracy: number of voxels, mean probability and share of right labels.
    """
    calibrated = calibration(labels.probability) if calibration else labels.probability
    probability = calibrated.numpy()
    bins = np.minimum((probability * BINS).astype(int), BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    sums = (np.bincount(bins, values, minlength=BINS) for values in (probability, labels.right))
    means = [total / np.maximum(counts, 1) for total in sums]
    table = pd.DataFrame({"bin": range(BINS), "probability": means[0], "accuracy": means[1], "voxels": counts})
    return table[table["voxels"] > 0].reset_index(drop=True)


def expected_calibration_error(bins: pd.DataFrame) -> float:
    """Return the mean over voxels of |accuracy − probability| of their bin (Guo et al., ICML 2017, equation 3)."""
    gap = (bins["accuracy"] - bins["probability"]).abs()
    return float((gap * bins["voxels"]).sum() / bins["voxels"].sum())


def read_samples(todo: Sequence[Case], folder: Path) -> dict[Case, dict[str, Sample]]:
    """Read the samples of all cases; the missing ones are made first."""
    found = {}
    with tempfile.TemporaryDirectory() as scans:
        for case in tqdm(todo):
            paths = {way: folder / f"{'_'.join(case.key.values())}_{way}.npz" for way in WAYS}
            if not all(path.exists() for path in paths.values()):
                for way, sample in sample_scan(case.read(Path(scans))).items():
                    sample.save(paths[way])
            found[case] = {way: Sample.load(path) for way, path in paths.items()}
    return found


def evaluate(
    samples: Mapping[Case, Sample], slopes: Sequence[float]
) -> tuple[ConfidenceCalibration, list[dict[str, object]], pd.DataFrame]:
    """Fit the calibration of all scans, and test each with that of other subjects: it, and the rows of both tables."""
    labelled = {case: Labels.of(sample.labelled) for case, sample in samples.items()}
    costs_of = {case: costs(labels, slopes) for case, labels in labelled.items()}
    rows, bins = [], []
    for case, labels in labelled.items():
        calibration = fit((cost for other, cost in costs_of.items() if other.subject != case.subject), slopes)
        before, after = reliability(labels, None), reliability(labels, calibration)
        mean = float(labels.probability.mean())
        rows.append(
            case.key
            | {
                "mean_probability": mean,
                "temperature": calibration.temperature(mean),
                "voxels": len(labels.right),
                "accuracy": labels.right.mean(),
                "ece_uncalibrated": expected_calibration_error(before),
                "ece": expected_calibration_error(after),
            }
        )
        bins += [table.assign(**case.key, calibrated=calibrated) for calibrated, table in ((0, before), (1, after))]
    return fit(costs_of.values(), slopes), rows, pd.concat(bins)


def main() -> None:
    """Write both tables, and print the calibrations of the bundle."""
    arguments = parse_arguments()
    todo = chosen([*stripped(arguments.data), *label_maps(arguments.data)], arguments.only)
    if not todo:
        raise SystemExit(f"calibrated_probability.py: error: {arguments.data} has no scan that --only allows")
    folder = arguments.samples / installed_weights()[SEGMENTATION][:HASH_LENGTH]  # other weights need other samples
    folder.mkdir(parents=True, exist_ok=True)
    samples = read_samples(todo, folder)
    made_by, tables, all_bins = weights_columns(installed_weights()), [], []
    for way in WAYS:
        of_way = {case: found[way] for case, found in samples.items()}
        calibration, rows, bins = evaluate(of_way, SLOPES.tolist() if way == "default" else [0.0])
        tables += [{"way": way} | row | made_by for row in rows]
        all_bins.append(bins.assign(way=way))
        print(f"{way}: intercept {calibration.intercept:.3f}, slope {calibration.slope:.1f}")
    write = {"calibrated_probability": pd.DataFrame(tables), "calibrated_probability_bins": pd.concat(all_bins)}
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, table in write.items():
        table.to_csv(arguments.out / f"{name}.csv", index=False, float_format="%.4g")
    print(write["calibrated_probability"].groupby(["way", "source", "contrast"])[["ece_uncalibrated", "ece"]].mean())


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the development data")
    parser.add_argument("--samples", type=Path, required=True, help="folder for the probabilities of sampled voxels")
    parser.add_argument(
        "--only",
        nargs="+",
        default=SCANS,
        metavar="PATTERN",
        help="SOURCE, SOURCE/SUBJECT or SOURCE/SUBJECT/CONTRAST, with wildcards (default: all but CT)",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for both tables")
    return parser.parse_args()


if __name__ == "__main__":
    main()
