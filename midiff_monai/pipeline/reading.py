"""Reading the scans of a job, ready to be translated: background cleared, intensities checked, one grid."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes
from numpy.typing import NDArray

from midiff_monai.bundle.resources import read_preset
from midiff_monai.io.frames import read_frames
from midiff_monai.io.inputs import Job
from midiff_monai.io.slices import read_image
from midiff_monai.io.volumes import check_intensity_range, with_voxels
from midiff_monai.pipeline.options import Settings
from midiff_monai.pipeline.people import JointJob
from midiff_monai.pipeline.together import NO_COMPANIONS, Companions, Scan, bring_together
from midiff_monai.transforms.background import clear_background

BACKGROUND_CLEARED = "The background of the file is not 0. It was recognised and set to 0: check the picture."
GAPS = "Slices without any intensity lie between the others, {} of them: the segmentation has a gap there."


def read(job: Job, settings: Settings) -> nib.Nifti1Image:
    """Read the volume of a job, whatever its format.

    Raises:
        InputError: the volume cannot be used.
    """
    source = read_image(job.source) if job.series is None else _read_series(job)
    return prepare_source(source, job.source, settings)


def read_together(job: Job, settings: Settings) -> tuple[nib.Nifti1Image, Companions]:
    """Read the volume of a job, and for a `JointJob` the further scans, brought to its grid.

    Raises:
        InputError: a scan cannot be used, or they do not show one head.
    """
    if not isinstance(job, JointJob):
        return read(job, settings), NO_COMPANIONS
    scans = [
        Scan(name, prepare_source(image, name, settings)) for each in job.scans for name, image in _read_scans(each)
    ]
    return scans[0].image, bring_together(scans)


def _read_scans(job: Job) -> Iterator[tuple[str, nib.Nifti1Image]]:
    """The volume of a job, or the frames of its file, with their names."""
    images = read_frames(job.source) if job.series is None else [_read_series(job)]
    for number, image in enumerate(images, start=1):
        yield str(job.source) + (f" frame {number}" if len(images) > 1 else ""), image


def prepare_source(source: nib.Nifti1Image, name: str | Path, settings: Settings) -> nib.Nifti1Image:
    """Clear the background of a volume, and check its intensities against the modality of the settings.

    Raises:
        InputError: the intensities are not those of the modality. The error carries `name`.
    """
    preset = read_preset(settings.modality)
    source = _with_clear_background(source, preset.absolute)
    check_intensity_range(source, name, preset.dicom_modality)
    gaps = empty_slices(np.asarray(source.dataobj))
    return with_voxels(source, np.asarray(source.dataobj), GAPS.format(gaps)) if gaps else source


def empty_slices(voxels: NDArray) -> int:
    """The number of slices of a volume (X, Y, Z) that are 0 and lie between others, along the axis with most such."""
    if 1 in voxels.shape:  # a picture
        return 0
    used = [np.flatnonzero(voxels.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    return max((int(np.ptp(slices)) + 1 - len(slices) for slices in used if len(slices)), default=0)


def _with_clear_background(source: nib.Nifti1Image, absolute: bool) -> nib.Nifti1Image:
    """The volume with a background of exactly 0, as the bundles' own transform gives it."""
    voxels = np.asarray(source.dataobj)
    cleared = clear_background(voxels, voxel_sizes(source.affine), absolute)
    return source if cleared is voxels else with_voxels(source, cleared, BACKGROUND_CLEARED)


def _read_series(job: Job) -> nib.Nifti1Image:
    from midiff_monai.io.dicom.reader import read_series  # pydicom is an optional dependency

    return read_series(job.series)  # type: ignore[arg-type]
