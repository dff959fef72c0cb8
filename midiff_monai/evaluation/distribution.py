"""Distances between the distributions of slices of two sets of volumes: FID and KID, and the features they need."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from midiff_monai.bundle.bundle import Bundle
from midiff_monai.bundle.choice import SEGMENTATION
from midiff_monai.evaluation.metrics import frechet_distance, kernel_distance
from midiff_monai.guidance.guide import centre_slice
from midiff_monai.inferers.slicewise import foreground_box, pad_to_multiple, stack_slices
from midiff_monai.transforms.meta import as_plain_tensor

FEATURES = f"means of the deepest layer of {SEGMENTATION}"
"""What `bottleneck_means` computes, for readers of a table."""

LEAST_SHARE = 0.2
"""Smallest foreground area of an evaluated slice, as a fraction of the largest area."""


@torch.inference_mode()
def bottleneck_means(slices: torch.Tensor, segmenter: Bundle) -> torch.Tensor:
    """Average the segmenter's deepest layer over the foreground of each slice of a volume.

    These features need no download. The segmenter knows T1w of brains and not photographs, and the distances are not on
    the scale of published ones.

    Args:
        slices: consecutive slices (N, 2·context + 1, H, W) in [0, 1]. Height and width are multiples that the segmenter
            supports.
        segmenter: the segmentation bundle.

    Returns:
        (N, D), float64, on the CPU.
    """
    body = segmenter.setting("network").network.body  # without autocast, because the distances need float32
    unet = body.network
    encoder = nn.Sequential(unet.input_block, *unet.downsamples, unet.bottleneck)
    unshuffled = F.pixel_unshuffle(slices.to(segmenter.setting("device")), body.factor)
    maps = encoder(unshuffled.permute(1, 2, 3, 0)[None])[0].movedim(-1, 0).double().cpu()
    shares = F.avg_pool2d((centre_slice(slices) != 0).double(), slices.shape[-1] // maps.shape[-1])
    return (maps * shares).sum(dim=(2, 3)) / shares.sum(dim=(2, 3))


def evaluated_slices(images: Sequence[MetaTensor], segmenter: Bundle) -> list[torch.Tensor]:
    """Cut images (1, X, Y, Z) on one grid into the same axial slices, preprocessed for the segmenter.

    Slices are included if the common foreground is large enough, see `LEAST_SHARE`. They are cropped to its box.

    Returns:
        Slices (N, 2·context + 1, H, W) of each image, in [0, 1].
    """
    volumes = [as_plain_tensor(segmenter.conform(image)) for image in images]
    multiple, context = segmenter.setting("inferer").runner.multiple, segmenter.setting("context")
    foreground_mask = torch.stack([volume[0] != 0 for volume in volumes]).all(dim=0)
    area = foreground_mask.sum(dim=(0, 1))
    rows, columns, _ = foreground_box(foreground_mask, multiple)
    crops = (pad_to_multiple(volume[:, rows, columns], multiple) for volume in volumes)
    return [stack_slices(crop[None], context)[area >= LEAST_SHARE * area.max()] for crop in crops]


def distances(features: NDArray, reference: NDArray) -> dict[str, float]:
    """Return "fid" and "kid" of two sets of features (N, D) and (M, D)."""
    return {"fid": frechet_distance(features, reference), "kid": kernel_distance(features, reference)}


def as_image(voxels: NDArray, affine: NDArray) -> MetaTensor:
    """Turn voxels (X, Y, Z) into an image (1, X, Y, Z), the input of bundles."""
    return MetaTensor(torch.from_numpy(voxels[None].astype(np.float32)), affine=torch.from_numpy(affine))
