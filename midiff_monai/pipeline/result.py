"""The results of one volume, and the files they are written to."""

from __future__ import annotations

import logging
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
from midiff_monai.io.manifest import read_earlier_manifest, remove_failure_record
from midiff_monai.io.outputs import SYNTHETIC_ROLES, OutputPaths, roles_of
from midiff_monai.io.paths import atomic_write, readable_name
from midiff_monai.io.slices import is_slice, write_image
from midiff_monai.io.volumes import write_like, write_shares
from midiff_monai.labels import write_label_table
from midiff_monai.parcels import write_parcel_table
from midiff_monai.pipeline.computation import Computation
from midiff_monai.provenance import sha256
from midiff_monai.transforms.skull import shows_skull

if TYPE_CHECKING:
    from midiff_monai.io.dicom.reader import DicomSeries

_logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Result(Computation):
    """The results of one volume, all on the grid of the input, and the files they are written to.

    Attributes:
        paths: the paths of the output files.
        series: the DICOM series that was read, or None.
    """

    paths: OutputPaths
    series: DicomSeries | None = None

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
            _logger.debug("wrote %s", path)
        except InputError as error:  # a series with faulty headers must not prevent the other files
            self.report.warnings.append(f"No {path.name}: {error}")

    def _writers(self) -> dict[str, Callable[[Path], None]]:
        """Role of a file → what writes it, for all files of this result."""
        writers = self._writers_of_volumes()
        if self.segmentation is not None:
            writers["label_table"] = write_label_table
            writers["volumes"] = partial(self._write_table, self.volumes)
            if self.series is not None and self.segmentation.any():
                writers["dicom_seg"] = partial(self._write_dicom_seg, self.segmentation, self.series)
        if self.parcels is not None:
            writers["parcel_table"] = write_parcel_table
            writers["parcel_volumes"] = partial(self._write_table, self.parcel_volumes)
        return writers if is_slice(self.source) else writers | {"qc_image": self._draw}

    def _writers_of_volumes(self) -> dict[str, Callable[[Path], None]]:
        kinds = {
            **dict.fromkeys(SYNTHETIC_ROLES, self._write_image),
            "segmentation": self._write_labels,
            **dict.fromkeys(("probability", "entropy"), self._write_shares),
            **dict.fromkeys(("lesions", "intracranial", "parcels"), self._write_bytes),
        }
        volumes = {role: getattr(self, role) for role in kinds}
        return {role: partial(kinds[role], voxels) for role, voxels in volumes.items() if voxels is not None}

    def _write_image(self, image: np.ndarray, path: Path) -> None:
        write_image(image, self.source, path)

    def _write_labels(self, segmentation: np.ndarray, path: Path) -> None:
        write_like(segmentation, self.source, path, np.int16)

    def _write_shares(self, shares: np.ndarray, path: Path) -> None:
        write_shares(shares, self.source, path)

    def _write_bytes(self, mask: np.ndarray, path: Path) -> None:
        write_like(mask, self.source, path, np.uint8)

    @staticmethod
    def _write_table(measured: Callable[[], pd.DataFrame | None], path: Path) -> None:
        table = measured()
        assert table is not None
        table.to_csv(path, index=False, float_format="%.4f")

    @staticmethod
    def _write_dicom_seg(segmentation: np.ndarray, series: DicomSeries, path: Path) -> None:
        from midiff_monai.io.dicom.seg import write_dicom_seg  # highdicom is an optional dependency

        write_dicom_seg(segmentation, series, path)

    def _draw(self, path: Path) -> None:
        assert self.report.input is not None
        self.draw(path, readable_name(self.report.input))


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
