"""The results of one volume, and the files they are written to."""

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
from nibabel.affines import voxel_sizes

from midiff_monai.errors import InputError
from midiff_monai.inferers.brain_mask import LARGEST_BRAIN_ML, STRIPPED_SHARE
from midiff_monai.io.affines import voxel_volume_ml
from midiff_monai.io.headers import choose_affine
from midiff_monai.io.manifest import RunReport, read_earlier_manifest, remove_failure_record
from midiff_monai.io.outputs import DEFAULT_TARGET, OutputPaths, roles_of
from midiff_monai.io.paths import atomic_write
from midiff_monai.io.volumes import write_like
from midiff_monai.labels import STRUCTURES, structure_volumes, write_label_table
from midiff_monai.provenance import sha256
from midiff_monai.qc.flags import Measures, measure
from midiff_monai.qc.mosaic import qc_mosaic
from midiff_monai.transforms.skull import shows_skull

if TYPE_CHECKING:
    from midiff_monai.io.dicom.reader import DicomSeries


@dataclass
class Result:
    """The results of one volume, all on the grid of the input.

    Attributes:
        source: the volume as read.
        paths: the paths of the output files.
        report: the run manifest.
        synthetic: (X, Y, Z) synthetic volume, in [0, 1] unless its bundle has another `output_range`; white matter of
            a T1w is at about 0.7. None if nothing was translated.
        synthetic_std: (X, Y, Z) standard deviation over several samples, or None.
        segmentation: (X, Y, Z) FreeSurfer ids, or None.
        series: the DICOM series that was read, or None.
        target: modality of the synthetic volume.
        render: draws the mosaic for quality control; called as `qc.mosaic.qc_mosaic` is.
    """

    source: nib.Nifti1Image
    paths: OutputPaths
    report: RunReport
    synthetic: np.ndarray | None = None
    synthetic_std: np.ndarray | None = None
    segmentation: np.ndarray | None = None
    series: DicomSeries | None = None
    target: str = DEFAULT_TARGET
    render: Callable[..., None] = qc_mosaic

    def measures(self) -> Measures:
        """The measures on which the automatic quality flags are based."""
        seen = np.asarray(self.source.dataobj), self.synthetic, self.synthetic_std, self.segmentation
        volumes: dict[int, float] = {}
        if self.segmentation is not None:
            table = self._volumes(self.segmentation)
            volumes = dict(zip(table["id"], table["volume_ml"], strict=True))
        return measure(*seen, volumes, self.source.affine)

    def write(self) -> None:
        """Write every file atomically. The complete manifest comes last and lists the others.

        An incomplete manifest is written first. It marks the files that midiff wrote, in case the run is killed.
        Files of an earlier run that stay valid keep their hashes in the manifest. Outdated files of an earlier run,
        such as a standard deviation that is no longer computed, are deleted unless someone has edited them since.
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
        """Roles of the files of an earlier run that this result replaces."""
        roles = set(roles_of("check"))
        if self.synthetic is not None:
            roles.update(roles_of("translation"))
        if self.segmentation is not None:
            roles.update(roles_of("segmentation"))
        return roles

    def _write_atomically(self, role: str, write: Callable[[Path], None]) -> None:
        path = getattr(self.paths, role)
        try:
            with atomic_write(path) as temporary:
                write(temporary)
                self.report.outputs[role], self.report.hashes[role] = path, sha256(temporary)
        except InputError as error:  # a series with faulty headers must not prevent the other files
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
        from midiff_monai.io.dicom.seg import write_dicom_seg  # highdicom is an optional dependency

        write_dicom_seg(segmentation, series, path)

    def _draw(self, path: Path) -> None:
        source = np.asarray(self.source.dataobj)
        segmentation = np.zeros(source.shape, np.int16) if self.segmentation is None else self.segmentation
        colours = {structure.id: structure.hex_colour for structure in STRUCTURES}
        title = os.fsencode(self.report.input.name).decode(errors="replace")  # file names can be invalid Unicode
        self.render(source, self.synthetic, segmentation, self.source.affine, path, title, colours, self.target)


def shows_only_brain(paths: OutputPaths) -> bool:
    """Tell whether a written synthetic T1w shows a skull-stripped brain.

    It must not show a skull. With a segmentation, most of its foreground must be labelled. Without one, its foreground
    must fit into a brain.
    """
    synthetic = nib.Nifti1Image.from_filename(paths.synthetic)
    affine, _ = choose_affine(synthetic)
    shown = np.asarray(synthetic.dataobj) > 0
    if shows_skull(np.asarray(synthetic.dataobj), voxel_sizes(affine)):
        return False
    if not paths.segmentation.is_file():
        return bool(shown.sum() * voxel_volume_ml(affine) <= LARGEST_BRAIN_ML)
    labelled = np.asarray(nib.Nifti1Image.from_filename(paths.segmentation).dataobj) > 0
    return bool((shown & labelled).sum() > STRIPPED_SHARE * shown.sum())
