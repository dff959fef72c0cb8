"""How often the sides of a scan differ enough for the flag `asymmetry`: with lesions, without, and with painted ones.

    python evaluation/asymmetry.py --data ../shared/data --segmentations build/asymmetry --out evaluation/results

Writes asymmetry.csv, with a row for each scan, and four more for each scan without a large lesion, into which blobs of
5, 10, 20 and 40 ml are painted in turn; and asymmetry_summary.csv. The scans are segmented with --fast, and again after
a change of the weights. Blobs are painted into a scan that is segmented already, but for some scans, which are
segmented again with a blob of 20 ml.
"""

from __future__ import annotations

import argparse
import zlib
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import pandas as pd
from nibabel.affines import apply_affine, voxel_sizes
from numpy.typing import NDArray
from scipy import ndimage
from table import Table, is_current, weights_columns
from tqdm import tqdm

from midiff_monai.io.manifest import read_earlier_manifest
from midiff_monai.io.outputs import OutputPaths, output_paths
from midiff_monai.io.paths import volume_stem
from midiff_monai.io.volumes import read_volume
from midiff_monai.labels import STRUCTURES
from midiff_monai.pipeline.run import segment
from midiff_monai.qc.asymmetry import Asymmetry, measure_asymmetry
from midiff_monai.qc.flags import MAX_ASYMMETRY_ML
from midiff_monai.transforms.hemispheres import template_to_world

LESIONS = {"glioma_T1", "glioma_T1c", "glioma_T2", "glioma_FLAIR", "tumour_T1c", "stroke_T2"}
"""Scans with a large one-sided lesion."""

PATTERNS = (
    *("odd/glioma_*", "odd/tumour_*", "odd/stroke_*", "odd/head1mm_*", "odd/thick*_FLAIR*", "odd/average_*"),
    *("multicontrast/*_[PTF]*", "heads-flair/*_T1.nii.gz", "heads-flair/*_FLAIR.nii.gz", "freesurfer-1mm/*_T1.mgz"),
    *("open-ms/*_[TF]*", "ixi-t1/IXI[12]*_T1.nii.gz", "odd/lowfield*"),
)

LIMITS = "limits"
"""Name of the part of the scans on which the limits were chosen. The others are "held out"."""

FOR_LIMITS = ("301D00252", "301D00262", *(f"Subj0{number}" for number in range(1, 6)), "head1mm", "thick5.5mm", "bert")
"""People, or scans, of that part."""

SIZES_ML = (5, 10, 20, 40)

AGAIN_ML = 20
AGAIN = ("301D00262_T2", "301D00262_FLAIR", "Subj02_T1")
"""Scans that are segmented again with a blob."""

ROUGHNESS, ROUGHNESS_MM = 0.3, 8.0
"""Standard deviation of the noise that makes a blob irregular, in radii, and that of its Gaussian window."""

FROM_MIDLINE_MM = 18.0
"""Least distance of the centre of a blob from the midline, in template space."""

TEXTURE = 0.5
"""Share of the deviations from the median of its tissue that a voxel keeps within a blob."""


class Scan(NamedTuple):
    """A scan and its segmentation, both (X, Y, Z), and the SHA-256 of the weights that segmented it, by bundle."""

    image: NDArray[np.float32]
    labels: NDArray[np.int16]
    affine: NDArray[np.float64]
    weights: dict[str, str]


def is_t1(name: str) -> bool:
    """Whether a scan is a T1w of the usual contrast, which is segmented as it is."""
    return name.endswith("_T1")


def weights_of(paths: OutputPaths) -> dict[str, str]:
    """Return the SHA-256 of the weights that made a complete segmentation, by bundle; empty without one."""
    manifest = read_earlier_manifest(paths)
    return manifest["weights"] if manifest["complete"] and paths.segmentation.exists() else {}


def segmented(volume: Path, folder: Path) -> Scan:
    """Read a scan and its segmentation, which is made if it is missing or of other weights."""
    paths = output_paths(volume, folder)
    weights = weights_of(paths)
    if not weights or not is_current(weights_columns(weights)):
        segment([volume], folder, translated=not is_t1(volume_stem(volume)), fast=True, overwrite=True)
    image, labels = read_volume(volume), nib.Nifti1Image.from_filename(paths.segmentation)
    voxels = np.asarray(image.dataobj, np.float32), np.asarray(labels.dataobj).astype(np.int16)
    return Scan(*voxels, image.affine, weights_of(paths))


def lesion_level(scan: Scan, contrast: str) -> float:
    """Intensity of a lesion: between cortex and CSF, or brighter than cortex where CSF is dark or no contrast."""
    white, cortex, fluid = (
        float(np.median(scan.image[np.isin(scan.labels, ids)])) for ids in ((2, 41), (3, 42), (4, 43))
    )
    if contrast == "PD":
        return cortex + abs(cortex - white)
    return cortex + (cortex - fluid) / 2 if contrast == "FLAIR" else (cortex + fluid) / 2


def blob(scan: Scan, size_ml: float, random: np.random.Generator) -> tuple[NDArray[np.bool_], str]:
    """Place an irregular blob around a voxel of white matter, within one hemisphere.

    Returns:
        Its mask (X, Y, Z), and its side.
    """
    side = str(random.choice(["left", "right"]))
    prefix = side.capitalize()
    hemisphere = np.isin(scan.labels, [structure.id for structure in STRUCTURES if structure.name.startswith(prefix)])
    to_template = np.linalg.inv(template_to_world(scan.labels, scan.affine)) @ scan.affine
    white = np.argwhere(scan.labels == {"left": 2, "right": 41}[side])
    white = white[np.abs(apply_affine(to_template, white)[:, 0]) > FROM_MIDLINE_MM]
    centre = apply_affine(scan.affine, white[random.integers(len(white))])
    voxels = np.argwhere(hemisphere)
    distance = np.linalg.norm(apply_affine(scan.affine, voxels) - centre, axis=1)
    radius = (3000 * size_ml / (4 * np.pi)) ** (1 / 3)
    sides = voxel_sizes(scan.affine)
    noise = ndimage.gaussian_filter(random.normal(size=scan.image.shape), ROUGHNESS_MM / sides)
    order = np.argsort(distance / radius - ROUGHNESS * noise[hemisphere] / noise.std())
    mask = np.zeros(scan.image.shape, dtype=bool)
    mask[tuple(voxels[order[: round(1000 * size_ml / sides.prod())]].T)] = True
    return mask, side


def painted(scan: Scan, mask: NDArray[np.bool_], level: float) -> Scan:
    """Give a blob another intensity. It keeps a part of the texture."""
    image = scan.image.copy()
    for label in np.unique(scan.labels[mask]):
        tissue = scan.labels == label
        image[tissue & mask] = level + TEXTURE * (scan.image[tissue & mask] - np.median(scan.image[tissue]))
    return scan._replace(image=image)


def described(found: Asymmetry | None) -> dict[str, object]:
    """The columns of a measured asymmetry."""
    if found is None:
        return {"region": "not compared", "flagged": False}
    facts = found._asdict() | {"flagged": found.volume_ml > MAX_ASYMMETRY_ML}
    return {name: facts[name] for name in ("volume_ml", "effect", "side", "region", "brighter", "flagged")}


class Planned(NamedTuple):
    """A scan to measure: as it is, with a blob, or with a blob and a segmentation of its own."""

    volume: Path
    blob_ml: int = 0
    again: bool = False

    @property
    def key(self) -> dict[str, str]:
        """The columns that identify the row."""
        blob = f"{self.blob_ml} ml" + ", segmented again" * self.again if self.blob_ml else "none"
        return {"scan": volume_stem(self.volume), "blob": blob}

    @property
    def part(self) -> str:
        """What the scan is for."""
        name = volume_stem(self.volume)
        if name in LESIONS:
            return "lesion"
        if "lowfield" in name:
            return "slab"
        return LIMITS if name.rpartition("_")[0] in FOR_LIMITS else "held out"


def plan(data: Path) -> list[Planned]:
    """List all scans, those that are segmented again last."""
    scans = [Planned(path) for pattern in PATTERNS for path in sorted(data.glob(pattern))]
    healthy = [scan.volume for scan in scans if scan.part in (LIMITS, "held out")]
    blobs = [Planned(volume, size_ml) for volume in healthy for size_ml in SIZES_ML]
    again = [Planned(volume, AGAIN_ML, again=True) for volume in healthy if volume_stem(volume) in AGAIN]
    return [*scans, *blobs, *again]


def row(planned: Planned, folder: Path) -> dict[str, object]:
    """Measure a scan."""
    name, scan, side = planned.key["scan"], segmented(planned.volume, folder), ""
    contrast = name.rpartition("_")[2]
    if planned.blob_ml:
        random = np.random.default_rng(zlib.crc32(f"{name} {planned.blob_ml}".encode()))
        mask, side = blob(scan, planned.blob_ml, random)
        scan = painted(scan, mask, lesion_level(scan, contrast))
    if planned.again:
        file = folder / f"blob_{name}.nii.gz"
        nib.save(nib.Nifti1Image(scan.image, scan.affine), file)
        scan = segmented(file, folder)
    facts = {"source": planned.volume.parent.name, "part": planned.part, "contrast": contrast, "blob_side": side}
    found = described(measure_asymmetry(scan.image, scan.labels, scan.affine))
    return planned.key | facts | found | weights_columns(scan.weights)


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Count the scans with a flag, and those whose flag names the side of the blob, by part, blob and contrast."""
    table = table.assign(right_side=table["flagged"] & (table["side"] == table["blob_side"]))
    keys = ["part", "blob", "contrast"]
    grouped = pd.concat([table, table.assign(contrast="all")]).groupby(keys)
    return grouped.agg(
        scans=("scan", "size"), flagged=("flagged", "sum"), right_side=("right_side", "sum")
    ).reset_index()


def main() -> None:
    """Fill the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the development data")
    parser.add_argument("--segmentations", type=Path, required=True, help="folder that keeps the segmentations")
    parser.add_argument("--out", type=Path, required=True, help="folder for the tables")
    arguments = parser.parse_args()
    table = Table(arguments.out / "asymmetry.csv", ("scan", "blob"))
    for planned in tqdm(plan(arguments.data)):
        if not table.has(planned.key):
            table.add(row(planned, arguments.segmentations / planned.volume.parent.name))
    summary(table.rows()).to_csv(arguments.out / "asymmetry_summary.csv", index=False)


if __name__ == "__main__":
    main()
