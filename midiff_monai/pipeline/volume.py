"""From a volume in memory to its synthetic volume and its labels: the steps of a run and of the composite bundle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor

from midiff_monai.bundle.bundle import Bundle
from midiff_monai.pipeline.intracranial import inside_skull, space_of
from midiff_monai.pipeline.models import EXPECTED_ERROR, Models
from midiff_monai.pipeline.two_pass import is_whole_head, translate_two_pass
from midiff_monai.qc.soft_dice import soft_dice
from midiff_monai.transforms.foreground import fill_holes
from midiff_monai.transforms.meta import as_plain_tensor
from midiff_monai.transforms.resampling import Observer, restore_foreground
from midiff_monai.transforms.spatial import probabilities_to_labels


class Translated(NamedTuple):
    """A translated volume.

    Attributes:
        restored: (C, X', Y', Z') on the grid of the source, in [0, 1]: the synthetic volume and, for several samples,
            their standard deviation.
        error: (X', Y', Z'), the expected absolute error of the synthetic volume, or None.
        conformed: (1, X, Y, Z), the synthetic volume on the grid of the network.
        logits: (classes, X, Y, Z), the segmentation logits of `conformed`; None where they are unknown.
        whole_head: whether the source shows a whole head; False without a segmenter.
        source: (S, X, Y, Z), the scans on the grid of the network.
    """

    restored: torch.Tensor
    error: torch.Tensor | None
    conformed: MetaTensor
    logits: torch.Tensor | None
    whole_head: bool
    source: MetaTensor


class Segmented(NamedTuple):
    """A segmented volume.

    Attributes:
        labels: (X', Y', Z') FreeSurfer ids, int16, 0 outside the foreground.
        whole_head: whether the volume shows a whole head.
        soft_dice: that the segmenter expects of each structure that was found, by FreeSurfer id.
        intracranial: (1, X, Y, Z), the probability that a voxel of the grid of the network lies inside the skull. None
            of a skull-stripped brain, and where it is not wanted.
    """

    labels: torch.Tensor
    whole_head: bool
    soft_dice: dict[int, float]
    intracranial: MetaTensor | None


def image_of(scans: Sequence[nib.Nifti1Image]) -> MetaTensor:
    """The voxels (S, X', Y', Z') of scans on one grid, float32, with the affine of the first."""
    voxels = np.stack([np.asarray(scan.dataobj, dtype=np.float32) for scan in scans])
    return MetaTensor(torch.from_numpy(voxels), affine=torch.from_numpy(scans[0].affine))


def foreground_of(image: MetaTensor) -> torch.Tensor:
    """The voxels (X', Y', Z') that are not 0 in one of the scans (S, X', Y', Z'), with their holes filled."""
    return torch.from_numpy(fill_holes((np.asarray(image) != 0).any(axis=0)))


def translate_volume(
    image: MetaTensor, foreground: torch.Tensor, models: Models, error_map: bool = False
) -> Translated:
    """Translate a volume, twice if it is a whole head and the models find the brain in it.

    Args:
        image: (S, X', Y', Z') as read, with a background of 0: one scan, or several of a person on one grid.
        foreground: its `foreground_of`.
        models: the bundles; one of them is a translation.
        error_map: expect the error of each voxel.
    """
    translation = models.translation
    assert translation is not None
    conformed = translation.conform(image)
    whole_head = models.segmentation is not None and is_whole_head(conformed)
    if models.finds_brain and models.segmentation:
        samples, logits = translate_two_pass(image, conformed, models, whole_head)
    else:
        samples, logits = translation.infer(conformed), None
    restored = translation.setting("upsampling")(samples, conformed, image, foreground)
    error = _expected_error(samples, conformed, image, foreground, translation, whole_head) if error_map else None
    made = MetaTensor(samples[:1], affine=conformed.affine)
    return Translated(restored, error, made, logits, whole_head, conformed)


def _expected_error(
    samples: torch.Tensor,
    conformed: MetaTensor,
    image: MetaTensor,
    foreground: torch.Tensor,
    translation: Bundle,
    whole_head: bool,
) -> torch.Tensor:
    """The expected error (X', Y', Z') of the first channel of `samples`, on the grid of the image."""
    error = translation.setting(EXPECTED_ERROR)(samples[:1], conformed, whole_head)
    return restore_foreground(error, error[0] > 0, conformed.affine, foreground, image.affine)[0]


def segment_volume(
    image: MetaTensor,
    foreground: torch.Tensor,
    models: Models,
    translated: Translated | None,
    observe: Observer | None = None,
) -> Segmented:
    """Segment a volume by way of its translation, or as it is. In a whole head, nothing is labelled outside the skull.

    Args:
        image: (S, X', Y', Z') as read, with a background of 0. Several scans need a translation.
        foreground: its `foreground_of`.
        models: the bundles; one of them is a segmentation.
        translated: the translation of the image; None segments the image itself.
        observe: gets the probabilities of the classes at the voxels of the image, part by part.
    """
    segmentation = models.segmentation
    assert segmentation is not None
    coarse, fine, logits, affine = image, image, None, image.affine
    if translated:
        coarse, logits = translated.conformed, translated.logits
        fine = MetaTensor(as_plain_tensor(translated.restored[:1]), affine=affine)
    conformed = segmentation.conform(coarse)
    whole_head = translated.whole_head if translated else is_whole_head(conformed)
    probabilities = (segmentation.infer(conformed) if logits is None else logits).softmax(dim=0)
    known, space = as_plain_tensor(conformed[0] != 0), None
    if whole_head and models.intracranial:
        classes = as_plain_tensor(probabilities).argmax(dim=0) * known
        space = space_of(translated.source if translated else conformed, classes, models.intracranial)
        known = inside_skull(known, space)
    expected = soft_dice(probabilities, known)
    if segmentation.setting("fast"):
        labels = probabilities_to_labels(probabilities, known, conformed.affine, foreground, affine, observe)
    else:
        probabilities = MetaTensor(probabilities * known, affine=conformed.affine)
        fine = segmentation.conform(fine, "fine")
        labels = segmentation.setting("refiner")(probabilities, fine, foreground, affine, observe)
    return Segmented(labels, whole_head, expected, space)
