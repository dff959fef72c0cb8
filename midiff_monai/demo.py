"""Try the whole chain on a volume made from a brain template: no file and no network needed."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

from midiff_monai.metrics import dice
from midiff_monai.paths import make_folder, staged
from midiff_monai.phantom import make_phantom
from midiff_monai.pipeline import segment

#: Name of a tissue → its value in the phantom, the FreeSurfer ids that make it up.
TISSUES = {
    "white matter": (3, (2, 41, 7, 46, 28, 60)),
    "grey matter": (2, (3, 42, 8, 47, 10, 11, 12, 13, 17, 18, 26, 49, 50, 51, 52, 53, 54, 58)),
    "cerebrospinal fluid": (1, (4, 5, 14, 15, 24, 43, 44)),
}


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
    with staged(path) as temporary:
        nib.save(phantom.image, temporary)
    result = segment([path], output, overwrite=True)[0]
    direct = segment([path], output / "direct", translated=False, overwrite=True)[0]
    truth = np.asarray(phantom.tissues.dataobj)
    runs = {"direct": direct.segmentation, "through a synthetic T1w": result.segmentation}
    scores = {
        name: {tissue: _dice(found, truth, *TISSUES[tissue]) for tissue in TISSUES} for name, found in runs.items()
    }
    table = pd.DataFrame(scores).round(2)
    return f"Dice against the template's tissue maps, {contrast} phantom\n{table}\nPicture: {result.paths.picture}"


def _dice(segmentation: np.ndarray | None, truth: np.ndarray, tissue: int, ids: tuple[int, ...]) -> float:
    assert segmentation is not None
    return dice(np.isin(segmentation, ids).astype(np.uint8), (truth == tissue).astype(np.uint8), [1])
