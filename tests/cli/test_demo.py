from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np

from midiff_monai.cli.demo import run_demo
from midiff_monai.evaluation.phantom import make_phantom
from midiff_monai.labels import TISSUES


def test_the_demo_finds_white_matter_through_the_synthetic_t1w_only(tmp_path: Path) -> None:
    printed = run_demo(tmp_path)
    value, ids = TISSUES["white matter"]
    truth = np.asarray(make_phantom("PD").tissues.dataobj) == value
    scores = []
    for folder in (tmp_path / "direct", tmp_path):
        labels = np.asarray(nib.Nifti1Image.from_filename(folder / "phantom_PD_dseg.nii.gz").dataobj)
        found = np.isin(labels, ids)
        scores.append(2 * (found & truth).sum() / (found.sum() + truth.sum()))
    direct, through = scores
    assert through > direct + 0.2
    (row,) = [line for line in printed.splitlines() if line.startswith("white matter")]
    assert [float(number) for number in row.split()[2:]] == [round(score, 2) for score in scores]
    assert (tmp_path / "phantom_PD_qc.png").stat().st_size > 10_000
    assert printed.endswith(str(tmp_path / "phantom_PD_qc.png"))
