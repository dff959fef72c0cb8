"""Fit and test the expected error of the synthetic T1w that `midiff --error-map` writes.

    python evaluation/synthetic_error.py --data ../shared/data --samples build/synthetic_error --out evaluation/results

Voxels of each pair of a scan and a real T1w are kept in `--samples`. A model of the error is fitted to the pairs of
`multicontrast` and `heads-flair`, and each subject is tested with the model of the others. Pairs of another source are
tested with the model of all, whose numbers stand in the bundle. PROTOCOL.md has the details.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from run import subjects
from scipy.optimize import minimize
from table import weights_columns
from tqdm import tqdm
from yardstick_heads import MovedHead

from midiff_monai.inferers.expected_error import predictors
from midiff_monai.io.volumes import read_volume
from midiff_monai.pipeline.models import Models, load_models
from midiff_monai.pipeline.options import Mode, Settings, Task
from midiff_monai.pipeline.reading import prepare_source
from midiff_monai.pipeline.volume import foreground_of, image_of, translate_volume
from midiff_monai.transforms.meta import as_plain_tensor
from midiff_monai.transforms.resampling import restore_foreground

FITTED = ("multicontrast", "heads-flair")
HEADS = ("Subj01", "Subj02", "Subj03", "Subj09", "Subj10", "Subj11")
"""Whole heads that are used."""

VOXELS = 40_000
"""Voxels that are kept of a pair."""

LEVEL = 0.9
BINS = 5


class Pair(NamedTuple):
    """A scan and the real T1w on its grid.

    Attributes:
        key: source, subject and contrast.
        scan: file of the scan.
        t1: (X, Y, Z), the real T1w.
        brain: (X, Y, Z), true where errors count.
    """

    key: tuple[str, str, str]
    scan: Path
    t1: NDArray
    brain: NDArray[np.bool_]


class Sample(NamedTuple):
    """Voxels of a pair.

    Attributes:
        predictors: (N, 6), see `expected_error.predictors`.
        error: (N,), absolute error of the synthetic T1w, in its intensities.
    """

    predictors: NDArray
    error: NDArray

    def expected(self, coefficients: NDArray) -> NDArray:
        """Return the expected error (N,)."""
        return np.exp(self.predictors @ coefficients)


def pairs(data: Path) -> Iterator[Pair]:
    """Read the pairs of a folder of data one by one."""
    for source in ("multicontrast", "open-ms"):
        for subject, contrast, scan, t1 in subjects(data / source):
            voxels = np.asarray(read_volume(t1).dataobj)
            yield Pair((source, subject, contrast), scan, voxels, voxels > 0)
    for name in HEADS:
        flair, t1 = (data / "heads-flair" / f"{name}_{contrast}.nii.gz" for contrast in ("FLAIR", "T1"))
        if flair.exists():
            moved = MovedHead(flair, t1)
            brain = np.asarray(moved.truth.dataobj) > 0
            yield Pair(("heads-flair", name, "FLAIR"), flair, moved.t1_voxels, brain)


def take_sample(pair: Pair, models: Models) -> Sample:
    """Translate a scan, and draw voxels of its brain."""
    assert models.translation is not None
    source = prepare_source(read_volume(pair.scan), pair.scan, Settings())
    image = image_of([source])
    foreground = foreground_of(image)
    translated = translate_volume(image, foreground, models)
    conformed = models.translation.conform(image)
    known = as_plain_tensor(conformed[0] != 0)
    grids = known, conformed.affine, foreground, image.affine
    described = predictors(as_plain_tensor(translated.conformed), conformed, translated.whole_head)
    fine = restore_foreground(described, *grids).numpy()
    synthetic = translated.restored[0].numpy()
    brain = pair.brain & (synthetic > 0)
    error = np.abs(synthetic - with_spread_of(synthetic, pair.t1, brain))
    drawn = np.random.default_rng(0).choice(np.flatnonzero(brain), VOXELS, replace=False)
    return Sample(fine.reshape(len(fine), -1)[:, drawn].T, error.flat[drawn])


def with_spread_of(image: NDArray, other: NDArray, mask: NDArray[np.bool_]) -> NDArray:
    """Return another image with the mean and the standard deviation that an image has in a mask.

    The regression on the image would be no fair scale: the worse an image is, the less spread it would leave.
    """
    standardised = (other - other[mask].mean()) / other[mask].std()
    return image[mask].mean() + image[mask].std() * standardised


def fit(samples: Iterable[Sample]) -> tuple[NDArray, float]:
    """Return the coefficients of the expected error with the largest likelihood, and the factor of the interval.

    Errors are taken for exponentially distributed, so the expected error is right on average.
    """
    joined = Sample(*(np.concatenate(parts) for parts in zip(*samples, strict=True)))

    def loss(coefficients: NDArray) -> tuple[float, NDArray]:
        ratio = joined.error / joined.expected(coefficients)
        gradient = joined.predictors.T @ (1 - ratio) / len(ratio)
        return float((joined.predictors @ coefficients + ratio).mean()), gradient

    start = np.zeros(joined.predictors.shape[1])
    start[0] = np.log(joined.error.mean())
    coefficients = minimize(loss, start, jac=True, method="BFGS").x
    return coefficients, float(np.quantile(joined.error / joined.expected(coefficients), LEVEL))


def tested(sample: Sample, model: tuple[NDArray, float]) -> dict[str, float]:
    """Compare expected with true errors: coverage of the interval, overall and in bins of the expected error."""
    coefficients, interval = model
    expected = sample.expected(coefficients)
    covered = sample.error < interval * expected
    of_bins = [float(covered[part].mean()) for part in np.array_split(expected.argsort(), BINS)]
    return {
        "error": float(sample.error.mean()),
        "expected_error": float(expected.mean()),
        "correlation": float(np.corrcoef(expected, sample.error)[0, 1]),
        "coverage": float(covered.mean()),
        "lowest_coverage_of_a_bin": min(of_bins),
        "highest_coverage_of_a_bin": max(of_bins),
    }


def kept_sample(pair: Pair, models: Models, folder: Path) -> Sample:
    """Return the sample of a pair, which is drawn once."""
    path = folder / f"{'_'.join(pair.key)}.npz"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path, **take_sample(pair, models)._asdict())
    with np.load(path) as stored:
        return Sample(**stored)


def main() -> None:
    """Draw the samples, fit the model, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the development data")
    parser.add_argument("--samples", type=Path, required=True, help="folder that keeps the voxels of each pair")
    parser.add_argument("--out", type=Path, required=True, help="folder for synthetic_error.csv")
    arguments = parser.parse_args()
    models = load_models(Task(Mode.TRANSLATE))
    samples = {pair.key: kept_sample(pair, models, arguments.samples) for pair in tqdm(pairs(arguments.data))}
    fitted = {key: sample for key, sample in samples.items() if key[0] in FITTED}
    final = fit(fitted.values())
    rows = []
    for key, sample in samples.items():
        others = [other for name, other in fitted.items() if name[1] != key[1]]
        row = dict(zip(("source", "subject", "contrast"), key, strict=True))
        model = fit(others) if key in fitted else final
        rows.append(row | tested(sample, model) | weights_columns(models.weights))
    table = pd.DataFrame(rows)
    table.to_csv(arguments.out / "synthetic_error.csv", index=False, float_format="%.4f")
    print(table.drop(columns="commit").round(3).to_string(index=False))
    print("coefficients:", final[0].round(3).tolist(), "interval:", round(final[1], 2))


if __name__ == "__main__":
    main()
