"""What came of one volume, and the files that tell of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np

from midiff_monai.figures import qc_mosaic
from midiff_monai.geometry import voxel_volume_ml
from midiff_monai.labels import STRUCTURES, structure_volumes, write_label_table
from midiff_monai.paths import OutputPaths, staged
from midiff_monai.report import RunReport
from midiff_monai.volumes import write_like


@dataclass
class Result:
    """One volume's results, all on the grid of the input.

    Attributes:
        source: the volume as read.
        paths: what the files are called.
        report: what happened.
        synthetic: (X, Y, Z) synthetic T1w in [0, 1], white matter at about 0.7; None if nothing was translated.
        spread: (X, Y, Z) standard deviation over several samples, else None.
        segmentation: (X, Y, Z) FreeSurfer ids, else None.
    """

    source: nib.Nifti1Image
    paths: OutputPaths
    report: RunReport
    synthetic: np.ndarray | None = None
    spread: np.ndarray | None = None
    segmentation: np.ndarray | None = None

    def write(self) -> None:
        """Write every file, each whole or not at all; the report, last, lists the others."""
        with self.report.timed("write"):
            for role, write in self._writers().items():
                path = getattr(self.paths, role)
                with staged(path) as temporary:
                    write(temporary)
                self.report.outputs[role] = path
        self.report.write(self.paths.report)

    def _writers(self) -> dict[str, Callable[[Path], None]]:
        writers: dict[str, Callable[[Path], None]] = {}
        if self.synthetic is not None:
            writers["synthetic"] = partial(self._write_image, self.synthetic)
        if self.spread is not None:
            writers["synthetic_std"] = partial(self._write_image, self.spread)
        if self.segmentation is not None:
            writers["segmentation"] = partial(self._write_labels, self.segmentation)
            writers["label_table"] = write_label_table
            writers["volumes"] = partial(self._write_volumes, self.segmentation)
        return writers | {"picture": self._draw}

    def _write_image(self, image: np.ndarray, path: Path) -> None:
        write_like(image, self.source, path, np.float32)

    def _write_labels(self, segmentation: np.ndarray, path: Path) -> None:
        write_like(segmentation, self.source, path, np.int16)

    def _write_volumes(self, segmentation: np.ndarray, path: Path) -> None:
        table = structure_volumes(segmentation, voxel_volume_ml(self.source.affine))
        table.to_csv(path, index=False, float_format="%.4f")

    def _draw(self, path: Path) -> None:
        source = np.asarray(self.source.dataobj)
        segmentation = np.zeros(source.shape, np.int16) if self.segmentation is None else self.segmentation
        colours = {structure.id: structure.hex_colour for structure in STRUCTURES}
        title = self.report.input.name
        qc_mosaic(source, self.synthetic, segmentation, self.source.affine, path, title, colours)
