"""The files that a run writes for one volume: their roles, their names, and the stage that makes them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from midiff_monai.io.paths import SLICE_SUFFIXES, is_slice_name, volume_stem

Stage = Literal["translation", "segmentation", "check", "record"]


@dataclass(frozen=True)
class Output:
    """One kind of output file.

    Attributes:
        role: name of the file in `OutputPaths` and in the run manifest.
        suffix: end of the file name, after the stem of the input. `{target}` takes the target modality.
        bids: end of the file name in a BIDS derivative. `{scan}` takes the input's suffix where a description needs it.
        stage: the stage of a run that makes the file.
    """

    role: str
    suffix: str
    bids: str
    stage: Stage


VOLUME_SUFFIX = ".nii.gz"
"""Format of the results of a volume."""

SEGMENTATION_SUFFIX = f"_dseg{VOLUME_SUFFIX}"
"""End of the name of a label map, after the stem of the input."""

DEFAULT_TARGET = "T1w"
"""The target modality of the shipped translation."""

UNIT_RANGE = (0.0, 1.0)
"""Intensities of a synthetic volume whose target has no scale of its own."""

TARGET = re.compile("[0-9A-Za-z]+")
"""Name of a target modality. It is a part of file names, and the suffix of a BIDS derivative."""

SYNTHETIC_ROLES = ("synthetic", "synthetic_std", "synthetic_error")
"""Roles of the images whose intensities are those of the target."""

OUTPUTS = (
    Output("synthetic", "_synth{target}.nii.gz", "_desc-synthetic{scan}_{target}.nii.gz", "translation"),
    Output("synthetic_std", "_synth{target}_std.nii.gz", "_desc-synthetic{scan}_std.nii.gz", "translation"),
    Output("synthetic_error", "_synth{target}_error.nii.gz", "_desc-synthetic{scan}_error.nii.gz", "translation"),
    Output("segmentation", SEGMENTATION_SUFFIX, "_desc-midiff{scan}_dseg.nii.gz", "segmentation"),
    Output(
        "probability",
        "_desc-probability_probseg.nii.gz",
        "_desc-probability{scan}_probseg.nii.gz",
        "segmentation",
    ),
    Output("entropy", "_desc-probability_entropy.nii.gz", "_desc-probability{scan}_entropy.nii.gz", "segmentation"),
    Output("lesions", "_desc-lesions_mask.nii.gz", "_desc-lesions{scan}_mask.nii.gz", "segmentation"),
    Output("intracranial", "_desc-intracranial_mask.nii.gz", "_desc-intracranial{scan}_mask.nii.gz", "segmentation"),
    Output("parcels", "_desc-parcels_dseg.nii.gz", "_desc-parcels{scan}_dseg.nii.gz", "segmentation"),
    Output("parcel_table", "_desc-parcels_dseg.tsv", "_desc-parcels{scan}_dseg.tsv", "segmentation"),
    Output("parcel_volumes", "_desc-parcels_volumes.csv", "_desc-parcels{scan}_volumes.csv", "segmentation"),
    Output("dicom_seg", "_dseg.dcm", "_desc-midiff{scan}_dseg.dcm", "segmentation"),
    Output("label_table", "_dseg.tsv", "_desc-midiff{scan}_dseg.tsv", "segmentation"),
    Output("volumes", "_volumes.csv", "_desc-midiff{scan}_volumes.csv", "segmentation"),
    Output("qc_image", "_qc.png", "_desc-midiff{scan}_qc.png", "check"),
    Output("report", "_report.json", "_desc-midiff{scan}_report.json", "record"),
    Output("error", "_error.json", "_desc-midiff{scan}_error.json", "record"),
)
"""Every file that a run can write for one volume."""


@dataclass(frozen=True)
class OutputPaths:
    """The paths of the files that a run can write for one volume. The fields are the roles of `OUTPUTS`.

    Attributes:
        synthetic: the synthetic volume of the target modality.
        synthetic_std: its voxelwise standard deviation over several samples.
        synthetic_error: its expected absolute error.
        segmentation: label map on the grid of the input.
        probability: probability of the label of each voxel.
        entropy: entropy of the probabilities of all labels.
        lesions: mask of the white matter lesions, if the contrast of the input shows them.
        intracranial: mask of what the inner skull encloses, of a whole head.
        parcels: label map of the regions of cortex and white matter, if they are wanted.
        parcel_table: index, name, colour and lobe of each region.
        parcel_volumes: volume of each region in millilitres.
        dicom_seg: the segmentation as DICOM SEG, for a DICOM series only.
        label_table: index, name and colour of each label.
        volumes: volume of each structure in millilitres.
        qc_image: mosaic for visual quality control.
        report: the run manifest.
        error: the reason of a failure in a batch. It is removed once the volume is done.
    """

    synthetic: Path
    synthetic_std: Path
    synthetic_error: Path
    segmentation: Path
    probability: Path
    entropy: Path
    lesions: Path
    intracranial: Path
    parcels: Path
    parcel_table: Path
    parcel_volumes: Path
    dicom_seg: Path
    label_table: Path
    volumes: Path
    qc_image: Path
    report: Path
    error: Path


def roles_of(*stages: Stage) -> list[str]:
    """The roles of the files that these stages make, in the order of `OUTPUTS`."""
    return [output.role for output in OUTPUTS if output.stage in stages]


def output_paths(input: str | Path, out_dir: str | Path, target: str = DEFAULT_TARGET) -> OutputPaths:
    """Name the output files of an input that is translated to `target`. Nothing is created.

    The results of a slice have the format of the slice.

    Raises:
        InputError: the input's suffix is that of neither a volume nor a slice.
    """
    suffix = Path(input).suffix if is_slice_name(input) else VOLUME_SUFFIX
    return named_outputs(volume_stem(input), out_dir, target, suffix)


def outputs_beside(segmentation: Path) -> OutputPaths:
    """Name the output files of the input that a label map of midiff belongs to. They need not exist."""
    return named_outputs(segmentation.name.removesuffix(SEGMENTATION_SUFFIX), segmentation.parent)


def named_outputs(
    stem: str, out_dir: str | Path, target: str = DEFAULT_TARGET, suffix: str = VOLUME_SUFFIX
) -> OutputPaths:
    """Name the output files of an input whose file name without suffix is `stem`; its results end in `suffix`."""

    def name(output: Output) -> Path:
        return Path(out_dir) / f"{stem}{output.suffix.format(target=target)}".replace(VOLUME_SUFFIX, suffix)

    return _paths(name)


def bids_outputs(entities: str, folder: Path, suffix: str = "", target: str = DEFAULT_TARGET) -> OutputPaths:
    """Name the output files of a scan as BIDS derivatives.

    Args:
        entities: the scan's entities, for example "sub-01_ses-2".
        folder: folder of the files.
        suffix: the scan's suffix, for example "PDw", where the entities alone are ambiguous.
        target: the modality of the synthetic volume, its suffix in BIDS.
    """
    return _paths(lambda output: folder / f"{entities}{output.bids.format(scan=suffix, target=target)}")


def _paths(name: Callable[[Output], Path]) -> OutputPaths:
    return OutputPaths(**{output.role: name(output) for output in OUTPUTS})


def in_range(image: Any, role: str, value_range: Sequence[float]) -> Any:
    """An image (X, Y, Z) of a role with the intensities of its target: 0 and 1 of a synthetic volume become the range.

    A standard deviation and an error are scaled only. Images of other roles stay as they are.
    """
    low, high = value_range
    if role not in SYNTHETIC_ROLES or (low, high) == UNIT_RANGE:
        return image
    return image * (high - low) + (low if role == "synthetic" else 0)


def report_beside(volume: Path) -> Path | None:
    """The run manifest that lies beside a volume or a picture if midiff wrote that file, else None.

    The name alone does not tell: a user's scan may be called X_dseg.nii.gz. The manifest beside it does.
    """
    return next((report for _, report in _possible_results(volume)), None)


def role_of_result(volume: Path) -> str | None:
    """The role of a volume that midiff wrote, else None; see `report_beside`."""
    # X_desc-synthetic_std.nii.gz could also be a synthetic volume of a target "std": the last role that fits counts
    return next((role for role, _ in reversed(_possible_results(volume))), None)


def _possible_results(volume: Path) -> list[tuple[str, Path]]:
    """The roles that the name of a volume allows, each with its run manifest, if that exists."""
    matches = ((role, pattern.fullmatch(volume.name), report) for role, pattern, report in _RESULTS)
    possible = [(role, volume.with_name(match.expand(report))) for role, match, report in matches if match]
    return [(role, report) for role, report in possible if report.is_file()]


def _result_patterns() -> list[tuple[str, re.Pattern[str], str]]:
    """Roles of output volumes, patterns of their names, and the name of the manifest that belongs to each."""
    report = next(output for output in OUTPUTS if output.role == "report")
    patterns = []
    for output in (output for output in OUTPUTS if output.suffix.endswith((VOLUME_SUFFIX, *SLICE_SUFFIXES))):
        patterns.append((output.role, _pattern(output.suffix), rf"\1{report.suffix}"))
        patterns.append((output.role, _pattern(output.bids), r"\1" + report.bids.replace("{scan}", r"\2")))
    return patterns


def _pattern(ending: str) -> re.Pattern[str]:
    """Pattern of the file names with an ending of `OUTPUTS`. Its groups: what comes before, and the scan's suffix."""
    escaped = re.escape(ending).replace(r"\{target\}", TARGET.pattern).replace(r"\{scan\}", "([0-9A-Za-z]*)")
    suffixes = "|".join(map(re.escape, (VOLUME_SUFFIX, *SLICE_SUFFIXES)))
    return re.compile(f"(.+){escaped.replace(re.escape(VOLUME_SUFFIX), f'(?i:{suffixes})')}")


_RESULTS = _result_patterns()
