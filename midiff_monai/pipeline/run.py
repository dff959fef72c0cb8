"""Volume in, segmentation out: the functions that the command line and a script call."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import torch
from tqdm import tqdm

from midiff_monai.bundle.resources import available_overlays, available_samplers, read_preset
from midiff_monai.environment import return_freed_memory
from midiff_monai.errors import InputError
from midiff_monai.io.inputs import Job, find_jobs, find_scans
from midiff_monai.io.integrity import check_file
from midiff_monai.io.manifest import RunReport
from midiff_monai.io.outputs import roles_of
from midiff_monai.io.paths import check_writable
from midiff_monai.io.slices import check_image_size
from midiff_monai.pipeline.computation import compute
from midiff_monai.pipeline.estimate import Extent, extent_of
from midiff_monai.pipeline.fallback import on_cpu_if_memory_runs_out
from midiff_monai.pipeline.models import Models, load_models, used_settings
from midiff_monai.pipeline.options import PRECISIONS, SAMPLING, SPACINGS, STARTS, Mode, Settings, Task, option_of
from midiff_monai.pipeline.people import ONLY_SCAN, JointJob, join
from midiff_monai.pipeline.reading import read_together
from midiff_monai.pipeline.result import Result
from midiff_monai.pipeline.together import ALONE, NEEDS_SEVERAL, Companions

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
    preset, chosen = read_preset(task.settings.modality), task.choose_bundles()
    size = chosen.image_size
    jobs = _find_jobs(inputs, task, output, preset.dicom_modality, chosen.target, size is not None)
    roles = [role for role in written_roles(task) if not (size and role == "qc_image")] + ["report"]
    wanted = [getattr(job.paths, role) for job in jobs for role in roles]
    source, companions, extents = None, ALONE, []
    for job in jobs:
        source, companions = read_together(job, task.settings)
        if task.together and not companions.images:
            raise InputError(job.source, "gives only one scan to translate together", NEEDS_SEVERAL)
        check_image_size(source, job.source, size)
        extents.append(extent_of(source)._replace(scans=1 + len(companions.images)))
    check_writable(output, wanted, task.overwrite, [file for job in jobs for file in job.files])
    models = load_models(task, progress)
    on_start(models, extents)
    known = source if len(jobs) == 1 else None  # several volumes would fill the memory: they are read again
    for job in tqdm(jobs, unit="volume", disable=None if progress else True):
        yield process(job, task, models, known, companions)


def _find_jobs(inputs: Sequence[str | Path] | str | Path, task: Task, *arguments: Any) -> list[Job]:
    """The jobs that are not excluded: one for each volume, or one for all of them together."""
    if not task.together:
        return _included(find_jobs(inputs, *arguments))
    return [join(_included(find_scans(inputs, *arguments)))]


def _included(jobs: Sequence[Job]) -> list[Job]:
    """The jobs that are not excluded. A warning is logged for each of the others."""
    for job in jobs:
        if job.exclusion_reason:
            _logger.warning("%s: excluded, because it %s", job.source, job.exclusion_reason)
    return [job for job in jobs if not job.exclusion_reason]


def check_settings(task: Task) -> None:
    """Check a task before anything is read.

    Raises:
        InputError: a setting is out of range, or belongs to a translation or a segmentation that is not made.
        BundleError: a bundle is not usable in this task, see `Task.choose_bundles`.
    """
    settings = task.settings
    chosen = task.choose_bundles()
    if task.together:
        chosen.check_volumes()
    of_translation = {"--together": task.together, "--error-map": settings.error_map}
    of_translation |= {
        option_of(name): getattr(settings, name) is not None for name in ("modality", "sampler", *SAMPLING)
    }
    for option, given in of_translation.items():
        if given and not task.mode.translates:
            raise InputError(option, "has no effect without translation", "Leave it out, or --no-translate")
    of_segmentation = {
        "--probability": settings.probability,
        "--no-lesions": not settings.lesions,
        "--parcellation": settings.parcellation,
    }
    for option, given in of_segmentation.items():
        if given and not task.mode.segments:
            raise InputError(option, "has no effect without a segmentation", "Leave it out")
    if settings.modality and settings.modality not in available_overlays():
        known = ", ".join(available_overlays())
        raise InputError(
            settings.modality, "is not a known modality", f"Choose one of {known}, or leave --modality out"
        )
    choices: dict[str, Collection[str]]
    choices = {"precision": PRECISIONS, "sampler": available_samplers(), "skip": SPACINGS, "start": STARTS}
    for name, allowed in choices.items():
        if (value := getattr(settings, name)) is not None and value not in allowed:
            raise InputError(option_of(name), f"is {value}", f"Choose one of {', '.join(allowed)}")
    for name, most in (("steps", 1000), ("samples", 1000), ("noise_level", 999)):
        value = getattr(settings, name)
        if value is not None and not 1 <= value <= most:
            raise InputError(option_of(name), f"is {value}", f"Give a whole number from 1 to {most}")
    if settings.eta is not None and not 0 <= settings.eta <= 1:
        raise InputError("--eta", f"is {settings.eta}", "Give a number from 0 to 1")
    _check_device(settings.device or "cpu")


def _check_device(device: str) -> None:
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {device}", "is not usable here", "Use cpu, or see `midiff info`") from error


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
    source: nib.Nifti1Image | None = None,
    companions: Companions = ALONE,
) -> Result:
    """Process one volume and write its results. If the memory of a GPU runs out, the networks compute on the CPU.

    Args:
        job: the volume and the files to write.
        task: the mode and the settings.
        models: the bundles of the task.
        source: the volume, if `read_together` has returned it already.
        companions: further scans of the person, which it returned with the volume.

    Raises:
        InputError: the volume cannot be read.
    """
    return on_cpu_if_memory_runs_out(lambda task, models: _process(job, task, models, source, companions), task, models)


def _process(job: Job, task: Task, models: Models, source: nib.Nifti1Image | None, companions: Companions) -> Result:
    return_freed_memory()
    report = new_report(job, task, models)
    with report.timed("read"):
        if source is None:
            source, companions = read_together(job, task.settings)
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
