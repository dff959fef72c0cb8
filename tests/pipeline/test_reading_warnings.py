"""What is doubtful about a file or its header stands in the report of the volume."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

from midiff_monai.io.images import volume_in_memory
from midiff_monai.io.inputs import find_jobs
from midiff_monai.io.manifest import RunReport
from midiff_monai.io.volumes import reading_warnings
from midiff_monai.pipeline import run
from midiff_monai.pipeline.models import Models
from midiff_monai.pipeline.options import Settings
from midiff_monai.pipeline.reading import prepare_source


def test_a_warning_about_the_header_is_in_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    voxels = np.random.default_rng(0).integers(0, 900, (12, 10, 8)).astype(np.int16)
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / "a.nii")
    (job,) = find_jobs(tmp_path / "a.nii", tmp_path / "out")
    monkeypatch.setattr(run, "new_report", lambda job, *_: RunReport("translate", job.source, {}))
    task = SimpleNamespace(settings=run.Settings(), mode=SimpleNamespace(segments=False))
    run.process(job, task, Models(None))  # type: ignore[arg-type]
    warnings = json.loads(job.paths.report.read_text())["warnings"]
    assert warnings[0].startswith("The affine of the header is the identity")


@pytest.mark.parametrize(("empty", "count"), [((), 0), ((7,), 1), ((5, 6, 9), 3), ((0, 1), 0)])
def test_empty_slices_between_others_are_counted(empty: tuple[int, ...], count: int) -> None:
    voxels = np.random.default_rng(0).normal(500, 60, (12, 10, 14)).astype(np.float32)
    voxels[:2] = voxels[:, -2:] = 0
    voxels[..., list(empty)] = 0
    source = prepare_source(volume_in_memory(voxels, np.diag([2, 2, 2, 1])), "a", Settings())
    gaps = [warning for warning in reading_warnings(source) if warning.startswith("Slices without any intensity")]
    assert len(gaps) == bool(count) and all(f", {count} of them:" in warning for warning in gaps)
