"""The demo: the complete processing of a volume made from a brain template. It needs no file and no network."""

from __future__ import annotations

import logging
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

from midiff_monai.evaluation.metrics import dice
from midiff_monai.evaluation.phantom import make_phantom
from midiff_monai.io.paths import atomic_write, make_folder
from midiff_monai.labels import TISSUES
from midiff_monai.pipeline.run import segment

_logger = logging.getLogger(__name__)


def run_demo(output: Path, contrast: str = "PD", progress: bool = True) -> str:
    """Segment a phantom through a synthetic T1w and directly, and compare both with the true tissues.

    Each step is announced by a message of the level INFO.

    Args:
        output: Folder for the phantom and the results.
        contrast: "PD", "T2" or "FLAIR".
        progress: Show progress bars, if stderr is a terminal.

    Returns:
        A table of Dice, and the path of the picture.
    """
    path = output / f"phantom_{contrast}.nii.gz"
    _logger.info("1/4 Making a %s phantom from the brain template: %s", contrast, path)
    phantom = make_phantom(contrast)
    make_folder(output)
    with atomic_write(path) as temporary:
        nib.save(phantom.image, temporary)
    _logger.info("2/4 Translating it to a synthetic T1w, and segmenting that (most of the time)")
    result = segment([path], output, overwrite=True, progress=progress)[0]
    _logger.info("3/4 Segmenting the phantom directly, for comparison")
    direct = segment([path], output / "direct", translated=False, overwrite=True)[0]
    _logger.info("4/4 Comparing both with the true tissues\n")
    truth = np.asarray(phantom.tissues.dataobj)
    runs = {"direct": direct.segmentation, "through a synthetic T1w": result.segmentation}
    scores = {
        name: {tissue: _dice(found, truth, *TISSUES[tissue]) for tissue in TISSUES} for name, found in runs.items()
    }
    table = pd.DataFrame(scores).round(2)
    return f"Dice against the template's tissue maps, {contrast} phantom\n{table}\nPicture: {result.paths.qc_image}"


def _dice(segmentation: np.ndarray | None, truth: np.ndarray, tissue: int, ids: tuple[int, ...]) -> float:
    assert segmentation is not None
    return dice(np.isin(segmentation, ids).astype(np.uint8), (truth == tissue).astype(np.uint8), [1])
