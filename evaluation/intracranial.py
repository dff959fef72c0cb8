"""Compare the intracranial volume with labels that others made, and with the truth of simulated heads.

    python evaluation/intracranial.py --data ../shared/data --out evaluation/results

There is one row for each scan: simulated heads of the label maps that no training uses, T1w and FLAIR of elderly
people with the DLMUSE parcellation of the T1w, and T1w of the people of IXI that no training uses. PROTOCOL.md has the
details.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from table import weights_columns
from tqdm import tqdm
from yardstick_case import subject_of
from yardstick_scans import HELD_BACK, SIMULATED, simulate_head

from midiff_monai import segment
from midiff_monai.evaluation.metrics import dice
from midiff_monai.io.affines import voxel_volume_ml
from midiff_monai.training.intracranial import intracranial_mask
from midiff_monai.transforms.foreground import fill_holes

VALIDATION = 6
"""People of IXI, the last ones by name, that the training leaves out."""


class Head(NamedTuple):
    """A scan of a whole head.

    Attributes:
        source: folder of the data.
        subject: name of the person or the label map.
        contrast: the sequence.
        volume: the file.
        mask: what is intracranial (X, Y, Z), on the grid of the file; None where only its volume is known.
        true_ml: its volume.
    """

    source: str
    subject: str
    contrast: str
    volume: Path
    mask: NDArray[np.bool_] | None
    true_ml: float


def simulated_heads(data: Path) -> Iterator[Head]:
    """Simulate the label maps that no training uses, at 1 mm."""
    for name in HELD_BACK:
        path = data / "label-maps" / f"{name}.nii.gz"
        labels = nib.as_closest_canonical(nib.Nifti1Image.from_filename(path))
        true_ml = float(intracranial_mask(np.asarray(labels.dataobj).astype(np.int16)).sum()) / 1000
        with tempfile.TemporaryDirectory() as folder:
            simulate_head(path, Path(folder))
            for contrast in SIMULATED:
                (volume,) = Path(folder).glob(f"*_{contrast}.nii.gz")
                yield Head("label-maps", name, contrast, volume, None, true_ml)


def real_heads(data: Path) -> Iterator[Head]:
    """List the whole heads with DLMUSE parcellations: the FLAIR has the true volume of the T1w."""
    people = [("heads-flair", path) for path in sorted((data / "heads-flair").glob("*_T1.nii.gz"))]
    people += [("ixi-t1", path) for path in sorted((data / "ixi-t1").glob("*_T1.nii.gz"))[-VALIDATION:]]
    for source, t1 in people:
        labels = nib.Nifti1Image.from_filename(t1.with_name(t1.name.replace("_T1.", "_T1_DLMUSE.")))
        mask = fill_holes(np.asarray(labels.dataobj) > 0)
        true_ml = float(mask.sum()) * voxel_volume_ml(labels.affine)
        yield Head(source, subject_of(t1), "T1", t1, mask, true_ml)
        flair = t1.with_name(t1.name.replace("_T1.", "_FLAIR."))
        if flair.exists():
            yield Head(source, subject_of(t1), "FLAIR", flair, None, true_ml)


def row_of(head: Head) -> dict[str, object]:
    """Segment a head, and compare what lies inside the skull with the truth."""
    with tempfile.TemporaryDirectory() as folder:
        result = segment([head.volume], folder, translated=head.contrast != "T1", **settings_of(head))[0]
    found_ml = result.intracranial_ml
    row: dict[str, object] = {
        "source": head.source,
        "subject": head.subject,
        "contrast": head.contrast,
        "true_ml": head.true_ml,
    }
    row |= {"found_ml": found_ml, "error_percent": 100 * (found_ml / head.true_ml - 1)}
    if head.mask is not None and result.intracranial is not None:
        row["dice"] = dice(result.intracranial, head.mask, [1])
    return row | weights_columns(result.report.weights)


def settings_of(head: Head) -> dict[str, Any]:
    """The settings of a run: the volume does not depend on the detail of the labels."""
    return {"fast": True, "lesions": False} | ({"modality": "CT"} if head.contrast == "CT" else {})


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of label-maps, heads-flair and ixi-t1")
    parser.add_argument("--out", type=Path, required=True, help="folder for intracranial.csv")
    arguments = parser.parse_args()
    heads = (head for heads in (real_heads, simulated_heads) for head in heads(arguments.data))
    rows = [row_of(head) for head in tqdm(heads)]
    arguments.out.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(arguments.out / "intracranial.csv", index=False, float_format="%.2f")


if __name__ == "__main__":
    main()
