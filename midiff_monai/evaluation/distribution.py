"""Distances between the distributions of slices of two sets of volumes: FID and KID, and the features they need."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from midiff_monai.bundle.bundle import Bundle
from midiff_monai.bundle.choice import SEGMENTATION
from midiff_monai.errors import InputError
from midiff_monai.evaluation.metrics import frechet_distance, kernel_distance
from midiff_monai.guidance.guide import centre_slice
from midiff_monai.inferers.slicewise import Network, foreground_box, in_batches, pad_to_multiple, stack_slices
from midiff_monai.io.placeholders import missing_file_error
from midiff_monai.provenance import HASH_LENGTH, sha256
from midiff_monai.transforms.meta import as_plain_tensor

FEATURES = f"means of the deepest layer of {SEGMENTATION}"
"""What `bottleneck_means` computes, for readers of a table."""

LEAST_SHARE = 0.2
"""Smallest foreground area of an evaluated slice, as a fraction of the largest area."""

INCEPTION_BATCH = 16
"""Slices per batch. It does not change the features."""


class Features(NamedTuple):
    """A feature extractor.

    Attributes:
        name: what it computes, for readers of a table.
        extract: maps slices (N, neighbours, H, W) in [0, 1] to features (N, D), float64, on the CPU.
    """

    name: str
    extract: Callable[[torch.Tensor], torch.Tensor]


def of_segmenter(segmenter: Bundle) -> Features:
    """The features of the segmenter, which need no download."""
    return Features(FEATURES, partial(bottleneck_means, segmenter=segmenter))


def of_inception(path: Path, device: torch.device) -> Features:
    """The features of a TorchScript file. Its hash is part of their name.

    The file is called like `inception-2015-12-05.pt` of StyleGAN2-ADA (Karras et al., NeurIPS 2020), with uint8 images
    (B, 3, H, W) and `return_features=True`. A TorchScript file can execute code: use only files that you trust.

    Raises:
        InputError: the file does not exist, or cannot be read as TorchScript.
    """
    if not path.exists():
        raise missing_file_error(path)
    try:
        network = torch.jit.load(path, map_location=device).eval()
    except (OSError, RuntimeError, ValueError) as error:
        hint = "Give inception-2015-12-05.pt of StyleGAN2-ADA, or another TorchScript file with its interface"
        raise InputError(path, "cannot be read as TorchScript", hint) from error
    name = f"{path.stem} {sha256(path)[:HASH_LENGTH]}"
    return Features(name, lambda slices: inception_features(slices.to(device), network))


@torch.inference_mode()
def inception_features(slices: torch.Tensor, network: Network) -> torch.Tensor:
    """Compute features (N, D), float64, on the CPU, of slices (N, neighbours, H, W) in [0, 1] as grey uint8 images."""
    images = (255 * centre_slice(slices)).round().to(torch.uint8).expand(-1, 3, -1, -1)
    return in_batches(network, INCEPTION_BATCH)(images, return_features=True).double().cpu()


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
