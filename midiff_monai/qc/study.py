"""What a folder of results holds: one subject a run manifest, and those inputs of a batch that left none."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from midiff_monai.errors import InputError, in_one_line
from midiff_monai.io.manifest import with_current_roles
from midiff_monai.io.paths import VOLUME_SUFFIXES, atomic_write, volume_stem
from midiff_monai.io.volumes import UNREADABLE, read_volume
from midiff_monai.labels import STRUCTURES
from midiff_monai.provenance import sha256

SCAN = (
    r"^(?P<participant_id>sub-[0-9a-zA-Z]+)(?:_(?P<session_id>ses-[0-9a-zA-Z]+))?"
    r"(?:.*_(?P<suffix>[0-9a-zA-Z]+)\.)?"
)
"""What the name of a scan tells in BIDS."""

CONTRAST = re.compile(r"(?:.*[_.-])?(T1w?|T2w?|T2star|PDw?|FLAIR|SWI|CT|PETw?|inplaneT[12])", re.IGNORECASE)
"""The name of a scan, without its suffix, that ends in that of a contrast."""

REPORT_SUFFIX = "_report.json"
ERROR_SUFFIX = "_error.json"
IMAGE_ROLES = ("synthetic", "synthetic_std", "segmentation")
BATCH_REPORT = Path("batch_report.csv")
EXCLUDED = ("excluded", "passed over")
"""The status of an input that was left out; the second is that of version 0.3 and before."""

LAST = "9999"
"""Later than any time in ISO 8601."""


@dataclass
class Subject:
    """One input volume of a study and what came of it.

    Attributes:
        name: of the results, the input's file name without its suffix; of a failed input its whole file name.
        input: the volume's path as it was given.
        status: "done", "skipped", "failed" or "pending".
        seconds: that it took, None where unknown.
        warnings: sentences for the reader; grows where a file cannot be shown.
        error: why it failed, else empty.
        report_path: its manifest, None where there is none.
        report: the manifest, empty where there is none.
        told: the time of this, in ISO 8601; `LAST` where the last batch tells it, empty where unknown.
    """

    name: str
    input: str
    status: str = "done"
    seconds: float | None = None
    warnings: list[str] = field(default_factory=list)
    error: str = ""
    report_path: Path | None = None
    report: dict[str, Any] = field(default_factory=dict)
    updated_at: str = ""

    def output(self, role: str) -> Path | None:
        """The file that was written in a role of `paths.OutputPaths`, None where there is none.

        It is looked for beside the manifest: a study may have been moved since.
        """
        recorded = self.report.get("outputs", {}).get(role)
        if recorded is None or self.report_path is None:
            return None
        path = self.report_path.with_name(Path(recorded).name)
        return path if path.is_file() else None

    def files(self) -> list[Path]:
        """What `volumes` and `images` read: the files of the input, there or not, and the outputs that are there."""
        outputs = map(self.output, ("volumes", *IMAGE_ROLES))
        return [*self._input_files(), *(path for path in outputs if path is not None)]

    def volumes(self) -> dict[int, float]:
        """Millilitres by FreeSurfer id; empty where nothing was segmented. A damaged table becomes a warning."""
        path = self.output("volumes")
        if path is None:
            return {}
        try:
            table = pd.read_csv(path, na_filter=False)
            return dict(zip(table["id"].astype(int), table["volume_ml"].astype(float), strict=True))
        except (ValueError, LookupError) as error:
            self.warnings.append(f"{path.name} cannot be read: {in_one_line(error)}.")
            return {}

    def images(self) -> Images | None:
        """Read the volumes that are still there; what cannot be read becomes a warning. None where there is none."""
        source = self._source()
        outputs = {role: self._read(role) for role in IMAGE_ROLES}
        shown = (source, outputs["synthetic"], outputs["segmentation"])
        found = [image for image in shown if image is not None]
        if not found:
            return None
        arrays = {role: None if image is None else np.asanyarray(image.dataobj) for role, image in outputs.items()}
        return Images(found[0].affine, None if source is None else np.asarray(source.dataobj), **arrays)

    def _source(self) -> nib.Nifti1Image | None:
        if not self.report:
            return None
        files = self._input_files()
        try:
            if all(file.is_file() for file in files) and sha256(*files) == self.report["input"]["sha256"]:
                is_volume = self.input.lower().endswith(VOLUME_SUFFIXES)
                return read_volume(self.input) if is_volume else self._read_series(files)
            fault = "has changed since" if files[0].exists() else "is not there any more"
            self.warnings.append(f"The input cannot be shown: {self.input} {fault}.")
        except (InputError, OSError) as error:
            self.warnings.append(f"The input cannot be shown: {error}")
        return None

    def _input_files(self) -> tuple[Path, ...]:
        return tuple(map(Path, self.report["input"].get("files") or [self.input]))

    def _read_series(self, files: tuple[Path, ...]) -> nib.Nifti1Image:
        from midiff_monai.io.dicom.reader import DicomSeries, read_series  # an extra

        return read_series(DicomSeries(files, uid="", modality="", description="", name=self.name))

    def _read(self, role: str) -> nib.Nifti1Image | None:
        path = self.output(role)
        if path is None:
            return None
        try:
            image = nib.Nifti1Image.from_filename(path)
            return nib.Nifti1Image(np.asanyarray(image.dataobj).reshape(image.shape[:3]), image.affine)
        except UNREADABLE as error:
            self.warnings.append(f"{path.name} cannot be read: {error}.")
            return None


@dataclass(frozen=True)
class Images:
    """A subject's volumes (X, Y, Z) on one grid, None where there is none.

    Attributes:
        affine: voxel to RAS mm.
        source: the input.
        synthetic: the synthetic T1w in [0, 1].
        synthetic_std: its standard deviation over samples.
        segmentation: FreeSurfer ids.
    """

    affine: NDArray[np.float64]
    source: NDArray | None
    synthetic: NDArray | None
    synthetic_std: NDArray | None
    segmentation: NDArray | None

    @property
    def intensity_images(self) -> dict[str, NDArray]:
        """Of source and synthetic T1w, those that there are."""
        volumes = {"source": self.source, "synthetic": self.synthetic}
        return {role: volume for role, volume in volumes.items() if volume is not None}

    @property
    def structures(self) -> NDArray:
        """The segmentation, or zeros where there is none."""
        if self.segmentation is not None:
            return self.segmentation
        shown = next(iter(self.intensity_images.values()))
        return np.zeros(shown.shape, np.uint8)


def read_study(folder: Path) -> list[Subject]:
    """Read every manifest and error in a folder and the folders below it, and the batch's own list, if there is one.

    Returns:
        Subjects by name; the batch's entry, where there is one, decides on status, time and error, but for a failure
        that another run has mended, and for what the batch did not come to and another run has done since. Of results
        beside one another that are of one input, the last.

    Raises:
        InputError: the batch's list is not as a batch leaves it.
    """
    found = ((path, _read_manifest(path)) for path in folder.rglob(f"[!.]*{REPORT_SUFFIX}"))
    subjects = {path.relative_to(folder).as_posix(): subject for path, subject in found if subject}
    for path in folder.rglob(f"[!.]*{ERROR_SUFFIX}"):
        manifest = path.with_name(path.name.removesuffix(ERROR_SUFFIX) + REPORT_SUFFIX)
        with suppress(OSError, ValueError, LookupError, TypeError):  # of another tool
            row = json.loads(path.read_text(encoding="utf-8"))
            _merge(subjects, row | {"report": manifest.relative_to(folder).as_posix()}, row.get("ended", ""))
    batch = folder / BATCH_REPORT
    if batch.is_file():
        table = _read_batch_report(batch)
        # where nothing beside the results tells of a failure any more, another run has made something since
        done = {place: subject.updated_at for place, subject in subjects.items() if subject.status == "done"}
        written = datetime.fromtimestamp(batch.stat().st_mtime, timezone.utc).isoformat(timespec="seconds")
        mended = table["report"].isin(done)
        later = table["report"].isin([place for place, updated_at in done.items() if updated_at > written])
        excluded = table["status"].isin(EXCLUDED) | (table["status"] == "failed") & mended
        excluded |= (table["status"] == "pending") & later
        for row in table[~excluded].to_dict("records"):
            _merge(subjects, row, LAST)
    return sorted(_last_of_each_input(subjects), key=lambda subject: (subject.name, subject.input))


def _read_batch_report(path: Path) -> pd.DataFrame:
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding_errors="surrogateescape")
        return table[["input", "status", "seconds", "warnings", "error", "report"]]
    except (ValueError, LookupError) as error:  # saved anew by a spreadsheet, or empty
        hint = "Delete it, for the reports of the volumes tell the same, or run the batch again"
        raise InputError(path, "is not the list that a batch writes", hint) from error


def _last_of_each_input(subjects: dict[str, Subject]) -> list[Subject]:
    """Leave out what earlier runs made of an input under another name.

    In a folder of results the name of an input stands for one volume, but not always for one name of its results: in
    BIDS a scan that comes in addition can change it.
    """
    last: dict[tuple[Path, str], Subject] = {}
    for place, subject in sorted(subjects.items(), key=lambda item: item[1].updated_at):
        last[Path(place).parent, _input_key(subject) or place] = subject
    return list(last.values())


def _input_key(subject: Subject) -> str:
    """What an input goes by: its name, or of a DICOM series, whose name depends on those beside it, its hash."""
    source = subject.report.get("input", {})
    return source["sha256"] if source.get("files") else Path(subject.input).name


def contrast(scan: str) -> str:
    """The contrast by which a scan's name ends, such as PDw, in BIDS whatever its suffix is; else empty."""
    name = Path(scan).name
    if (bids := re.match(SCAN, name)) and bids["suffix"]:
        return bids["suffix"]
    named = CONTRAST.fullmatch(volume_stem(name) if name.lower().endswith(VOLUME_SUFFIXES) else name)
    return named[1] if named else ""


def write_volumes_table(folder: Path) -> Path:
    """Write `volumes.csv`: the volumes of the structures of every result below a folder, in millilitres.

    One row a segmented volume, in the order of their names; `input`, then `participant_id`, `session_id` and `suffix`
    where the inputs' names are those of BIDS, then one column a structure. What an earlier run made of a volume that
    has failed since, was not reached, or was done in another way that does not segment, is left out.
    """
    done = [subject for subject in read_study(folder) if subject.status in ("done", "skipped")]
    segmented = [(subject.input, volumes) for subject in done if (volumes := subject.volumes())]
    inputs = pd.Series([path for path, _ in segmented], dtype=str, name="input")
    names = pd.Series([Path(path).name for path, _ in segmented], dtype=str)
    scans = names.str.extract(SCAN).dropna(axis="columns", how="all")
    structures = [structure.name for structure in STRUCTURES[1:]]
    volumes = pd.DataFrame([_by_name(volumes) for _, volumes in segmented], columns=structures)
    path = folder / "volumes.csv"
    with atomic_write(path) as temporary:
        table = pd.concat([inputs, scans, volumes], axis="columns")
        table.to_csv(temporary, index=False, float_format="%.4f", errors="surrogateescape")
    return path


def _by_name(volumes: dict[int, float]) -> dict[str, float | None]:
    return {structure.name: volumes.get(structure.id) for structure in STRUCTURES[1:]}


def _read_manifest(path: Path) -> Subject | None:
    """What a manifest tells; None where another tool, or a batch, has such a name for something else."""
    name = path.name.removesuffix(REPORT_SUFFIX)
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        if "command" not in report:
            return None
        report = with_current_roles(report)
        source, updated_at = report["input"]["path"], report["started"]
        seconds = sum(report["timings_seconds"].values())
        if not report["complete"]:
            error = "was interrupted while its files were written"
            return Subject(name, source, "failed", error=error, updated_at=updated_at)
        return Subject(name, source, "done", seconds, list(report["warnings"]), "", path, report, updated_at)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        return Subject(name, "", "failed", error=f"{path.name} is no run manifest ({error})")


def _merge(subjects: dict[str, Subject], row: dict[str, str], updated_at: str) -> None:
    """Lay one row of the batch's list over the subject whose manifest it names, or make a subject of it."""
    status, error, warnings = row["status"], row["error"], row["warnings"]
    seconds = float(row["seconds"]) if row["seconds"] else None
    subject = subjects.setdefault(row["report"], Subject(Path(row["input"]).name, row["input"]))
    subject.status, subject.error, subject.updated_at = status, error, updated_at
    subject.seconds = subject.seconds if seconds is None else seconds
    if warnings and not subject.report:
        subject.warnings.append(warnings)
