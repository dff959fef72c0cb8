"""Whole heads: the brain is translated once more, alone."""

from __future__ import annotations

import torch
from monai.data import MetaTensor
from scipy.ndimage import binary_erosion

from midiff_monai.bundle.bundle import Bundle
from midiff_monai.inferers.brain_mask import LARGEST_BRAIN_ML, extract_brain
from midiff_monai.io.affines import voxel_volume_ml
from midiff_monai.transforms.meta import as_plain_tensor
from midiff_monai.transforms.resampling import resample_to_grid


def translate_two_pass(
    image: MetaTensor, conformed: MetaTensor, translation: Bundle, segmentation: Bundle | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Translate a volume; of a whole head, the brain a second time, alone, as the first translation shows it.

    Fat, air and eyes leave little of the range of grey values to the brain; alone, it has all of it, unless that is a
    fixed window, as in CT, and looks like what most of the training was on. What is around it stays as the first
    translation made it, for the segmenter knows the fluid between brain and skull by its place. So do the outermost
    voxels of the brain of what is a head for certain: where bright fluid is cut off from dark bone, there are grey
    values in between, which look like cortex. To find the brain of a head a draft is enough.

    Args:
        image: (1, X', Y', Z'), as read.
        conformed: (1, X, Y, Z), the image as the translation knows it.
        translation: makes the synthetic T1w.
        segmentation: finds the brain in it; None translates once.

    Returns:
        (C, X, Y, Z) in [0, 1], the mean of the samples and, of several, their standard deviation, 0 where a draft
        is all there is; and the logits of the segmentation of just that, where one look was enough, to spare it a
        second time.
    """
    if segmentation is None:
        return translation.infer(conformed), None
    foreground_mask, affine = as_plain_tensor(conformed[0] != 0), conformed.affine
    coarse = bool(foreground_mask.sum() * voxel_volume_ml(affine) > LARGEST_BRAIN_ML)
    coarse_samples = translation.infer(conformed, coarse)
    logits = segmentation.infer(segmentation.conform(MetaTensor(coarse_samples[:1], affine=affine)), coarse)
    brain_only = _brain_only(extract_brain(logits, foreground_mask), affine, image)
    if brain_only is None:
        return (translation.infer(conformed), None) if coarse else (coarse_samples, logits)
    conformed = translation.conform(brain_only)
    refined = translation.infer(conformed)
    coarse_result = (
        coarse_samples
        if len(coarse_samples) == len(refined)
        else torch.cat([coarse_samples, torch.zeros_like(refined[1:])])
    )
    brain = as_plain_tensor(conformed[0]) != 0
    return torch.where(_inner(brain) if coarse else brain, refined, coarse_result), None


def _brain_only(brain: torch.Tensor | None, affine: torch.Tensor, image: MetaTensor) -> MetaTensor | None:
    """The image with nothing but the brain, if there is one: thick slices may pass by what is found in noise."""
    if brain is None:
        return None
    mask = resample_to_grid(brain.float(), affine, image.shape[1:], image.affine, fill=0.0) > 0.5
    brain_only = as_plain_tensor(image) * mask
    return MetaTensor(brain_only, affine=image.affine) if (brain_only > 0).any() else None


def _inner(brain: torch.Tensor) -> torch.Tensor:
    """The voxels of a mask (X, Y, Z) with mask on all six sides; beyond the edge of the volume it goes on."""
    return torch.from_numpy(binary_erosion(brain.numpy(), border_value=1))
