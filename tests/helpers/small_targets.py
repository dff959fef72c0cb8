"""Small volumes of a target modality, and the configuration of a bundle of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.bundle import ConfigWorkflow
from synthetic_images import smooth_pattern


def write_volume(path: Path, seed: int = 0, shape: tuple[int, int, int] = (30, 34, 24), scale: float = 800.0) -> Path:
    """Write a ball of smooth texture around a dark core, in a background of 0, with voxels of 2 mm."""
    grids = np.meshgrid(*(np.linspace(-1, 1, side) for side in shape), indexing="ij")
    radius = np.sqrt(sum(np.square(grid) for grid in grids))
    texture = 0.4 + 0.6 * smooth_pattern(shape, seed)
    voxels = np.select([radius < 0.25, radius < 0.85], [0.15, texture], 0.0) * scale
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels.astype(np.float32), np.diag([2.0, 2.0, 2.0, 1.0])), path)
    return path


def write_targets(folder: Path, contrast: str = "FLAIR", count: int = 3) -> Path:
    """Write `count` volumes named SUBJECT_CONTRAST.nii.gz."""
    for number in range(count):
        write_volume(folder / f"sub-{number}_{contrast}.nii.gz", seed=number)
    return folder


def workflow(root: Path, kind: str, **overrides: Any) -> ConfigWorkflow:
    """Open the configuration of a bundle of one's own."""
    configs = root / "configs"
    flow = ConfigWorkflow(
        config_file=str(configs / ("train.yaml" if kind == "train" else "inference.yaml")),
        meta_file=str(configs / "metadata.json"),
        logging_file=str(configs / "logging.conf"),
        workflow_type=kind,
        bundle_root=str(root),
        init_id="nothing",
        **overrides,
    )
    flow.initialize()
    return flow
