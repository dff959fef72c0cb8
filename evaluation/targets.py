"""Measure bundles of one's own on people who trained none of them: translated volumes beside the real ones.

    python evaluation/targets.py --bundle flair --scans target_data/test --training target_data/train/FLAIR \\
        --out evaluation/results

`--scans` holds SUBJECT_CONTRAST.nii.gz on one grid for each subject, SUBJECT_lesions.nii.gz where there is a mask, and
SUBJECT_brain.nii.gz where the scans show more than the brain. Every contrast but that of the target is a source. Writes
targets.csv, with a row for each measure of each translation, and targets_summary.csv, with means over subjects. Rows of
other weights of a bundle of the same name are dropped.
`--work FOLDER` keeps the translated volumes, for the weights that made them. PROTOCOL.md describes the methods and the
measures.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from table import HASH_LENGTH, Table, weights_columns

from midiff_monai import segment, translate_image
from midiff_monai.bundle.choice import SEGMENTATION
from midiff_monai.bundle.resources import bundle_root, read_metadata
from midiff_monai.evaluation.baselines import match_histogram
from midiff_monai.evaluation.lesion_scores import lesion_scores
from midiff_monai.evaluation.metrics import correlation, dice, match_intensity, ssim
from midiff_monai.evaluation.scores import PEAK_PERCENTILE, slice_axis
from midiff_monai.io.affines import voxel_volume_ml
from midiff_monai.io.outputs import output_paths
from midiff_monai.io.volumes import read_volume
from midiff_monai.transforms.foreground import fill_holes
from midiff_monai.transforms.lesions import find_lesions
from midiff_monai.transforms.white_matter import fit_white_matter

KEY = ("bundle", "target", "source", "subject", "method", "bundle_sha256")

CONTRASTS = ("T1", "T2", "PD", "FLAIR", "CT")

REAL = "real"
"""The method of the rows that measure the real volume: what could be reached at best."""

BODY_HU, BONE_HU = -500.0, 250.0
"""Lower bounds of a body and of bone in CT."""

CURVE_BINS = 64


class Case(NamedTuple):
    """A scan that is translated, the real volume of the target on its grid, and one that trained."""

    subject: str
    contrast: str
    scan: Path
    real: Path
    training: Path


def cases(scans: Path, training: Path, target: str) -> Iterator[Case]:
    """List the scans of the people who have no volume of the target in the folder that trained."""
    trained = sorted(training.glob("*.nii.gz"))
    subjects_trained = {path.name.partition("_")[0] for path in trained}
    contrast = target.removesuffix("w")
    for real in sorted(scans.glob(f"*_{contrast}.nii.gz")):
        subject = real.name.partition("_")[0]
        for source in CONTRASTS:
            scan = real.with_name(f"{subject}_{source}.nii.gz")
            if subject not in subjects_trained and source != contrast and scan.exists():
                yield Case(subject, source, scan, real, trained[0])


Method = Callable[[Case, str, Path], NDArray]


def midiff(case: Case, bundle: str, folder: Path, **settings: int) -> NDArray:
    """Translate with the bundle, unless the folder has the result."""
    made = output_paths(case.scan, folder, read_metadata(bundle_root(bundle))["target"]).synthetic
    if not made.exists():
        made.parent.mkdir(parents=True, exist_ok=True)
        nib.save(translate_image(read_volume(case.scan), bundle=bundle, keep_models=True, **settings).synthetic, made)
    return _voxels(made)


def one_step(case: Case, bundle: str, folder: Path) -> NDArray:
    """Translate with one step of the same network, from noise: a regression on the source."""
    return midiff(case, bundle, folder, steps=1)


def source(case: Case, bundle: str, folder: Path) -> NDArray:
    """The scan as it is."""
    return _voxels(case.scan)


def inverted(case: Case, bundle: str, folder: Path) -> NDArray:
    """The scan with inverted intensities in its foreground."""
    voxels = _voxels(case.scan)
    return np.where(voxels != 0, voxels.max() - voxels, np.float32(0))


def histogram(case: Case, bundle: str, folder: Path, invert: bool = False) -> NDArray:
    """The scan with the histogram of a volume that trained."""
    reference = _voxels(case.training)
    lowest = reference.min()
    return match_histogram(_voxels(case.scan), reference - lowest, invert) + lowest


def inverted_histogram(case: Case, bundle: str, folder: Path) -> NDArray:
    """The scan with inverted intensities and the histogram of a volume that trained."""
    return histogram(case, bundle, folder, invert=True)


def best_curve(case: Case, bundle: str, folder: Path) -> NDArray:
    """The conditional mean of the real volume given the intensity of the scan: the best of all intensity mappings.

    It is fitted to the real volume of the same person, so that it bounds what any intensity mapping can reach.
    """
    scan, real = _voxels(case.scan), _voxels(case.real)
    inside = foreground(case.real)
    limits = np.quantile(scan[inside], np.linspace(0, 1, CURVE_BINS + 1)[1:-1])
    bins = np.digitize(scan, limits)
    counts = np.bincount(bins[inside], minlength=CURVE_BINS)
    sums = np.bincount(bins[inside], real[inside].astype(float), CURVE_BINS)
    return np.where(inside, (sums / np.maximum(counts, 1))[bins], real.min()).astype(np.float32)


METHODS: dict[str, Method] = {
    method.__name__: method
    for method in (midiff, one_step, source, inverted, histogram, inverted_histogram, best_curve)
}

SCALED = {method.__name__ for method in (midiff, one_step, histogram, inverted_histogram, best_curve)}
"""Methods whose results have the intensities of the target."""


def foreground(real: Path) -> NDArray[np.bool_]:
    """The mask of the brain or the body in a volume of the target: SUBJECT_brain.nii.gz, or all but the background."""
    brain = real.with_name(f"{real.name.partition('_')[0]}_brain.nii.gz")
    if brain.exists():
        return _voxels(brain) > 0
    voxels = _voxels(real)
    return fill_holes(voxels > BODY_HU if _is_ct(real) else voxels != 0)


def image_measures(image: NDArray, case: Case, scaled: bool) -> dict[str, float]:
    """Compare an image (X, Y, Z) with the real volume in the foreground.

    SSIM is that of axial slices, after the linear map of intensities that fits best; outside the foreground, the image
    counts as equal. Of a CT there are also the mean
    absolute error in HU, and the Dice of bone, if the image has these units.
    """
    real, inside = read_volume(case.real), foreground(case.real)
    voxels = np.asarray(real.dataobj)
    aligned = np.where(inside, match_intensity(image, voxels, inside), voxels)
    peak = float(np.percentile(voxels[inside], PEAK_PERCENTILE) - voxels.min())
    measures = {
        "correlation": correlation(image, voxels, inside),
        "ssim": ssim(aligned, voxels, peak, inside, slice_axis(real.affine)),
    }
    if scaled and _is_ct(case.real):
        measures["mae_hu"] = float(np.abs(image - voxels)[inside].mean())
        measures["bone_dice"] = dice(image > BONE_HU, voxels > BONE_HU, [1])
    return measures


def lesion_measures(image: NDArray, case: Case, labels: NDArray[np.integer]) -> dict[str, float]:
    """Look for the lesions of the mask in a FLAIR (X, Y, Z) that is real or translated.

    Returns:
        "lesion_z": how much brighter than normal white matter the true lesions are, in its standard deviations.
        "lesion_dice", "lesion_recall" and "lesion_precision" of the lesions that are found. In an image that does not
        look like a FLAIR, none is found.
    """
    stored = read_volume(_lesions(case))
    truth, spacing = np.asarray(stored.dataobj) > 0, stored.header.get_zooms()[:3]
    image = image.astype(np.float32)
    found, model = find_lesions(image, labels, spacing).mask, fit_white_matter(image, labels, spacing)
    found = np.zeros_like(truth) if found is None else found
    scores = lesion_scores(found, truth, voxel_volume_ml(stored.affine))
    measures = {f"lesion_{name}": scores[name] for name in ("dice", "recall", "precision")}
    return measures | {"lesion_z": float(model.z_scores(image)[truth].mean()) if model else np.nan}


def labels_of(case: Case, work: Path) -> NDArray[np.integer]:
    """The segmentation of the real T1w of the same person, which is the same for all methods."""
    t1 = case.scan.with_name(f"{case.subject}_T1.nii.gz")
    made = output_paths(t1, work / "labels").segmentation
    if not made.exists():
        segment([t1], made.parent, translated=False, lesions=False, fast=True)
    return np.asarray(nib.Nifti1Image.from_filename(made).dataobj)


def rows_of(case: Case, method: str, bundle: str, work: Path) -> dict[str, float]:
    """All measures of a method on a case."""
    root = bundle_root(bundle)
    folder = work / f"{root.name}_{read_metadata(root)['weights_sha256'][:HASH_LENGTH]}" / method
    image = _voxels(case.real) if method == REAL else METHODS[method](case, bundle, folder)
    measures = {} if method == REAL else image_measures(image, case, method in SCALED)
    if _lesions(case).exists() and case.real.name.endswith("_FLAIR.nii.gz"):
        measures |= lesion_measures(image, case, labels_of(case, work))
    return measures


def fill(table: Table, case: Case, bundle: str, work: Path) -> None:
    """Compute the missing rows of a case."""
    root = bundle_root(bundle)
    target, weights = (read_metadata(root)[name] for name in ("target", "weights_sha256"))
    lesions = {SEGMENTATION: read_metadata(bundle_root(SEGMENTATION))["weights_sha256"]}
    for method in (*METHODS, REAL):
        values = (root.name, target, case.contrast, case.subject, method, weights[:HASH_LENGTH])
        key = dict(zip(KEY, values, strict=True))
        if not table.has(key):
            measures = rows_of(case, method, bundle, work)
            columns = {name: weights_columns(lesions if name.startswith("lesion") else {}) for name in measures}
            table.add(*(key | {"measure": name, "value": value} | columns[name] for name, value in measures.items()))
            print(*key.values(), *(f"{name} {value:.3f}" for name, value in measures.items()), flush=True)


def drop_outdated(path: Path, bundle: str, weights: str) -> None:
    """Drop the rows of a bundle of this name that other weights made."""
    if path.exists():
        rows = pd.read_csv(path, dtype=str)
        kept = (rows["bundle"] != bundle) | (rows["bundle_sha256"] == weights[:HASH_LENGTH])
        rows[kept].to_csv(path, index=False)


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Means over the subjects of each bundle, source and method, with a column for each measure."""
    groups = ["bundle", "target", "source", "method"]
    means = rows.astype({"value": float}).pivot_table("value", groups, "measure", sort=False)
    return means.assign(subjects=rows.groupby(groups)["subject"].nunique()).reset_index()


def _is_ct(volume: Path) -> bool:
    return volume.name.endswith("_CT.nii.gz")


def _lesions(case: Case) -> Path:
    return case.scan.with_name(f"{case.subject}_lesions.nii.gz")


def _voxels(path: Path) -> NDArray[np.float32]:
    return np.asarray(read_volume(path).dataobj)


def main() -> None:
    """Fill the table and write the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", required=True, help="the trained bundle")
    parser.add_argument("--scans", type=Path, required=True, help="folder of the scans of people who did not train it")
    parser.add_argument("--training", type=Path, required=True, help="folder of the volumes that trained it")
    parser.add_argument("--out", type=Path, required=True, help="folder for targets.csv and targets_summary.csv")
    parser.add_argument("--work", type=Path, help="folder that keeps the translated volumes (default: none)")
    arguments = parser.parse_args()
    root = bundle_root(arguments.bundle)
    facts = read_metadata(root)
    drop_outdated(arguments.out / "targets.csv", root.name, facts["weights_sha256"])
    table = Table(arguments.out / "targets.csv", KEY)
    with tempfile.TemporaryDirectory() as temporary:
        for case in cases(arguments.scans, arguments.training, facts["target"]):
            fill(table, case, arguments.bundle, arguments.work or Path(temporary))
    means = summary(table.rows())
    means.to_csv(arguments.out / "targets_summary.csv", index=False, float_format="%.3f")
    print(means.round(3).to_string())


if __name__ == "__main__":
    main()
