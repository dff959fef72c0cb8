"""Volume in, segmentation out: the functions that the command line and a script call."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
from tqdm import tqdm

from midiff_monai.bundle.resources import read_preset
from midiff_monai.environment import return_freed_memory
from midiff_monai.errors import InputError
from midiff_monai.io.inputs import SAME_NAME, Job, Search, find_scans, without_duplicates
from midiff_monai.io.integrity import check_file
from midiff_monai.io.manifest import RunReport
from midiff_monai.io.outputs import roles_of
from midiff_monai.io.paths import check_writable
from midiff_monai.io.slices import check_image_size
from midiff_monai.pipeline.checks import check_settings
from midiff_monai.pipeline.computation import compute
from midiff_monai.pipeline.estimate import Extent, extent_of
from midiff_monai.pipeline.fallback import on_cpu_if_memory_runs_out
from midiff_monai.pipeline.models import Models, load_models, used_settings
from midiff_monai.pipeline.options import Mode, Settings, Task
from midiff_monai.pipeline.people import ONLY_SCAN, JointJob, join
from midiff_monai.pipeline.reading import read_together
from midiff_monai.pipeline.result import Result
from midiff_monai.pipeline.together import NEEDS_SEVERAL, Companions

Scans = tuple[nib.Nifti1Image, Companions]
"""The volume of a job, and the further scans of the person."""

_logger = logging.getLogger(__name__)


def translate(
    inputs: Sequence[str | Path] | str | Path,
    output: str | Path,
    *,
    together: bool = False,
    overwrite: bool = False,
    progress: bool = False,
    **settings: Any,
) -> list[Result]:
    """Write a synthetic T1w for each volume, or a volume of the target modality of another bundle.

    Args:
        inputs: a volume of any modality, several, a DICOM folder, or anything else that `inputs.find_jobs` takes.
        output: folder for the results. `outputs.OUTPUTS` lists the file names.
        together: the inputs are scans of one person, and give one result, on the grid and with the name of the first.
            A file of several frames counts as as many scans.
        overwrite: replace results that exist.
        progress: show progress bars for the volumes and for the slices of each, if stderr is a terminal.
        settings: fields of `Settings`.

    Returns:
        One result a volume, with its voxels in memory. For many volumes use `batch.run_batch`, which keeps none.

    Raises:
        InputError: an input cannot be read. Nothing has been computed.
        OutputError: an output cannot be written. Nothing has been computed.
        BundleError: a bundle is not intact. Nothing has been computed.
    """
    task = Task(Mode.TRANSLATE, Settings(**settings), overwrite, together)
    return list(run(inputs, output, task, progress))


def segment(
    inputs: Sequence[str | Path] | str | Path,
    output: str | Path,
    *,
    translated: bool = True,
    together: bool = False,
    overwrite: bool = False,
    progress: bool = False,
    **settings: Any,
) -> list[Result]:
    """Segment each volume on its own grid, by way of a synthetic T1w.

    Args:
        inputs: as for `translate`.
        output: folder for the results.
        translated: False segments the volumes as they are. They have to be T1w.
        together: as for `translate`.
        overwrite: as for `translate`.
        progress: as for `translate`.
        settings: fields of `Settings`.

    Returns:
        As `translate`.

    Raises:
        MidiffError: as `translate`.
    """
    mode = Mode.SEGMENT if translated else Mode.SEGMENT_DIRECTLY
    task = Task(mode, Settings(**settings), overwrite, together)
    return list(run(inputs, output, task, progress))


def run(
    inputs: Sequence[str | Path] | str | Path,
    output: str | Path,
    task: Task,
    progress: bool = False,
    on_start: Callable[[Models, list[Extent]], object] = lambda models, extents: None,
) -> Iterator[Result]:
    """Process volumes one by one. Every input is read and every output path is checked before the first is computed.

    Args:
        inputs: as for `translate`.
        output: as for `translate`.
        task: what is done to every volume.
        progress: as for `translate`.
        on_start: called once before the first volume is computed, with the models and the extents of all volumes.
    """
    check_settings(task)
    jobs = _find_jobs(inputs, output, task)
    extents, scans = _read_all(jobs, task)
    check_writable(output, _files_to_write(jobs, task), task.overwrite, [file for job in jobs for file in job.files])
    models = load_models(task, progress)
    on_start(models, extents)
    for job in tqdm(jobs, unit="volume", disable=None if progress else True):
        yield process(job, task, models, scans)


def _find_jobs(inputs: Sequence[str | Path] | str | Path, output: str | Path, task: Task) -> list[Job]:
    """The jobs that are not excluded: one for each volume, or one for all of them together."""
    preset, chosen = read_preset(task.settings.modality), task.choose_bundles()
    search = Search(Path(output), preset.dicom_modality, chosen.target, slices=chosen.image_size is not None)
    scans = find_scans(inputs, search)
    return [join(_included(scans))] if task.together else _included(without_duplicates(scans, hint=SAME_NAME))


def _included(jobs: Sequence[Job]) -> list[Job]:
    """The jobs that are not excluded. A warning is logged for each of the others."""
    for job in jobs:
        if job.exclusion_reason:
            _logger.warning("%s: excluded, because it %s", job.source, job.exclusion_reason)
    return [job for job in jobs if not job.exclusion_reason]


def _read_all(jobs: Sequence[Job], task: Task) -> tuple[list[Extent], Scans | None]:
    """Read every volume, so that one that cannot be used is reported before another is computed.

    Returns:
        The extents of the volumes, and the scans of the only one. None of several: they would fill the memory, and are
        read again.
    """
    extents, image_size = [], task.choose_bundles().image_size
    for job in jobs:
        source, companions = read_together(job, task.settings)
        if task.together and not companions.images:
            raise InputError(job.source, "gives only one scan to translate together", NEEDS_SEVERAL)
        check_image_size(source, job.source, image_size)
        extents.append(extent_of(source, scans=1 + len(companions.images)))
    return extents, (source, companions) if len(jobs) == 1 else None


def _files_to_write(jobs: Sequence[Job], task: Task) -> list[Path]:
    roles = [*written_roles(task), "report"]
    if task.choose_bundles().image_size:  # slices are pictures themselves
        roles.remove("qc_image")
    return [getattr(job.paths, role) for job in jobs for role in roles]


def written_roles(task: Task) -> list[str]:
    """The roles of the files that a task writes for a volume, without those of the record."""
    stages = (["translation"] if task.mode.translates else []) + (["segmentation"] if task.mode.segments else [])
    roles = roles_of(*stages, "check")  # type: ignore[arg-type]
    settings = task.settings
    wanted = {"synthetic_std": (settings.samples or 1) > 1, "lesions": settings.lesions}
    wanted |= {"synthetic_error": settings.error_map}
    wanted |= dict.fromkeys(("probability", "entropy"), settings.probability)
    wanted |= dict.fromkeys(("parcels", "parcel_table", "parcel_volumes"), settings.parcellation)
    return [role for role in roles if wanted.get(role, True)]


def process(
    job: Job,
    task: Task,
    models: Models,
    scans: Scans | None = None,
) -> Result:
    """Process one volume and write its results. If the memory of a GPU runs out, the networks compute on the CPU.

    Args:
        job: the volume and the files to write.
        task: the mode and the settings.
        models: the bundles of the task.
        scans: what `read_together` returns, if the volume has been read already.

    Raises:
        InputError: the volume cannot be read.
    """
    return on_cpu_if_memory_runs_out(lambda task, models: _process(job, task, models, scans), task, models)


def _process(job: Job, task: Task, models: Models, scans: Scans | None) -> Result:
    return_freed_memory()
    report = new_report(job, task, models)
    with report.timed("read"):
        source, companions = scans or read_together(job, task.settings)
    if isinstance(job, JointJob) and not companions.images:
        report.warnings.append(ONLY_SCAN)
    report.together = [*companions.facts]
    others = companions.images
    result = Result(source, report, others=others, target=models.target, paths=job.paths, series=job.series)
    compute(result, task, models)
    for warning in report.warnings:
        _logger.debug("%s: %s", job.source, warning)
    result.write()
    return result


def new_report(job: Job, task: Task, models: Models) -> RunReport:
    """The manifest of a volume that is about to be processed.

    Raises:
        InputError: a file of the volume does not exist.
    """
    for file in job.files:
        check_file(file)
    frames = job.series.frames if job.series else ""
    return make_report(job.source, task, models, files=job.files, frames=frames)


def make_report(source: Path | None, task: Task, models: Models, **facts: Any) -> RunReport:
    """The manifest of what a task is about to do to a volume; further facts are fields of `RunReport`."""
    facts |= {"configurations": models.configurations, "warnings": [*models.warnings]}
    return RunReport(task.mode.command, source, used_settings(task.settings, models), models.weights, **facts)
