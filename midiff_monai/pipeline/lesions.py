"""White matter lesions of a segmented volume: can the scan show them, where are they, how many are they."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from nibabel.affines import voxel_sizes
from numpy.typing import NDArray

from midiff_monai.bundle.resources import read_preset
from midiff_monai.io.affines import voxel_volume_ml
from midiff_monai.pipeline.options import Task
from midiff_monai.transforms.lesions import FoundLesions, count_lesions, find_lesions, label_as_white_matter

DIRECT = "the scan was segmented as a T1w"


class Relabelled(NamedTuple):
    """A segmentation in which lesions are white matter, and the lesions.

    Attributes:
        labels: FreeSurfer ids (X, Y, Z).
        lesions: what was found.
    """

    labels: NDArray[np.integer]
    lesions: FoundLesions


def separate_lesions(
    image: NDArray[np.float32], labels: NDArray[np.integer], affine: NDArray[np.float64], task: Task
) -> Relabelled:
    """Find the lesions of a scan, and label as white matter what the segmenter took for something else.

    Args:
        image: (X, Y, Z), the scan as read.
        labels: FreeSurfer ids on the same grid.
        affine: voxel to RAS mm.
        task: its mode and modality tell of some scans that they cannot show lesions.
    """
    if reason := _not_shown(task):
        return Relabelled(labels, FoundLesions(None, reason))
    found = find_lesions(image, labels, voxel_sizes(affine).tolist())
    return Relabelled(labels if found.mask is None else label_as_white_matter(labels, found.mask), found)


def separate_lesions_of_any(
    scans: NDArray[np.float32], labels: NDArray[np.integer], affine: NDArray[np.float64], task: Task
) -> Relabelled:
    """As `separate_lesions`, in the first of several scans (S, X, Y, Z) that can show lesions."""
    every = (separate_lesions(image, labels, affine, task) for image in scans)
    first = next(every)
    return first if first.lesions.mask is not None else next((r for r in every if r.lesions.mask is not None), first)


def describe_lesions(lesions: FoundLesions, affine: NDArray[np.float64]) -> dict[str, Any]:
    """Return volume and number of lesions, or the reason why none could be found, as the manifest has them."""
    if lesions.mask is None:
        return {"reason": lesions.reason}
    volume_ml = float(lesions.mask.sum() * voxel_volume_ml(affine))
    return {"volume_ml": round(volume_ml, 4), "count": count_lesions(lesions.mask)}


def _not_shown(task: Task) -> str:
    """Why the scans of a task cannot show lesions, whatever their intensities; empty if they may."""
    if not task.mode.translates:
        return DIRECT
    modality = task.settings.modality
    return "" if read_preset(modality).dicom_modality == "MR" else f"{modality} is not MR"
