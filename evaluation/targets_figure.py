"""Draw translations to targets of one's own, which `targets.py --work` kept, beside the real volumes.

    python evaluation/targets_figure.py --scans target_data/test --flair work/flair_HASH \\
        --phantoms pelvis/test --ct work/pelvis_ct_HASH \\
        --out evaluation/results/figures/targets.png

The brain is `mni-patient07` of Lesjak et al. (Neuroinformatics 16:51, 2018), CC BY. The pelvis is a phantom.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
from numpy.typing import NDArray

BRAIN, BRAIN_HEIGHT = "mni-patient07", 0.52
PELVIS, PELVIS_HEIGHT = "person-11", 0.55
"""Subjects, and the height of the shown slices as a fraction of the volume."""

Panel = tuple[str, Path]


def panels(scans: Path, flair: Path, phantoms: Path, ct: Path) -> list[tuple[float, list[Panel]]]:
    """The rows of the figure: the height of the slice, and title and file of each panel."""
    brain = [
        ("T1w", scans / f"{BRAIN}_T1.nii.gz"),
        ("synthetic FLAIR", flair / "midiff" / f"{BRAIN}_T1_synthFLAIR.nii.gz"),
        ("real FLAIR", scans / f"{BRAIN}_FLAIR.nii.gz"),
    ]
    pelvis = [
        ("T2w of a phantom", phantoms / f"{PELVIS}_T2.nii.gz"),
        ("synthetic CT", ct / "midiff" / f"{PELVIS}_T2_synthCT.nii.gz"),
        ("its CT", phantoms / f"{PELVIS}_CT.nii.gz"),
    ]
    return [(BRAIN_HEIGHT, brain), (PELVIS_HEIGHT, pelvis)]


def axial_slice(path: Path, height: float) -> NDArray:
    """The axial slice at a height, front at the top, right of the person at the left."""
    volume = nib.as_closest_canonical(nib.Nifti1Image.from_filename(path))
    voxels = np.asarray(volume.dataobj)
    return voxels[::-1, ::-1, int(height * voxels.shape[2])].T


def draw(rows: list[tuple[float, list[Panel]]], path: Path) -> None:
    """Draw the panels. Each is scaled to the percentiles 0.5 and 99.5 of its own volume."""
    figure, grid = plt.subplots(len(rows), len(rows[0][1]), figsize=(7.5, 5.4), layout="constrained")
    for axes_of_row, (height, row) in zip(grid, rows, strict=True):
        for axes, (title, file) in zip(axes_of_row, row, strict=True):
            low, high = np.percentile(nib.Nifti1Image.from_filename(file).dataobj, [0.5, 99.5])
            axes.imshow(axial_slice(file, height), cmap="gray", vmin=low, vmax=high)
            axes.set_title(title, fontsize=9)
            axes.axis("off")
    figure.savefig(path, dpi=100)
    plt.close(figure)


def main() -> None:
    """Draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", type=Path, required=True, help="folder of the scans of people")
    parser.add_argument("--flair", type=Path, required=True, help="their synthetic FLAIR")
    parser.add_argument("--phantoms", type=Path, required=True, help="folder of the phantoms")
    parser.add_argument("--ct", type=Path, required=True, help="their synthetic CT")
    parser.add_argument("--out", type=Path, required=True, help="PNG file")
    arguments = vars(parser.parse_args())
    path = arguments.pop("out")
    draw(panels(**arguments), path)


if __name__ == "__main__":
    main()
