"""Make the average head with which `midiff_monai.qc.orientation` compares scans.

    python evaluation/average_anatomy.py --label-maps ../shared/data/label-maps

Each label map is shifted until the centroid of its brain lies in the centre of the grid. The average head is the share
of the label maps that have a class in a voxel. It is stored in steps of 1/255, in the package.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from midiff_monai.evaluation.simulation import brain_structures
from midiff_monai.qc.orientation import CLASSES, FILE, SHAPE, VOXEL_MM

CLASS_OF = {
    "bone": (515, 516),
    "soft tissue": (502, 506, 507, 508, 509, 511, 512, 514, 530),
    "CSF": (24,),
    "cortex": (3, 42),
    "white matter": (2, 41),
    "ventricles": (4, 5, 14, 15, 43, 44),
    "deep grey matter": (10, 11, 12, 13, 17, 18, 26, 28, 49, 50, 51, 52, 53, 54, 58, 60),
    "cerebellum and brain stem": (7, 8, 16, 46, 47),
}
"""Class → labels. All other labels are air."""


def class_fractions(labels: NDArray[np.integer], structures: NDArray[np.int16]) -> NDArray[np.float32]:
    """Return the fractions (classes, *SHAPE) in voxels of `VOXEL_MM` of a label map (X, Y, Z) at 1 mm in RAS.

    Args:
        labels: all labels.
        structures: those of the brain, with the ids of the segmenter.
    """
    # the centre of the grid is that of a voxel, because its sizes are odd
    start = [round(mean - VOXEL_MM * size / 2 + 0.5) for mean, size in zip(_centroid(structures), SHAPE, strict=True)]
    stop = [first + VOXEL_MM * size for first, size in zip(start, SHAPE, strict=True)]
    before = [max(-first, 0) for first in start]
    after = [max(last - size, 0) for last, size in zip(stop, labels.shape, strict=True)]
    labels = np.pad(np.where(structures > 0, structures, labels), list(zip(before, after, strict=True)))
    box = tuple(slice(first + pad, last + pad) for first, last, pad in zip(start, stop, before, strict=True))
    blocks = labels[box].reshape([part for size in SHAPE for part in (size, VOXEL_MM)])
    inside = [np.isin(blocks, CLASS_OF[name]).mean(axis=(1, 3, 5), dtype=np.float32) for name in CLASSES[1:]]
    return np.stack([1 - sum(inside), *inside])


def _centroid(structures: NDArray[np.int16]) -> NDArray[np.float64]:
    return np.argwhere(structures > 0).mean(axis=0)


def main() -> None:
    """Average the label maps and write the file of the package."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--label-maps", type=Path, required=True, help="folder of whole heads at 1 mm")
    paths = sorted(parser.parse_args().label_maps.glob("*.nii.gz"))
    total = np.zeros((len(CLASSES), *SHAPE), dtype=np.float32)
    for path in tqdm(paths):
        image = nib.as_closest_canonical(nib.Nifti1Image.from_filename(path))
        labels = np.asarray(image.dataobj).astype(np.int16)
        total += class_fractions(labels, brain_structures(labels))
    np.savez_compressed(FILE, fractions=np.rint(255 * total / len(paths)).astype(np.uint8))


if __name__ == "__main__":
    main()
