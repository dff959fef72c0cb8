"""One input volume of a study, its status, and the files of its results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import nan
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from midiff_monai.errors import InputError, in_one_line
from midiff_monai.io.frames import read_frames
from midiff_monai.io.headers import choose_affine
from midiff_monai.io.outputs import UNIT_RANGE
from midiff_monai.io.paths import VOLUME_SUFFIXES
from midiff_monai.io.volumes import UNREADABLE
from midiff_monai.labels import LESIONS
from midiff_monai.provenance import sha256
from midiff_monai.qc.flags import Flag
from midiff_monai.qc.layers import LAYERS, Layer

IMAGE_ROLES = ("synthetic", "synthetic_std", "lesions", *(layer.role for layer in LAYERS))


@dataclass(frozen=True)
class Images:
    """A subject's volumes (X, Y, Z) on one grid, None where a volume is missing.

    Attributes:
        affine: voxel to RAS mm.
        source: the input.
        synthetic: the synthetic T1w in [0, 1].
        synthetic_std: its standard deviation over samples.
        segmentation: FreeSurfer ids.
        lesions: mask of the white matter lesions.
        parcels: ids of `parcels.PARCELS`.
        intracranial: mask of what the inner skull encloses.
        probability: probability of the label of each voxel, 0 without a label.
        entropy: entropy of the probabilities of all labels, in [0, 1], 0 without a label.
        synthetic_error: expected absolute error of the synthetic T1w.
    """

    affine: NDArray[np.float64]
    source: NDArray | None
    synthetic: NDArray | None
    synthetic_std: NDArray | None
    segmentation: NDArray | None
    lesions: NDArray | None = None
    parcels: NDArray | None = None
    intracranial: NDArray | None = None
    probability: NDArray | None = None
    entropy: NDArray | None = None
    synthetic_error: NDArray | None = None

    @property
    def intensity_images(self) -> dict[str, NDArray]:
        """Source and synthetic T1w by their roles, without those that are missing."""
        volumes = {"source": self.source, "synthetic": self.synthetic}
        return {role: volume for role, volume in volumes.items() if volume is not None}

    @property
    def structures(self) -> NDArray:
        """The segmentation, with lesions as `labels.LESIONS`; zeros if it is missing."""
        if self.segmentation is not None:
            lesions = False if self.lesions is None else self.lesions > 0
            return np.where(lesions, LESIONS.id, self.segmentation)
        shown = next(iter(self.intensity_images.values()))
        return np.zeros(shown.shape, np.uint8)

    def drawn(self, layer: Layer) -> NDArray | None:
        """Return what the viewer draws: the segmentation with its lesions, and numbers within the segmented brain.

        The expected error of scalp and air was never compared with a true one. Without a segmentation, all is drawn.
        """
        volume: NDArray | None = getattr(self, layer.role)
        if volume is None or self.segmentation is None:
            return volume
        if layer.role == "segmentation":
            return self.structures
        return np.where(self.segmentation > 0, volume, 0) if layer.colours else volume


@dataclass(frozen=True)
class Subject:
    """One input volume of a study and the outcome of its processing.

    Attributes:
        name: file name of the input without its suffix; the whole file name if no manifest exists.
        input: path of the input as it was given.
        status: "done", "skipped" (done by an earlier run), "failed" or "pending" (not started).
        seconds: duration of the run, None where unknown.
        warnings: sentences for the reader of the result, those of the flags included.
        flags: automatic flags that the run raised.
        error: why the run failed, else empty.
        report_path: the run manifest of a complete run, else None.
        report: its content, else empty.
    """

    name: str
    input: str
    status: str
    seconds: float | None = None
    warnings: tuple[str, ...] = ()
    flags: tuple[Flag, ...] = ()
    error: str = ""
    report_path: Path | None = None
    report: Mapping[str, Any] = field(default_factory=dict)

    @property
    def quality(self) -> float:
        """Expected mean Dice of the segmentation, in [0, 1]; NaN where the manifest does not have it."""
        return float(self.report.get("quality", {}).get("score", nan))

    @property
    def intensity_range(self) -> tuple[float, float]:
        """Intensities of the synthetic volume where the network gives 0 and 1."""
        low, high = self.report.get("intensity_range", UNIT_RANGE)
        return float(low), float(high)

    @property
    def scans(self) -> tuple[str, ...]:
        """The input, and the further scans that were translated together with it. A scan can be a frame of a file."""
        return (self.input, *(scan["path"] for scan in self.report.get("together", ())))

    def output(self, role: str) -> Path | None:
        """Return the file that was written in a role of `midiff_monai.io.outputs.OutputPaths`, None if it is missing.

        The file is looked up beside the manifest, because the study may have been moved.
        """
        recorded = self.report.get("outputs", {}).get(role)
        if recorded is None or self.report_path is None:
            return None
        path = self.report_path.with_name(Path(recorded).name)
        return path if path.is_file() else None

    def files(self) -> list[Path]:
        """List what `volumes` and `images` read: the files of the input, present or not, and the outputs present."""
        outputs = map(self.output, ("volumes", *IMAGE_ROLES))
        return [*self._input_files(), *(path for path in outputs if path is not None)]

    def volumes(self) -> tuple[dict[int, float], list[str]]:
        """Read the volumes of the structures.

        Returns:
            Millilitres by FreeSurfer id, empty without a segmentation; a warning if the table is damaged.
        """
        path = self.output("volumes")
        if path is None:
            return {}, []
        try:
            table = self._table
            table = table[table["id"] != ""]  # totals have no id
            return dict(zip(table["id"].astype(int), table["volume_ml"].astype(float), strict=True)), []
        except (ValueError, LookupError) as error:
            return {}, [f"{path.name} cannot be read: {in_one_line(error)}."]

    @cached_property
    def _table(self) -> pd.DataFrame:
        """The rows of the table of volumes. Raises ValueError if it is damaged."""
        path = self.output("volumes")
        assert path is not None
        return pd.read_csv(path, na_filter=False)

    def measured(self, name: str, column: str = "volume_ml") -> float:
        """Read a value from the row `name` of an intact table of volumes; NaN where it is not known."""
        if self.output("volumes") is None:
            return nan
        table = self._table.reindex(columns=["name", column])
        known = pd.to_numeric(table.loc[table["name"] == name, column], errors="coerce")
        return float(known.iloc[0]) if len(known) else nan

    def images(self) -> tuple[Images | None, list[str]]:
        """Read the input and the images of the results.

        Returns:
            The images, None if neither input, synthetic T1w nor segmentation is readable; a warning for each file
            that cannot be shown.
        """
        warnings: list[str] = []
        source = self._source(warnings)
        outputs = {role: self._read(role, warnings) for role in IMAGE_ROLES}
        shown = (source, outputs["synthetic"], outputs["segmentation"])
        found = [image for image in shown if image is not None]
        if not found:
            return None, warnings
        arrays = {role: None if image is None else np.asanyarray(image.dataobj) for role, image in outputs.items()}
        source_array = None if source is None else np.asarray(source.dataobj)
        return Images(found[0].affine, source_array, **arrays), warnings

    def _source(self, warnings: list[str]) -> nib.Nifti1Image | None:
        """Read the input if it is still the file that the run read."""
        if not self.report:
            return None
        files = self._input_files()
        try:
            if all(file.is_file() for file in files) and sha256(*files) == self.report["input"]["sha256"]:
                is_volume = self.input.lower().endswith(VOLUME_SUFFIXES)
                return read_frames(Path(self.input))[0] if is_volume else self._read_series(files)
            fault = "has changed since the run" if files[0].exists() else "does not exist any more"
            warnings.append(f"The input cannot be shown: {self.input} {fault}.")
        except (InputError, OSError) as error:
            warnings.append(f"The input cannot be shown: {error}")
        return None

    def _input_files(self) -> tuple[Path, ...]:
        return tuple(map(Path, self.report["input"].get("files") or [self.input]))

    def _read_series(self, files: tuple[Path, ...]) -> nib.Nifti1Image:
        from midiff_monai.io.dicom.reader import read_series  # an optional dependency
        from midiff_monai.io.dicom.series import series_named

        return read_series(series_named(self.name, files))

    def _read(self, role: str, warnings: list[str]) -> nib.Nifti1Image | None:
        path = self.output(role)
        if path is None:
            return None
        try:
            image = nib.Nifti1Image.from_filename(path)
            return nib.Nifti1Image(np.asanyarray(image.dataobj).reshape(image.shape[:3]), choose_affine(image)[0])
        except UNREADABLE as error:
            warnings.append(f"{path.name} cannot be read: {error}.")
            return None
