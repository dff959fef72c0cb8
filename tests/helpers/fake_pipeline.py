"""A stand-in for the models, for tests of batches."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np

from midiff_monai.errors import InputError
from midiff_monai.io.inputs import Job, find_jobs
from midiff_monai.pipeline.batch import Pipeline, run_batch
from midiff_monai.pipeline.batch_report import Outcome
from midiff_monai.pipeline.models import Models
from midiff_monai.pipeline.options import Settings, Task
from midiff_monai.pipeline.result import Result
from midiff_monai.pipeline.run import new_report, written_roles

EMPTY_VOLUME = np.zeros((1, 1, 1), dtype=np.int16)


class FakeBundle:
    weights_sha256 = configuration_sha256 = "0" * 64

    def __init__(self, name: str, settings: Settings) -> None:
        self.root, self._settings = Path(name), settings
        self.parser = vars(settings)

    def setting(self, name: str) -> object:
        if name == "inferer":
            return SimpleNamespace(set_timesteps=lambda: self._settings.steps)
        return getattr(self._settings, name, name)


def fake_models(task: Task) -> Models:
    models = Models(FakeBundle("t1_brain_segmentation", task.settings))  # type: ignore[arg-type]
    if task.mode.translates:
        models.translation = FakeBundle("t1_lmi_translation", task.settings)  # type: ignore[assignment]
    return models


class FakeResult(Result):
    """Writes into every file its role, and the number of the run that made it."""

    roles: set[str]
    number: int

    def _writers(self) -> dict[str, Callable[[Path], None]]:
        return {role: partial(self._write_name, role) for role in self.roles}

    def _write_name(self, role: str, path: Path) -> None:
        path.write_text(f"{role} by {self.number}")


class FakePipeline:
    """Writes all files of a run. A volume whose text names an exception raises it.

    A DICOM SEG is written only for a volume whose text is "dicom".

    Attributes:
        processed: names of the processed volumes, in order.
    """

    def __init__(self) -> None:
        self.processed: list[str] = []

    def run_batch(self, jobs: Sequence[Job], task: Task, output: Path, **options: Any) -> list[Outcome]:
        """`batch.run_batch` with this stand-in for the models."""
        return run_batch(jobs, task, output, make_pipeline=self.make, **options)

    def make(self, task: Task) -> Pipeline:
        return _RecordedPipeline(task, self)

    def process(self, job: Job, task: Task, models: Models) -> Result:
        source, paths = job.source, job.paths
        self.processed.append(source.name)
        self.report = new_report(job, task, models)
        error = {
            "full": OSError(errno.ENOSPC, "No space left on device"),
            "large": MemoryError("of 7\nTiB"),
            "bad": InputError(source, "is truncated", "Copy it again"),
        }.get(source.read_text())
        if error:
            raise error
        self.report.warnings.append("Look at the picture.")
        result = FakeResult(nib.Nifti1Image(EMPTY_VOLUME, np.eye(4)), self.report, paths=paths)
        result.synthetic = EMPTY_VOLUME if models.translation else None
        result.segmentation = EMPTY_VOLUME if task.mode.segments else None
        result.roles = set(written_roles(task))
        result.roles -= set() if source.read_text() == "dicom" else {"dicom_seg"}
        result.number = len(self.processed)
        result.write()
        return result


@dataclass
class _RecordedPipeline(Pipeline):
    recorder: FakePipeline

    @cached_property
    def models(self) -> Models:
        return fake_models(self.task)

    def __call__(self, job: Job) -> Result:
        return self.recorder.process(job, self.task, self.models)


def write_jobs(folder: Path) -> list[Job]:
    """Jobs of three valid volumes, `in/a.nii` to `in/c.nii`, with results in `out`."""
    (folder / "in").mkdir()
    for name in "abc":
        (folder / "in" / f"{name}.nii").write_text(f"good {name}")
    return find_jobs([folder / "in"], folder / "out")


def statuses(outcomes: list[Outcome]) -> list[str]:
    return [outcome.status for outcome in outcomes]
