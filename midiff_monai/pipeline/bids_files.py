"""The JSON files of BIDS: the descriptions of data set and derivative, and the sidecars of the derivative's images."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from midiff_monai.errors import InputError, OutputError
from midiff_monai.io.inputs import Job
from midiff_monai.io.manifest import read_earlier_manifest
from midiff_monai.io.outputs import DEFAULT_TARGET, OutputPaths
from midiff_monai.io.paths import atomic_write, make_folder
from midiff_monai.io.placeholders import missing_file_error
from midiff_monai.pipeline.bids import suffix_of

BIDS_VERSION = "1.9.0"
DESCRIPTION = "dataset_description.json"

BIDSIGNORE = (
    "*_qc.png\n*_report.json\n*_error.json\n*_volumes.csv\n*_std.nii.gz\n*_error.nii.gz\n*_entropy.nii.gz\n"
    "/batch_report.*\n/volumes.csv\n/parcels.csv\n/index.html\n/_viewer\n"
)
"""Files of a derivative for which BIDS has no names."""

SIDECARS: dict[str, dict[str, Any]] = {
    "segmentation": {"Description": "FreeSurfer ids of brain structures by midiff", "Manual": False},
    "lesions": {"Description": "White matter lesions by midiff", "Type": "Lesion", "Manual": False},
    "probability": {"Description": "Probability of the label of a voxel by midiff", "Manual": False},
    "intracranial": {"Description": "Space inside the skull by midiff", "Type": "Brain", "Manual": False},
    "parcels": {"Description": "MUSE ids of regions of cortex and white matter by midiff", "Manual": False},
}
"""Role of an image → what its sidecar says of it."""


def check_dataset(dataset: Path) -> None:
    """Check that a folder has the description of a BIDS data set.

    Raises:
        InputError: it has none, or an incomplete one.
    """
    description = dataset / DESCRIPTION
    try:
        facts = _read_json(description)
    except FileNotFoundError:
        if not dataset.exists():
            raise missing_file_error(dataset) from None
        if description.is_symlink():
            raise missing_file_error(description) from None
        raise InputError(description, "does not exist", "Name the root of a BIDS data set") from None
    except (OSError, ValueError) as error:
        raise InputError(description, f"cannot be read ({error})", "Check it with the BIDS validator") from error
    if not isinstance(facts, dict) or not {"Name", "BIDSVersion"} <= facts.keys():
        raise InputError(description, "lacks Name or BIDSVersion", "Check it with the BIDS validator")


def _read_json(path: Path) -> Any:
    """Read JSON in UTF-8, UTF-16 or UTF-32 with or without a byte order mark, otherwise in Latin-1."""
    content = path.read_bytes()
    try:
        return json.loads(content)
    except UnicodeDecodeError:
        return json.loads(content.decode("latin-1"))


def check_own(dataset: Path, output: Path) -> None:
    """Check that an output folder is not the data set itself or the derivative of another tool.

    Raises:
        OutputError: it is.
    """
    hint = f"Choose a separate folder for the derivative, such as {dataset / 'derivatives' / 'midiff'}"
    if output.resolve() == dataset.resolve():
        raise OutputError(output, "is the data set itself", hint)
    description = output / DESCRIPTION
    if description.exists():
        try:
            makers = [maker["Name"] for maker in _read_json(description)["GeneratedBy"]]
        except (OSError, ValueError, LookupError, TypeError):
            makers = []
        if "midiff-monai" not in makers:
            raise OutputError(description, "was not made by midiff", hint)


def write_description(dataset: Path, output: Path) -> None:
    """Write the description of the derivative and its `.bidsignore`.

    Raises:
        OutputError: the folder is the data set or another derivative, or cannot be written.
    """
    check_own(dataset, output)
    description = {
        "Name": "midiff: synthetic volumes and segmentations",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "License": "see the source data set",
        "GeneratedBy": [{"Name": "midiff-monai", "Version": metadata.version("midiff-monai")}],
        "SourceDatasets": [{"URL": dataset.resolve().as_uri()}],
        "DatasetLinks": {"raw": os.path.relpath(dataset.resolve(), output.resolve())},
    }
    make_folder(output)
    _write_json(description, output / DESCRIPTION)
    with atomic_write(output / ".bidsignore") as temporary:
        temporary.write_text(BIDSIGNORE, encoding="utf-8")


def write_sidecars(jobs: Iterable[Job], dataset: Path) -> None:
    """Write the JSON sidecars of the existing result images."""
    for job in (job for job in jobs if not job.exclusion_reason):
        sources = [f"bids:raw:{file.relative_to(dataset).as_posix()}" for file in job.files]
        common = {"Sources": sources, "SpatialReference": sources[0] if len(sources) > 1 else "orig"}
        for role, facts in _facts_of_images(job.paths).items():
            _write_json(common | facts, _sidecar(getattr(job.paths, role)))


def _facts_of_images(paths: OutputPaths) -> dict[str, dict[str, Any]]:
    """Role of an existing image → what its sidecar says of it."""
    found = {role: facts for role, facts in SIDECARS.items() if getattr(paths, role).is_file()}
    if "segmentation" in found:
        found["segmentation"] = found["segmentation"] | _quality(paths)
    if paths.synthetic.is_file():
        found["synthetic"] = _facts_of_synthetic(paths)
    return found


def _quality(paths: OutputPaths) -> dict[str, Any]:
    """The expected Dice of a segmentation, as it stands in the manifest of its run; those of old versions have none."""
    quality = read_earlier_manifest(paths).get("quality")
    return {"ExpectedDice": quality} if quality else {}


def _facts_of_synthetic(paths: OutputPaths) -> dict[str, Any]:
    from midiff_monai.io.volumes import UNREADABLE
    from midiff_monai.pipeline.result import shows_only_brain  # heavy, and not needed to check a data set

    target = suffix_of(paths.synthetic)
    facts: dict[str, Any] = {"Description": f"{target} contrast made from another contrast by midiff"}
    if target == DEFAULT_TARGET:
        with suppress(*UNREADABLE, ValueError):  # the batch reports damaged or edited volumes
            facts["SkullStripped"] = shows_only_brain(paths)
    return facts


def _sidecar(image: Path) -> Path:
    return image.with_name(image.name.removesuffix(".nii.gz") + ".json")


def _write_json(facts: dict[str, Any], path: Path) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(facts, indent=2) + "\n", encoding="ascii")
