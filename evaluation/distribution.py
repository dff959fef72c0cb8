"""Do the synthetic T1w look like real ones, all slices taken together?

    python evaluation/distribution.py --pairs ../shared/data/multicontrast --out evaluation/results
    python evaluation/distribution.py --pairs … --inception inception-2015-12-05.pt --out evaluation/results

FID and KID between the axial slices of all subjects' real T1w and those of the T1w that a method made, both brought to
the grid and the grey values of the segmentation bundle first. One row a contrast and method; see PROTOCOL.md.

Features need no download: they are what the deepest layer of the T1w segmenter says of a slice, 256 means over what is
not 0. It knows brains, not photographs, and its distances are not on the scale of published ones. `--inception` takes
the usual 2048 from a local TorchScript file instead, called as `inception-2015-12-05.pt` of StyleGAN is: with uint8
images (B, 3, H, W) and `return_features=True`. Such a file is code that runs as you: give none that you do not trust.

Small samples: FID is too large, and with no more slices than features its covariances are singular. It then ranks
methods at equal numbers of slices at best. KID has no such bias if slices are independent. These are neighbours of one
another and made of the reference's own subjects, so no error bar is given, and a KID somewhat below 0 means equality.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from methods import METHODS, ON_T1, WITHOUT_IMAGE
from monai.data import MetaTensor
from numpy.typing import NDArray
from run import Job, jobs, parse_method
from table import HASH_LENGTH, Table, weights_columns
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from midiff_monai.bundle.bundle import Bundle, open_bundle
from midiff_monai.evaluation.metrics import frechet_distance, kernel_distance
from midiff_monai.evaluation.scores import image_of
from midiff_monai.guidance.guide import centre_slice
from midiff_monai.inferers.slicewise import Network, foreground_box, in_batches, pad_to_multiple, stack_slices
from midiff_monai.io.volumes import read_volume
from midiff_monai.pipeline.models import SEGMENTATION
from midiff_monai.provenance import sha256
from midiff_monai.transforms.meta import as_plain_tensor

KEY = ("dataset", "contrast", "method")

LEAST_SHARE = 0.2
"""Of the largest slice's brain: what a slice has to show to count."""

INCEPTION_BATCH = 16
"""Slices at a time; it does not change the features."""


class Features(NamedTuple):
    """What tells images apart: its name in the table, and slices (N, neighbours, H, W) → features (N, D)."""

    name: str
    extract: Callable[[torch.Tensor], torch.Tensor]


def of_segmenter(segmenter: Bundle) -> Features:
    """Features that need no download."""
    return Features(SEGMENTATION, partial(bottleneck_means, segmenter=segmenter))


def of_inception(path: Path, device: torch.device) -> Features:
    """Features of a TorchScript file; its hash is part of their name."""
    network = torch.jit.load(path, map_location=device).eval()
    name = f"{path.stem} {sha256(path)[:HASH_LENGTH]}"
    return Features(name, lambda slices: inception_features(slices.to(device), network))


@torch.inference_mode()
def bottleneck_means(slices: torch.Tensor, segmenter: Bundle) -> torch.Tensor:
    """Means of the segmenter's deepest layer over what is not 0 of each slice of a volume.

    Args:
        slices: (N, 2·context + 1, H, W) in [0, 1], neighbours in a row, height and width multiples of the segmenter's.
        segmenter: the segmentation bundle.

    Returns:
        (N, D), float64, on the CPU.
    """
    network = segmenter.setting("network").network  # beneath the mixed precision: distances ask for float32
    unet = network.network
    encoder = nn.Sequential(unet.input_block, *unet.downsamples, unet.bottleneck)
    unshuffled = F.pixel_unshuffle(slices.to(segmenter.setting("device")), network.factor)
    maps = encoder(unshuffled.permute(1, 2, 3, 0)[None])[0].movedim(-1, 0).double().cpu()
    shares = F.avg_pool2d((centre_slice(slices) != 0).double(), slices.shape[-1] // maps.shape[-1])
    return (maps * shares).sum(dim=(2, 3)) / shares.sum(dim=(2, 3))


@torch.inference_mode()
def inception_features(slices: torch.Tensor, network: Network) -> torch.Tensor:
    """Features (N, D), float64, on the CPU, of slices (N, neighbours, H, W) in [0, 1] as grey uint8 images."""
    images = (255 * centre_slice(slices)).round().to(torch.uint8).expand(-1, 3, -1, -1)
    return in_batches(network, INCEPTION_BATCH)(images, return_features=True).double().cpu()


def brain_slices(made: MetaTensor, real: MetaTensor, segmenter: Bundle) -> tuple[torch.Tensor, torch.Tensor]:
    """Cut two images (1, X, Y, Z) of one grid into the same axial slices, as the segmenter would get them.

    Slices count where both images show enough, and are cut to the box around that.

    Returns:
        (N, 2·context + 1, H, W) of either, in [0, 1].
    """
    volumes = [as_plain_tensor(segmenter.conform(image)) for image in (made, real)]
    multiple, context = segmenter.setting("inferer").runner.multiple, segmenter.setting("context")
    foreground_mask = (volumes[0] != 0)[0] & (volumes[1] != 0)[0]
    area = foreground_mask.sum(dim=(0, 1))
    rows, columns, _ = foreground_box(foreground_mask, multiple)
    crops = (pad_to_multiple(volume[:, rows, columns], multiple) for volume in volumes)
    of_made, of_real = (stack_slices(crop[None], context)[area >= LEAST_SHARE * area.max()] for crop in crops)
    return of_made, of_real


def compare(group: list[Job], features: Features, segmenter: Bundle) -> dict[str, Any]:
    """The distances of what a method makes of the volumes of all subjects, and what weights had a part in it.

    Where the weights differ by subject, as those of `real_pairs` do, the last subject's are named.
    """
    weights: dict[str, str] = {}
    features_of: tuple[list[torch.Tensor], list[torch.Tensor]] = ([], [])  # what was made, and the real T1w
    for job in group:
        with tempfile.TemporaryDirectory() as folder:
            result = parse_method(job.method)(job.volume, Path(folder))
        weights |= result.report.weights
        t1 = read_volume(job.t1)
        images = as_tensor(image_of(result), t1.affine), as_tensor(np.asarray(t1.dataobj), t1.affine)
        for collected, slices in zip(features_of, brain_slices(*images, segmenter), strict=True):
            collected.append(features.extract(slices))
    sets = [torch.cat(collected).numpy() for collected in features_of]
    distances = {"fid": frechet_distance(*sets), "kid": kernel_distance(*sets)}
    return distances | {"slices": len(sets[0])} | weights_columns(weights)


def as_tensor(voxels: NDArray, affine: NDArray) -> MetaTensor:
    """Voxels (X, Y, Z) as the image (1, X, Y, Z) that bundles take."""
    return MetaTensor(torch.from_numpy(voxels[None].astype(np.float32)), affine=torch.from_numpy(affine))


def main() -> None:
    """Fill the table."""
    arguments = parse_arguments()
    segmenter = open_bundle(SEGMENTATION)
    path, device = arguments.inception, segmenter.setting("device")
    features = of_inception(path, device) if path else of_segmenter(segmenter)
    table = Table(arguments.out / "distribution.csv", key=(*KEY, "features"))
    groups: dict[tuple[str, ...], list[Job]] = {}
    for job in jobs(arguments.pairs, arguments.methods):
        groups.setdefault(tuple(job.key[name] for name in KEY), []).append(job)
    for names, group in tqdm(groups.items()):
        key = dict(zip(KEY, names, strict=True)) | {"features": features.name}
        if not table.has(key):
            table.add(key | compare(group, features, segmenter))
    print(table.rows()[[*KEY, "features", "fid", "kid", "slices"]].to_string(index=False))


def parse_arguments() -> argparse.Namespace:
    """Read the command line; what cannot be used ends the program before anything is computed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=Path, required=True, help="folder of SUBJECT_T1.nii.gz and SUBJECT_PD.nii.gz …")
    with_image = [name for name in METHODS if name not in WITHOUT_IMAGE and name not in ON_T1]
    parser.add_argument(
        "--methods", nargs="+", type=image_method, default=with_image, help=f"default: {' '.join(with_image)}"
    )
    parser.add_argument("--inception", type=Path, metavar="FILE", help="TorchScript network to take the features from")
    parser.add_argument("--out", type=Path, required=True, help="folder for distribution.csv")
    return parser.parse_args()


def image_method(name: str) -> str:
    """The name itself, if `parse_method` knows it and the method makes an image; else argparse tells of the error."""
    try:
        parse_method(name)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if name.partition(":")[0] in WITHOUT_IMAGE:
        raise argparse.ArgumentTypeError(f"{name} makes no image")
    return name


if __name__ == "__main__":
    main()
