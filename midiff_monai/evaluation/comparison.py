"""Comparison of real volumes of a modality with synthetic ones: distances of the two sets, and scores of pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from midiff_monai.bundle.bundle import Bundle
from midiff_monai.evaluation.distribution import Features, as_image, distances, evaluated_slices
from midiff_monai.evaluation.metrics import SSIM_WINDOW, correlation, match_intensity, mutual_information, psnr, ssim
from midiff_monai.evaluation.pairing import NEEDED
from midiff_monai.evaluation.scores import PEAK_PERCENTILE, brain_box
from midiff_monai.io.affines import same_grid
from midiff_monai.io.slices import read_image
from midiff_monai.transforms.background import clear_background
from midiff_monai.transforms.foreground import above_air, fill_holes

SCORES = {"psnr": "dB", "ssim": "", "correlation": "", "mutual_information": "bit"}
"""Score of a pair → its unit."""

UNPAIRED = "no real volume of this name"

Group = tuple[Path | None, list[Path]]
"""A real volume and the synthetic volumes that are paired with it, or None and a synthetic volume without a pair."""


@dataclass(frozen=True)
class Picture:
    """The largest axial slice of a pair, in RAS and 0 in the background.

    Attributes:
        real: pixels (X, Y) of the real volume.
        synthetic: pixels of the synthetic volume with aligned intensities.
        aspect: height of a pixel, as a multiple of its width.
    """

    real: NDArray
    synthetic: NDArray
    aspect: float


@dataclass(frozen=True)
class Comparison:
    """What was found.

    Attributes:
        pairs: a row for each synthetic volume: "synthetic", "real", `SCORES`, and in "note" why there are none.
        pictures: synthetic volume → picture, for each pair with scores.
        real_features: features (N, D) of the slices of the real volumes.
        synthetic_features: features (M, D) of the slices of the synthetic volumes.
        distances: "fid" and "kid" of the features.
        features: what the features are.
    """

    pairs: pd.DataFrame
    pictures: Mapping[str, Picture]
    real_features: NDArray
    synthetic_features: NDArray
    distances: Mapping[str, float]
    features: str

    def summary(self) -> pd.DataFrame:
        """Return a row for each metric: its value or its mean over pairs, the spread over pairs, and what counted."""
        sizes = {"real": len(self.real_features), "synthetic": len(self.synthetic_features)}
        of_sets = {"counted": "slices", **sizes, "features": self.features}
        rows = [{"metric": name, "value": value} | of_sets for name, value in self.distances.items()]
        for name, unit in SCORES.items():
            if count := self.pairs[name].count():
                spread = self.pairs[name].agg(value="mean", sd="std", min="min", max="max").to_dict()
                counts = {"counted": "pairs", "real": count, "synthetic": count}
                rows.append({"metric": name, "unit": unit} | spread | counts)
        columns = ["metric", "unit", "value", "sd", "min", "max", "counted", "real", "synthetic", "features"]
        return pd.DataFrame(rows, columns=columns)

    def notes(self) -> list[str]:
        """Return sentences on what is missing or to be read with care."""
        notes = [f"{row['synthetic']}: {row['note']}" for _, row in self.pairs.iterrows() if row["note"]]
        if not self.distances:
            return [*notes, f"{NEEDED}."]
        slices, (_, features) = min(len(self.real_features), len(self.synthetic_features)), self.real_features.shape
        few = f"FID is biased upwards, because there are only {slices} slices for {features} features."
        return [*notes, few] if slices <= features else notes


def compare(
    real: Sequence[Path],
    synthetic: Sequence[Path],
    partners: Mapping[Path, Path],
    segmenter: Bundle,
    extractor: Features,
    progress: Callable[[Sequence[Group]], Iterable[Group]] = iter,
) -> Comparison:
    """Compare two sets of volumes or slices, and the pairs among them. They are read one by one.

    Args:
        real: real volumes of the target modality.
        synthetic: synthetic volumes.
        partners: synthetic volume → its real one.
        segmenter: the segmentation bundle, which brings slices to one grid and intensity range for FID and KID.
        extractor: computes the features of FID and KID.
        progress: wraps the iteration over the real volumes, for example `tqdm`.

    Raises:
        InputError: a volume cannot be read.
    """
    features: tuple[list[NDArray], list[NDArray]] = ([], [])  # of the real volumes, and of the synthetic ones
    enough = min(len(real), len(synthetic)) > 1

    def read(path: Path, side: int) -> nib.Nifti1Image:
        volume = _read(path)
        if enough:
            features[side].append(_features(volume, segmenter, extractor))
        return volume

    rows: dict[Path, dict[str, Any]] = {}
    pictures: dict[str, Picture] = {}
    for reference_path, made_paths in progress(_groups(real, synthetic, partners)):
        reference = read(reference_path, 0) if reference_path else None
        for path in made_paths:
            made = read(path, 1)
            note = _obstacle(made, reference, reference_path)
            rows[path] = {"synthetic": str(path), "real": str(reference_path or ""), "note": note}
            if reference is not None and not note:
                scores, pictures[str(path)] = compare_pair(made, reference)
                rows[path] |= scores
    pairs = pd.DataFrame([rows[path] for path in synthetic], columns=["synthetic", "real", *SCORES, "note"])
    of_real, of_synthetic = (np.concatenate(part) if part else np.empty((0, 0)) for part in features)
    found = distances(of_synthetic, of_real) if enough else {}
    return Comparison(pairs, pictures, of_real, of_synthetic, found, extractor.name)


def _obstacle(made: nib.Nifti1Image, reference: nib.Nifti1Image | None, path: Path | None) -> str:
    """Why a synthetic volume has no scores, or an empty string."""
    if reference is None:
        return UNPAIRED
    same = same_grid(made.shape, made.affine, reference.shape, reference.affine)
    return "" if same else f"not on the grid of {path}"


def _groups(real: Sequence[Path], synthetic: Sequence[Path], partners: Mapping[Path, Path]) -> list[Group]:
    paired: list[Group] = [(volume, [made for made in synthetic if partners.get(made) == volume]) for volume in real]
    return paired + [(None, [made]) for made in synthetic if made not in partners]


def compare_pair(made: nib.Nifti1Image, real: nib.Nifti1Image) -> tuple[dict[str, float], Picture]:
    """Compute `SCORES` of a synthetic volume in the foreground of the real one on the same grid, and a picture.

    The foreground is what lies above air, with the dark parts that it encloses. SSIM compares axial slices. PSNR and
    SSIM follow the alignment of `metrics.match_intensity`, and outside the foreground both volumes count as equal.
    """
    made, real = (nib.as_closest_canonical(volume) for volume in (made, real))
    reference = np.asarray(real.dataobj)
    mask = fill_holes(above_air(reference))
    box = brain_box(mask, SSIM_WINDOW // 2)
    image, reference, mask = np.asarray(made.dataobj)[box], reference[box], mask[box]
    # the alignment gives the background another value; windows at its border must not see that
    aligned = np.where(mask, match_intensity(image, reference, mask), reference)
    peak = float(np.percentile(reference[mask], PEAK_PERCENTILE))
    scores = {
        "psnr": psnr(aligned, reference, mask, peak),
        "ssim": ssim(aligned, reference, peak, mask, axis=2),
        "correlation": correlation(image, reference, mask),
        "mutual_information": mutual_information(image, reference, mask),
    }
    largest = int(mask.sum(axis=(0, 1)).argmax())
    shown, made_shown = (np.where(mask, volume, 0)[:, :, largest] for volume in (reference, aligned))
    width, height, _ = nib.affines.voxel_sizes(real.affine)
    return scores, Picture(shown, made_shown, aspect=height / width)


def _read(path: Path) -> nib.Nifti1Image:
    """Read a volume or a slice, and clear its background, as the pipeline does."""
    volume = read_image(path)
    spacing = nib.affines.voxel_sizes(volume.affine)
    return nib.Nifti1Image(clear_background(np.asarray(volume.dataobj), spacing), volume.affine)


def _features(volume: nib.Nifti1Image, segmenter: Bundle, extractor: Features) -> NDArray[np.float64]:
    (slices,) = evaluated_slices([as_image(np.asarray(volume.dataobj), volume.affine)], segmenter)
    return extractor.extract(slices).numpy()
