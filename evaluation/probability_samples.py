"""Class probabilities of sampled voxels of a scan, with their true classes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from nibabel.affines import voxel_sizes
from numpy.typing import NDArray
from register import labels_on_grid
from scipy.ndimage import distance_transform_edt
from yardstick_case import Case, Scan
from yardstick_scans import seed_of, simulated, simulated_cases

from midiff_monai.evaluation.parcellations import NOT_SCORED
from midiff_monai.evaluation.phantom import CONTRASTS
from midiff_monai.evaluation.simulation import simulate
from midiff_monai.io.volumes import read_volume
from midiff_monai.labels import FREESURFER_IDS
from midiff_monai.pipeline.models import Models, load_models
from midiff_monai.pipeline.options import Mode, Settings, Task
from midiff_monai.pipeline.reading import prepare_source
from midiff_monai.pipeline.volume import foreground_of, image_of, segment_volume, translate_volume

WAYS = ("default", "fast")
"""Ways to segment a scan. `fast` is the option of that name."""

STRIPPED = "label-maps-stripped"
"""Source of the simulated skull-stripped scans."""

SHARE = 0.05
"""Share of the voxels that are sampled."""

NEIGHBOURHOOD_MM = 2.0
"""Distance from the brain, found or true, within which voxels count."""

LOWEST_LOG = -60.0
"""Logarithm of the probability of an excluded class."""


class Sample(NamedTuple):
    """Sampled voxels of a scan.

    Attributes:
        logs: (N, C) logarithms of the class probabilities, float16.
        truth: (N,) indices of the true classes.
    """

    logs: NDArray[np.float16]
    truth: NDArray[np.int64]

    @property
    def labelled(self) -> Sample:
        """The voxels whose most probable class is not the background."""
        has_label = self.logs.argmax(axis=1) > 0
        return Sample(self.logs[has_label], self.truth[has_label])

    def save(self, path: Path) -> None:
        """Write the sample as .npz."""
        np.savez(path, logs=self.logs, truth=self.truth)

    @classmethod
    def load(cls, path: Path) -> Sample:
        """Read what `save` has written."""
        with np.load(path) as stored:
            return cls(stored["logs"], stored["truth"])


class Sampler:
    """Keeps the class probabilities of randomly chosen voxels of a volume, as an `Observer`.

    Attributes:
        chosen: (X, Y, Z), the chosen voxels.
        logs: (N, C), the logarithms of their probabilities. Where none are computed, background is certain.
    """

    def __init__(self, shape: Sequence[int], share: float = SHARE) -> None:
        self.chosen = torch.rand(tuple(shape), generator=torch.Generator().manual_seed(0)) < share
        self._rows = (self.chosen.flatten().cumsum(0) - 1).reshape(self.chosen.shape)
        self.logs = torch.full((int(self.chosen.sum()), len(FREESURFER_IDS)), LOWEST_LOG, dtype=torch.float16)
        self.logs[:, 0] = 0

    def __call__(self, window: Sequence[slice], known: torch.Tensor, probabilities: torch.Tensor) -> None:
        """Keep the probabilities (C, N) of the known voxels (x, y, z) of a window."""
        picked = self.chosen[tuple(window)][known]
        shares = probabilities[:, picked].T
        logs = (shares / shares.sum(dim=1, keepdim=True)).log().clamp(min=LOWEST_LOG)
        self.logs[self._rows[tuple(window)][known][picked]] = logs.half()

    def sample(self, counted: NDArray[np.bool_], truth: NDArray[np.integer]) -> Sample:
        """The chosen voxels among those that count (X, Y, Z), with their classes by true FreeSurfer ids (X, Y, Z)."""
        taken = counted & self.chosen.numpy()
        order = np.argsort(FREESURFER_IDS)
        classes = order[np.searchsorted(FREESURFER_IDS, truth[taken], sorter=order)]
        return Sample(self.logs[self._rows[torch.from_numpy(taken)]].numpy(), classes)


def sample_scan(scan: Scan) -> dict[str, Sample]:
    """Segment a scan by default and with `--fast`, and sample the voxels that count: way → sample."""
    task = Task(Mode.SEGMENT if scan.translated else Mode.SEGMENT_DIRECTLY, Settings(modality=scan.modality))
    models, fast = load_models(task), load_models(Task(Mode.SEGMENT_DIRECTLY, Settings(fast=True)))
    source = prepare_source(read_volume(scan.volume), scan.volume, task.settings)
    image = image_of([source])
    foreground, translated = foreground_of(image), None
    if scan.translated:
        translated = translate_volume(image, foreground, models)
        assert fast.segmentation is not None
        logits = fast.segmentation.infer(fast.segmentation.conform(translated.conformed))  # the same for both
        translated = translated._replace(logits=logits)
    truth, spacing = labels_on_grid(scan.truth, source), voxel_sizes(source.affine).tolist()
    samples = {}
    for way, segmentation in zip(WAYS, (models.segmentation, fast.segmentation), strict=True):
        sampler = Sampler(source.shape)
        labels = segment_volume(image, foreground, Models(segmentation), translated, sampler).labels.numpy()
        samples[way] = sampler.sample(foreground.numpy() & counted_voxels(labels, truth, spacing), truth)
    return samples


def counted_voxels(
    labels: NDArray[np.integer], truth: NDArray[np.integer], spacing: Sequence[float]
) -> NDArray[np.bool_]:
    """Mask (X, Y, Z) of the voxels that are labelled or truly brain, and of those within `NEIGHBOURHOOD_MM` of them."""
    brain = (labels > 0) | (truth > 0)
    return (distance_transform_edt(~brain, sampling=spacing) <= NEIGHBOURHOOD_MM) & (truth != NOT_SCORED)


def stripped(data: Path) -> list[Case]:
    """List the simulated skull-stripped scans of 1 × 1 × 3 mm of the label maps that no training uses."""
    return simulated_cases(STRIPPED, data, {contrast: partial(_simulated_brain, contrast) for contrast in CONTRASTS})


def _simulated_brain(contrast: str, label_map: Path, folder: Path) -> Scan:
    def write(label_map: Path, folder: Path) -> None:
        simulate(label_map, folder, seed_of(label_map))

    return simulated(write, contrast, label_map, folder / STRIPPED)
