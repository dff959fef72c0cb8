"""A stand-in for the models, for tests of batches."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from pathlib import Path

import pytest

from midiff_monai import batch
from midiff_monai.batch import Outcome
from midiff_monai.errors import InputError
from midiff_monai.inputs import Job, find_jobs
from midiff_monai.pipeline import Models, Settings, new_report, written_roles
from midiff_monai.report import RunReport, sha256


class FakeBundle:
    weights_sha256 = configuration_sha256 = "0" * 64

    def __init__(self, name: str, settings: Settings) -> None:
        self.root, self._settings = Path(name), settings

    def setting(self, name: str) -> object:
        return getattr(self._settings, name, name)


def load(settings: Settings, translating: bool, segmenting: bool) -> Models:
    models = Models(segmenting=segmenting)
    if translating:
        models.translation = FakeBundle("t1_lmi_translation", settings)  # type: ignore[assignment]
    models.segmentation = FakeBundle("t1_brain_segmentation", settings)  # type: ignore[assignment]
    return models


class FakePipeline:
    """Writes all files of a run; a volume whose text names an exception raises it.

    There is a DICOM SEG only of a volume whose text is "dicom".
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.processed: list[str] = []
        monkeypatch.setattr(batch, "_load", load)
        monkeypatch.setattr(batch, "process", lambda *arguments: type("Result", (), {"report": self(*arguments)}))

    def __call__(self, job: Job, settings: Settings, models: Models, kept: Mapping[str, str]) -> RunReport:
        source, paths = job.source, job.paths
        self.processed.append(source.name)
        error = {
            "full": OSError(errno.ENOSPC, "No space left on device"),
            "large": MemoryError("of 7\nTiB"),
            "bad": InputError(source, "is truncated", "Copy it again"),
        }.get(source.read_text())
        if error:
            raise error
        report = new_report(job, settings, models)
        report.hashes |= kept
        report.warnings.append("Look at the picture.")
        paths.report.parent.mkdir(exist_ok=True)
        roles = set(written_roles(settings, models.translation is not None, models.segmenting))
        for role in roles - (set() if source.read_text() == "dicom" else {"dicom_seg"}):
            path = getattr(paths, role)
            path.write_text(f"{role} by {len(self.processed)}")
            report.outputs[role], report.hashes[role] = path, sha256(path)
        report.write(paths.report)
        self.report = report
        return report


def write_jobs(folder: Path) -> list[Job]:
    """Three volumes that are good, `in/a.nii` to `in/c.nii`, to be processed into `out`."""
    (folder / "in").mkdir()
    for name in "abc":
        (folder / "in" / f"{name}.nii").write_text(f"good {name}")
    return find_jobs([folder / "in"], folder / "out")


def statuses(outcomes: list[Outcome]) -> list[str]:
    return [outcome.status for outcome in outcomes]
