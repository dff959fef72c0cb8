"""Segment PD and T2 of one dual-echo scan combined.

    python examples/dual_echo.py scan_PDw.nii.gz scan_T2w.nii.gz -o results

Both echoes are on the same grid, so their synthetic T1w can be averaged. A tissue with poor contrast in one echo (such
as CSF in PD) may have good contrast in the other. The script writes the mean synthetic T1w and its segmentation. It
prints the Dice of each echo's segmentation with that of the mean.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from midiff_monai import segment
from midiff_monai.evaluation.metrics import dice_table
from midiff_monai.io.affines import same_grid
from midiff_monai.io.volumes import read_volume, write_like
from midiff_monai.labels import GROUPS


def main() -> None:
    """Translate both echoes and segment their mean."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pd", type=Path)
    parser.add_argument("t2", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    echoes = [read_volume(path) for path in (arguments.pd, arguments.t2)]
    if not same_grid(echoes[0].shape, echoes[0].affine, echoes[1].shape, echoes[1].affine):
        parser.error("the echoes are not on one grid")
    first, second = segment([arguments.pd, arguments.t2], arguments.output, overwrite=True)
    mean = arguments.output / "mean_T1w.nii.gz"
    write_like((first.synthetic + second.synthetic) / 2, first.source, mean, np.float32)
    combined = segment([mean], arguments.output, translated=False, overwrite=True)[0]
    for name, echo in zip(("PD", "T2"), (first, second), strict=True):
        print(name, dice_table(echo.segmentation, combined.segmentation, GROUPS).round(2).to_dict())
    print(combined.paths.segmentation)


if __name__ == "__main__":
    main()
