"""Finds the bundles and the overlays of preprocessing and sampling in a checkout or in an installed wheel."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from midiff_monai.errors import BundleError

_PACKAGE = Path(__file__).resolve().parents[1]


def available_bundles() -> list[str]:
    """List the names of the bundles, sorted. A bundle is a folder with `configs/metadata.json`."""
    return sorted(metadata.parents[1].name for metadata in _folder("bundles").glob("*/configs/metadata.json"))


def trainable_bundles() -> list[str]:
    """List the names of the bundles that can be trained, sorted: those with `configs/train.yaml`."""
    return [name for name in available_bundles() if (_folder("bundles") / name / "configs" / "train.yaml").is_file()]


def available_overlays() -> list[str]:
    """List the names of the preprocessing overlays, sorted: the file names in `transforms/` without `.yaml`."""
    return sorted(overlay.stem for overlay in _folder("transforms").glob("*.yaml"))


def available_samplers() -> list[str]:
    """List the names of the samplers, sorted: the file names in `samplers/` without `.yaml`."""
    return sorted(sampler.stem for sampler in _folder("samplers").glob("*.yaml"))


def available_presets() -> list[str]:
    """List the names of the presets of data sets, sorted: the file names in `presets/` without `.yaml`."""
    return sorted(preset.stem for preset in _folder("presets").glob("*.yaml"))


def bundle_root(name: str | Path) -> Path:
    """Find the folder of a bundle, which holds `configs/` and `models/`.

    Args:
        name: name of a bundle that came with the package, or the path of the folder of any other.

    Raises:
        BundleError: the bundle does not exist. The message lists the available ones.
    """
    if str(name) in available_bundles():
        return _folder("bundles") / name
    if name and metadata_path(name).is_file():
        return Path(name).resolve()
    hint = f"Available are: {', '.join(available_bundles()) or 'none'}; or name the folder of a bundle of your own"
    raise BundleError(name or "''", "is not a bundle", hint)


def metadata_path(root: str | Path) -> Path:
    """The file with the metadata of a bundle."""
    return Path(root) / "configs" / "metadata.json"


def read_metadata(root: str | Path, needed: Sequence[str] = ()) -> dict[str, Any]:
    """Read `configs/metadata.json` of a bundle.

    Args:
        root: folder of the bundle.
        needed: keys that it must have.

    Raises:
        BundleError: it is no JSON object, or lacks a key that is needed.
    """
    path = metadata_path(root)
    try:
        metadata = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise BundleError(path, f"cannot be read ({error})", "Correct it, or restore the file") from error
    check_metadata(root, metadata, needed)
    return metadata


def check_metadata(root: str | Path, metadata: Mapping[str, Any], needed: Sequence[str]) -> None:
    """Check that the metadata of a bundle have the keys that are needed. Raises BundleError if they have not."""
    for key in needed:
        if key not in metadata:
            raise BundleError(metadata_path(root), f"lacks {key!r}", "Add it, as in the metadata of a shipped bundle")


def overlay_path(name: str) -> Path:
    """Find the YAML file of a preprocessing overlay, which is merged over the configuration of a bundle.

    Raises:
        BundleError: the overlay does not exist. The message lists the available ones.
    """
    path = _folder("transforms") / f"{name}.yaml"
    if name not in available_overlays():
        raise BundleError(path, "does not exist", f"Available are: {', '.join(available_overlays()) or 'none'}")
    return path


def sampler_path(name: str) -> Path:
    """The YAML file of one of `available_samplers`, which is merged over the configuration of a translation."""
    return _folder("samplers") / f"{name}.yaml"


def preset_path(name: str) -> Path:
    """The YAML file of one of `available_presets`."""
    return _folder("presets") / f"{name}.yaml"


@dataclass(frozen=True)
class Preset:
    """What reading a scan must know of a preprocessing overlay.

    Attributes:
        dicom_modality: its DICOM modality, such as "MR" or "CT"; empty if the overlay names none.
        absolute: its intensities have an absolute scale, see `ClearBackgroundd`.
    """

    dicom_modality: str
    absolute: bool


def read_preset(name: str | None) -> Preset:
    """Read an overlay. Without one, scans are MR.

    Raises:
        BundleError: the overlay does not exist. The message lists the available ones.
    """
    if name is None:
        return Preset("MR", absolute=False)
    import yaml

    overlay = yaml.safe_load(overlay_path(name).read_text(encoding="utf-8")) or {}
    absolute = bool(overlay.get("clear_background", {}).get("absolute", False))
    return Preset(overlay.get("dicom_modality", ""), absolute)


def _folder(kind: str) -> Path:
    """Find a folder: inside the package in a wheel, beside the package in a checkout."""
    installed = _PACKAGE / "_resources" / kind
    return installed if installed.is_dir() else _PACKAGE.parent / kind
