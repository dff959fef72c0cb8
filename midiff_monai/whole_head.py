"""Whole heads: the brain is translated once more, alone."""

from __future__ import annotations

import torch
from monai.data import MetaTensor

from midiff_monai.bundles import Bundle
from midiff_monai.geometry import resample_to_grid
from midiff_monai.segmentation import brain_in_head
from midiff_monai.transforms import plain


def translate_head(
    image: MetaTensor, conformed: MetaTensor, translation: Bundle, segmentation: Bundle | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Translate a volume; of a whole head, the brain a second time, alone, as the first translation shows it.

    Fat, air and eyes leave little of the range of grey values to the brain; alone, it has all of it, and looks like
    what most of the training was on. What is around it stays as the first translation made it, for the segmenter
    knows the fluid between brain and skull by its place. Where grey values have a fixed window, as in CT, the brain has
    its range already, and one look is enough.

    Args:
        image: (1, X', Y', Z'), as read.
        conformed: (1, X, Y, Z), the image as the translation knows it.
        translation: makes the synthetic T1w.
        segmentation: finds the brain in it; None translates once.

    Returns:
        (C, X, Y, Z) in [0, 1], the mean of the samples and, of several, their standard deviation; and the logits of the
        segmentation of just that, where one look was enough, to spare it a second time.
    """
    first = translation.infer(conformed)
    if segmentation is None or translation.setting("stretch").window:
        return first, None
    affine, there = conformed.affine, plain(conformed[0] != 0)
    logits = segmentation.infer(segmentation.conform(MetaTensor(first[:1], affine=affine)))
    brain = brain_in_head(logits, there)
    if brain is None:
        return first, logits
    mask = resample_to_grid(brain.float(), affine, image.shape[1:], image.affine, fill=0.0) > 0.5
    alone = MetaTensor(plain(image) * mask, affine=image.affine)
    if not (alone > 0).any():  # thick slices may pass by what is found in noise
        return first, logits
    conformed = translation.conform(alone)
    return torch.where(plain(conformed) != 0, translation.infer(conformed), first), None
