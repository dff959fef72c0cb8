"""What came of one volume, and the files that tell of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np
import pandas as pd

from midiff_monai.errors import InputError
from midiff_monai.inferers.brain_mask import LARGEST_BRAIN_ML, STRIPPED_SHARE
from midiff_monai.io.affines import voxel_volume_ml
from midiff_monai.io.headers import choose_affine
from midiff_monai.io.manifest import RunReport, read_earlier_manifest, remove_failure_record
from midiff_monai.io.paths import OutputPaths, atomic_write
from midiff_monai.io.volumes import write_like
from midiff_monai.labels import STRUCTURES, structure_volumes, write_label_table
from midiff_monai.provenance import sha256
from midiff_monai.qc.flags import Measures, measure
from midiff_monai.qc.mosaic import qc_mosaic

if TYPE_CHECKING:
    from midiff_monai.io.dicom.reader import DicomSeries


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
        series: the DICOM series that was read, if it was one.
    """

    source: nib.Nifti1Image
    paths: OutputPaths
    report: RunReport
    synthetic: np.ndarray | None = None
    synthetic_std: np.ndarray | None = None
    segmentation: np.ndarray | None = None
    series: DicomSeries | None = None

    def measures(self) -> Measures:
        """What tells whether a person should look at the result before using it."""
        seen = np.asarray(self.source.dataobj), self.synthetic, self.synthetic_std, self.segmentation
        volumes: dict[int, float] = {}
        if self.segmentation is not None:
            table = self._volumes(self.segmentation)
            volumes = dict(zip(table["id"], table["volume_ml"], strict=True))
        return measure(*seen, volumes, self.source.affine)

    def write(self) -> None:
        """Write every file, each whole or not at all; the report, last, lists the others.

        A report that is not complete comes first. Whoever finds it knows that the outputs it lists are midiff's, and
        perhaps not all of one run. Files of an earlier run that this one leaves alone keep their hashes in the report.
        Those that are out of date now, as the spread of samples that were more, are deleted, unless they were changed
        since.
        """
        earlier = read_earlier_manifest(self.paths)["outputs_sha256"]
        self.report.hashes = {role: digest for role, digest in earlier.items() if role not in self._replaced}
        self.paths.report.parent.mkdir(parents=True, exist_ok=True)
        writers = self._writers()
        claimed = self._replaced & (earlier.keys() | writers.keys())
        self.report.outputs = {role: getattr(self.paths, role) for role in claimed}
        self.report.write(self.paths.report, complete=False)
        self.report.outputs = {}
        with self.report.timed("write"):
            for role, write in writers.items():
                self._write_atomically(role, write)
        for role in earlier.keys() & self._replaced - self.report.hashes.keys():
            path = getattr(self.paths, role)
            if path.is_file() and sha256(path) == earlier[role]:
                path.unlink()
        self.report.write(self.paths.report)
        remove_failure_record(self.paths.error)

    @property
    def _replaced(self) -> set[str]:
        """Roles of the files that are out of date once this result is written."""
        roles = {"qc_image"}
        if self.synthetic is not None:
            roles |= {"synthetic", "synthetic_std"}
        if self.segmentation is not None:
            roles |= {"segmentation", "label_table", "volumes", "dicom_seg"}
        return roles

    def _write_atomically(self, role: str, write: Callable[[Path], None]) -> None:
        path = getattr(self.paths, role)
        try:
            with atomic_write(path) as temporary:
                write(temporary)
                self.report.outputs[role], self.report.hashes[role] = path, sha256(temporary)
        except InputError as error:  # headers of a series that break the standard take nothing from the other files
            self.report.warnings.append(f"No {path.name}: {error}")

    def _writers(self) -> dict[str, Callable[[Path], None]]:
        writers: dict[str, Callable[[Path], None]] = {}
        if self.synthetic is not None:
            writers["synthetic"] = partial(self._write_image, self.synthetic)
        if self.synthetic_std is not None:
            writers["synthetic_std"] = partial(self._write_image, self.synthetic_std)
        if self.segmentation is not None:
            writers["segmentation"] = partial(self._write_labels, self.segmentation)
            writers["label_table"] = write_label_table
            writers["volumes"] = partial(self._write_volumes, self.segmentation)
            if self.series is not None and self.segmentation.any():
                writers["dicom_seg"] = partial(self._write_dicom_seg, self.segmentation, self.series)
        return writers | {"qc_image": self._draw}

    def _write_image(self, image: np.ndarray, path: Path) -> None:
        write_like(image, self.source, path, np.float32)

    def _write_labels(self, segmentation: np.ndarray, path: Path) -> None:
        write_like(segmentation, self.source, path, np.int16)

    def _write_volumes(self, segmentation: np.ndarray, path: Path) -> None:
        self._volumes(segmentation).to_csv(path, index=False, float_format="%.4f")

    def _volumes(self, segmentation: np.ndarray) -> pd.DataFrame:
        return structure_volumes(segmentation, voxel_volume_ml(self.source.affine))

    @staticmethod
    def _write_dicom_seg(segmentation: np.ndarray, series: DicomSeries, path: Path) -> None:
        from midiff_monai.io.dicom.seg import write_dicom_seg  # an extra

        write_dicom_seg(segmentation, series, path)

    def _draw(self, path: Path) -> None:
        source = np.asarray(self.source.dataobj)
        segmentation = np.zeros(source.shape, np.int16) if self.segmentation is None else self.segmentation
        colours = {structure.id: structure.hex_colour for structure in STRUCTURES}
        title = os.fsencode(self.report.input.name).decode(errors="replace")  # a file name need not be Unicode
        qc_mosaic(source, self.synthetic, segmentation, self.source.affine, path, title, colours)


def shows_only_brain(paths: OutputPaths) -> bool:
    """Whether a synthetic T1w is of a stripped brain: most has a label or, unlabelled, it is no larger than one."""
    synthetic = nib.Nifti1Image.from_filename(paths.synthetic)
    shown = np.asarray(synthetic.dataobj) > 0
    if not paths.segmentation.is_file():
        affine, _ = choose_affine(synthetic)
        return bool(shown.sum() * voxel_volume_ml(affine) <= LARGEST_BRAIN_ML)
    labelled = np.asarray(nib.Nifti1Image.from_filename(paths.segmentation).dataobj) > 0
    return bool((shown & labelled).sum() > STRIPPED_SHARE * shown.sum())
