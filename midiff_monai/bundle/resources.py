"""Finds the bundles and the preprocessing overlays, in a checkout or in an installed wheel."""

from __future__ import annotations

from pathlib import Path

from midiff_monai.errors import BundleError

_PACKAGE = Path(__file__).resolve().parents[1]


def available_bundles() -> list[str]:
    """Names of the bundles that came with the package, sorted: the folders that hold `configs/metadata.json`."""
    return sorted(metadata.parents[1].name for metadata in _folder("bundles").glob("*/configs/metadata.json"))


def available_overlays() -> list[str]:
    """Names of the preprocessing overlays, sorted: the stems of `transforms/*.yaml`."""
    return sorted(overlay.stem for overlay in _folder("transforms").glob("*.yaml"))


def bundle_root(name: str) -> Path:
    """Folder of a bundle, the one that holds `configs/` and `models/`.

    Raises:
        BundleError: no such bundle; the message lists those that exist.
    """
    return _known(_folder("bundles") / name, name, available_bundles())


def overlay_path(name: str) -> Path:
    """YAML file of a preprocessing overlay, to be merged over a bundle's configuration.

    Raises:
        BundleError: no such overlay; the message lists those that exist.
    """
    return _known(_folder("transforms") / f"{name}.yaml", name, available_overlays())


def _known(path: Path, name: str, available: list[str]) -> Path:
    if name not in available:
        raise BundleError(path, "does not exist", f"Available are: {', '.join(available) or 'none'}")
    return path


def _folder(kind: str) -> Path:
    """A wheel carries the folders within the package; in a checkout they lie beside it."""
    installed = _PACKAGE / "_resources" / kind
    return installed if installed.is_dir() else _PACKAGE.parent / kind
