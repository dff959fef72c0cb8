"""Volume in, segmentation out: what the command line and a script call."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from tqdm import tqdm

from midiff_monai.bundle.bundle import Bundle, open_bundle
from midiff_monai.bundle.resources import available_overlays
from midiff_monai.errors import InputError
from midiff_monai.io.inputs import Job, find_jobs
from midiff_monai.io.manifest import RunReport
from midiff_monai.io.paths import check_writable
from midiff_monai.io.volumes import check_file, check_intensity_range, read_volume, reading_warnings, states_orientation
from midiff_monai.pipeline.result import Result
from midiff_monai.pipeline.two_pass import translate_two_pass
from midiff_monai.qc.flags import quality_flags
from midiff_monai.transforms.foreground import fill_holes
from midiff_monai.transforms.meta import as_plain_tensor
from midiff_monai.transforms.resampling import restore_foreground
from midiff_monai.transforms.spatial import probabilities_to_labels

TRANSLATION, SEGMENTATION = "t1_lmi_translation", "t1_brain_segmentation"

PRECISIONS = {"auto": None, "float32": False, "bfloat16": True}
"""What the networks compute in, and whether a bundle has to mix precisions for it (its `amp`)."""

SIDES_UNKNOWN = "The header does not say which side is left: it was taken to be as is usual for the format, check it."

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """What decides a result; None stands for the bundle's own choice.

    Attributes:
        modality: preprocessing of `transforms/` to lay over the translation bundle.
        steps: denoising steps.
        samples: number of samples to average.
        seed: of the noise.
        device: "cpu", "cuda", "cuda:1" …
        precision: one of `PRECISIONS`; "auto" is the bundle's own choice.
        trust_weights: use weights that are not the ones that the bundle's metadata names.
    """

    modality: str | None = None
    steps: int | None = None
    samples: int | None = None
    seed: int | None = None
    device: str | None = None
    precision: str = "auto"
    trust_weights: bool = False


@dataclass
class Models:
    """The bundles of a run, loaded once.

    Attributes:
        translation: makes a synthetic T1w.
        segmentation: segments, and tells the translation where in a whole head the brain is.
        segmenting: whether its segmentation is wanted.
    """

    translation: Bundle | None = None
    segmentation: Bundle | None = None
    segmenting: bool = True

    @property
    def weights(self) -> dict[str, str]:
        """SHA-256 of the weights by the name of the bundle."""
        return {bundle.root.name: bundle.weights_sha256 for bundle in (self.translation, self.segmentation) if bundle}

    @property
    def configurations(self) -> dict[str, str]:
        """SHA-256 of the configurations by the name of the bundle."""
        bundles = [bundle for bundle in (self.translation, self.segmentation) if bundle]
        return {bundle.root.name: bundle.configuration_sha256 for bundle in bundles}


def translate(
    inputs: Sequence[str | Path] | str | Path,
    output: str | Path,
    *,
    overwrite: bool = False,
    progress: bool = False,
    **settings: str | int | None,
) -> list[Result]:
    """Write a synthetic T1w for each volume.

    Args:
        inputs: a volume of any modality, or several, DICOM folders or whatever else `inputs.find_jobs` takes.
        output: folder for the results; see `paths.OutputPaths` for the names.
        overwrite: whether results that exist may be replaced.
        progress: show bars, of the volumes and of the slices of each, where there is a terminal.
        settings: fields of `Settings`.

    Returns:
        One result a volume, with its voxels in memory; for many volumes there is `batch.run_batch`, which keeps none.

    Raises:
        InputError, OutputError, BundleError: before anything is computed, if an input cannot be read, an output
            cannot be written or a bundle is not intact.
    """
    return list(run(inputs, output, Settings(**settings), True, False, overwrite, progress))  # type: ignore[arg-type]


def segment(
    inputs: Sequence[str | Path] | str | Path,
    output: str | Path,
    *,
    translated: bool = True,
    overwrite: bool = False,
    progress: bool = False,
    **settings: str | int | None,
) -> list[Result]:
    """Segment each volume on its own grid, by way of a synthetic T1w.

    Args:
        inputs: as `translate`.
        output: folder for the results.
        translated: False takes the volumes for T1w and segments them as they are.
        overwrite: whether results that exist may be replaced.
        progress: show bars, of the volumes and of the slices of each, where there is a terminal.
        settings: fields of `Settings`.

    Returns, raises: as `translate`.
    """
    return list(run(inputs, output, Settings(**settings), translated, True, overwrite, progress))  # type: ignore[arg-type]


def run(
    inputs: Sequence[str | Path] | str | Path,
    output: str | Path,
    settings: Settings,
    translating: bool,
    segmenting: bool,
    overwrite: bool,
    progress: bool,
) -> Iterator[Result]:
    """Process volumes one by one; every input is read and every output checked before the first is computed."""
    jobs = _fit(find_jobs(inputs, output, settings.modality))
    check_settings(settings, translating)
    roles = [*written_roles(settings, translating, segmenting), "report"]
    wanted = [getattr(job.paths, role) for job in jobs for role in roles]
    for job in jobs:
        read(job, settings)
    check_writable(output, wanted, overwrite, [file for job in jobs for file in job.files])
    models = load_models(settings, translating, segmenting, progress)
    for job in tqdm(jobs, unit="volume", disable=None if progress else True):
        yield process(job, settings, models)


def _fit(jobs: Sequence[Job]) -> list[Job]:
    """The jobs without those to be passed over, of which the log tells."""
    for job in jobs:
        if job.exclusion_reason:
            _logger.warning("%s: passed over, for it %s", job.source, job.exclusion_reason)
    return [job for job in jobs if not job.exclusion_reason]


def check_settings(settings: Settings, translating: bool) -> None:
    """Raise InputError for a setting out of its range, or for one of the translation where nothing is translated."""
    for name in ("modality", "steps", "samples", "seed"):
        if getattr(settings, name) is not None and not translating:
            raise InputError(f"--{name}", "is of no use to what is not translated", "Leave it out, or --no-translate")
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
    try:
        torch.zeros(1, device=settings.device or "cpu").item()
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"--device {settings.device}", "is not usable here", "Use cpu, or see `midiff info`"
        ) from error


def load_models(settings: Settings, translating: bool, segmenting: bool, progress: bool = False) -> Models:
    """Open the bundles that a run needs; `progress` shows a bar of the slices of each volume."""
    models = Models(segmenting=segmenting)
    device = f"$torch.device('{settings.device}')" if settings.device else None
    amp = PRECISIONS[settings.precision]
    common: dict[str, Any] = {"trusted": settings.trust_weights, "device": device, "amp": amp}
    if translating:
        chosen: dict[str, Any] = {"steps": settings.steps, "samples": settings.samples, "seed": settings.seed}
        chosen["progress"] = progress
        models.translation = open_bundle(TRANSLATION, settings.modality, **common, **chosen)
    models.segmentation = open_bundle(SEGMENTATION, **common)
    return models


def process(job: Job, settings: Settings, models: Models) -> Result:
    """Process one volume and write what came of it."""
    report = new_report(job, settings, models)
    with report.timed("read"):
        source = read(job, settings)
        report.warnings += reading_warnings(source)
        if not states_orientation(source):
            report.warnings.append(SIDES_UNKNOWN)
        voxels = torch.from_numpy(np.asarray(source.dataobj, dtype=np.float32)[None])
        image = MetaTensor(voxels, affine=torch.from_numpy(source.affine))
        foreground = torch.from_numpy(fill_holes(voxels[0].numpy() != 0))
    result = Result(source, job.paths, report, series=job.series)
    logits = None
    if models.translation:
        with report.timed("translate"):
            image, logits = _translate(image, foreground, models, result)
    if models.segmentation and models.segmenting:
        with report.timed("segment"):
            _segment(image, foreground, models.segmentation, result, logits)
    with report.timed("check"):
        report.warnings += [flag.text for flag in quality_flags(result.measures())]
    result.write()
    return result


def read(job: Job, settings: Settings) -> nib.Nifti1Image:
    """Read the volume of a job, whatever it is stored as; raises InputError if it cannot be used."""
    source = read_volume(job.source) if job.series is None else _read_series(job)
    check_intensity_range(source, job.source, settings.modality)
    return source


def _read_series(job: Job) -> nib.Nifti1Image:
    from midiff_monai.io.dicom.reader import read_series  # an extra

    return read_series(job.series)  # type: ignore[arg-type]


def new_report(job: Job, settings: Settings, models: Models) -> RunReport:
    """The manifest of a volume that is about to be processed; raises InputError where its files are not there."""
    for file in job.files:
        check_file(file)
    command = "segment" if models.segmenting else "translate"
    return RunReport(
        command,
        job.source,
        used_settings(settings, models),
        models.weights,
        files=job.files,
        configurations=models.configurations,
    )


def _translate(
    image: MetaTensor, foreground: torch.Tensor, models: Models, result: Result
) -> tuple[MetaTensor, torch.Tensor | None]:
    """The synthetic T1w, and its segmentation as far as it is known already."""
    conformed = models.translation.conform(image)  # type: ignore[union-attr]
    samples, logits = translate_two_pass(image, conformed, models.translation, models.segmentation)  # type: ignore[arg-type]
    grids = as_plain_tensor(conformed[0] != 0), conformed.affine, foreground, image.affine
    restored = [restore_foreground(sample, *grids).numpy() for sample in samples]
    result.synthetic, result.synthetic_std = restored[0], restored[1] if len(restored) > 1 else None
    return MetaTensor(samples[:1], affine=conformed.affine), logits


def _segment(
    image: MetaTensor, foreground: torch.Tensor, bundle: Bundle, result: Result, logits: torch.Tensor | None
) -> None:
    conformed = bundle.conform(image)
    probabilities = (bundle.infer(conformed) if logits is None else logits).softmax(dim=0)
    grids = as_plain_tensor(conformed[0] != 0), conformed.affine, foreground, result.source.affine
    result.segmentation = probabilities_to_labels(probabilities, *grids).numpy()
    if not result.segmentation.any():
        result.report.warnings.append("No structure was found: look at the picture and check the input.")


def used_settings(settings: Settings, models: Models) -> dict[str, str | int | None]:
    """The settings with the bundle's own choices filled in; those of the sampler are None without a translation."""
    used = asdict(settings)
    if models.translation:
        used |= {name: models.translation.setting(name) for name in ("samples", "seed")}
        used["steps"] = models.translation.setting("inferer").set_timesteps()
    bundle = models.translation or models.segmentation
    device, amp = (bundle.setting(name) for name in ("device", "amp"))  # type: ignore[union-attr]
    precision = "bfloat16" if amp else "float32"
    return used | {"device": str(device), "precision": precision, "translated": models.translation is not None}


def written_roles(settings: Settings, translating: bool, segmenting: bool) -> list[str]:
    """The fields of `OutputPaths` that a run with these settings writes for a volume, before the report."""
    roles = ["qc_image"]
    if translating:
        roles += ["synthetic"] + (["synthetic_std"] if (settings.samples or 1) > 1 else [])
    if segmenting:
        roles += ["segmentation", "label_table", "volumes", "dicom_seg"]
    return roles
