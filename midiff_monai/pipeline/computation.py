"""What is computed of one volume in memory: synthetic volume, segmentation, flags and warnings. No file is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import nan
from pathlib import Path
from typing import BinaryIO

import nibabel as nib
import numpy as np
import pandas as pd
import torch
from monai.data import MetaTensor

from midiff_monai.errors import InputError
from midiff_monai.inferers.certainty import Certainty, ConfidenceCalibration
from midiff_monai.inferers.parcellation import parcellate
from midiff_monai.io.affines import voxel_volume_ml
from midiff_monai.io.manifest import RunReport
from midiff_monai.io.outputs import DEFAULT_TARGET, SYNTHETIC_ROLES, in_range
from midiff_monai.io.slices import is_slice, stored_range
from midiff_monai.io.volumes import reading_warnings, states_orientation
from midiff_monai.labels import LESIONS, STRUCTURES, structure_volumes, with_totals
from midiff_monai.parcels import parcel_volumes
from midiff_monai.pipeline.lesions import Relabelled, describe_lesions, separate_lesions_of_any
from midiff_monai.pipeline.models import CALIBRATION, EXPECTED_ERROR, Models
from midiff_monai.pipeline.options import Task
from midiff_monai.pipeline.volume import Translated, foreground_of, image_of, segment_volume, translate_volume
from midiff_monai.qc.flags import quality_flags
from midiff_monai.qc.measures import Measures, measure
from midiff_monai.qc.mosaic import qc_mosaic
from midiff_monai.qc.quality import expected_quality
from midiff_monai.transforms.meta import as_plain_tensor
from midiff_monai.transforms.spatial import MORE_LIKELY, probability_to_mask

SIDES_UNKNOWN = "The header does not define left and right. The usual convention of the format was assumed: check it."


@dataclass
class Computation:
    """The volumes that are computed of one volume, all on its grid.

    Attributes:
        source: the volume as read.
        report: the run manifest. It collects the warnings and flags.
        synthetic: (X, Y, Z) synthetic volume, in [0, 1] unless its bundle has another `output_range`; white matter of
            a T1w is at about 0.7. A slice has the range of its file. None if nothing was translated.
        synthetic_std: (X, Y, Z) standard deviation over several samples, or None.
        segmentation: (X, Y, Z) FreeSurfer ids, or None.
        probability: (X, Y, Z) probability of the label of each voxel, 0 without a label, or None.
        entropy: (X, Y, Z) entropy of the probabilities of all labels, in [0, 1], 0 without one, or None.
        lesions: (X, Y, Z) mask of the white matter lesions, or None if the source cannot show them.
        intracranial: (X, Y, Z) mask of what the inner skull encloses, or None unless the source is a whole head.
        parcels: (X, Y, Z) ids of `parcels.PARCELS`, or None.
        synthetic_error: (X, Y, Z) expected absolute error of the synthetic volume, or None.
        target: modality of the synthetic volume.
        whole_head: whether the source shows a whole head.
        intracranial_ml: the intracranial volume in ml; NaN where it is not known, as of a skull-stripped brain.
        soft_dice: Dice that the segmenter expects of each structure that was found, by FreeSurfer id.
        render: draws the mosaic for quality control; called as `qc.mosaic.qc_mosaic` is.
        others: further scans of the person that are translated together with the source, on its grid.
    """

    source: nib.Nifti1Image
    report: RunReport
    synthetic: np.ndarray | None = None
    synthetic_std: np.ndarray | None = None
    segmentation: np.ndarray | None = None
    probability: np.ndarray | None = None
    entropy: np.ndarray | None = None
    lesions: np.ndarray | None = None
    intracranial: np.ndarray | None = None
    parcels: np.ndarray | None = None
    synthetic_error: np.ndarray | None = None
    target: str = DEFAULT_TARGET
    whole_head: bool = False
    intracranial_ml: float = nan
    soft_dice: dict[int, float] = field(default_factory=dict)
    render: Callable[..., None] = qc_mosaic
    others: Sequence[nib.Nifti1Image] = ()

    def keep(self, translated: Translated) -> None:
        """Keep the synthetic volume of a translation, and its standard deviation over several samples."""
        restored = translated.restored.numpy()
        self.synthetic, self.synthetic_std = restored[0], restored[1] if len(restored) > 1 else None

    def keep_error(self, error: torch.Tensor, interval: float) -> None:
        """Keep the expected error (X, Y, Z) of the synthetic volume, and a record of it in the manifest."""
        self.synthetic_error = error.numpy()
        self.report.expected_error = {"mean": round(float(error[error > 0].mean()), 5), "interval": interval}

    def keep_lesions(self, relabelled: Relabelled) -> None:
        """Keep the lesions, the segmentation in which they are white matter, and a record of them in the manifest."""
        self.segmentation, self.lesions = relabelled.labels, relabelled.lesions.mask
        self.report.lesions = describe_lesions(relabelled.lesions, self.source.affine)

    def keep_intracranial(self, probability: MetaTensor) -> None:
        """Keep the mask of what lies inside the skull, on the grid of the source, and its volume.

        The volume is that on the grid of the network, from which the probability (1, X, Y, Z) comes. Where no voxel is
        likely to lie inside, there is neither.
        """
        inside = int((probability > MORE_LIKELY).sum())
        if not inside:
            return
        mask = probability_to_mask(probability[0], probability.affine, self.source.shape, self.source.affine)
        self.intracranial = mask.numpy()
        self.intracranial_ml = inside * voxel_volume_ml(probability.affine)

    def keep_certainty(self, certainty: Certainty, calibration: ConfidenceCalibration) -> None:
        """Keep how certain the labels are. Lesions, which are labelled white matter later, change nothing in it."""
        self.probability, self.entropy = calibration(certainty.probability).numpy(), certainty.entropy.numpy()

    def measures(self) -> Measures:
        """The measures on which the automatic quality flags are based."""
        seen = np.asarray(self.source.dataobj), self.synthetic, self.synthetic_std, self.segmentation
        volumes: dict[int, float] = {}
        if self.segmentation is not None:
            table = self._structures(self.segmentation)
            volumes = dict(zip(table["id"], table["volume_ml"], strict=True))
        return measure(*seen, volumes, self.source.affine)

    def scored_measures(self) -> Measures:
        """The measures with the expected quality of the segmentation, which is recorded in the manifest too."""
        measured = self.measures()
        if self.segmentation is None:
            return measured
        quality = expected_quality(self.soft_dice, measured.edge_correlation)
        self.report.quality = quality.to_dict()
        return replace(measured, quality=quality.scan.dice)

    def volumes(self) -> pd.DataFrame | None:
        """The columns of `labels.with_totals`, a row for each structure and each total; None without a segmentation."""
        if self.segmentation is None:
            return None
        lesions = self.report.lesions
        burden = lesions.get("volume_ml", nan), lesions.get("count")
        return with_totals(self._structures(self.segmentation), self.intracranial_ml, *burden)

    def parcel_volumes(self) -> pd.DataFrame | None:
        """The columns of `parcels.parcel_volumes`, a row for each parcel; None without parcels."""
        if self.parcels is None:
            return None
        return parcel_volumes(self.parcels, voxel_volume_ml(self.source.affine), self.intracranial_ml)

    def _structures(self, segmentation: np.ndarray) -> pd.DataFrame:
        return structure_volumes(segmentation, voxel_volume_ml(self.source.affine))

    def draw(self, file: Path | BinaryIO, title: str) -> None:
        """Draw the mosaic for quality control as PNG."""
        source = np.asarray(self.source.dataobj)
        segmentation = self.segmentation
        if segmentation is not None and self.lesions is not None:
            segmentation = np.where(self.lesions, LESIONS.id, segmentation)
        colours = {structure.id: structure.hex_colour for structure in (*STRUCTURES, LESIONS)}
        self.render(source, self.synthetic, segmentation, self.source.affine, file, title, colours, self.target)


def compute(volume: Computation, task: Task, models: Models) -> None:
    """Translate and segment a volume, as the task says, and look for reasons to check the result."""
    report, source = volume.report, volume.source
    scans = (source, *volume.others)
    report.warnings += [warning for scan in scans for warning in reading_warnings(scan)]
    if not states_orientation(source):
        report.warnings.append(SIDES_UNKNOWN)
    image = image_of(scans)
    foreground, translated = foreground_of(image), None
    if models.translation:
        with report.timed("translate"):
            translated = translate_volume(image, foreground, models, task.settings.error_map)
            if not translated.source.any():
                fault = "shows nothing at the resolution of the network: every voxel is 0 there"
                raise InputError(report.input or "image", fault, "Look at the scan in a viewer")
            volume.keep(translated)
            if translated.error is not None:
                volume.keep_error(translated.error, models.translation.setting(EXPECTED_ERROR).interval)
    if task.mode.segments:
        _segment(volume, image, foreground, translated, task, models)
    if not is_slice(source):
        with report.timed("check"):
            report.flags = [flag._asdict() for flag in quality_flags(volume.scored_measures())]
            report.warnings += [flag["text"] for flag in report.flags]
    if models.translation:
        _scale(volume, stored_range(source, models.translation.setting("output_range")))


def _segment(
    volume: Computation,
    image: MetaTensor,
    foreground: torch.Tensor,
    translated: Translated | None,
    task: Task,
    models: Models,
) -> None:
    """Segment an image (S, X, Y, Z), and look for lesions and parcels, as the task says."""
    report, affine = volume.report, volume.source.affine
    certainty = Certainty(foreground) if task.settings.probability else None
    with report.timed("segment"):
        segmented = segment_volume(image, foreground, models, translated, certainty)
    volume.whole_head, volume.soft_dice = segmented.whole_head, segmented.soft_dice
    if segmented.intracranial is not None:
        volume.keep_intracranial(segmented.intracranial)
    volume.segmentation = labels = segmented.labels.numpy()
    if certainty and models.segmentation:
        volume.keep_certainty(certainty, models.segmentation.setting(CALIBRATION))
    if not labels.any():
        report.warnings.append("No structure was found: look at the picture and check the input.")
    if task.settings.lesions:
        with report.timed("lesions"):
            volume.keep_lesions(separate_lesions_of_any(as_plain_tensor(image).numpy(), labels, affine, task))
    if models.parcellation:
        with report.timed("parcels"):
            network, device = (models.parcellation.setting(name) for name in ("network", "device"))
            volume.parcels = parcellate(volume.segmentation, affine, network, device)


def _scale(volume: Computation, value_range: Sequence[float]) -> None:
    """Give the synthetic volume the intensities of its target, after all that expects it in [0, 1]."""
    volume.report.intensity_range = (float(value_range[0]), float(value_range[1]))
    for role in SYNTHETIC_ROLES:
        if (image := getattr(volume, role)) is not None:
            setattr(volume, role, in_range(image, role, value_range))
