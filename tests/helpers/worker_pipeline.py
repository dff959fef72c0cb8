"""A stand-in for the models that Dask workers import. Its folder is on the import path, which they inherit."""

from __future__ import annotations

import os
import signal
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from fake_pipeline import fake_models

from midiff_monai.io.inputs import Job
from midiff_monai.pipeline.batch import Pipeline
from midiff_monai.pipeline.models import Models
from midiff_monai.pipeline.run import new_report

DEADLY_ATTEMPTS = {"deadly": 99, "unlucky": 1}
"""Text of a volume → how many of its attempts kill the worker."""


class WorkerPipeline(Pipeline):
    """Writes a report. The text of a volume decides what happens to it; its attempts are counted beside it."""

    @cached_property
    def models(self) -> Models:
        return fake_models(self.task)

    def __call__(self, job: Job) -> Any:
        text, attempts = job.source.read_text(), Path(f"{job.source}.attempts")
        with attempts.open("a") as file:
            file.write("x")
        if len(attempts.read_text()) <= DEADLY_ATTEMPTS.get(text, 0):
            os.kill(os.getpid(), signal.SIGKILL)
        if text == "bad":
            raise ValueError(f"{job.source} is bad")
        report = new_report(job, self.task, self.models)
        job.paths.report.parent.mkdir(exist_ok=True)
        report.write(job.paths.report)
        return SimpleNamespace(report=report)
