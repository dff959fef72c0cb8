"""Two-pass translation of whole heads: a coarse pass finds the brain, a refinement pass translates it alone."""

from __future__ import annotations

import torch
from monai.data import MetaTensor
from nibabel.affines import voxel_sizes
from scipy.ndimage import binary_erosion

from midiff_monai.bundle.bundle import Bundle
from midiff_monai.inferers.brain_mask import LARGEST_BRAIN_ML, extract_brain
from midiff_monai.io.affines import voxel_volume_ml
from midiff_monai.pipeline.intracranial import inside_skull, space_of
from midiff_monai.pipeline.models import Models
from midiff_monai.transforms.meta import as_plain_tensor
from midiff_monai.transforms.resampling import resample_to_grid
from midiff_monai.transforms.skull import shows_skull


def is_whole_head(conformed: MetaTensor) -> bool:
    """Whether one of the volumes (S, X, Y, Z) on the grid of a network shows a head: more than a brain, or a skull."""
    return any(_shows_head(volume, conformed.affine) for volume in as_plain_tensor(conformed))


def _shows_head(volume: torch.Tensor, affine: torch.Tensor) -> bool:
    """Whether a volume (X, Y, Z) shows more than a brain, or a skull."""
    if (volume != 0).sum() * voxel_volume_ml(affine) > LARGEST_BRAIN_ML:
        return True
    return shows_skull(volume.cpu().numpy(), voxel_sizes(affine.numpy()))


def translate_two_pass(
    image: MetaTensor,
    conformed: MetaTensor,
    models: Models,
    whole_head: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Translate a volume. In a whole head, translate the brain a second time, without its surroundings.

    Fat, air and eyes take up most of the intensity range of a head. With the brain alone, the percentile scaling gives
    it the full range, and the input resembles most of the training data. A CT keeps its fixed window.

    The voxels around the brain come from the coarse pass, because the segmenter recognises CSF between brain and skull
    by its position. In a whole head, the outermost voxels of the brain come from the coarse pass too: where bright CSF
    is cut from dark bone, partial volume has the intensity of cortex.

    Args:
        image: (S, X', Y', Z'), one scan or several on one grid, as read.
        conformed: (S, X, Y, Z), the scans on the translation's grid.
        models: the translation makes the synthetic T1w, and the segmentation finds the brain in it. In a whole head,
            `intracranial` finds the space inside the skull, so that no tissue of the neck counts as brain.
        whole_head: whether the volume shows a whole head, see `is_whole_head`.

    Returns:
        (C, X, Y, Z) in [0, 1]: the mean of the samples and, for several samples, their standard deviation, which is 0
        where only the coarse pass exists. Then the segmentation logits of that image, or None where they are unknown.
    """
    translation, segmentation = models.translation, models.segmentation
    assert translation is not None and segmentation is not None
    coarse = translation.infer(conformed, whole_head)
    synthetic = MetaTensor(coarse[:1], affine=conformed.affine)
    logits = segmentation.infer(segmentation.conform(synthetic), whole_head)
    brain = _find_brain(logits, coarse, conformed, models.intracranial if whole_head else None)
    brain_only = _brain_only(brain, conformed.affine, image)
    if brain_only is None:
        return (translation.infer(conformed), None) if whole_head else (coarse, logits)
    conformed = translation.conform(brain_only)
    refined = translation.infer(conformed)
    refined_at = _shown(conformed) != 0
    if whole_head:
        refined_at = _eroded(refined_at)
    return torch.where(refined_at, refined, _with_channels(coarse, len(refined))), None


def _find_brain(
    logits: torch.Tensor, coarse: torch.Tensor, conformed: MetaTensor, intracranial: Bundle | None
) -> torch.Tensor | None:
    """The brain (X, Y, Z) that is segmented in the coarse result (C, X, Y, Z), or None if there is none.

    It lies in the space inside the skull, where a bundle for that is given.
    """
    brain = extract_brain(logits, _shown(conformed))
    if brain is None or intracranial is None:
        return brain
    classes = logits.argmax(dim=0) * (coarse[0] != 0)
    return inside_skull(brain, space_of(conformed, classes, intracranial, coarse=True))


def _shown(conformed: MetaTensor) -> torch.Tensor:
    """The first of some volumes (S, X, Y, Z), and where it has no voxel the next one that has: (X, Y, Z)."""
    shown, *others = as_plain_tensor(conformed)
    for other in others:
        shown = torch.where(shown != 0, shown, other)
    return shown


def _with_channels(coarse: torch.Tensor, count: int) -> torch.Tensor:
    """The coarse result with a standard deviation of 0 where the refined result has several samples."""
    return coarse if len(coarse) == count else torch.cat([coarse, torch.zeros_like(coarse[:1])])


def _brain_only(brain: torch.Tensor | None, affine: torch.Tensor, image: MetaTensor) -> MetaTensor | None:
    """The image with its surroundings set to 0, or None where no voxel of the image lies in the brain mask.

    A mask that was found in noise can be thinner than a thick slice, and then contains no voxel centre.
    """
    if brain is None:
        return None
    mask = resample_to_grid(brain.float(), affine, image.shape[1:], image.affine, fill=0.0) > 0.5
    brain_only = as_plain_tensor(image) * mask
    return MetaTensor(brain_only, affine=image.affine) if (brain_only > 0).any() else None


def _eroded(brain: torch.Tensor) -> torch.Tensor:
    """A mask (X, Y, Z) eroded by one voxel. Beyond the edge of the volume the brain is assumed to go on."""
    return torch.from_numpy(binary_erosion(brain.numpy(), border_value=1))
