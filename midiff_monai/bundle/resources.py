"""Finds the bundles and the preprocessing overlays in a checkout or in an installed wheel."""

from __future__ import annotations

from pathlib import Path

from midiff_monai.errors import BundleError

_PACKAGE = Path(__file__).resolve().parents[1]


def available_bundles() -> list[str]:
    """List the names of the bundles, sorted. A bundle is a folder with `configs/metadata.json`."""
    return sorted(metadata.parents[1].name for metadata in _folder("bundles").glob("*/configs/metadata.json"))


def available_overlays() -> list[str]:
    """List the names of the preprocessing overlays, sorted: the file names in `transforms/` without `.yaml`."""
    return sorted(overlay.stem for overlay in _folder("transforms").glob("*.yaml"))


def bundle_root(name: str) -> Path:
    """Find the folder of a bundle, which holds `configs/` and `models/`.

    Raises:
        BundleError: the bundle does not exist. The message lists the available ones.
    """
    return _known(_folder("bundles") / name, name, available_bundles())


def overlay_path(name: str) -> Path:
    """Find the YAML file of a preprocessing overlay, which is merged over the configuration of a bundle.

    Raises:
        BundleError: the overlay does not exist. The message lists the available ones.
    """
    return _known(_folder("transforms") / f"{name}.yaml", name, available_overlays())


def _known(path: Path, name: str, available: list[str]) -> Path:
    if name not in available:
        raise BundleError(path, "does not exist", f"Available are: {', '.join(available) or 'none'}")
    return path


def _folder(kind: str) -> Path:
    """Find a folder: inside the package in a wheel, beside the package in a checkout."""
    installed = _PACKAGE / "_resources" / kind
    return installed if installed.is_dir() else _PACKAGE.parent / kind
