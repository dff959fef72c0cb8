"""Class probabilities of sampled voxels of a scan, with their true classes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import torch
from nibabel.affines import voxel_sizes
from numpy.typing import NDArray
from register import move_labels
from scipy.ndimage import distance_transform_edt
from yardstick_case import Case, Scan
from yardstick_scans import HELD_BACK

from midiff_monai.bundle.bundle import Bundle
from midiff_monai.evaluation.parcellations import NOT_SCORED
from midiff_monai.evaluation.phantom import CONTRASTS
from midiff_monai.evaluation.simulation import simulate
from midiff_monai.io.affines import same_grid
from midiff_monai.io.paths import volume_stem
from midiff_monai.io.volumes import read_volume
from midiff_monai.labels import FREESURFER_IDS
from midiff_monai.pipeline.models import load_models
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
    mode = Mode.SEGMENT if scan.translated else Mode.SEGMENT_DIRECTLY
    settings = Settings(modality=scan.modality)
    source = prepare_source(read_volume(scan.volume), scan.volume, settings)
    image = image_of([source])
    foreground, translated = foreground_of(image), None
    models, fast = load_models(Task(mode, settings)), load_models(Task(Mode.SEGMENT_DIRECTLY, Settings(fast=True)))
    segmenters: dict[str, Bundle | None] = dict(zip(WAYS, (models.segmentation, fast.segmentation), strict=True))
    if scan.translated:
        translated = translate_volume(image, foreground, models)
        assert fast.segmentation is not None
        logits = fast.segmentation.infer(fast.segmentation.conform(translated.conformed))  # the same for both
        translated = translated._replace(logits=logits)
    truth = np.asarray(scan.truth.dataobj)
    if not same_grid(truth.shape, scan.truth.affine, source.shape, source.affine):
        truth = move_labels(scan.truth, source)
    samples = {}
    for way, segmentation in segmenters.items():
        assert segmentation is not None
        sampler = Sampler(source.shape)
        labels = segment_volume(image, foreground, segmentation, translated, sampler).labels.numpy()
        counted = foreground.numpy() & counted_voxels(labels, truth, voxel_sizes(source.affine).tolist())
        samples[way] = sampler.sample(counted, truth)
    return samples


def counted_voxels(
    labels: NDArray[np.integer], truth: NDArray[np.integer], spacing: Sequence[float]
) -> NDArray[np.bool_]:
    """Mask (X, Y, Z) of the voxels that are labelled or truly brain, and of those within `NEIGHBOURHOOD_MM` of them."""
    brain = (labels > 0) | (truth > 0)
    return (distance_transform_edt(~brain, sampling=spacing) <= NEIGHBOURHOOD_MM) & (truth != NOT_SCORED)


def stripped(data: Path) -> list[Case]:
    """List the simulated skull-stripped scans of 1 × 1 × 3 mm of the label maps that no training uses."""
    maps = [data / "label-maps" / f"{name}.nii.gz" for name in HELD_BACK]
    return [
        Case(STRIPPED, path.name.partition(".")[0], name, partial(_simulated, path, name))
        for path in maps
        for name in CONTRASTS
    ]


def _simulated(label_map: Path, contrast: str, folder: Path) -> Scan:
    """Simulate all contrasts of a brain at its first use."""
    prefix = folder / STRIPPED / volume_stem(label_map).replace("_", "-")
    if not (truth := prefix.with_name(f"{prefix.name}_dseg.nii.gz")).exists():
        simulate(label_map, folder / STRIPPED, seed=int(label_map.name[13:15]) - 1)
    volume = prefix.with_name(f"{prefix.name}_{contrast}.nii.gz")
    return Scan(volume, nib.Nifti1Image.from_filename(truth), translated=contrast != "T1", structures=True)
