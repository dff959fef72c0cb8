"""A small BIDS data set."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np


def write_dataset(tmp_path: Path) -> Path:
    """Write scans of two participants, and return the folder of the data set."""
    root = tmp_path / "raw"
    scans = [
        "sub-01/anat/sub-01_PDw",
        "sub-02/ses-a/anat/sub-02_ses-a_acq-tse_PDw",
        "sub-02/ses-a/anat/sub-02_ses-a_acq-tse_T2w",
        "sub-02/ses-b/anat/sub-02_ses-b_run-1_FLAIR",
        "sub-02/ses-b/anat/sub-02_ses-b_T1w",
    ]
    for scan in scans:
        path = root / f"{scan}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(np.ones((4, 4, 4), np.float32), np.eye(4)), path)
    (root / "dataset_description.json").write_text(json.dumps({"Name": "x", "BIDSVersion": "1.9.0"}))
    (root / "README").write_text("A data set of four scans, made to try the names of derivatives.")
    return root
