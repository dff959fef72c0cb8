"""Compare the estimate of the intracranial volume with the truth, on the label maps of whole heads.

    python evaluation/intracranial.py --label-maps ../shared/data/label-maps --out evaluation/results

The estimate gets the true labels of brain and CSF. Its error is thus that of the estimate alone. There is one row for
each label map. PROTOCOL.md has the details.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage
from tqdm import tqdm

from midiff_monai.evaluation.simulation import brain_structures
from midiff_monai.labels import TOTALS
from midiff_monai.transforms.foreground import fill_holes
from midiff_monai.transforms.intracranial import intracranial_ml

SINUSES = 514

REACH = 4
"""Distance in voxels of 2 mm within which veins are inside the skull. Those of the neck lie beyond."""

STEP = 2
"""Every which voxel of the label maps of 1 mm is used, along each axis."""


def true_ml(labels: NDArray[np.integer], structures: NDArray[np.int16], voxel_ml: float) -> float:
    """Add up brain, CSF and venous sinuses (X, Y, Z), in RAS, above the lowest slice with brain."""
    inside = structures > 0
    lowest = int(np.isin(structures, TOTALS["brain"]).any(axis=(0, 1)).argmax())
    inside |= (labels == SINUSES) & (ndimage.distance_transform_cdt(~inside) <= REACH)
    inside[:, :, :lowest] = False
    return float(fill_holes(inside).sum() * voxel_ml)


def compare(label_map: Path) -> dict[str, str | float]:
    """Compute the row of a label map of 1 mm."""
    stored = nib.as_closest_canonical(nib.Nifti1Image.from_filename(label_map)).slicer[::STEP, ::STEP, ::STEP]
    labels = np.asarray(stored.dataobj).astype(np.int16)
    structures, voxel_ml = brain_structures(labels), STEP**3 / 1000
    truth, estimate = true_ml(labels, structures, voxel_ml), intracranial_ml(structures, stored.affine)
    return {
        "label_map": label_map.name.partition(".")[0],
        "brain_and_csf_ml": float((structures > 0).sum() * voxel_ml),
        "true_ml": truth,
        "estimate_ml": estimate,
        "error_percent": 100 * (estimate / truth - 1),
    }


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--label-maps", type=Path, required=True, help="folder of the label maps")
    parser.add_argument("--out", type=Path, required=True, help="folder for intracranial.csv")
    arguments = parser.parse_args()
    rows = [compare(path) for path in tqdm(sorted(arguments.label_maps.glob("*.nii.gz")))]
    if not rows:
        parser.error(f"{arguments.label_maps} has no label map")
    arguments.out.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(arguments.out / "intracranial.csv", index=False, float_format="%.2f")


if __name__ == "__main__":
    main()
