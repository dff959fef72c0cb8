"""Compare the distribution of synthetic T1w slices with that of real ones, by FID and KID.

    python evaluation/distribution.py --pairs ../shared/data/multicontrast --out evaluation/results
    python evaluation/distribution.py --pairs … --inception inception-2015-12-05.pt --out evaluation/results

The distances are between the axial slices of all subjects' real T1w and of the T1w of a method. Both are first brought
to the grid and the intensities of the segmentation bundle. There is one row per contrast and method. PROTOCOL.md has
the details.

The features need no download. They are the activations of the deepest layer of the T1w segmenter, 256 means over the
foreground of a slice. The segmenter knows brains and not photographs, and its distances are not on the scale of
published ones. `--inception` uses the usual 2048 features of a local TorchScript file instead. It is called like
`inception-2015-12-05.pt` of StyleGAN, with uint8 images (B, 3, H, W) and `return_features=True`. A TorchScript file can
execute code. Use only files that you trust.

FID is biased upwards for small samples. With no more slices than features its covariances are singular. It can then at
best rank methods with equal numbers of slices. KID is unbiased for independent slices. The slices here are neighbours,
and show the subjects of the reference. The table thus has no error bars, and a slightly negative KID means no
difference.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from methods import METHODS, ON_T1, WITHOUT_IMAGE
from run import Job, jobs, parse_method
from table import Table, weights_columns
from tqdm import tqdm

from midiff_monai.bundle.bundle import Bundle, open_bundle
from midiff_monai.bundle.choice import SEGMENTATION
from midiff_monai.evaluation.distribution import (
    Features,
    as_image,
    bottleneck_means,
    distances,
    evaluated_slices,
    of_inception,
)
from midiff_monai.evaluation.scores import image_of
from midiff_monai.io.volumes import read_volume

KEY = ("dataset", "contrast", "method")


def compare(group: list[Job], features: Features, segmenter: Bundle) -> dict[str, Any]:
    """Compute the distances for the volumes of all subjects, and the hashes of the weights.

    If the weights differ by subject, as for `real_pairs`, the hash is that of the last subject.
    """
    weights: dict[str, str] = {}
    features_of: tuple[list[torch.Tensor], list[torch.Tensor]] = ([], [])  # of the method, and of the real T1w
    for job in group:
        with tempfile.TemporaryDirectory() as folder:
            result = parse_method(job.method)(job.volume, Path(folder))
        weights |= result.report.weights
        t1 = read_volume(job.t1)
        images = [as_image(voxels, t1.affine) for voxels in (image_of(result), np.asarray(t1.dataobj))]
        for collected, slices in zip(features_of, evaluated_slices(images, segmenter), strict=True):
            collected.append(features.extract(slices))
    sets = [torch.cat(collected).numpy() for collected in features_of]
    return distances(*sets) | {"slices": len(sets[0])} | weights_columns(weights)


def main() -> None:
    """Fill the table."""
    arguments = parse_arguments()
    segmenter = open_bundle(SEGMENTATION)
    path, device = arguments.inception, segmenter.setting("device")
    of_segmenter = Features(SEGMENTATION, partial(bottleneck_means, segmenter=segmenter))
    features = of_inception(path, device) if path else of_segmenter
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
    """Read and check the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=Path, required=True, help="folder of SUBJECT_T1.nii.gz and SUBJECT_PD.nii.gz …")
    with_image = [name for name in METHODS if name not in WITHOUT_IMAGE and name not in ON_T1]
    parser.add_argument(
        "--methods", nargs="+", type=image_method, default=with_image, help=f"default: {' '.join(with_image)}"
    )
    parser.add_argument("--inception", type=Path, metavar="FILE", help="TorchScript network that computes the features")
    parser.add_argument("--out", type=Path, required=True, help="folder for distribution.csv")
    return parser.parse_args()


def image_method(name: str) -> str:
    """Return the name if `parse_method` accepts it and the method makes an image, or raise an error of argparse."""
    try:
        parse_method(name)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if name.partition(":")[0] in WITHOUT_IMAGE:
        raise argparse.ArgumentTypeError(f"{name} makes no image")
    return name


if __name__ == "__main__":
    main()
