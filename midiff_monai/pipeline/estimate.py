"""How long a run will take: the work of its networks, at the speed that they have on a small piece."""

from __future__ import annotations

import time
from collections.abc import Callable
from math import prod
from typing import NamedTuple

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor

from midiff_monai.bundle.bundle import Bundle
from midiff_monai.inferers.brain_mask import LARGEST_BRAIN_ML
from midiff_monai.inferers.detail import DetailRefiner
from midiff_monai.io.affines import voxel_volume_ml
from midiff_monai.labels import FREESURFER_IDS
from midiff_monai.pipeline.models import Models
from midiff_monai.pipeline.options import Mode

PIECE = (64, 64, 8)
"""Voxels of the piece on which the networks are timed. In a smaller one, starting the operations takes longer than
computing them."""

FINE_PIECE = 32
"""Side in voxels of the piece on which the detail branch is timed."""

BRAIN_BOX_ML = 3500
"""Volume of the box around an adult brain, in ml."""

OTHER_STEPS = 1.25
"""Time of all steps relative to that of the networks: resampling, the picture, writing."""


class Extent(NamedTuple):
    """How much of a volume is computed.

    Attributes:
        box_ml: volume of the box around the foreground, in ml.
        whole_head: whether there is more foreground than a brain has.
        scans: number of scans that are translated together.
    """

    box_ml: float
    whole_head: bool
    scans: int = 1


class Speed(NamedTuple):
    """Seconds for a millilitre of a box, in one view and one sample."""

    translation: float = 0.0
    segmentation: float = 0.0
    detail: float = 0.0


def extent_of(source: nib.Nifti1Image, scans: int = 1) -> Extent:
    """The extent of a volume with a background of 0, the first of some scans on its grid."""
    foreground, voxel_ml = np.asarray(source.dataobj) != 0, voxel_volume_ml(source.affine)
    filled = (np.flatnonzero(foreground.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1)))
    sides = [places[-1] + 1 - places[0] if len(places) else 0 for places in filled]
    return Extent(float(prod(sides) * voxel_ml), bool(foreground.sum() * voxel_ml > LARGEST_BRAIN_ML), scans)


def measure_speed(mode: Mode, models: Models) -> Speed:
    """Time the networks on small pieces, with all threads of this process."""
    translation, segmentation = models.translation, models.segmentation
    return Speed(
        _seconds_per_ml(translation) if translation else 0.0,
        _seconds_per_ml(segmentation) if segmentation else 0.0,
        _detail_seconds_per_ml(segmentation) if segmentation and mode.segments else 0.0,
    )


def estimate_seconds(extent: Extent, speed: Speed, mode: Mode, models: Models) -> float:
    """About how long a volume takes, in seconds."""
    translated_ml, segmented_ml = passed_ml(extent, mode, models)
    refined_ml = min(extent.box_ml, BRAIN_BOX_ML) if mode.segments else 0.0
    networks = translated_ml * speed.translation + segmented_ml * speed.segmentation + refined_ml * speed.detail
    return OTHER_STEPS * networks


def passed_ml(extent: Extent, mode: Mode, models: Models) -> tuple[float, float]:
    """What passes the translation and the body of the segmentation, in ml. Each view and each sample counts.

    The passes are those of `two_pass.translate_two_pass` and `volume.segment_volume`.
    """
    box, brain = extent.box_ml, min(extent.box_ml, BRAIN_BOX_ML)
    segmented = _views(models.segmentation) * box if mode.segments else 0.0
    if not models.translation:
        return 0.0, segmented
    views = _views(models.translation) * models.translation.setting("samples") * extent.scans
    if not models.finds_brain:
        return views * box, segmented
    if extent.whole_head:
        return box * extent.scans + views * brain, box + segmented
    return views * box, _views(models.segmentation) * box  # which are the labels of the result


def _views(bundle: Bundle | None) -> int:
    return len(bundle.setting("inferer").runner.tta_views) if bundle else 0


def _seconds_per_ml(bundle: Bundle) -> float:
    """The time of one view and one sample on the grid of a network."""
    values = 0.1 + 0.9 * torch.rand(1, *PIECE, generator=torch.Generator().manual_seed(0))
    piece = MetaTensor(values)
    piece_ml = prod(PIECE) * prod(bundle.setting("pixdim")) / 1000
    return _shortest_time(lambda: bundle.infer(piece, coarse=True)) / piece_ml


def _detail_seconds_per_ml(segmentation: Bundle) -> float:
    """The time of the detail branch. A block is computed with a halo, which a piece at the edge of a volume lacks."""
    if segmentation.setting("fast"):
        return 0.0
    refiner: DetailRefiner = segmentation.setting("refiner")
    image = MetaTensor(torch.full((1, *(FINE_PIECE,) * 3), 0.5))
    coarse = torch.full((len(FREESURFER_IDS), *(FINE_PIECE // 2,) * 3), 1 / len(FREESURFER_IDS))
    coarse[1] *= 2  # brain everywhere
    probabilities = MetaTensor(coarse, affine=torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0])))
    mask = torch.ones((FINE_PIECE,) * 3, dtype=torch.bool)
    halo = (1 + 2 * (refiner.halo + 1) / refiner.block) ** 3
    return _shortest_time(lambda: refiner(probabilities, image, mask, np.eye(4))) * halo / (FINE_PIECE**3 / 1000)


def _shortest_time(call: Callable[[], object]) -> float:
    """The seconds of a call: the shorter of two, because others use the machine too, after one that prepares them."""
    call()
    times = []
    for _ in range(2):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)
