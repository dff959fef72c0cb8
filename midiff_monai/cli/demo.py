"""Try the whole chain on a volume made from a brain template: no file and no network needed."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

from midiff_monai.evaluation.metrics import dice
from midiff_monai.evaluation.phantom import make_phantom
from midiff_monai.io.paths import atomic_write, make_folder
from midiff_monai.labels import TISSUES
from midiff_monai.pipeline.run import segment


def run_demo(output: Path, contrast: str = "PD") -> str:
    """Segment a phantom, by way of a synthetic T1w and directly, and compare both with the template's tissues.

    Args:
        output: folder for the phantom and the results.
        contrast: "PD", "T2" or "FLAIR".

    Returns:
        A table of Dice, and where the picture is.
    """
    phantom = make_phantom(contrast)
    make_folder(output)
    path = output / f"phantom_{contrast}.nii.gz"
    with atomic_write(path) as temporary:
        nib.save(phantom.image, temporary)
    result = segment([path], output, overwrite=True)[0]
    direct = segment([path], output / "direct", translated=False, overwrite=True)[0]
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
