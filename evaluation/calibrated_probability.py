"""Fit and test the temperature of the calibrated probabilities that `midiff segment --probability` writes.

    python evaluation/calibrated_probability.py --data ../shared/data --samples runs/probability --out results

Each scan is segmented once, and the probabilities of some of its voxels are kept in the folder of samples. Writes
calibrated_probability.csv, with a row for each scan and each way to segment it, and calibrated_probability_bins.csv,
with a row for each bin. A scan is tested with the temperature of the other subjects. The bundle has the temperature of
all scans. PROTOCOL.md has the details.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from probability_samples import WAYS, Sample, sample_scan, stripped
from table import HASH_LENGTH, installed_weights, weights_columns
from tqdm import tqdm
from yardstick import chosen
from yardstick_scans import Case, label_maps

from midiff_monai.evaluation.phantom import CONTRASTS
from midiff_monai.inferers.certainty import at_temperature
from midiff_monai.pipeline.models import SEGMENTATION

BINS = 15

TEMPERATURES = np.arange(0.5, 2.005, 0.05)

SCANS = ("label-maps-stripped", *(f"label-maps/*/{contrast}" for contrast in CONTRASTS))


def negative_log_likelihood(sample: Sample, temperature: float) -> float:
    """Return the mean over voxels, in nats."""
    logs = torch.log_softmax(torch.from_numpy(sample.logs).float() / temperature, dim=1)
    return -float(logs[torch.arange(len(logs)), torch.from_numpy(sample.truth)].mean())


def costs(sample: Sample) -> NDArray[np.float64]:
    """Return the expected calibration error at each of `TEMPERATURES`."""
    return np.array([expected_calibration_error(reliability(sample, temperature)) for temperature in TEMPERATURES])


def fit(costs_of_samples: Iterable[NDArray[np.float64]]) -> float:
    """Return the temperature with the smallest mean of the `costs` of samples, which count alike.

    The likelihood is no criterion here: a few confident errors in hard scans drive it to a temperature that makes the
    probabilities of most scans too low.
    """
    return float(TEMPERATURES[np.mean(list(costs_of_samples), axis=0).argmin()])


def reliability(sample: Sample, temperature: float) -> pd.DataFrame:
    """Sort the voxels by the probability of their label into bins of equal width.

    Returns:
        The columns bin, voxels, probability and accuracy: number of voxels, mean probability and share of right labels.
    """
    calibrated = at_temperature(torch.from_numpy(sample.logs).float().exp().T, temperature)
    probability, label = (values.numpy() for values in calibrated.max(dim=0))
    bins = np.minimum((probability * BINS).astype(int), BINS - 1)
    voxels = pd.DataFrame({"bin": bins, "probability": probability, "accuracy": label == sample.truth})
    groups = voxels.groupby("bin")
    return groups.mean().assign(voxels=groups.size()).reset_index()


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


def evaluate(samples: Mapping[Case, Sample]) -> tuple[float, list[dict[str, object]], pd.DataFrame]:
    """Fit the temperature of all scans, and test each with that of other subjects: it, and the rows of both tables."""
    labelled = {case: sample.labelled for case, sample in samples.items()}
    costs_of = {case: costs(sample) for case, sample in labelled.items()}
    rows, bins = [], []
    for case, sample in labelled.items():
        temperature = fit(cost for other, cost in costs_of.items() if other.subject != case.subject)
        before, after = reliability(sample, 1.0), reliability(sample, temperature)
        rows.append(
            case.key
            | {
                "temperature": temperature,
                "voxels": len(sample.truth),
                "accuracy": (after["accuracy"] * after["voxels"]).sum() / len(sample.truth),
                "ece_uncalibrated": expected_calibration_error(before),
                "ece": expected_calibration_error(after),
                "nll_uncalibrated": negative_log_likelihood(sample, 1.0),
                "nll": negative_log_likelihood(sample, temperature),
                "ece_with_background": expected_calibration_error(reliability(samples[case], temperature)),
            }
        )
        bins += [table.assign(**case.key, calibrated=calibrated) for calibrated, table in ((0, before), (1, after))]
    return fit(costs_of.values()), rows, pd.concat(bins)


def main() -> None:
    """Write both tables, and print the temperatures of the bundle."""
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
        temperature, rows, bins = evaluate(of_way)
        tables += [{"way": way} | row | made_by for row in rows]
        all_bins.append(bins.assign(way=way))
        print(f"{way}: temperature {temperature:.2f}")
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
