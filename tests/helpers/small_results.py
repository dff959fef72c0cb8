"""Small images, label maps and results with known scores."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from midiff_monai.io.manifest import RunReport
from midiff_monai.io.outputs import output_paths
from midiff_monai.pipeline.result import Result

SHAPE = (24, 22, 20)
AFFINE = np.diag([1.0, 1.0, 3.0, 1.0])


def smooth(seed: int, shape: tuple[int, ...] = SHAPE) -> NDArray[np.float64]:
    return 100 + 50 * gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.5)


def brain_labels() -> NDArray[np.int16]:
    """White matter around a ventricle of 4 × 4 × 4 voxels, in a shell of cortex, in background."""
    labels = np.zeros(SHAPE, dtype=np.int16)
    labels[3:21, 3:19, 2:18] = 3
    labels[6:18, 6:16, 4:16] = 2
    labels[10:14, 9:13, 8:12] = 4
    return labels


def result(image: NDArray, labels: NDArray, weights: dict[str, str] | None = None) -> Result:
    volume = nib.Nifti1Image(image.astype(np.float32), AFFINE)
    path = Path("X_PD.nii.gz")
    report = RunReport("segment", Path(__file__), {}, weights or {})  # any existing file
    return Result(volume, report, segmentation=labels, paths=output_paths(path, "."))
