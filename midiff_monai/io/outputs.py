"""The files that a run writes for one volume: their roles, their names, and the stage that makes them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from midiff_monai.io.paths import volume_stem

Stage = Literal["translation", "segmentation", "check", "record"]


@dataclass(frozen=True)
class Output:
    """One kind of output file.

    Attributes:
        role: name of the file in `OutputPaths` and in the run manifest.
        suffix: end of the file name, after the stem of the input.
        bids: end of the file name in a BIDS derivative. `{}` takes the input's suffix where a description needs it.
        stage: the stage of a run that makes the file.
    """

    role: str
    suffix: str
    bids: str
    stage: Stage


OUTPUTS = (
    Output("synthetic", "_synthT1w.nii.gz", "_desc-synthetic{}_T1w.nii.gz", "translation"),
    Output("synthetic_std", "_synthT1w_std.nii.gz", "_desc-synthetic{}_std.nii.gz", "translation"),
    Output("segmentation", "_dseg.nii.gz", "_desc-midiff{}_dseg.nii.gz", "segmentation"),
    Output("dicom_seg", "_dseg.dcm", "_desc-midiff{}_dseg.dcm", "segmentation"),
    Output("label_table", "_dseg.tsv", "_desc-midiff{}_dseg.tsv", "segmentation"),
    Output("volumes", "_volumes.csv", "_desc-midiff{}_volumes.csv", "segmentation"),
    Output("qc_image", "_qc.png", "_desc-midiff{}_qc.png", "check"),
    Output("report", "_report.json", "_desc-midiff{}_report.json", "record"),
    Output("error", "_error.json", "_desc-midiff{}_error.json", "record"),
)
"""Every file that a run can write for one volume."""


@dataclass(frozen=True)
class OutputPaths:
    """The paths of the files that a run can write for one volume. The fields are the roles of `OUTPUTS`.

    Attributes:
        synthetic: the synthetic T1w.
        synthetic_std: its voxelwise standard deviation over several samples.
        segmentation: label map on the grid of the input.
        dicom_seg: the segmentation as DICOM SEG, for a DICOM series only.
        label_table: index, name and colour of each label.
        volumes: volume of each structure in millilitres.
        qc_image: mosaic for visual quality control.
        report: the run manifest.
        error: the reason of a failure in a batch. It is removed once the volume is done.
    """

    synthetic: Path
    synthetic_std: Path
    segmentation: Path
    dicom_seg: Path
    label_table: Path
    volumes: Path
    qc_image: Path
    report: Path
    error: Path


def roles_of(*stages: Stage) -> list[str]:
    """The roles of the files that these stages make, in the order of `OUTPUTS`."""
    return [output.role for output in OUTPUTS if output.stage in stages]


def output_paths(input: str | Path, out_dir: str | Path) -> OutputPaths:
    """Name the output files of an input volume. Nothing is created.

    Raises:
        InputError: the input's suffix is not that of a volume.
    """
    return named_outputs(volume_stem(input), out_dir)


def named_outputs(stem: str, out_dir: str | Path) -> OutputPaths:
    """Name the output files of an input whose file name without suffix is `stem`."""
    return _paths(lambda output: Path(out_dir) / f"{stem}{output.suffix}")


def bids_outputs(entities: str, folder: Path, suffix: str = "") -> OutputPaths:
    """Name the output files of a scan as BIDS derivatives.

    Args:
        entities: the scan's entities, for example "sub-01_ses-2".
        folder: folder of the files.
        suffix: the scan's suffix, for example "PDw", where the entities alone are ambiguous.
    """
    return _paths(lambda output: folder / f"{entities}{output.bids.format(suffix)}")


def _paths(name: Callable[[Output], Path]) -> OutputPaths:
    return OutputPaths(**{output.role: name(output) for output in OUTPUTS})


def report_beside(volume: Path) -> Path | None:
    """The run manifest that lies beside a volume if midiff wrote that volume, else None.

    The name alone does not tell: a user's scan may be called X_dseg.nii.gz. The manifest beside it does.
    """
    matches = ((pattern.fullmatch(volume.name), report) for pattern, report in _RESULTS)
    candidates = (volume.with_name(match.expand(report)) for match, report in matches if match)
    return next((report for report in candidates if report.is_file()), None)


def _result_patterns() -> list[tuple[re.Pattern[str], str]]:
    """Patterns of the names of output volumes, and the name of the manifest that belongs to each."""
    report = next(output for output in OUTPUTS if output.role == "report")
    patterns = []
    for output in (output for output in OUTPUTS if output.suffix.endswith(".nii.gz")):
        before, after = map(re.escape, output.bids.split("{}"))
        patterns.append((re.compile(f"(.+){re.escape(output.suffix)}"), rf"\1{report.suffix}"))
        bids_report = r"\1" + report.bids.replace("{}", r"\2")
        patterns.append((re.compile(f"(.+){before}([0-9A-Za-z]*){after}"), bids_report))
    return patterns


_RESULTS = _result_patterns()
