"""Volume in, segmentation out: the functions that the command line and a script call."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from nibabel.affines import voxel_sizes
from tqdm import tqdm

from midiff_monai.bundle.bundle import Bundle
from midiff_monai.bundle.resources import available_overlays, read_preset
from midiff_monai.errors import InputError
from midiff_monai.io.inputs import Job, find_jobs
from midiff_monai.io.manifest import RunReport
from midiff_monai.io.outputs import in_range, roles_of
from midiff_monai.io.paths import check_writable
from midiff_monai.io.volumes import (
    check_file,
    check_intensity_range,
    read_volume,
    reading_warnings,
    states_orientation,
    with_voxels,
)
from midiff_monai.pipeline.models import Models, load_models, used_settings
from midiff_monai.pipeline.options import PRECISIONS, Mode, Settings, Task
from midiff_monai.pipeline.result import Result
from midiff_monai.pipeline.two_pass import translate_two_pass
from midiff_monai.qc.flags import quality_flags
from midiff_monai.transforms.background import clear_background
from midiff_monai.transforms.foreground import fill_holes
from midiff_monai.transforms.meta import as_plain_tensor
from midiff_monai.transforms.spatial import probabilities_to_labels

SIDES_UNKNOWN = "The header does not define left and right. The usual convention of the format was assumed: check it."

BACKGROUND_CLEARED = "The background of the file is not 0. It was recognised and set to 0: check the picture."

_logger = logging.getLogger(__name__)


def translate(
    inputs: Sequence[str | Path] | str | Path,
    output: str | Path,
    *,
    overwrite: bool = False,
    progress: bool = False,
    **settings: Any,
) -> list[Result]:
    """Write a synthetic T1w for each volume, or a volume of the target modality of another bundle.

    Args:
        inputs: a volume of any modality, several, a DICOM folder, or anything else that `inputs.find_jobs` takes.
        output: folder for the results. `outputs.OUTPUTS` lists the file names.
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
    task = Task(Mode.TRANSLATE, Settings(**settings), overwrite)
    return list(run(inputs, output, task, progress))


def segment(
    inputs: Sequence[str | Path] | str | Path,
    output: str | Path,
    *,
    translated: bool = True,
    overwrite: bool = False,
    progress: bool = False,
    **settings: Any,
) -> list[Result]:
    """Segment each volume on its own grid, by way of a synthetic T1w.

    Args:
        inputs: as for `translate`.
        output: folder for the results.
        translated: False segments the volumes as they are. They have to be T1w.
        overwrite: as for `translate`.
        progress: as for `translate`.
        settings: fields of `Settings`.

    Returns:
        As `translate`.

    Raises:
        MidiffError: as `translate`.
    """
    mode = Mode.SEGMENT if translated else Mode.SEGMENT_DIRECTLY
    task = Task(mode, Settings(**settings), overwrite)
    return list(run(inputs, output, task, progress))


def run(
    inputs: Sequence[str | Path] | str | Path, output: str | Path, task: Task, progress: bool = False
) -> Iterator[Result]:
    """Process volumes one by one. Every input is read and every output path is checked before the first is computed."""
    check_settings(task)
    preset, target = read_preset(task.settings.modality), task.choose_bundles().target
    jobs = _included(find_jobs(inputs, output, preset.dicom_modality, target))
    wanted = [getattr(job.paths, role) for job in jobs for role in [*written_roles(task), "report"]]
    for job in jobs:
        read(job, task.settings)
    check_writable(output, wanted, task.overwrite, [file for job in jobs for file in job.files])
    models = load_models(task, progress)
    for job in tqdm(jobs, unit="volume", disable=None if progress else True):
        yield process(job, task, models)


def _included(jobs: Sequence[Job]) -> list[Job]:
    """The jobs that are not excluded. A warning is logged for each of the others."""
    for job in jobs:
        if job.exclusion_reason:
            _logger.warning("%s: excluded, because it %s", job.source, job.exclusion_reason)
    return [job for job in jobs if not job.exclusion_reason]


def check_settings(task: Task) -> None:
    """Check a task before anything is read.

    Raises:
        InputError: a setting is out of range, or belongs to the translation while nothing is translated.
        BundleError: a bundle is not usable in this task, see `Task.choose_bundles`.
    """
    settings = task.settings
    task.choose_bundles()
    for name in ("modality", "steps", "samples", "seed"):
        if getattr(settings, name) is not None and not task.mode.translates:
            raise InputError(f"--{name}", "has no effect without translation", "Leave it out, or --no-translate")
    if settings.modality and settings.modality not in available_overlays():
        known = ", ".join(available_overlays())
        raise InputError(
            settings.modality, "is not a known modality", f"Choose one of {known}, or leave --modality out"
        )
    if settings.precision not in PRECISIONS:
        raise InputError("--precision", f"is {settings.precision}", f"Choose one of {', '.join(PRECISIONS)}")
    for name, most in (("steps", 1000), ("samples", 1000)):
        value = getattr(settings, name)
        if value is not None and not 1 <= value <= most:
            raise InputError(f"--{name}", f"is {value}", f"Give a whole number from 1 to {most}")
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
    several = (task.settings.samples or 1) > 1
    return [role for role in roles if several or role != "synthetic_std"]


def process(job: Job, task: Task, models: Models) -> Result:
    """Process one volume and write its results.

    Raises:
        InputError: the volume cannot be read.
    """
    report = new_report(job, task, models)
    with report.timed("read"):
        source = read(job, task.settings)
        report.warnings += reading_warnings(source)
        if not states_orientation(source):
            report.warnings.append(SIDES_UNKNOWN)
        voxels = torch.from_numpy(np.asarray(source.dataobj, dtype=np.float32)[None])
        image = MetaTensor(voxels, affine=torch.from_numpy(source.affine))
        foreground = torch.from_numpy(fill_holes(voxels[0].numpy() != 0))
    result = Result(source, job.paths, report, series=job.series, target=models.target)
    logits = None
    if models.translation:
        with report.timed("translate"):
            image, logits = _translate(image, foreground, models.translation, models, result)
    if task.mode.segments:
        with report.timed("segment"):
            fine = image
            if result.synthetic is not None:
                fine = MetaTensor(torch.from_numpy(result.synthetic[None]), affine=torch.from_numpy(source.affine))
            assert models.segmentation is not None
            _segment(image, fine, foreground, models.segmentation, result, logits)
    with report.timed("check"):
        report.flags = [flag._asdict() for flag in quality_flags(result.measures())]
        report.warnings += [flag["text"] for flag in report.flags]
    if models.translation:
        _scale(result, models.translation.setting("output_range"))
    result.write()
    return result


def read(job: Job, settings: Settings) -> nib.Nifti1Image:
    """Read the volume of a job, whatever its format.

    Raises:
        InputError: the volume cannot be used.
    """
    source = read_volume(job.source) if job.series is None else _read_series(job)
    preset = read_preset(settings.modality)
    source = _with_clear_background(source, preset.absolute)
    check_intensity_range(source, job.source, preset.dicom_modality)
    return source


def _with_clear_background(source: nib.Nifti1Image, absolute: bool) -> nib.Nifti1Image:
    """The volume with a background of exactly 0, as the bundles' own transform gives it."""
    voxels = np.asarray(source.dataobj)
    cleared = clear_background(voxels, voxel_sizes(source.affine), absolute)
    return source if cleared is voxels else with_voxels(source, cleared, BACKGROUND_CLEARED)


def _read_series(job: Job) -> nib.Nifti1Image:
    from midiff_monai.io.dicom.reader import read_series  # pydicom is an optional dependency

    return read_series(job.series)  # type: ignore[arg-type]


def new_report(job: Job, task: Task, models: Models) -> RunReport:
    """The manifest of a volume that is about to be processed.

    Raises:
        InputError: a file of the volume does not exist.
    """
    for file in job.files:
        check_file(file)
    return RunReport(
        task.mode.command,
        job.source,
        used_settings(task.settings, models),
        models.weights,
        files=job.files,
        frames=job.series.frames if job.series else "",
        configurations=models.configurations,
    )


def _translate(
    image: MetaTensor, foreground: torch.Tensor, translation: Bundle, models: Models, result: Result
) -> tuple[MetaTensor, torch.Tensor | None]:
    """Store the synthetic volume in the result; returns it on the network's grid, with its logits where known."""
    conformed = translation.conform(image)
    if models.finds_brain and models.segmentation:
        samples, logits = translate_two_pass(image, conformed, translation, models.segmentation)
    else:
        samples, logits = translation.infer(conformed), None
    restored = translation.setting("upsampling")(samples, conformed, image, foreground).numpy()
    result.synthetic, result.synthetic_std = restored[0], restored[1] if len(restored) > 1 else None
    return MetaTensor(samples[:1], affine=conformed.affine), logits


def _scale(result: Result, value_range: Sequence[float]) -> None:
    """Give the synthetic volume the intensities of its target, after all that expects it in [0, 1]."""
    for role in ("synthetic", "synthetic_std"):
        if (image := getattr(result, role)) is not None:
            setattr(result, role, in_range(image, role, value_range))


def _segment(
    image: MetaTensor,
    fine: MetaTensor,
    foreground: torch.Tensor,
    bundle: Bundle,
    result: Result,
    logits: torch.Tensor | None,
) -> None:
    """Store the segmentation in the result; computes the logits unless they are given."""
    conformed = bundle.conform(image)
    probabilities = (bundle.infer(conformed) if logits is None else logits).softmax(dim=0)
    known, affine = as_plain_tensor(conformed[0] != 0), result.source.affine
    if bundle.setting("fast"):
        labels = probabilities_to_labels(probabilities, known, conformed.affine, foreground, affine)
    else:
        coarse = MetaTensor(probabilities * known, affine=conformed.affine)
        labels = bundle.setting("refiner")(coarse, bundle.conform(fine, "fine"), foreground, affine)
    result.segmentation = labels.numpy()
    if not result.segmentation.any():
        result.report.warnings.append("No structure was found: look at the picture and check the input.")
