"""Score the parcels of cortex and white matter against those of others, and across contrasts.

    python evaluation/parcels.py --data ../shared/data --out evaluation/results

Writes parcels.csv, with a row for each comparison, subject and region, and parcels_summary.csv, with means. Existing
rows are kept, unless the weights have changed. `--segmentations FOLDER` keeps the segmentations and uses them again.
PROTOCOL.md describes the comparisons.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import pandas as pd
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray
from summary import mean_and_interval
from table import BUNDLES, Table, installed_weights, weights_columns
from tqdm import tqdm

from midiff_monai.bundle.bundle import open_bundle
from midiff_monai.bundle.choice import PARCELLATION
from midiff_monai.evaluation.metrics import dice
from midiff_monai.inferers import parcellate
from midiff_monai.io.outputs import output_paths
from midiff_monai.parcels import CORTEX_REGIONS, REGIONS, WHITE_MATTER
from midiff_monai.pipeline.run import segment
from midiff_monai.training.hemispheres import HemisphereOfMUSEd, one_hot_regions
from midiff_monai.training.muse import freesurfer_from_muse
from midiff_monai.transforms.hemispheres import SIDES

KEY = ("comparison", "subject")

HELD_OUT = 8
"""Number of the last subjects of ixi-t1 in alphabetical order, as in the bundle's train.yaml."""

SEGMENTED = 4
"""Number of those whose T1w are segmented."""

HEADS = ("Subj01", "Subj11")
"""Subjects of heads-flair."""

ELDERLY = ("301D00252", "301D00293")
"""Subjects of multicontrast."""

LOBES_OF_DESIKAN_KILLIANY = {
    "frontal": (3, 12, 14, 17, 18, 19, 20, 24, 27, 28, 32),
    "parietal": (8, 22, 25, 29, 31),
    "temporal": (1, 6, 7, 9, 15, 16, 30, 33, 34),
    "occipital": (5, 11, 13, 21),
    "cingulate": (2, 10, 23, 26),
    "insula": (35,),
}
"""Lobe → areas of aparc on both sides, as FreeSurfer's page CorticalParcellation groups them."""

Labels = NDArray[np.integer]
Network = Callable[[torch.Tensor], torch.Tensor]


class Case(NamedTuple):
    """One comparison of the parcels of a subject. `score` returns the Dice of each region or lobe."""

    comparison: str
    subject: str
    score: Callable[[], Mapping[str, float]]


class Scans:
    """Parcels of scans, whose segmentations are kept.

    Args:
        segmentations: folder of the segmentations.
    """

    def __init__(self, segmentations: Path) -> None:
        self.segmentations = segmentations

    @cached_property
    def network(self) -> Network:
        """The network of the bundle."""
        return open_bundle(PARCELLATION).setting("network")

    def parcels(self, volume: Path, translated: bool = False) -> Labels:
        """Segment a volume with --fast, unless its segmentation exists, and parcellate it."""
        folder = self.segmentations / volume.parent.name
        path = output_paths(volume, folder).segmentation
        if not path.exists():
            segment(volume, folder, translated=translated, fast=True)
        stored = nib.Nifti1Image.from_filename(path)
        return parcellate(np.asarray(stored.dataobj), stored.affine, self.network)


class Atlas:
    """The baseline: how often a voxel of template space belongs to each region, whatever the brain looks like.

    Args:
        training: parcellations of the training subjects.
    """

    def __init__(self, training: Sequence[Path]) -> None:
        self.training = training

    def __call__(self, tissues: torch.Tensor) -> torch.Tensor:
        """Return the frequencies (1, regions, *HEMISPHERE_SHAPE) for any tissues."""
        return self.frequencies

    @cached_property
    def frequencies(self) -> torch.Tensor:
        """The means over training subjects and sides."""
        samples = [self._regions(load(path), side) for path in self.training for side in SIDES]
        return sum(map(one_hot_regions, samples), torch.zeros(()))[None] / len(samples)

    @staticmethod
    def _regions(muse: nib.Nifti1Image, side: str) -> torch.Tensor:
        image = MetaTensor(torch.from_numpy(np.asarray(muse.dataobj))[None], affine=torch.from_numpy(muse.affine))
        return HemisphereOfMUSEd("image", "label")({"image": image, "label": image, "side": side})["label"]


def cases(data: Path, scans: Scans) -> Iterator[Case]:
    """List all comparisons."""
    volumes = sorted((data / "ixi-t1").glob("*_T1.nii.gz"))
    atlas = Atlas([parcellation_of(volume) for volume in volumes[:-HELD_OUT]])
    for volume in volumes[-HELD_OUT:]:
        subject = volume.name.partition("-")[0]
        yield Case("true tissues, atlas", subject, partial(score_tissues, volume, lambda: atlas))
        yield Case("true tissues", subject, partial(score_tissues, volume, lambda: scans.network))
    for volume in volumes[-SEGMENTED:]:
        yield Case("T1w", volume.name.partition("-")[0], partial(score_scan, volume, scans))
    for subject in HEADS:
        volume = data / "heads-flair" / f"{subject}_T1.nii.gz"
        yield Case("T1w, heads-flair", subject, partial(score_scan, volume, scans))
    for subject in ELDERLY:
        for contrast in ("FLAIR", "PD"):
            pair = [data / "multicontrast" / f"{subject}_{name}.nii.gz" for name in ("T1", contrast)]
            yield Case(f"{contrast} against T1w", subject, partial(score_pair, *pair, scans))
    for subject in ("bert", "seeg"):
        folder = data / "freesurfer-1mm"
        files = folder / f"{subject}_T1.mgz", folder / f"{subject}_aparc+aseg.mgz"
        yield Case("lobes of Desikan-Killiany", subject, partial(score_lobes, *files, scans))


def score_tissues(volume: Path, network: Callable[[], Network]) -> dict[str, float]:
    """Parcellate the tissues of a MUSE parcellation, so that nothing but the regions can differ."""
    muse = load(parcellation_of(volume))
    reference = np.asarray(muse.dataobj).astype(np.int16)
    return by_region(parcellate(freesurfer_from_muse(reference), muse.affine, network()), reference)


def score_scan(volume: Path, scans: Scans) -> dict[str, float]:
    """Segment and parcellate a T1w, and compare the parcels with those of MUSE."""
    return by_region(scans.parcels(volume), np.asarray(load(parcellation_of(volume)).dataobj))


def score_pair(t1w: Path, other: Path, scans: Scans) -> dict[str, float]:
    """Compare the parcels of another contrast with those of the T1w on the same grid."""
    return by_region(scans.parcels(other, translated=True), scans.parcels(t1w))


def score_lobes(t1w: Path, aparc: Path, scans: Scans) -> dict[str, float]:
    """Compare the lobes of the parcels of a T1w with those of FreeSurfer's areas."""
    return by_lobe(scans.parcels(t1w), np.asarray(load(aparc).dataobj))


def by_region(parcels: Labels, reference: Labels) -> dict[str, float]:
    """Return the Dice of each region, as the mean of both sides."""
    return {
        region.name: float(np.mean([dice(parcels, reference, [label]) for label in region.labels]))
        for region in REGIONS
    }


def by_lobe(parcels: Labels, aparc: Labels) -> dict[str, float]:
    """Return the Dice of each lobe of the cortex against FreeSurfer's aparc+aseg."""
    scores = {}
    for lobe, areas in LOBES_OF_DESIKAN_KILLIANY.items():
        ids = [label for region in CORTEX_REGIONS if region.lobe == lobe for label in region.labels]
        of_lobe = np.isin(parcels, ids), np.isin(aparc, [side + area for side in (1000, 2000) for area in areas])
        scores[lobe] = dice(*of_lobe, [1])
    return scores


def parcellation_of(t1w: Path) -> Path:
    """Return the file of the MUSE parcellation of a T1w."""
    return t1w.with_name(t1w.name.replace("_T1", "_T1_DLMUSE"))


def load(path: Path) -> nib.Nifti1Image:
    """Load a label map."""
    return nib.loadsave.load(path)  # type: ignore[return-value]


def rows_of(case: Case, provenance: Mapping[str, str | None]) -> list[dict[str, object]]:
    """Score a case: a row for each region or lobe."""
    lobes = {region.name: region.lobe for region in REGIONS}
    key = {"comparison": case.comparison, "subject": case.subject}
    return [
        key | {"region": name, "lobe": lobes.get(name, name), "dice": score} | provenance
        for name, score in case.score().items()
    ]


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Average each region over subjects, after the means over the regions of cortex and of white matter."""
    tissue = np.where(rows["lobe"] == WHITE_MATTER, "white matter", "cortex")
    means = rows.assign(region=tissue).groupby(["comparison", "region", "subject"], sort=False)["dice"].mean()
    together = pd.concat([means.reset_index(), rows])
    return pd.DataFrame(
        {"comparison": comparison, "region": region} | mean_and_interval(scores)
        for (comparison, region), scores in together.groupby(["comparison", "region"], sort=False)["dice"]  # type: ignore[misc]
    )


def main() -> None:
    """Fill the table and write the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the development data")
    parser.add_argument("--out", type=Path, required=True, help="folder for parcels.csv and parcels_summary.csv")
    parser.add_argument("--segmentations", type=Path, help="folder that keeps the segmentations (default: none)")
    arguments = parser.parse_args()
    table = Table(arguments.out / "parcels.csv", KEY)
    provenance = weights_columns({name: installed_weights()[name] for name in BUNDLES})
    with tempfile.TemporaryDirectory() as temporary:
        scans = Scans(arguments.segmentations or Path(temporary))
        for case in tqdm(list(cases(arguments.data, scans))):
            if not table.has({"comparison": case.comparison, "subject": case.subject}):
                table.add(*rows_of(case, provenance))
    summary(table.rows()).to_csv(arguments.out / "parcels_summary.csv", index=False, float_format="%.3f")


if __name__ == "__main__":
    main()
