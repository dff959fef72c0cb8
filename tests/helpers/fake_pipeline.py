"""A stand-in for the models, for tests of batches."""

from __future__ import annotations

import errno
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

from midiff_monai.errors import InputError
from midiff_monai.io.inputs import Job, find_jobs
from midiff_monai.pipeline import batch
from midiff_monai.pipeline.batch import Outcome
from midiff_monai.pipeline.result import Result
from midiff_monai.pipeline.run import Models, Settings, new_report, written_roles

NOTHING = np.zeros((1, 1, 1), dtype=np.int16)


class FakeBundle:
    weights_sha256 = configuration_sha256 = "0" * 64

    def __init__(self, name: str, settings: Settings) -> None:
        self.root, self._settings = Path(name), settings

    def setting(self, name: str) -> object:
        if name == "inferer":
            return SimpleNamespace(set_timesteps=lambda: self._settings.steps)
        return getattr(self._settings, name, name)


def load(settings: Settings, translating: bool, segmenting: bool) -> Models:
    models = Models(segmenting=segmenting)
    if translating:
        models.translation = FakeBundle("t1_lmi_translation", settings)  # type: ignore[assignment]
    models.segmentation = FakeBundle("t1_brain_segmentation", settings)  # type: ignore[assignment]
    return models


class FakeResult(Result):
    """Writes into every file what it is, and the number of the run that made it."""

    roles: set[str]
    number: int

    def _writers(self) -> dict[str, Callable[[Path], None]]:
        return {role: partial(self._write_name, role) for role in self.roles}

    def _write_name(self, role: str, path: Path) -> None:
        path.write_text(f"{role} by {self.number}")


class FakePipeline:
    """Writes all files of a run; a volume whose text names an exception raises it.

    There is a DICOM SEG only of a volume whose text is "dicom".
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.processed: list[str] = []
        monkeypatch.setattr(batch, "_load", load)
        monkeypatch.setattr(batch, "process", self)

    def __call__(self, job: Job, settings: Settings, models: Models) -> Result:
        source, paths = job.source, job.paths
        self.processed.append(source.name)
        self.report = new_report(job, settings, models)
        error = {
            "full": OSError(errno.ENOSPC, "No space left on device"),
            "large": MemoryError("of 7\nTiB"),
            "bad": InputError(source, "is truncated", "Copy it again"),
        }.get(source.read_text())
        if error:
            raise error
        self.report.warnings.append("Look at the picture.")
        result = FakeResult(nib.Nifti1Image(NOTHING, np.eye(4)), paths, self.report)
        result.synthetic = NOTHING if models.translation else None
        result.segmentation = NOTHING if models.segmenting else None
        result.roles = set(written_roles(settings, models.translation is not None, models.segmenting))
        result.roles -= set() if source.read_text() == "dicom" else {"dicom_seg"}
        result.number = len(self.processed)
        result.write()
        return result


def write_jobs(folder: Path) -> list[Job]:
    """Three volumes that are good, `in/a.nii` to `in/c.nii`, to be processed into `out`."""
    (folder / "in").mkdir()
    for name in "abc":
        (folder / "in" / f"{name}.nii").write_text(f"good {name}")
    return find_jobs([folder / "in"], folder / "out")


def statuses(outcomes: list[Outcome]) -> list[str]:
    return [outcome.status for outcome in outcomes]
