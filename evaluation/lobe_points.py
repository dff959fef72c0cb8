"""Make the points by which `midiff_monai.qc.lobes` names the lobe of a place in template space.

    python evaluation/lobe_points.py --parcellations ../shared/data/ixi-t1

The points of a lobe are the centres of clusters of its voxels (k-means), in the MUSE parcellations of two thirds of the
people. The script prints them, and the share of the voxels of the other people that get the right lobe.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2

from midiff_monai.parcels import REGIONS
from midiff_monai.qc.lobes import nearest_lobes
from midiff_monai.training.muse import freesurfer_from_muse
from midiff_monai.transforms.hemispheres import template_to_world

POINTS = {"frontal": 4, "parietal": 4, "temporal": 4, "occipital": 3, "insular": 1, "deep": 3}
"""Number of points of each lobe."""

WHITE_MATTER = {f"{lobe.capitalize()}_WM": lobe for lobe in ("frontal", "parietal", "temporal", "occipital")}

DEEP = (59, 60, 36, 37, 57, 58, 55, 56, 91, 92, 93, 94)
"""MUSE ids of thalamus, caudate, putamen, pallidum and internal capsule."""

SAMPLES = 6000
"""Number of voxels of a person."""


def lobes_by_id() -> dict[int, str]:
    """MUSE id → name of the lobe. The cingulate gyrus counts as none: it lies along two lobes."""
    names = dict.fromkeys(DEEP, "deep")
    for region in REGIONS:
        lobe = {"insula": "insular"}.get(region.lobe, WHITE_MATTER.get(region.name, region.lobe))
        if lobe in POINTS and region.left not in names:
            names |= {region.left: lobe, region.right: lobe}
    return names


def sampled(path: Path, random: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.str_]]:
    """Places in template space (N, 3), folded onto the right side, and their lobes (N,)."""
    image, names = nib.Nifti1Image.from_filename(path), lobes_by_id()
    parcels = np.asarray(image.dataobj).astype(np.int16)
    mapping = template_to_world(freesurfer_from_muse(parcels), image.affine)
    voxels = np.argwhere(np.isin(parcels, list(names)))
    voxels = voxels[random.choice(len(voxels), SAMPLES, replace=False)]
    to_template = np.linalg.inv(mapping) @ image.affine
    places = voxels @ to_template[:3, :3].T + to_template[:3, 3]
    places[:, 0] = np.abs(places[:, 0])
    return places, np.array([names[label] for label in parcels[tuple(voxels.T)].tolist()])


def main() -> None:
    """Print the points and their accuracy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parcellations", type=Path, required=True, help="folder of *_DLMUSE.nii.gz")
    paths = sorted(parser.parse_args().parcellations.glob("*_DLMUSE.nii.gz"))
    random = np.random.default_rng(0)
    people = [sampled(path, random) for path in paths]
    fitted = 2 * len(people) // 3
    places, lobes = (np.concatenate(parts) for parts in zip(*people[:fitted], strict=True))
    points = {
        lobe: np.rint(kmeans2(places[lobes == lobe], count, seed=0, minit="++")[0]).astype(int).tolist()
        for lobe, count in POINTS.items()
    }
    for lobe, centres in points.items():
        print(f'"{lobe}": {tuple(tuple(centre) for centre in sorted(centres))},')
    places, lobes = (np.concatenate(parts) for parts in zip(*people[fitted:], strict=True))
    right = nearest_lobes(places, points) == lobes
    print(f"accuracy in {len(people) - fitted} other people: {right.mean():.3f}")
    print({lobe: round(float(right[lobes == lobe].mean()), 2) for lobe in POINTS})


if __name__ == "__main__":
    main()
