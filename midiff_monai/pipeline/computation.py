"""What is computed of one volume in memory: synthetic volume, segmentation, flags and warnings. No file is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import nibabel as nib
import numpy as np
import pandas as pd
import torch
from monai.data import MetaTensor

from midiff_monai.bundle.bundle import Bundle
from midiff_monai.io.affines import voxel_volume_ml
from midiff_monai.io.manifest import RunReport
from midiff_monai.io.outputs import DEFAULT_TARGET, in_range
from midiff_monai.io.volumes import reading_warnings, states_orientation
from midiff_monai.labels import STRUCTURES, structure_volumes
from midiff_monai.pipeline.models import Models
from midiff_monai.pipeline.options import Task
from midiff_monai.pipeline.two_pass import translate_two_pass
from midiff_monai.qc.flags import Measures, measure, quality_flags
from midiff_monai.qc.mosaic import qc_mosaic
from midiff_monai.transforms.foreground import fill_holes
from midiff_monai.transforms.meta import as_plain_tensor
from midiff_monai.transforms.spatial import probabilities_to_labels

SIDES_UNKNOWN = "The header does not define left and right. The usual convention of the format was assumed: check it."


@dataclass
class Computation:
    """The volumes that are computed of one volume, all on its grid.

    Attributes:
        source: the volume as read.
        report: the run manifest. It collects the warnings and flags.
        synthetic: (X, Y, Z) synthetic volume, in [0, 1] unless its bundle has another `output_range`; white matter of
            a T1w is at about 0.7. None if nothing was translated.
        synthetic_std: (X, Y, Z) standard deviation over several samples, or None.
        segmentation: (X, Y, Z) FreeSurfer ids, or None.
        target: modality of the synthetic volume.
        render: draws the mosaic for quality control; called as `qc.mosaic.qc_mosaic` is.
    """

    source: nib.Nifti1Image
    report: RunReport
    synthetic: np.ndarray | None = None
    synthetic_std: np.ndarray | None = None
    segmentation: np.ndarray | None = None
    target: str = DEFAULT_TARGET
    render: Callable[..., None] = qc_mosaic

    def measures(self) -> Measures:
        """The measures on which the automatic quality flags are based."""
        seen = np.asarray(self.source.dataobj), self.synthetic, self.synthetic_std, self.segmentation
        table = self.volumes()
        volumes = {} if table is None else dict(zip(table["id"], table["volume_ml"], strict=True))
        return measure(*seen, volumes, self.source.affine)

    def volumes(self) -> pd.DataFrame | None:
        """The columns id, name and volume_ml, a row for each structure; None without a segmentation."""
        if self.segmentation is None:
            return None
        return structure_volumes(self.segmentation, voxel_volume_ml(self.source.affine))

    def draw(self, file: Path | BinaryIO, title: str) -> None:
        """Draw the mosaic for quality control as PNG."""
        source = np.asarray(self.source.dataobj)
        segmentation = np.zeros(source.shape, np.int16) if self.segmentation is None else self.segmentation
        colours = {structure.id: structure.hex_colour for structure in STRUCTURES}
        self.render(source, self.synthetic, segmentation, self.source.affine, file, title, colours, self.target)


def compute(volume: Computation, task: Task, models: Models) -> None:
    """Translate and segment a volume, as the task says, and look for reasons to check the result."""
    report, source = volume.report, volume.source
    report.warnings += reading_warnings(source)
    if not states_orientation(source):
        report.warnings.append(SIDES_UNKNOWN)
    voxels = torch.from_numpy(np.asarray(source.dataobj, dtype=np.float32)[None])
    image = MetaTensor(voxels, affine=torch.from_numpy(source.affine))
    foreground = torch.from_numpy(fill_holes(voxels[0].numpy() != 0))
    logits = None
    if models.translation:
        with report.timed("translate"):
            image, logits = _translate(image, foreground, models.translation, models, volume)
    if task.mode.segments:
        with report.timed("segment"):
            fine = image
            if volume.synthetic is not None:
                fine = MetaTensor(torch.from_numpy(volume.synthetic[None]), affine=torch.from_numpy(source.affine))
            assert models.segmentation is not None
            _segment(image, fine, foreground, models.segmentation, volume, logits)
    with report.timed("check"):
        report.flags = [flag._asdict() for flag in quality_flags(volume.measures())]
        report.warnings += [flag["text"] for flag in report.flags]
    if models.translation:
        _scale(volume, models.translation.setting("output_range"))


def _translate(
    image: MetaTensor, foreground: torch.Tensor, translation: Bundle, models: Models, volume: Computation
) -> tuple[MetaTensor, torch.Tensor | None]:
    """Store the synthetic volume; returns it on the network's grid, with its logits where known."""
    conformed = translation.conform(image)
    if models.finds_brain and models.segmentation:
        samples, logits = translate_two_pass(image, conformed, translation, models.segmentation)
    else:
        samples, logits = translation.infer(conformed), None
    restored = translation.setting("upsampling")(samples, conformed, image, foreground).numpy()
    volume.synthetic, volume.synthetic_std = restored[0], restored[1] if len(restored) > 1 else None
    return MetaTensor(samples[:1], affine=conformed.affine), logits


def _scale(volume: Computation, value_range: Sequence[float]) -> None:
    """Give the synthetic volume the intensities of its target, after all that expects it in [0, 1]."""
    for role in ("synthetic", "synthetic_std"):
        if (image := getattr(volume, role)) is not None:
            setattr(volume, role, in_range(image, role, value_range))


def _segment(
    image: MetaTensor,
    fine: MetaTensor,
    foreground: torch.Tensor,
    bundle: Bundle,
    volume: Computation,
    logits: torch.Tensor | None,
) -> None:
    """Store the segmentation; computes the logits unless they are given."""
    conformed = bundle.conform(image)
    probabilities = (bundle.infer(conformed) if logits is None else logits).softmax(dim=0)
    known, affine = as_plain_tensor(conformed[0] != 0), volume.source.affine
    if bundle.setting("fast"):
        labels = probabilities_to_labels(probabilities, known, conformed.affine, foreground, affine)
    else:
        coarse = MetaTensor(probabilities * known, affine=conformed.affine)
        labels = bundle.setting("refiner")(coarse, bundle.conform(fine, "fine"), foreground, affine)
    volume.segmentation = labels.numpy()
    if not volume.segmentation.any():
        volume.report.warnings.append("No structure was found: look at the picture and check the input.")
