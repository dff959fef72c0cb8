"""What is doubtful about a file or its header stands in the report of the volume."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

from midiff_monai.io.inputs import find_jobs
from midiff_monai.io.manifest import RunReport
from midiff_monai.pipeline import run
from midiff_monai.pipeline.models import Models


def test_a_warning_about_the_header_is_in_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    voxels = np.random.default_rng(0).integers(0, 900, (12, 10, 8)).astype(np.int16)
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / "a.nii")
    (job,) = find_jobs(tmp_path / "a.nii", tmp_path / "out")
    monkeypatch.setattr(run, "new_report", lambda job, *_: RunReport("translate", job.source, {}))
    task = SimpleNamespace(settings=run.Settings(), mode=SimpleNamespace(segments=False))
    run.process(job, task, Models(None))  # type: ignore[arg-type]
    warnings = json.loads(job.paths.report.read_text())["warnings"]
    assert warnings[0].startswith("The affine of the header is the identity")
