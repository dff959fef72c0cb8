"""Volumes for the interactive viewer of the study page.

A browser does not let a page that is opened from disk read other files, but it does load scripts. Each subject
therefore has a script that passes its volumes to the page as compressed NIfTI in base64.
"""

from __future__ import annotations

import base64
import gzip
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from nibabel.affines import voxel_sizes

from midiff_monai.io.paths import atomic_write
from midiff_monai.qc.layers import LAST_LEVEL, LAYERS
from midiff_monai.qc.mosaic import bounding_box, canonical, prepare
from midiff_monai.qc.subject import Images
from midiff_monai.transforms.resampling import resample_to_grid

MIN_VOXEL_MM = 1.5
"""Smallest voxel size in the viewer. It keeps the script of a subject without layers of numbers below 5 MB."""


def write_viewer_script(images: Images, path: Path) -> None:
    """Write a script that calls `midiffVolumes({role: base64 of a .nii.gz})`.

    The roles are source, synthetic, and those of `layers.LAYERS`. The volumes are uint8 in RAS, cropped to the
    segmented brain with a margin. The intensities of source and synthetic T1w are scaled as in the pictures. Labels
    keep their ids. Numbers have a scale factor in the header; those above `Layer.high` become that number.

    Args:
        images: a subject's volumes, of which at least one of source, synthetic T1w and segmentation exists.
        path: the script to write.
    """
    reduced = {}
    for role, image in prepare(images.intensity_images, images.structures, images.affine)[1].items():
        levels = nib.Nifti1Image(LAST_LEVEL * np.asarray(image.dataobj), image.affine)
        reduced[role] = _as_bytes(_reduce(levels, "bilinear"), LAST_LEVEL)
    box = bounding_box(canonical(images.structures, images.affine, np.int32))
    for layer in LAYERS:
        if (volume := images.drawn(layer)) is not None:
            cropped = canonical(volume, images.affine, np.float32).slicer[box]
            # interpolation would mix labels, and numbers with the zeros around the brain
            reduced[layer.role] = _as_bytes(_reduce(cropped, "nearest"), layer.high)
    with atomic_write(path) as temporary:
        encoded = {role: _base64(image) for role, image in reduced.items()}
        temporary.write_text(f"midiffVolumes({json.dumps(encoded)});\n", encoding="ascii")


def _reduce(image: nib.Nifti1Image, mode: str) -> nib.Nifti1Image:
    """Resample to voxels of at least `MIN_VOXEL_MM` along every axis, over the same field of view; float32."""
    sizes = voxel_sizes(image.affine)
    shape = np.maximum(1, np.floor(image.shape * sizes / np.maximum(sizes, MIN_VOXEL_MM))).astype(int)
    factors = np.array(image.shape) / shape
    to_image = np.diag([*factors, 1.0])
    to_image[:3, 3] = (factors - 1) / 2  # align the outer faces of the grids, not the centres of their first voxels
    affine = image.affine @ to_image
    voxels = torch.from_numpy(np.array(image.dataobj, dtype=np.float32))
    sampled = resample_to_grid(voxels, image.affine, shape.tolist(), affine, fill=0.0, mode=mode)  # type: ignore[arg-type]
    return nib.Nifti1Image(sampled.numpy(), affine)


def _as_bytes(image: nib.Nifti1Image, high: float) -> nib.Nifti1Image:
    """Store numbers from 0 to `high` as bytes, with a scale factor in the header."""
    levels = np.rint(LAST_LEVEL * np.clip(np.asarray(image.dataobj) / high, 0, 1))
    stored = nib.Nifti1Image(levels.astype(np.uint8), image.affine)
    stored.header.set_slope_inter(high / LAST_LEVEL, 0)
    return stored


def _base64(image: nib.Nifti1Image) -> str:
    return base64.b64encode(gzip.compress(image.to_bytes(), compresslevel=6, mtime=0)).decode("ascii")
